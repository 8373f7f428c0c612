"""Programs as agents: what they get, what counts as their reward, and that nothing of them is left in any case."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import pytest
from command_runs import DEADLINE, lives, outcome_of, pids_in, shell, until, writing_pids

from agentlightning.errors import CommandFailed, ConfigurationError, InvalidAgent, InvalidResult, RolloutCancelled
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import CommandAgent, CommandRun
from agentlightning.litagent.command.program import Program
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import PromptTemplate, RolloutConfig

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")

TASK = {"question": "wo? 🙂 \u2028", "tags": [1, None]}


def grade_one(task: Any, run: CommandRun) -> float:
    return 1.0


# -- what a program gets -----------------------------------------------------------------------------------------------


async def test_the_task_comes_on_stdin_and_in_a_file() -> None:
    runs: list[CommandRun] = []

    def grader(task: Any, run: CommandRun) -> float:
        assert task == TASK
        runs.append(run)
        return 0.5

    outcome = await outcome_of(shell('cat; printf "\\n"; cat "$AGL_TASK_FILE"', grader=grader), TASK)
    assert (outcome.status, outcome.reward) == ("succeeded", 0.5)
    assert [json.loads(line) for line in runs[0].stdout.split("\n")] == [TASK, TASK]
    assert outcome.written("stdout") == runs[0].stdout


async def test_a_program_gets_its_prompt_and_the_users_variables() -> None:
    prompt = PromptTemplate(template="Sei {x}!", engine="f-string")
    agent = shell('cat "$AGL_PROMPT_FILE"; echo " $AGL_MODE $MINE"', env={"MINE": "ü", "AGL_MODE": "mine"})
    outcome = await outcome_of(agent, resources={"p": prompt})
    assert outcome.written("stdout") == "Sei {x}! mine ü\n"


async def test_a_program_works_in_a_directory_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "file").write_text("original", "utf-8")
    seen: list[Path] = []

    async def grader(task: Any, run: CommandRun) -> float:
        seen.append(run.cwd)
        return float((run.cwd / "given" / "file").read_text("utf-8") == f"original{task}\n")

    agent = shell("cat >> given/file; echo >> given/file", cwd=tmp_path, private_cwd=True, grader=grader)
    outcomes = await asyncio.gather(*(outcome_of(agent, task) for task in range(3)))
    assert [(outcome.status, outcome.reward) for outcome in outcomes] == [("succeeded", 1.0)] * 3
    assert len({*seen, tmp_path}) == 4
    assert not any(path.exists() for path in seen)
    assert (tmp_path / "given" / "file").read_text("utf-8") == "original"


async def test_a_copy_leaves_out_the_copies_that_lie_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    agent = shell("ls", cwd=tmp_path, private_cwd=True)
    outcomes = await asyncio.gather(outcome_of(agent), outcome_of(agent))
    assert [outcome.written("stdout") for outcome in outcomes] == ["file\n"] * 2


async def test_a_directory_of_its_own_is_empty_where_none_is_given(tmp_path: Path) -> None:
    outcome = await outcome_of(shell("ls -A | wc -l", private_cwd=True))
    assert outcome.reward == 0
    outcome = await outcome_of(shell("pwd -P", cwd=tmp_path))
    assert outcome.written("stdout") == f"{tmp_path}\n"


async def test_many_programs_at_once_keep_what_is_theirs_apart() -> None:
    agent = shell('read -r task; echo "$task $AGL_ROLLOUT_ID" >&2; echo "{\\"reward\\": $task}"')
    outcomes = await asyncio.gather(*(outcome_of(agent, number) for number in range(20)))
    assert [outcome.reward for outcome in outcomes] == [float(number) for number in range(20)]
    said = [f"{number} {outcome.spans[0].rollout_id}\n" for number, outcome in enumerate(outcomes)]
    assert [outcome.written("stderr") for outcome in outcomes] == said


async def test_programs_start_one_after_another_so_that_the_event_loop_gets_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starting: list[Program] = []
    at_once: list[int] = []
    start = Program._start

    async def noted(self: Program, *args: Any) -> None:
        starting.append(self)
        at_once.append(len(starting))
        await start(self, *args)
        starting.remove(self)

    monkeypatch.setattr(Program, "_start", noted)
    outcomes = await asyncio.gather(*(outcome_of(shell("echo 1")) for _ in range(5)))
    assert [outcome.reward for outcome in outcomes] == [1.0] * 5
    assert at_once == [1] * 5


# -- what counts as a reward -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reward"),
    [
        ("""echo words; echo '{"reward": 0.5}'""", 0.5),
        ("echo 0.25", 0.25),
        ("""echo '{"reward": 0.5}' > "$AGL_RESULT_FILE"; echo 3""", 0.5),
        ("""echo '{"reward": {"truth": 1, "style": 0}}'""", 1.0),
        ("true", None),
        ("echo no reward", None),
    ],
    ids=["line", "number", "file", "dimensions", "silence", "words"],
)
async def test_rewards_of_programs(script: str, reward: float | None) -> None:
    outcome = await outcome_of(shell(script))
    assert (outcome.status, outcome.reward) == ("succeeded", reward)


async def test_a_grader_decides_alone() -> None:
    outcome = await outcome_of(shell("""echo '{"reward": 0.5}'""", grader=grade_one))
    assert outcome.reward == 1.0


async def test_a_grader_that_blocks_holds_nobody_up() -> None:
    """The event loop goes on: what it does lets the grader end."""
    loop, goes_on = asyncio.get_running_loop(), threading.Event()

    def grader(task: Any, run: CommandRun) -> float:
        loop.call_soon_threadsafe(goes_on.set)
        return float(goes_on.wait(DEADLINE))

    assert (await outcome_of(shell("true", grader=grader))).reward == 1.0


async def test_a_grader_may_return_what_is_to_be_awaited() -> None:
    async def judge(run: CommandRun) -> float:
        return float(run.stdout)

    assert (await outcome_of(shell("echo 0.5", grader=lambda task, run: judge(run)))).reward == 0.5


@pytest.mark.parametrize(
    "script",
    [
        """echo '{"reward": 1}'; head -c 100000 /dev/zero | tr '\\0' x""",
        "head -c 70000 /dev/zero; "
        """printf '\\n{"reward": 1, "why": "'; head -c 40000 /dev/zero | tr '\\0' x; echo '"}'""",
    ],
    ids=["before", "long"],
)
async def test_a_reward_is_found_beside_more_output_than_is_kept(script: str) -> None:
    assert (await outcome_of(shell(script))).reward == 1.0


async def test_a_byte_order_mark_is_no_part_of_a_result() -> None:
    outcome = await outcome_of(shell("""printf '\\357\\273\\2770.5' > "$AGL_RESULT_FILE" """))
    assert outcome.reward == 0.5


async def test_a_grader_that_raises_fails_the_attempt() -> None:
    def grader(task: Any, run: CommandRun) -> float:
        return {"a": 1.0}[run.stdout.strip()]

    outcome = await outcome_of(shell("echo b", grader=grader))
    assert isinstance(outcome.raised, KeyError)
    assert (outcome.status, outcome.written("stdout")) == ("failed", "b\n")


@pytest.mark.parametrize(
    ("script", "hint"),
    [
        ("""echo '{"reward": 0.5'""", "last line is not JSON"),
        ("""echo '{"reward": "good"}'""", "a reward is a number"),
        ("echo NaN", "finite"),
        ('echo good > "$AGL_RESULT_FILE"', "result file is not JSON"),
        ('head -c 100000 /dev/zero > "$AGL_RESULT_FILE"', "at most 65536 bytes"),
        ('mkdir "$AGL_RESULT_FILE"', "result file is no file"),
    ],
    ids=["line", "text", "nan", "file", "flood", "directory"],
)
async def test_what_should_be_a_reward_and_is_none_fails_the_attempt(script: str, hint: str) -> None:
    outcome = await outcome_of(shell(script))
    assert isinstance(outcome.raised, InvalidResult)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert hint in outcome.error["message"]


# -- what fails an attempt ---------------------------------------------------------------------------------------------


async def test_an_exit_code_fails_the_attempt_with_the_end_of_stderr() -> None:
    outcome = await outcome_of(shell("echo beginning >&2; echo the reason >&2; echo '{\"reward\": 1}'; exit 3"))
    assert isinstance(outcome.raised, CommandFailed)
    assert outcome.error is not None
    assert "exit code 3: beginning\nthe reason" in outcome.error["message"]
    assert (outcome.status, outcome.reward) == ("failed", None)
    assert outcome.written("stderr") == "beginning\nthe reason\n"


@pytest.mark.parametrize(
    ("script", "hint"),
    [("echo said it; exit 1", "said it"), ("exit 1", "wrote nothing"), ("kill -SEGV $$", "killed by SIGSEGV")],
    ids=["stdout", "silence", "signal"],
)
async def test_an_end_with_an_error_is_put_in_words(script: str, hint: str) -> None:
    outcome = await outcome_of(shell(script))
    assert outcome.status == "failed"
    assert hint in str(outcome.raised)


async def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    plain, lost, nameless = tmp_path / "plain", tmp_path / "lost", tmp_path / "nameless"
    nameless.write_text("echo 1\n", "utf-8")
    nameless.chmod(0o755)
    plain.write_text("text", "utf-8")
    lost.write_text("#!/no/such/interpreter\n", "utf-8")
    lost.chmod(0o755)
    cases: list[tuple[CommandAgent, str]] = [
        (CommandAgent(["no-such-program"]), "there is no program 'no-such-program'"),
        (CommandAgent(["./agent"], cwd=tmp_path), f"nor as a path from {tmp_path}"),
        (CommandAgent(["true"], cwd=tmp_path / "absent"), "there is no directory"),
        (CommandAgent(["true"], cwd=tmp_path / "absent", private_cwd=True), "could not be copied"),
        (CommandAgent([plain]), "may not be executed"),
        (CommandAgent([lost]), "interpreter that the first line"),
        (CommandAgent(["nameless"], cwd=tmp_path), "write './nameless'"),
        (CommandAgent([nameless]), "no first line that says who runs it"),
    ]
    for agent, hint in cases:
        outcome = await outcome_of(agent)
        assert isinstance(outcome.raised, CommandFailed)
        assert hint in str(outcome.raised)
        assert outcome.status == "failed"


async def test_bytes_that_are_no_text_are_kept_as_text() -> None:
    outcome = await outcome_of(shell("printf 'a\\377\\000b'"))
    assert (outcome.status, outcome.written("stdout")) == ("succeeded", "a\ufffd\ufffdb")


# -- what is left of a program -----------------------------------------------------------------------------------------


async def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    agent = shell(writing_pids(tmp_path / "pids", "echo before; wait"), timeout=2.5)
    outcome = await outcome_of(agent)
    assert outcome.status == "failed"
    assert "did not end within 2.5 s" in str(outcome.raised)
    assert outcome.written("stdout") == "before\n"
    await all_gone(tmp_path / "pids")


async def test_a_program_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; " + writing_pids(tmp_path / "pids", "while :; do wait; done")
    outcome = await outcome_of(shell(script, timeout=2.5, kill_after=0.1))
    assert outcome.status == "failed"
    await all_gone(tmp_path / "pids")


async def test_a_program_may_say_goodbye() -> None:
    outcome = await outcome_of(shell("trap 'echo goodbye; exit 0' TERM; sleep 1000 & wait", timeout=2.5))
    assert (outcome.status, outcome.written("stdout")) == ("failed", "goodbye\n")


async def test_children_of_a_program_that_ended_are_killed(tmp_path: Path) -> None:
    outcome = await outcome_of(shell(writing_pids(tmp_path / "pids", "echo 1")))
    assert (outcome.status, outcome.reward) == ("succeeded", 1.0)
    await all_gone(tmp_path / "pids")


async def test_a_child_that_left_the_group_holds_nothing_up(tmp_path: Path) -> None:
    file = shlex.quote(str(tmp_path / "pid"))
    script = f"setsid sh -c 'echo $$ > {file}; exec sleep 1000' & while [ ! -s {file} ]; do :; done; echo 1"
    outcome = await outcome_of(shell(script))
    (pid,) = pids_in(tmp_path / "pid")
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)
    assert (outcome.status, outcome.reward) == ("succeeded", 1.0)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_a_cancelled_attempt_leaves_no_process(tmp_path: Path, times: int) -> None:
    script = "trap '' TERM; " + writing_pids(tmp_path / "pids", "while :; do wait; done")
    running = asyncio.create_task(outcome_of(shell(script, kill_after=0.2)))
    await until(lambda: bool(pids_in(tmp_path / "pids")))
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({running}, timeout=DEADLINE)
    assert running.cancelled()
    await all_gone(tmp_path / "pids")


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


async def test_an_attempt_that_is_cancelled_twice_while_its_program_starts_leaves_no_process(tmp_path: Path) -> None:
    running = asyncio.create_task(outcome_of(shell(writing_pids(tmp_path / "pids", "wait"))))
    before, deadline = children(), time.monotonic() + DEADLINE
    while not children() - before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
    while not pids_in(tmp_path / "pids"):  # the program works before the event loop knows of it
        assert time.monotonic() < deadline
    for _ in range(2):
        running.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({running}, timeout=DEADLINE)
    assert running.cancelled()
    await all_gone(tmp_path / "pids")


async def test_an_attempt_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    event = ThreadingEvent()
    running = asyncio.create_task(outcome_of(shell(writing_pids(tmp_path / "pids", "wait")), event=event))
    await until(lambda: bool(pids_in(tmp_path / "pids")))
    event.set()
    outcome = await running
    assert isinstance(outcome.raised, RolloutCancelled)
    assert outcome.status == "failed"
    await all_gone(tmp_path / "pids")


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_an_attempt_that_is_out_of_time_leaves_no_process(
    tmp_path: Path, isolation: Literal["thread", "process"]
) -> None:
    agent = shell("trap '' TERM; " + writing_pids(tmp_path / "pids", "while :; do wait; done"), kill_after=0.2)
    store = InMemoryLightningStore()
    runner = LitAgentRunner[Any](OtelTracer(), max_rollouts=1, isolation=isolation)
    rollout = await store.enqueue_rollout("task", config=RolloutConfig(timeout_seconds=4.0))
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    (attempt,) = await store.query_attempts(rollout.rollout_id)
    assert attempt.status == "timeout"
    await all_gone(tmp_path / "pids")
    await store.close()


RUN_UNTIL_KILLED = """
import asyncio, sys
from command_runs import outcome_of, shell
asyncio.run(outcome_of(shell(sys.argv[1])))
"""


def test_a_program_does_not_outlive_a_runner_that_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM HUP; " + writing_pids(tmp_path / "pids", "while :; do wait; done")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}"}
    with subprocess.Popen([sys.executable, "-c", RUN_UNTIL_KILLED, script], env=environment) as runner:
        asyncio.run(until(lambda: bool(pids_in(tmp_path / "pids")) or runner.poll() is not None))
        guarded(runner.pid)
        runner.kill()
    assert len(pids_in(tmp_path / "pids")) == 2
    asyncio.run(all_gone(tmp_path / "pids"))


def guarded(pid: int) -> None:
    """Return when a runner has started its program's guard: the program may be quicker."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + DEADLINE
    while not any(
        b"agl-guard" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def all_gone(file: Path) -> None:
    """Return when neither the processes nor the files of a program are left."""
    pids, task = pids_in(file), file.with_name(f"{file.name}.task").read_text("utf-8").strip()
    assert len(pids) == 2
    assert task
    await until(lambda: not any(map(lives, pids)) and not Path(task).parent.exists())


# -- floods ------------------------------------------------------------------------------------------------------------


async def test_a_flood_on_both_streams_is_cut_and_blocks_nobody() -> None:
    megabytes = 100
    flood = f"head -c {megabytes * 1_000_000} /dev/zero | tr '\\0' x"
    outcome = await outcome_of(
        shell(
            f"{flood}; printf '\\n{{\"reward\": 1}}\\n'; printf begin >&2; ({flood}; printf end) >&2", output_limit=2048
        )
    )
    assert (outcome.status, outcome.reward) == ("succeeded", 1.0)
    written = outcome.written("stderr")
    assert written is not None
    assert written.startswith("beginxxx")
    assert written.endswith("xxxend")
    assert outcome.omitted("stderr") == megabytes * 1_000_000 + len("beginend") - 2048
    assert f"{outcome.omitted('stderr')} bytes left out" in written
    assert len(written) < 2048 + 100


# -- agents as objects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [pickle, cloudpickle], ids=lambda module: module.__name__)
async def test_command_agents_are_picklable(module: Any) -> None:
    copied = module.loads(module.dumps(shell("exit 0", grader=grade_one, timeout=30.0)))
    assert (await outcome_of(copied)).reward == 1.0


@pytest.mark.parametrize("command", ["python agent.py", [], ["python", 3], b"python", [None]], ids=repr)
def test_a_command_is_a_list_of_words(command: Any) -> None:
    with pytest.raises(InvalidAgent, match=r"list of words such as \['python', 'agent.py'\]"):
        CommandAgent(command)


@pytest.mark.parametrize("grader", [3, lambda: 1.0, lambda task: 1.0], ids=["number", "nothing", "task"])
def test_a_grader_takes_a_task_and_a_run(grader: Any) -> None:
    with pytest.raises(InvalidAgent, match="a grader is"):
        CommandAgent(["true"], grader=grader)


def test_a_grader_that_says_nothing_of_its_parameters_is_refused() -> None:
    with pytest.raises(InvalidAgent, match="write a function around it"):
        CommandAgent(["true"], grader=max)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": math.nan},
        {"kill_after": -1},
        {"kill_after": math.nan},
        {"output_limit": 10},
        {"output_limit": 1e5},
        {"env": {"N": 1}},
        {"env": {1: "N"}},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        CommandAgent(["true"], **options)
