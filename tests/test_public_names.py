from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import agentlightning as agl
from agentlightning import _compat
from agentlightning._internal.lazy import names_for_type_checkers
from tests.api import public_api

HOMES = names_for_type_checkers(Path(agl.__file__))
ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported() -> None:
    assert {name for name in HOMES if getattr(agl, name, None) is None} == set()
    assert set(HOMES) <= set(dir(agl))


def test_public_names_and_signatures_are_those_of_api_txt() -> None:
    assert public_api() == (ROOT / "api.txt").read_text(), "if the change is meant, run `make api` and review the diff"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = agl.Nonsense


@pytest.mark.parametrize("name", sorted(_compat.ENDED_NAMES))
def test_ended_name_says_what_replaces_it(name: str) -> None:
    with pytest.raises(ImportError, match="use "):
        getattr(agl, name)


@pytest.mark.parametrize(("old", "new"), sorted(_compat.MOVED_MODULES.items()))
def test_old_module_path_reads_from_the_new_one(old: str, new: str) -> None:
    module, home = importlib.import_module(old), importlib.import_module(new)
    public = [name for name in vars(home) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(home, name) for name in public)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, agentlightning; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"torch", "transformers", "starlette", "uvicorn", "aiohttp", "pydantic", "opentelemetry", "openai"}
    assert heavy & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("module", sorted(_compat.ENDED_MODULES))
def test_ended_module_says_what_replaces_it(module: str) -> None:
    with pytest.raises(ImportError, match="use "):
        importlib.import_module(module)


def test_subpackages_are_attributes_and_a_star_import_gives_the_public_names() -> None:
    code = (
        "import agentlightning as agl; agl.types.Rollout; agl.store.LightningStore; agl.emitter.emit_reward\n"
        "names = {}; exec('from agentlightning import *', names); assert names['Rollout'] is agl.Rollout\n"
        "assert 'import_module' not in names"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_store_loads_neither_server_nor_drivers() -> None:
    code = "import sys, agentlightning.store; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"starlette", "uvicorn", "aiohttp", "asyncpg", "google"} & set(loaded.stdout.split()) == set()


def test_v03s_modules_of_the_store_name_the_same_classes() -> None:
    for module, name in (
        ("agentlightning.store", "LightningStore"),
        ("agentlightning.store.base", "LightningStore"),
        ("agentlightning.store.memory", "InMemoryLightningStore"),
        ("agentlightning.store.client_server", "LightningStoreClient"),
        ("agentlightning.store.client_server", "LightningStoreServer"),
        ("agentlightning.store.threading", "LightningStoreThreaded"),
    ):
        assert getattr(importlib.import_module(module), name) is getattr(agl, name)


@pytest.mark.parametrize(
    ("package", "name", "replacement"),
    [
        ("store", "CollectionBasedLightningStore", "use SqliteLightningStore"),
        ("runner", "LegacyAgentRunner", "use LitAgentRunner"),
        ("algorithm", "VERL", "use GRPO"),
        ("types", "RolloutLegacy", "use Rollout"),
    ],
)
def test_an_ended_name_says_what_replaces_it_in_its_package_too(package: str, name: str, replacement: str) -> None:
    module = importlib.import_module(f"agentlightning.{package}")
    assert not hasattr(module, "no_name_of_ours")
    with pytest.raises(ImportError, match=replacement):
        getattr(module, name)
