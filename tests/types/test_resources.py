from __future__ import annotations

import pickle

import pytest

from agentlightning.errors import InvalidPrompt
from agentlightning.types import LLM, Attempt, AttemptedRollout, PromptTemplate, ProxyLLM

ATTEMPTED = AttemptedRollout(
    rollout_id="ro-1",
    input=0,
    start_time=0.0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)
IN_JSON = '{"question": "lost"}'


def f_string(template: str) -> PromptTemplate:
    return PromptTemplate(template=template, engine="f-string")


def jinja(template: str) -> PromptTemplate:
    return PromptTemplate(template=template, engine="jinja")


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_both_engines_fill_placeholders_and_ignore_what_is_not_asked_for() -> None:
    assert f_string("{x} and {y:.1f}\n").format(x="ä", y=2, z=3) == "ä and 2.0\n"
    assert jinja("{{ x }} and {{ '%.1f' % y }}\n").format(x="ä", y=2, z=3) == "ä and 2.0\n"


def test_values_are_never_read_as_templates() -> None:
    assert f_string("{x}").format(x="{y} {{") == "{y} {{"
    assert jinja("{{ x }}").format(x="{{ y }} {%") == "{{ y }} {%"


def test_f_strings_reach_into_items_and_attributes() -> None:
    assert f_string("{task[question]} {number.real}").format(task={"question": "why"}, number=3) == "why 3"


@pytest.mark.parametrize(
    "template", [f_string("{x} {missing}"), jinja("{{ x }} {{ missing }}")], ids=lambda t: t.engine
)
def test_a_placeholder_that_nobody_fills_is_named_with_what_is_given(template: PromptTemplate) -> None:
    with pytest.raises(InvalidPrompt, match=r"missing.*given are \['x'\]") as caught:
        template.format(x=1)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)


def test_json_in_an_f_string_needs_doubled_braces_and_is_told_so() -> None:
    with pytest.raises(InvalidPrompt, match=r"\{\"question\"\}.*\{\{ and \}\}"):
        f_string('Answer as {"question": {x}}').format(x=1)
    assert f_string('Answer as {{"question": {x}}}').format(x=1) == 'Answer as {"question": 1}'
    assert jinja('Answer as {"question": {{ x }}}').format(x=1) == 'Answer as {"question": 1}'


@pytest.mark.parametrize("template", ["{", "}", "{}", "{0}", "{x:%}", "{x[0][1]}", "{x.nothing}", "{x!q}"])
def test_a_malformed_f_string_is_an_invalid_prompt(template: str) -> None:
    with pytest.raises(InvalidPrompt, match="braces that shall stay"):
        f_string(template).format(x="text")


@pytest.mark.parametrize(
    "template", ["{{", "{% if %}", "{{ x | nofilter }}", "{{ 1 / 0 }}", "{{ x + 1 }}", "{{ 1 | join }}"]
)
def test_jinja_that_cannot_be_rendered_is_an_invalid_prompt(template: str) -> None:
    with pytest.raises(InvalidPrompt, match="jinja template cannot be filled"):
        jinja(template).format(x="text")


@pytest.mark.parametrize("template", [f_string("{x.__class__}"), jinja("{{ x.__class__ }}")], ids=lambda t: t.engine)
def test_templates_do_not_reach_behind_their_values(template: PromptTemplate) -> None:
    with pytest.raises(InvalidPrompt):
        template.format(x=1)


def test_poml_is_left_to_its_library() -> None:
    with pytest.raises(NotImplementedError, match="poml library"):
        PromptTemplate(template="<poml/>", engine="poml").format()


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://h/v1", "http://h/rollout/ro-1/attempt/at-1/v1"),
        ("http://h/v1/", "http://h/rollout/ro-1/attempt/at-1/v1"),
        ("http://h", "http://h/rollout/ro-1/attempt/at-1"),
        ("http://h/", "http://h/rollout/ro-1/attempt/at-1"),
    ],
)
def test_a_proxy_puts_the_attempt_into_its_address(endpoint: str, expected: str) -> None:
    proxy = ProxyLLM(endpoint=endpoint, model="m", api_key="k", sampling_parameters={"temperature": 1.0})
    assert proxy.get_base_url("ro-1", "at-1") == expected
    assert proxy.get_base_url() == endpoint
    assert proxy.with_attempted_rollout(ATTEMPTED) == LLM(
        endpoint=expected, model="m", api_key="k", sampling_parameters={"temperature": 1.0}
    )


def test_one_id_is_not_enough() -> None:
    with pytest.raises(ValueError, match="rollout_id and attempt_id"):
        ProxyLLM(endpoint="http://h", model="m").get_base_url("ro-1")


def test_a_model_takes_ids_and_keeps_its_address() -> None:
    assert LLM(endpoint="http://h/v1/", model="m").get_base_url("ro-1", "at-1") == "http://h/v1/"


def test_resources_are_picklable() -> None:
    for resource in (f_string(IN_JSON), ProxyLLM(endpoint="http://h", model="m")):
        assert pickle.loads(pickle.dumps(resource)) == resource
