from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from agentlightning.errors import InvalidRequest
from agentlightning.inference import Completion
from agentlightning.inference.chat import answer_text, render_prompt
from agentlightning.inference.message import assistant_message
from agentlightning.inference.tool_calls import HermesParser

CALL_TEXT = '<tool_call>\n{"name": "lookup", "arguments": {"key": "ruby"}}\n</tool_call>'


def rendered(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], tools: Any = None) -> str:
    return tokenizer.decode(render_prompt(tokenizer, messages, tools))


def completion(token_ids: list[int]) -> Completion:
    zeros = [0] * len(token_ids)
    return Completion(token_ids=token_ids, logprobs=[0.0] * len(zeros), finish_reason="stop", weights_versions=zeros)


def test_a_conversation_is_rendered_by_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    text = rendered(tokenizer, [{"role": "user", "content": "Hi"}], [{"name": "f"}])
    assert text == (
        '<|im_start|>system\n{"name": "f"}\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    )


def test_an_answer_sent_back_continues_the_tokens_of_its_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    """What a multi-turn agent does; only so can two calls become one training row."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "ruby?"}]
    prompt = render_prompt(tokenizer, messages, None)
    sampled = tokenizer.encode(f"{CALL_TEXT}<|im_end|>")
    text = answer_text(tokenizer, completion(sampled), frozenset({tokenizer.eos_token_id}), ())
    messages.append(assistant_message(text, HermesParser()))
    messages.append({"role": "tool", "content": "same as opal", "tool_call_id": "call_1"})
    assert render_prompt(tokenizer, messages, None)[: len(prompt) + len(sampled)] == prompt + sampled


def test_content_parts_are_joined_and_absent_content_is_empty(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<|im_end|>" in rendered(tokenizer, [{"role": "user", "content": parts}])
    assert "assistant\n<|im_end|>" in rendered(tokenizer, [{"role": "assistant", "content": None}])


def test_arguments_that_are_no_json_are_shown_as_text(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{bad"}}
    text = rendered(tokenizer, [{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert '"arguments": "{bad"' in text


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": "user", "content": 3},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "tool_calls": [{"id": "call_1"}]},
        {"role": "assistant", "tool_calls": 5},
        {"role": "assistant", "tool_calls": "call"},
        {"role": "assistant", "tool_calls": {"id": "call_1"}},
        {"role": "assistant", "tool_calls": [5]},
    ],
)
def test_messages_that_cannot_be_rendered_are_refused(
    tokenizer: PreTrainedTokenizerFast, message: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        render_prompt(tokenizer, [message], None)


def test_a_template_that_raises_is_the_callers_error(tokenizer: PreTrainedTokenizerFast) -> None:
    class Picky:
        encode, decode = tokenizer.encode, tokenizer.decode

        def apply_chat_template(self, conversation: Any, tools: Any = None, **options: Any) -> str:
            return tokenizer.apply_chat_template(
                conversation, chat_template="{{ raise_exception('roles must alternate') }}", **options
            )

    with pytest.raises(InvalidRequest, match="roles must alternate"):
        render_prompt(Picky(), [{"role": "user", "content": "Hi"}], None)


def test_the_text_ends_before_the_end_token_and_the_first_stop_string(tokenizer: PreTrainedTokenizerFast) -> None:
    end = frozenset({tokenizer.eos_token_id})
    sampled = completion(tokenizer.encode("The value is 42.<|im_end|>"))
    assert answer_text(tokenizer, sampled, end, ()) == "The value is 42."
    assert answer_text(tokenizer, sampled, end, ("42", " is", "never")) == "The value"


def test_tool_calls_become_a_message_in_openai_form() -> None:
    message = assistant_message(f"Looking.\n{CALL_TEXT}", HermesParser())
    (call,) = message["tool_calls"]
    assert message["content"] == "Looking."
    assert call["function"] == {"name": "lookup", "arguments": '{"key": "ruby"}'}
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert assistant_message(CALL_TEXT, HermesParser())["content"] is None


def test_without_tools_calls_are_text() -> None:
    assert assistant_message(CALL_TEXT, None) == {"role": "assistant", "content": CALL_TEXT}
