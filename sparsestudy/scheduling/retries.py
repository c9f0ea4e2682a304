"""What becomes of a trial whose attempt failed: tried again, or recorded as failed. By class of failure, in one table.

Failures of machines are nobody's fault and happen to any trial, so they are tried again, within a limit that keeps a
trial which kills its workers from doing so for ever. Failures of the trial itself would only happen again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sparsestudy.errors import DivergedError


class FailureClass(StrEnum):
    """What kind of thing went wrong; attempts record it in front of their outcome."""

    INFRASTRUCTURE = "infrastructure"
    MEMORY = "memory"
    DATA = "data"
    DIVERGED = "diverged"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How often a trial is tried again after failures of one class, over all launches.

    Attributes:
        retries: That often; None: as often as the study file says, ``budget.retries``.
        pause: Seconds before the first retry; doubled for each further one.
    """

    retries: int | None = 0
    pause: float = 0.0


POLICIES = {
    FailureClass.INFRASTRUCTURE: Policy(retries=None),
    # The same batch does not fit a second time; its halves might, or their halves: see `parts`.
    FailureClass.MEMORY: Policy(retries=4),
    FailureClass.DATA: Policy(retries=2, pause=10.0),
    FailureClass.DIVERGED: Policy(),
    FailureClass.ERROR: Policy(),
}


def classify(error: BaseException) -> FailureClass:
    """The class of an error that a worker lived to report; the death of a worker is infrastructure.

    Errors of torch are told by name and text, so that nobody has to import it here.

    Example:
        >>> classify(MemoryError()), classify(TimeoutError("no answer from the file server"))
        (<FailureClass.MEMORY: 'memory'>, <FailureClass.DATA: 'data'>)
        >>> classify(DivergedError("train loss became nan")), classify(ValueError("shapes do not fit"))
        (<FailureClass.DIVERGED: 'diverged'>, <FailureClass.ERROR: 'error'>)
        >>> classify(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
        <FailureClass.MEMORY: 'memory'>
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"} or "DefaultCPUAllocator" in str(error):
        return FailureClass.MEMORY
    if isinstance(error, OSError):
        return FailureClass.DATA
    return FailureClass.DIVERGED if isinstance(error, DivergedError) else FailureClass.ERROR


def pause_before_retry(failure: FailureClass, before: int, limit: int) -> float | None:
    """Seconds to wait before a trial is tried again; None if it is not.

    Args:
        failure: Of the attempt that has just failed.
        before: How many earlier attempts at this trial failed in the same class.
        limit: Of classes that leave it to the study file.

    Example:
        >>> [pause_before_retry(FailureClass.DATA, before, limit=5) for before in range(3)]
        [10.0, 20.0, None]
        >>> [pause_before_retry(FailureClass.INFRASTRUCTURE, before, limit=2) for before in range(3)]
        [0.0, 0.0, None]
        >>> pause_before_retry(FailureClass.DIVERGED, 0, limit=5) is None
        True
    """
    policy = POLICIES[failure]
    allowed = limit if policy.retries is None else policy.retries
    return policy.pause * 2**before if before < allowed else None


def parts(outcomes: Sequence[str]) -> int:
    """In how many parts the next attempt at a trial computes each batch, its gradients summed over them.

    Args:
        outcomes: Of the attempts before, as they are recorded; one that ran out of memory doubles the parts.

    Example:
        >>> parts([]), parts(["memory: OutOfMemoryError: 9 GiB", "interrupted", "memory: OutOfMemoryError: 9 GiB"])
        (1, 4)
    """
    return 1 << sum(outcome.startswith(f"{FailureClass.MEMORY}: ") for outcome in outcomes)
