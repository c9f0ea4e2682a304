"""Every error that sparsestudy raises on purpose.

The tree::

    SparseStudyError
    ├── SpecError           the study file is wrong; carries every problem found, not only the first
    ├── NotFoundError       a study, trial, method, data set or model with that name does not exist
    ├── ConflictError       the request contradicts what is recorded (changed file, study already running)
    ├── TrialFailedError    a trial could not finish
    │   └── DivergedError   its loss stopped being a finite number
    ├── CheckpointError     a checkpoint is damaged, or belongs to something else
    ├── TrackingError       MLflow or the ledger refused a write
    └── NotFittableError    there is too little data for what was asked of the analysis

A message says what was wrong, what was found, what is allowed and what to do next.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class SparseStudyError(Exception):
    """Root of the tree; catch it to catch them all."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a study file.

    Attributes:
        path: Where, as a dotted path such as ``regularizers[1].targets``; empty for the file itself.
        message: What was found, what is allowed and, where there is one, the likely intention.
        line: Line in the file, counted from 1, if known.
    """

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(SparseStudyError):
    """A study file with mistakes.

    Attributes:
        source: File name or other description of where the study came from.
        problems: Every mistake, in the order of the file.
    """

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        lines = [f"  line {p.line}: {p}" if p.line else f"  {p}" for p in problems]
        super().__init__("\n".join([f"{source}: {count}, nothing was started", *lines]))


class NotFoundError(SparseStudyError):
    """Something was asked for by a name that does not exist."""


class ConflictError(SparseStudyError):
    """The request contradicts what is already recorded."""


class TrialFailedError(SparseStudyError):
    """A trial could not finish."""


class DivergedError(TrialFailedError):
    """A trial's loss stopped being a finite number."""


class CheckpointError(SparseStudyError):
    """A checkpoint is damaged, or does not belong to what is to be trained."""


class TrackingError(SparseStudyError):
    """The ledger or MLflow refused a write."""


class NotFittableError(SparseStudyError):
    """There is too little data for what was asked of the analysis."""


def suggest(found: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the allowed name closest to ``found``, else an empty string.

    Example:
        >>> suggest("epoch", ["epochs", "batch_size"])
        "; did you mean 'epochs'?"
        >>> suggest("training.lr", ["training.seed", "training.optimizer.lr"])
        "; did you mean 'training.optimizer.lr'?"
        >>> suggest("zebra", ["epochs"])
        ''
    """
    names = [str(name) for name in allowed]
    fuller = next((name for name in names if _is_short_for(found, name)), None)
    if fuller is not None:
        return f"; did you mean {fuller!r}?"
    # Case and hyphens are the commonest slips, and cost more edits than they should.
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = get_close_matches(found.lower().replace("-", "_"), list(folded), n=1, cutoff=0.61)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def _is_short_for(found: str, name: str) -> bool:
    """Whether a dotted or slashed name lacks only some of its components, though not the last one."""
    given, full = re.split(r"[./]", found.lower()), re.split(r"[./]", name.lower())
    rest = iter(full)
    return given[-1] == full[-1] and len(given) < len(full) and all(part in rest for part in given)


def shown(value: object) -> str:
    """Spell a value as a study file does, for a message.

    Example:
        >>> shown({"step": [True, None, 1.0, float("inf"), "word"]})
        '{step: [true, null, 1, .inf, "word"]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def listing(names: Iterable[object]) -> str:
    """Join names for an error message.

    Example:
        >>> listing(["a", "b"])
        'a, b'
        >>> listing([])
        'none'
    """
    return ", ".join(str(name) for name in names) or "none"
