from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest

import agentlightning as agl
from agentlightning.errors import ConfigurationError
from agentlightning.trainer.components import load_class
from agentlightning.trainer.registry import ComponentKind, Registry


@pytest.mark.parametrize("kind", get_args(ComponentKind))
def test_each_of_our_names_leads_to_a_class(kind: ComponentKind) -> None:
    registry = Registry(kind)
    assert len(registry) > 0
    for name in registry:
        assert isinstance(load_class(registry[name]), type)


def announce(folder: Path, package: str, kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that announces a component, as far as the import system can tell."""
    monkeypatch.syspath_prepend(folder)
    (folder / f"{package}.py").write_text(
        "import agentlightning as agl\n\n\nclass Theirs(agl.FastAlgorithm):\n    def run(self, *_, **__): ...\n"
    )
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[agentlightning.{kind}]\n{name} = {package}:Theirs\n")


def test_installed_package_adds_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, "registry_third", "algorithm", "theirs", monkeypatch)
    trainer = agl.Trainer(algorithm="theirs")
    assert type(trainer.algorithm).__module__ == "registry_third"
    assert "theirs" in Registry("algorithm")
    assert "theirs" not in Registry("tracer")
    sys.modules.pop("registry_third")


def test_name_that_two_packages_announce_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("registry_one", "registry_two"):
        announce(tmp_path, package, "algorithm", "contested", monkeypatch)
    with pytest.raises(ConfigurationError, match=r"registry_one:Theirs.*registry_two:Theirs"):
        agl.Trainer(algorithm="contested")


def test_our_own_names_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, "registry_rival", "algorithm", "baseline", monkeypatch)
    assert isinstance(agl.Trainer(algorithm="baseline").algorithm, agl.Baseline)
