"""What measuring and penalising cost: the time and memory of a training step, as ratios to a bare one.

A small VGG on 32 x 32 images, trained by `Trainer` itself: whatever the loop does around a step is in the figures. The
rival is the same measuring and the same penalty as one writes them at first (`naive.py`). All variants take turns in
one process, a bare one after every few, so that a machine that slows down slows all of them.

Knows no Ray, Optuna or MLflow: torch and what `sparsestudy.training` needs are enough.

Usage: ``python -m tests.benchmarks.cost [--device cuda] [--rounds R] [--steps N] [--only PATTERN] [--output FILE]``
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

from sparsestudy.training.loop import TRAIN_EXAMPLES_EVALUATED
from tests.benchmarks.cost_page import BARE, REFERENCES, Result, Sample, report
from tests.benchmarks.cost_variants import BATCH, CHEAP, DEAR, DEFAULT, PROBE, Setting, variants

HERE = Path(__file__).resolve().parent
BETWEEN = 5
"""Variants from one bare epoch to the next."""


class Watch:
    """Time and memory of an epoch of what trains one per `next`.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    def _mark(self) -> Any:
        """A point in time, for `_between`; taking it waits for nothing."""
        if self._device == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        return time.process_time()

    def _between(self, first: Any, last: Any) -> float:
        """Seconds between two marks: on a GPU as it saw them pass; on a CPU those of this process, with its one thread.

        Other processes then disturb by what they take of caches and memory, and not by what they take of the core.
        """
        if self._device == "cuda":
            last.synchronize()
            return float(first.elapsed_time(last)) / 1000
        return float(last - first)

    def epoch(self, running: Iterator[Any]) -> Sample:
        """Train one epoch with an eye on the clock."""
        marks = [self._mark()]
        handle = register_optimizer_step_post_hook(lambda *_: marks.append(self._mark()))
        try:
            next(running)
        finally:
            handle.remove()
        begin, first, last, end = marks[0], marks[1], marks[-1], self._mark()
        return Sample(
            step=self._between(first, last) / (len(marks) - 2),
            rest=self._between(last, end),
            whole=self._between(begin, end),
        )

    def memory(self, running: Iterator[Any]) -> float:
        """Bytes of tensors at the peak of an epoch, beyond those before it: weights, gradients, momentum and data.

        Seen by torch's allocator on a GPU and by torch's profiler on a CPU. What libraries take for themselves without
        asking torch is in neither.
        """
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            next(running)
            return float(torch.cuda.max_memory_allocated() - before)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            next(running)
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json")
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
        return float(max(itertools.accumulate(size for _, size in changes)))


def measure(setting: Setting, rounds: int, only: str) -> dict[str, Result]:
    """Run every variant in turn."""
    watch = Watch(setting.device)
    chosen = {n: start for n, start in variants().items() if fnmatchcase(n, only) or n in REFERENCES}
    running = {name: start(setting) for name, start in chosen.items()}
    results = {name: Result() for name in chosen}
    for name in chosen:
        watch.epoch(running[name])  # warm up
    for number in range(rounds):
        names = [name for name in chosen if name != BARE]
        random.Random(number).shuffle(names)
        before = watch.epoch(running[BARE])
        for group in (names[i : i + BETWEEN] for i in range(0, len(names), BETWEEN)):
            samples = {name: watch.epoch(running[name]) for name in group}
            after = watch.epoch(running[BARE])
            for name, sample in samples.items():
                results[name].add(sample, before, after)
            results[BARE].add(after, before, before)
            before = after
        sys.stderr.write(f"round {number + 1} of {rounds}: {before.step:.3f} s a bare step\n")
    for name in chosen:
        results[name].memory = watch.memory(running[name])
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="steps of an epoch, two or more (default: 3, on a GPU 50)")
    parser.add_argument("--only", default="*", help="variants by shell pattern, for a quick look")
    parser.add_argument("--output", type=Path, help="page to write (default: cost.md, cost-gpu.md, nothing if --only)")
    arguments = parser.parse_args()
    gpu = arguments.device == "cuda"
    arguments.steps = arguments.steps or (50 if gpu else 3)
    if arguments.steps < 2 or arguments.rounds < 1:
        parser.error("one round of two steps is the least")
    if arguments.output is None and arguments.only == "*":
        arguments.output = HERE / ("cost-gpu.md" if gpu else "cost.md")
    return arguments


def main() -> int:
    """The command line."""
    arguments = _arguments()
    setting = Setting(device=arguments.device, steps=arguments.steps)
    results = measure(setting, arguments.rounds, arguments.only)
    names = {"default": DEFAULT, "cheap": [n for n in CHEAP if n not in DEFAULT], "dear": DEAR}
    spelled = {key: ", ".join(f"`{name}`" for name in value) for key, value in names.items()}
    evaluated = min(setting.steps * BATCH, TRAIN_EXAMPLES_EVALUATED) + PROBE
    page = report(results, setting.device, BATCH, evaluated, PROBE, spelled)
    sys.stdout.write(page)
    if arguments.output:
        arguments.output.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
