"""What the cost benchmark measured, and the page it makes of it; `DEFINITIONS` defines every figure."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

BARE, DIGITS = "bare", "digits: bare"
REFERENCES = (BARE, DIGITS)
"""Variants that others are compared with."""

CIFAR = {"train": 30_000, "evaluated": 2_048 + 10_000}
"""Images of CIFAR-10 that are trained on and evaluated in an epoch, with the splits of a study that names none."""
WHY = """## Why goals are missed

*All measures on every step*: the table of each measure alone is the profile. Gini sorts the units of every image, and
filter correlation and basis collapse multiply all pairs of filters in float64, because a small variance is a small
difference of large sums; no rearrangement makes these small beside a step on one CPU thread. The defaults cost a tenth.
*Digits*: its epoch trains on hardly more images than the two probe sets have, through a network so small that the calls
themselves are the cost; `measures.every: 5` divides it by five. *Perplexity penalty*: a logarithm and three passes over
every activation, forwards and backwards, beside convolutions that are themselves cheap at 32 channels."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One epoch of one variant, in seconds.

    Attributes:
        step: One training step, from the end of one update of the weights to the end of the next.
        rest: From the last update to the end of the epoch: evaluation, and measuring on the probe sets.
        whole: The epoch.
    """

    step: float
    rest: float
    whole: float


@dataclass
class Result:
    """A variant in all rounds.

    Attributes:
        samples: One or more per round.
        bare: The bare ones before and after each of them.
        memory: Bytes at the peak.
    """

    samples: list[Sample] = field(default_factory=list)
    bare: list[tuple[Sample, Sample]] = field(default_factory=list)
    memory: float = 0.0

    def add(self, sample: Sample, before: Sample, after: Sample) -> None:
        """Take one epoch."""
        self.samples.append(sample)
        self.bare.append((before, after))

    def ratios(self) -> list[float]:
        """Step time over the mean of the two bare ones around it."""
        return [s.step / mean(a.step, b.step) for s, (a, b) in zip(self.samples, self.bare, strict=True)]

    def rises(self) -> list[float]:
        """What a step takes beyond a bare one, as a share of that."""
        return [ratio - 1 for ratio in self.ratios()]

    def cifar_shares(self, batch: int, evaluated: int) -> list[float]:
        """Seconds of measuring over those of an epoch of CIFAR-10's size, from steps and images evaluated here."""
        found = []
        for sample, (before, after) in zip(self.samples, self.bare, strict=True):
            rest, step = mean(before.rest, after.rest), mean(before.step, after.step)
            epoch = CIFAR["train"] / batch * step + CIFAR["evaluated"] / evaluated * rest
            found.append((sample.rest - rest) / epoch)
        return found


def mean(left: float, right: float) -> float:
    """Of two."""
    return (left + right) / 2


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure and what it should not exceed.

    Attributes:
        title: What it is.
        values: One per round, as a ratio or a share.
        limit: The most it should be; None for a figure that stands beside one with a goal.
        share: Whether to print per cent.
    """

    title: str
    values: Sequence[float]
    limit: float | None = None
    share: bool = True

    def row(self) -> str:
        """Its line; the median is held against the limit, to the digits that are shown."""
        shown = percent(self.values) if self.share else f"{median(self.values):.2f}"
        if self.limit is None:
            return f"| {self.title} | {shown} |  |"
        verdict = "met" if round(median(self.values), 3 if self.share else 2) <= self.limit else "**missed**"
        limit = f"{100 * self.limit:g} %" if self.share else f"{self.limit:g}"
        return f"| {self.title} | {shown} | at most {limit}: {verdict} |"


def percent(values: Sequence[float]) -> str:
    """Median and range in per cent.

    Example:
        >>> percent([0.01, 0.02, 0.04])
        '2.0 % (1.0–4.0)'
    """
    return f"{100 * median(values):.1f} % ({100 * min(values):.1f}–{100 * max(values):.1f})"


def ratio(values: Sequence[float]) -> str:
    """Median and range.

    Example:
        >>> ratio([1.1, 1.0, 1.3])
        '1.10 (1.00–1.30)'
    """
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


EPOCH, STEP, PENALTY = "every epoch: {}", "every step: {}", "perplexity on the convolutions"
KINDS = {"default": 0.03, "all": 0.03, "of every kind": None}
STEPS = {"cheap": None, "all": 0.1}
"""What is measured, and the most it should take of an epoch and of a step."""


def goals(results: Mapping[str, Result], batch: int, evaluated: int) -> list[Goal]:
    """Every figure that has a goal, and those beside it, of the variants that were run."""
    found = []
    for which, limit in KINDS.items():
        if measured := results.get(EPOCH.format(which)):
            title = f"measures {which}, after every epoch on the probe sets: share of an epoch of CIFAR-10's size"
            found.append(Goal(title=title, values=measured.cifar_shares(batch, evaluated), limit=limit))
    for which, limit in KINDS.items():
        if measured := results.get("digits, " + EPOCH.format(which)):
            base = median(sample.whole for sample in results[DIGITS].samples)
            shares = [(sample.whole - base) / base for sample in measured.samples]
            title = f"the same, {which}: share of an epoch of digits, {1000 * base:.0f} ms"
            found.append(Goal(title=title, values=shares, limit=limit))
    for which, limit in {"default": None, **STEPS}.items():
        if measured := results.get(STEP.format(which)):
            title = f"measures {which}, of all layers on every step: share of a bare step"
            found.append(Goal(title=title, values=measured.rises(), limit=limit))
    if PENALTY in results:
        title = "perplexity penalty on all convolutions: share of a bare step"
        found.append(Goal(title=title, values=results[PENALTY].rises(), limit=0.15))
    for name in (EPOCH.format("all"), STEP.format("all"), PENALTY):
        if name in results:
            peak = [results[name].memory / results[BARE].memory]
            found.append(Goal(title=f"peak memory over bare, {name}", values=peak, limit=1.1, share=False))
    return found


DEFINITIONS = """\
**bare**: forward pass, cross-entropy, backward pass, SGD with momentum, by `Trainer` with no method and no measure. The
network is a small VGG: convolutions of 32, 32, 64, 64, 128, 128 channels with a pooling after every second one, a dense
layer of 256; batches of {batch} images of 3 x 32 x 32, float32. **plain loop**: the same in ten lines of PyTorch.

**step over bare**: seconds from one update of the weights to the next, mean over an epoch, over the mean of the bare
epochs before and after it. {clock}

**every step**: the measures of all seven layers on the training batch in every step, added up, fetched once at the end
of the epoch. *Default*: {default}. *Cheap*: those, {cheap}. *All*: besides, {dear}, which need a sort, fourth powers,
or the products of all pairs of filters in float64.

**every epoch**: as `Trainer` measures, on two probe sets of {probe} images; *of every kind*: measures of weights, of
outputs and of the whole network besides, which take forward passes of their own. An epoch of CIFAR-10's size trains on
30,000 images and evaluates 12,048, as a study that names no splits; its seconds are those of a step and of an
evaluated image here, multiplied. Digits is what a study file that names nothing trains, measured whole: 720
images of 8 x 8, hardly more than the 512 of the probe sets; `measures.every` spreads that cost.

**methods**: each with its default parameters, on all layers.

**rival**: the same measures, and the same penalty, as one writes them at first (`naive.py`): hooks keep every
activation of every step, each measure reads them anew, `.item()` fetches each value, `p log p` is left to autograd. Its
values agree with ours to 1e-6 (`test_naive.py`).

**peak memory**: bytes of tensors at the peak of an epoch beyond those that lie there between epochs (weights, momentum,
data), over that of bare. {memory} The gradients of most penalties on activations are computed first of all in the
backward pass and wait for it to arrive at their layers; that of perplexity is computed on arrival.

Median (minimum–maximum) over {rounds} rounds, in which variants take turns in random order. A goal is held against the
median; missing it fails nothing.
"""
CLOCK = {
    "cpu": "Seconds of the process, which has one thread: others on the machine then disturb less.",
    "cuda": "Between events on the GPU; the CPU waits for it at the end of an epoch only.",
}
MEMORY = {
    "cpu": "As torch's profiler sees them allocated; what libraries take for themselves is not in it.",
    "cuda": "`torch.cuda.max_memory_allocated`.",
}
SECTIONS = {
    "Measuring": ("plain loop", "every"),
    "Each measure alone, on every step": ("alone: ",),
    "Penalties and other methods": ("method: ", PENALTY),
    "Rivals": ("rival",),
}


def table(results: Mapping[str, Result], prefixes: tuple[str, ...]) -> str:
    """The variants whose names start like that."""
    lines = [
        f"| {name} | {ratio(result.ratios())} | {result.memory / results[BARE].memory:.2f} |"
        for name, result in results.items()
        if name.startswith(prefixes)
    ]
    return "\n".join(["| variant | step over bare | peak memory |", "| --- | --- | --- |", *lines])


def report(
    results: Mapping[str, Result], device: str, batch: int, evaluated: int, probe: int, names: Mapping[str, str]
) -> str:
    """The Markdown page.

    Args:
        results: By variant.
        device: cpu or cuda.
        batch: Images of a step.
        evaluated: Images evaluated in an epoch.
        probe: Images of a probe set.
        names: The measures called default, cheap and dear.
    """
    step = median(sample.step for sample in results[BARE].samples)
    noise = ratio(results[BARE].ratios())
    rows = [goal.row() for goal in goals(results, batch, evaluated)]
    tables = [f"## {title}\n\n{table(results, prefixes)}" for title, prefixes in SECTIONS.items()]
    definitions = DEFINITIONS.format(
        **names, batch=batch, probe=probe, rounds=len(results[DIGITS].samples), clock=CLOCK[device],
        memory=MEMORY[device],
    )  # fmt: skip
    paragraphs = [textwrap.fill(paragraph, 120) for paragraph in definitions.split("\n\n")]
    head = f"Written by `make bench{'' if device == 'cpu' else '-gpu'}`; to be read with its definitions below."
    figures = "\n".join(["| figure | found | goal |", "| --- | --- | --- |", *rows])
    return "\n\n".join(
        [
            "# What measuring and penalising cost",
            f"{head} {machine(device)}",
            f"A bare step takes {1000 * step:.3g} ms and {results[BARE].memory / 2**20:.0f} MiB; two bare ones in a "
            f"row differ by a factor of {noise}, which is the noise of every ratio here.",
            figures,
            *tables,
            WHY,
            "## Definitions",
            *paragraphs,
        ]
    )


def machine(device: str) -> str:
    """What it was measured on."""
    if device == "cuda":
        where = f"one {torch.cuda.get_device_name()}"
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        where = f"one thread, {models[0] if models else platform.machine()}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    return f"Measured on {where}; Python {platform.python_version()}, {packages}."
