"""`agl serve` as a user starts and stops it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from agentlightning.demo.policy import CHECKPOINT
from tests.cli.serving_process import ended, finished, served

HI = [{"role": "user", "content": "hi"}]


def url_in(said: str) -> str:
    return re.findall(r"OPENAI_BASE_URL=(\S+)", said)[0]


async def test_it_answers_with_exact_tokens_until_it_is_told_to_stop(tmp_path: Path) -> None:
    options = ("--port", "0", "--device", "cpu", "--max-batch-size", "4", "--max-kept-mb", "8")
    async with served("serve", str(CHECKPOINT), *options, folder=tmp_path) as (process, said):
        assert f"Serving {CHECKPOINT.name} on cpu" in said
        async with openai.AsyncOpenAI(base_url=url_in(said), api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=CHECKPOINT.name,
                messages=HI,
                max_tokens=4,
                stream=True,
                extra_body={"return_token_ids": True},
            )
            tokens = [token async for chunk in stream for token in chunk.choices[0].model_extra["token_ids"]]
        assert 1 <= len(tokens) <= 4
        process.terminate()
        assert await ended(process) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()


async def test_other_machines_need_the_key_that_is_made_and_printed(tmp_path: Path) -> None:
    options = ("--port", "0", "--host", "0.0.0.0", "--model-name", "mine", "--dtype", "bfloat16")
    async with served("serve", str(CHECKPOINT), *options, folder=tmp_path) as (_, said):
        local = f"http://127.0.0.1:{url_in(said).rpartition(':')[2]}"
        key = re.findall(r"AGL_BACKEND_KEY=(\S+)", said)[0]
        async with openai.AsyncOpenAI(base_url=local, api_key=key, max_retries=0) as client:
            reply = await client.chat.completions.create(model="mine", messages=HI, max_tokens=2)
            assert reply.usage
            assert reply.usage.completion_tokens in (1, 2)
            client.api_key = key + "x"
            with pytest.raises(openai.AuthenticationError, match="API key"):
                await client.models.list()


async def test_a_key_that_was_given_is_not_printed_and_ctrl_c_stops(tmp_path: Path) -> None:
    key = {"AGL_BACKEND_KEY": "given-key"}
    async with served("serve", str(CHECKPOINT), "--port", "0", folder=tmp_path, **key) as (process, said):
        assert "given-key" not in said
        async with openai.AsyncOpenAI(base_url=url_in(said), api_key="other", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        process.send_signal(signal.SIGINT)
        assert await ended(process) == 130


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "config.json"),
        (("{broken}",), "cannot load"),
        (("{model}", "--tool-parser", "other"), "hermes"),
        (("{model}", "--log-level", "loud"), "DEBUG"),
        (("{model}", "--api-key", "two words"), "visible ASCII"),
        (("{model}", "--host", "nosuch.invalid"), "address of this machine"),
    ],
    ids=["nowhere", "broken", "parser", "level", "key", "host"],
)
async def test_what_cannot_work_is_said_with_exit_code_1(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    words = [word.format(model=CHECKPOINT, broken=tmp_path) for word in arguments]
    code, stdout, stderr = await finished("serve", *words, folder=tmp_path)
    assert (code, stdout) == (1, "")
    assert says in stderr
    assert "Traceback" not in stderr


def test_without_torch_the_extra_is_named(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['torch'] = None; from agentlightning.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "serve", str(CHECKPOINT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "[train]" in done.stderr
