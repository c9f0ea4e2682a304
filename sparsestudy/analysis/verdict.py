"""The verdict card: what the study says of each claim it could speak to, and what would settle the rest.

A claim is *supported* if the whole 95 % interval of its effect lies on its side of zero, *refuted* if the whole
interval lies short of the smallest effect worth having, and *undecided* otherwise; then the card says how many further
configurations would narrow the interval enough. Intervals count configurations, not trials: replicates of one are
averaged first.

Here are the claims that compare arms; `sparsestudy.analysis.claims` has those over all trials.

The claims are those of the abstracts of Huesmann et al. 2020 (arXiv 2002.09237) and 2021 (arXiv 2104.06153), and of
Khan and Stavness 2019 (arXiv 1904.08050), VERBATIM; the tests of them are ours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparsestudy.analysis.clustered import Codes, Design, contrast_effect, indicators
from sparsestudy.analysis.conditions import conditions
from sparsestudy.analysis.evidence import Evidence
from sparsestudy.study import StudySpec

Status: TypeAlias = Literal["supported", "refuted", "undecided"]
Floats: TypeAlias = NDArray[np.float64]
WORTH_ACCURACY = 0.01
"""Smallest difference of accuracy worth having: one percentage point."""
WORTH_LOSS = 0.05
"""Smallest difference of loss worth having, in the unit of the loss."""
POWER = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
"""Standard errors between zero and an effect that 95 % intervals exclude zero for in 80 % of studies."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the study says of one claim.

    Attributes:
        claim: In one sentence.
        status: supported, refuted or undecided.
        effect: The effect in the direction of the claim; None if it cannot be said.
        low: Lower end of its 95 % interval.
        high: Upper end.
        unit: Of the effect.
        configurations: How many are behind it.
        said: The finding in plain words.
        further: Undecided: further configurations of each arm that would settle it, by arm; empty if unknown.
    """

    claim: str
    status: Status
    effect: float | None
    low: float | None
    high: float | None
    unit: str
    configurations: int
    said: str
    further: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of one set of configurations minus that of another, with Welch's 95 % interval."""

    effect: float | None
    low: float | None
    high: float | None
    error: float | None
    counts: tuple[int, int]


def methods_of_arms(spec: StudySpec) -> dict[str, frozenset[str]]:
    """The methods of each arm, ``none`` left out: the control's set is empty."""
    return {arm.name: frozenset(m.method for m in arm.methods) - {"none"} for arm in spec.regularizers}


def difference(of: Floats, minus: Floats) -> Difference:
    """Welch's comparison of two sets of configurations; no interval with fewer than two in either.

    Example:
        >>> found = difference(np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.0]))
        >>> found.effect, round(found.low, 4), round(found.high, 4)  # 2 -+ 4.3027 / sqrt(3)
        (2.0, -0.4841, 4.4841)
    """
    counts = (len(of), len(minus))
    if min(counts) == 0:
        return Difference(effect=None, low=None, high=None, error=None, counts=counts)
    effect = float(of.mean() - minus.mean())
    if min(counts) < 2:
        return Difference(effect=effect, low=None, high=None, error=None, counts=counts)
    parts = [float(x.var(ddof=1)) / len(x) for x in (of, minus)]
    variance = sum(parts)
    if variance <= 0:
        return Difference(effect=effect, low=effect, high=effect, error=0.0, counts=counts)
    freedom = variance**2 / sum(p**2 / (n - 1) for p, n in zip(parts, counts, strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Difference(effect=effect, low=effect - half, high=effect + half, error=math.sqrt(variance), counts=counts)


def difference_within(of: Floats, minus: Floats, blocks: tuple[Codes, Codes]) -> Difference:
    """The same between configurations of one block, over all blocks: least squares with a level for each block.

    Args:
        of: Means of configurations, ``[a]``.
        minus: Those to compare with, ``[b]``.
        blocks: The block of each, ``[a]`` and ``[b]``, such as the data it trained on.

    Returns:
        With the interval of `sparsestudy.analysis.clustered`, which allows for unequal variances; without one if no
        block has both, or too few configurations do.
    """
    block = np.concatenate(blocks)
    side = np.repeat([1.0, 0.0], [len(of), len(minus)])
    design = Design.of(np.column_stack([side, indicators(block)]), np.arange(len(block)))
    found = contrast_effect(design, np.concatenate([of, minus]), np.eye(1, 1 + len(np.unique(block)))[0])
    if found.estimate is None or found.low is None or found.high is None or not found.freedom:
        return replace(difference(of, minus), low=None, high=None, error=None)
    error = (found.high - found.low) / 2 / float(stats.t.ppf(0.975, found.freedom))
    counts = (len(of), len(minus))
    return Difference(effect=found.estimate, low=found.low, high=found.high, error=error, counts=counts)


def _blocks(evidence: Evidence, values: Floats, arms: Collection[str]) -> Codes:
    """The data of each configuration of the arms, in the order of `by_configuration`."""
    chosen = evidence.trials["arm"].isin(list(arms)).to_numpy() & np.isfinite(values)
    first = np.unique(evidence.trials["configuration"].to_numpy()[chosen], return_index=True)[1]
    return conditions(evidence).codes[chosen][first]


def by_configuration(evidence: Evidence, values: Floats, arms: Collection[str]) -> Floats:
    """Mean of each configuration of the arms, over its replicates with a value.

    A single configuration, such as that of a control, stands for itself and not for others: what varies then are its
    replicates, and their values are returned.
    """
    chosen = evidence.trials["arm"].isin(list(arms)).to_numpy() & np.isfinite(values)
    groups = evidence.trials["configuration"].to_numpy()[chosen]
    _, place = np.unique(groups, return_inverse=True)
    if not len(place):
        return np.empty(0)
    if place.max() == 0:
        return np.asarray(values[chosen], dtype=np.float64)
    means: Floats = np.bincount(place, weights=values[chosen]) / np.bincount(place)
    return means


def decide(low: float | None, high: float | None, worth: float) -> Status:
    """The status of a claim that the effect is above zero.

    Example:
        >>> decide(0.01, 0.2, 0.05), decide(-0.3, 0.04, 0.05), decide(-0.1, 0.2, 0.05), decide(None, None, 0.05)
        ('supported', 'refuted', 'undecided', 'undecided')
    """
    if low is None or high is None:
        return "undecided"
    if low > 0:
        return "supported"
    return "refuted" if high < worth else "undecided"


def further_configurations(effect: float, error: float, count: int, worth: float) -> int:
    """How many more configurations an arm needs for the verdict that the estimate speaks for.

    An effect above zero has to be told from zero, one below ``worth`` from that; of both the easier.

    Args:
        effect: As estimated.
        error: Its standard error.
        count: Configurations of the arm so far.
        worth: Smallest effect worth having.

    Example:
        >>> further_configurations(0.1, 0.1, 10, 0.01)  # the error must shrink from 0.1 to 0.1 / 2.82
        70
        >>> further_configurations(0.02, 0.026, 3, 0.05)  # to be told from 0.05, which is 0.03 away
        16
    """
    wanted = max(effect, worth - effect)
    total = count * (error * float(POWER) / wanted) ** 2
    freedom = max(2 * total - 2, 2.0)
    power = float(stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom))
    return max(1, math.ceil(count * (error * power / wanted) ** 2 - count))


def compare(
    claim: str,
    evidence: Evidence,
    values: Floats,
    arms: Mapping[str, Sequence[str]],
    *,
    worth: float,
    unit: str,
    names: tuple[str, str],
) -> Verdict:
    """Verdict on the claim that ``values`` are larger in the first set of arms than in the second.

    Args:
        claim: In one sentence.
        evidence: All trials.
        values: One per trial, ``[n]``.
        arms: The two sets of arms by what they are called.
        worth: Smallest difference worth having.
        unit: Of the values.
        names: The keys of ``arms``: this minus that.
    """
    first, second = (by_configuration(evidence, values, arms[name]) for name in names)
    data = conditions(evidence).names
    blocks = tuple(_blocks(evidence, values, arms[name]) for name in names) if data else ()
    # A configuration that stands alone has its replicates counted, and is of one block.
    blocked = len(blocks) == 2 and [len(b) for b in blocks] == [len(first), len(second)] and min(map(len, blocks)) > 0
    found = difference_within(first, second, (blocks[0], blocks[1])) if blocked else difference(first, second)
    count = len(first) + len(second)
    status = decide(found.low, found.high, worth)
    if found.effect is None:
        absent = [name for name, own in zip(names, (first, second), strict=True) if not len(own)]
        said = f"The study has no usable trial of {' nor of '.join(absent)}."
        return Verdict(
            claim=claim,
            status="undecided",
            effect=None,
            low=None,
            high=None,
            unit=unit,
            configurations=count,
            said=said,
        )
    further = {}
    if status == "undecided" and found.error and math.isfinite(found.error):
        further = {
            arm: further_configurations(found.effect, found.error, own, worth)
            for name, own in zip(names, found.counts, strict=True)
            for arm in arms[name]
        }
    said = f"{names[0].capitalize()} against {names[1]}: {_signed(found)} {unit}".rstrip()
    said += f", over {_units(evidence, arms[names[0]], found.counts[0])}"
    said += f" and {_units(evidence, arms[names[1]], found.counts[1])}."
    if blocked:
        said += f" Compared on the same data ({', '.join(data)} held fixed)."
    if found.low is None:
        said += " A single trial on a side bears no interval."
    return Verdict(
        claim=claim, status=status, effect=found.effect, low=found.low, high=found.high, unit=unit,
        configurations=count, said=said, further=further,
    )  # fmt: skip


def _units(evidence: Evidence, arms: Collection[str], count: int) -> str:
    chosen = evidence.trials["arm"].isin(list(arms))
    alone = evidence.trials["configuration"][chosen].nunique() == 1
    return f"{count} replicates of one configuration" if alone and count > 1 else f"{count} configurations"


def _signed(found: Difference) -> str:
    text = f"{found.effect:+.3g}"
    return text if found.low is None else f"{text} (95 % interval {found.low:+.3g} to {found.high:+.3g})"


def arm_verdicts(evidence: Evidence, methods: Mapping[str, frozenset[str]], *, accuracy: str) -> list[Verdict]:
    """Verdicts that compare arms: the penalty against the control, dropout and batch norm, and the excess loss.

    Args:
        evidence: All trials.
        methods: Of each arm; see `methods_of_arms`.
        accuracy: What the score is called.
    """
    penalised = [arm for arm, own in methods.items() if own == {"perplexity"}]
    control = [arm for arm, own in methods.items() if not own]
    rivals = {name: [arm for arm, own in methods.items() if own == {name}] for name in ("dropout", "batch_norm")}
    complete = (evidence.trials["state"] == "COMPLETE").to_numpy()
    score = np.where(complete, evidence.last(evidence.curves["validation/accuracy"]), np.nan)
    loss = evidence.curves["validation/loss"]
    lowest = np.min(np.where(np.isfinite(loss), loss, np.inf), axis=1, initial=np.inf)
    excess = np.where(complete & np.isfinite(lowest), evidence.last(loss) - lowest, np.nan)
    penalty = {"penalised sparsity": penalised}
    found = [
        compare(
            f"Penalising activation sparsity improves validation {accuracy}.", evidence, score,
            {**penalty, "the control": control}, worth=WORTH_ACCURACY, unit=accuracy,
            names=("penalised sparsity", "the control"),
        )
    ]  # fmt: skip
    for method, arms in rivals.items():
        called = method.replace("_", " ")
        found.append(
            compare(
                f"Penalising activation sparsity beats {called}.", evidence, score, {**penalty, called: arms},
                worth=WORTH_ACCURACY, unit=accuracy, names=("penalised sparsity", called),
            )
        )  # fmt: skip
    less = compare(
        "With penalised sparsity the loss rises less when training goes on.", evidence, -excess,
        {**penalty, "the control": control}, worth=WORTH_LOSS, unit="less excess loss",
        names=("penalised sparsity", "the control"),
    )  # fmt: skip
    return [*found, less]
