"""The demo policy's tokenizer and chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentlightning.demo.world import LOOKUP_TOOL

VOCAB_SIZE: Final = 512
CONTEXT: Final = 1024
"""Longest sequence, in tokens, that the policy takes."""

PAD: Final = "<|endoftext|>"
TURN_END: Final = "<|im_end|>"
_CONTROL: Final = (PAD, "<|im_start|>", TURN_END)
_TOOL_MARKS: Final = ("<tool_call>", "</tool_call>")

CHAT_TEMPLATE: Final = """\
{%- if tools -%}
<|im_start|>system
{% for tool in tools -%}
{{ tool.function.name }}({{ (tool.function.parameters or {"properties": {}}).properties | join(", ") }})
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == "assistant" -%}
{%- generation -%}
{%- if message.content -%}{{ message.content }}{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- set arguments = call.function.arguments -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": \
{{ arguments if arguments is string else arguments | tojson }}}</tool_call>
{%- endfor -%}
<|im_end|>
{%- endgeneration -%}
{%- else -%}
{{ message.content }}<|im_end|>
{%- endif %}

{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""A tool is shown as `name(argument, ...)`: its JSON schema would be half of every prompt this small policy reads.
Turns end with `<|im_end|>`; the newline after it belongs to the next turn, so that a history is a
strict prefix of what follows it."""

# Numbers and names stand apart, so that one to copy has the same tokens wherever it is read; newlines too, so that no
# token reaches from a turn's header into its text. Everything else may merge into words and whole phrases.
_APART: Final = r"\d+|\n|\w+-\w+"
_NUMBER_REPEATS: Final = 500  # enough that each of the 100 numbers is merged into one token


def train_tokenizer(conversations: Sequence[list[dict[str, Any]]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of `VOCAB_SIZE` tokens on conversations, as the chat template renders them.

    Args:
        conversations: Lists of messages, tool arguments as dicts.

    Returns:
        The tokenizer with its chat template; its end-of-sequence token ends a turn.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_APART), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(_TOOL_MARKS),
        special_tokens=list(_CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(_with_template(core), conversations), trainer)
    cast("Any", core).add_tokens([AddedToken(mark, normalized=False) for mark in _TOOL_MARKS])
    return _with_template(core)


def _with_template(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        chat_template=CHAT_TEMPLATE,
        pad_token=PAD,
        eos_token=TURN_END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _corpus(renderer: PreTrainedTokenizerFast, conversations: Sequence[list[dict[str, Any]]]) -> list[str]:
    marks = re.compile("|".join(re.escape(mark) for mark in _CONTROL + _TOOL_MARKS))
    render = cast("Any", renderer).apply_chat_template
    pieces: list[str] = [f"{number:02d}" for number in range(100)] * _NUMBER_REPEATS
    for messages in conversations:
        pieces += marks.split(render(messages, tools=[LOOKUP_TOOL], tokenize=False))
    return pieces
