"""The demo: a tiny policy learns to use a tool, on this machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from agentlightning.algorithm.grpo import GRPO
from agentlightning.demo.agent import load_agent
from agentlightning.demo.options import DemoOptions
from agentlightning.demo.policy import build_policy, load_policy
from agentlightning.demo.progress import make_display
from agentlightning.demo.report import describe_summary, plot_rewards, read_rewards, summarize, write_summary
from agentlightning.demo.world import test_tasks, train_tasks
from agentlightning.errors import ConfigurationError
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer import OtelTracer
from agentlightning.trainer import Trainer


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Evaluate the agent, train its policy, evaluate again, and leave everything in a folder.

    Args:
        options: What the user chose.
        console: Where to show progress and results.

    Returns:
        The summary, as it stands in `summary.json`.

    Raises:
        ConfigurationError: The output folder holds a run already.
        KeyboardInterrupt: Ctrl+C; what was done so far is in the folder.
    """
    started = time.monotonic()
    if not options.resume:
        _prepare(options)
    console.print(
        "Training a 0.5 M parameter policy behind a tool-using agent. The test set's 200 tasks use names that "
        "occur nowhere in training (the two parts of a name do occur).",
        highlight=False,
        soft_wrap=True,
    )
    algorithm = _train(options, console)
    summary = summarize(
        algorithm.evaluations, steps=options.steps, seed=options.seed, seconds=time.monotonic() - started
    )
    write_summary(summary, options.output / "summary.json")
    plot_rewards(read_rewards(options.output / "metrics.jsonl"), options.output / "reward.png")
    console.print(describe_summary(summary), highlight=False, soft_wrap=True)
    console.print(describe_folder(options.output), highlight=False, soft_wrap=True)
    return summary


def _prepare(options: DemoOptions) -> None:
    folder = options.output
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; choose another --output")
    if (folder / "store.db").exists():
        raise ConfigurationError(f"{folder} holds a run already; go on with it by --resume, or choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    options.save()


def _train(options: DemoOptions, console: Console) -> GRPO:
    disable_progress_bar()  # transformers' own, for files of two megabytes
    torch.set_num_threads(1)  # two threads on two shared cores make a tiny model ten times slower
    model, tokenizer = _make_policy(options, console)
    display = make_display(console, options.steps)
    algorithm = GRPO(
        model,
        tokenizer=tokenizer,
        device="cpu",
        steps=options.steps,
        evaluate_temperatures=(1.0, 0.0),
        seed=options.seed,
        checkpoint_every=5,
    )
    trainer = Trainer(
        algorithm=algorithm,
        strategy=options.strategy,
        n_runners=options.n_runners,
        run_dir=options.output,
        on_metrics=display.show,
        # The gateway sees each of the agent's calls, which are as short as what it would take to record them twice.
        runner=LitAgentRunner[Any](OtelTracer(instrument=None), max_concurrency=options.concurrency),
    )
    try:
        with display:
            trainer.fit(
                load_agent(),
                train_tasks(options.seed),
                val_dataset=test_tasks(),
                resume=options.output if options.resume else None,
            )
    finally:
        asyncio.run(trainer.store.close())  # from here on all of it is in the one file
    return algorithm


def _make_policy(options: DemoOptions, console: Console) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not options.from_scratch:
        return load_policy()
    with console.status("Building tokenizer and policy…") as status:
        return build_policy(options.seed, progress=status.update)


def describe_folder(folder: Path) -> str:
    """Say what lies in a run's folder."""
    return "\n".join(
        [
            f"{folder}/",
            "  store.db       every rollout, attempt and span (SQLite)",
            "  checkpoint/    the trained policy, a Hugging Face folder",
            "  checkpoints/   what a resumed run goes on from",
            "  metrics.jsonl  every step's figures",
            "  run.json       what was run and how it ended",
            "  summary.json   before and after",
            "  reward.png     the curve of the reward",
        ]
    )


def describe_kept(folder: Path) -> str:
    """Say what an interrupted run left."""
    kept = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.exists() else "nothing"
    return f"Kept in {folder}/: {kept}"
