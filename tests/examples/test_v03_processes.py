"""The ways of working of v0.3's documentation that take several processes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from agentlightning.doctor.scripted_model import ScriptedModel
from tests.examples.programs import EXAMPLES, accepting, environment, outcome, running, running_python
from tests.store.server_process import ServerProcess, free_port

TERMINALS = EXAMPLES / "three_terminals"
REST = EXAMPLES / "rest_runner"


async def test_algorithm_runner_and_store_in_three_terminals(tmp_path: Path) -> None:
    async with ServerProcess(["--backend", "memory"], tmp_path / "log") as server:
        await server.start()
        async with (
            running_python(TERMINALS / "main.py", "runner", STORE=server.url) as runner,
            running_python(TERMINALS / "main.py", "algorithm", STORE=server.url) as algorithm,
        ):
            code, lines, said = await outcome(algorithm)
            assert code == 0, said
            runner.send_signal(signal.SIGINT)
            code, _, said = await outcome(runner)
            assert code == 0, said
    assert lines == ["0.19 without the", "0.42 without the, of, a", "0.56 without the, of, a, and, in"]


async def test_the_environment_says_which_part_a_terminal_plays() -> None:
    variables = {"AGL_SERVER_PORT": str(free_port())}
    async with (
        running_python(TERMINALS / "train.py", AGL_CURRENT_ROLE="runner", **variables) as runner,
        running_python(TERMINALS / "train.py", AGL_CURRENT_ROLE="algorithm", **variables) as algorithm,
    ):
        code, lines, said = await outcome(algorithm)
        assert (code, lines) == (0, ["0.56 with 3 rollouts"]), said
        code, _, said = await outcome(runner)
        assert code == 0, said


@pytest.mark.parametrize("name", ["custom_algorithm", "rest_runner"])
async def test_a_program_that_lacks_its_model_says_so(name: str) -> None:
    async with running_python(EXAMPLES / name / "main.py", OPENAI_MODEL="", OPENAI_BASE_URL="") as program:
        code, lines, said = await outcome(program)
    assert (code, lines, said) == (1, [], "set OPENAI_MODEL and OPENAI_BASE_URL, as README.md says\n")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
async def test_a_runner_in_another_language_serves_a_trainer() -> None:
    port = free_port()
    async with ScriptedModel(["42"]) as model:
        variables = {"AGL_SERVER_PORT": str(port), **environment(model)}
        async with running_python(REST / "main.py", **variables) as trainer:
            await accepting(port)
            async with running("node", REST / "runner.mjs", f"http://127.0.0.1:{port}") as runner:
                code, lines, said = await outcome(trainer)
                assert code == 0, said
                assert sorted(lines) == [
                    "0.0 2 tokens: What is 17 - 25? Answer with the number alone.",
                    "1.0 2 tokens: What is 17 + 25? Answer with the number alone.",
                ]
                code, lines, said = await outcome(runner)
    assert (code, lines) == (0, ["2 rollouts; the store is gone"]), said
