"""A PostgreSQL for the tests that want one, started when the first of them runs."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """Where a PostgreSQL runs that only these tests use; each takes a namespace of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pgserver finds no XDG_RUNTIME_DIR where nobody is logged in
        import pgserver

        folder = Path(tempfile.mkdtemp(prefix="agl-pg-"))  # short, for its socket lies there
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
        shutil.rmtree(folder)
