from __future__ import annotations

import pytest

import agentlightning as agl

VARIABLE = agl.LightningEnvVar.AGL_SERVER_PORT


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("Yes", True), (" on ", True), ("0", False), ("no", False), ("FALSE", False)]
)
def test_words_for_yes_and_no(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv(VARIABLE.value, text)
    assert agl.resolve_bool_env_var(VARIABLE) is value


def test_override_wins_over_the_variable_and_that_over_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE.value, raising=False)
    assert agl.resolve_bool_env_var(VARIABLE, fallback=True) is True
    assert agl.resolve_int_env_var(VARIABLE, fallback=1) == 1
    assert agl.resolve_str_env_var(VARIABLE, fallback="a") == "a"
    assert agl.resolve_str_env_var(VARIABLE) is None
    monkeypatch.setenv(VARIABLE.value, "0")
    assert agl.resolve_bool_env_var(VARIABLE, fallback=True) is False
    assert agl.resolve_int_env_var(VARIABLE, fallback=1) == 0
    assert agl.resolve_str_env_var(VARIABLE, fallback="a") == "0"
    assert agl.resolve_bool_env_var(VARIABLE, True) is True
    assert agl.resolve_int_env_var(VARIABLE, 2) == 2
    assert agl.resolve_str_env_var(VARIABLE, "b") == "b"


def test_what_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE.value, "perhaps")
    with pytest.raises(ValueError, match="AGL_SERVER_PORT is 'perhaps'"):
        agl.resolve_bool_env_var(VARIABLE)
    with pytest.raises(ValueError, match="a whole number"):
        agl.resolve_int_env_var(VARIABLE)
