from __future__ import annotations

import pytest

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.extras import EXTRA_OF, needed_for


@pytest.mark.parametrize("package", sorted(EXTRA_OF))
def test_missing_package_names_its_extra_and_what_needs_it(package: str) -> None:
    with (
        pytest.raises(
            MissingExtra, match=rf"GRPO needs `{package}`: pip install -e '\.\[{EXTRA_OF[package]}\]'"
        ) as raised,
        needed_for("GRPO"),
    ):
        raise ModuleNotFoundError(name=f"{package}.part")
    assert isinstance(raised.value, ConfigurationError)
    assert isinstance(raised.value, ImportError)


def test_other_missing_module_is_not_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError), needed_for("GRPO"):
        raise ModuleNotFoundError(name="somebody.elses")


def test_extras_of_the_table_are_those_of_the_project() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        assert any(requirement.startswith(package) for requirement in declared[extra])
