"""What runs in one of the processes that train a trial together: it does what it is asked, and says what went wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

from sparsestudy.scheduling.retries import FailureClass, classify
from sparsestudy.training.distributed import Group
from sparsestudy.training.loop import Trainer
from sparsestudy.trial import Failure, Measurement, TrialConfig


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a rank answers to a request.

    Attributes:
        answer: Of the first rank; others answer None.
        failure: Why it did not do it.
        kind: Of the failure.
        at: When, in seconds since 1970; the ranks may be on several machines.
    """

    answer: Any = None
    failure: Failure | None = None
    kind: FailureClass = FailureClass.ERROR
    at: float = 0.0


class Seat:
    """One rank's part of one trial after another.

    Args:
        group: The ranks.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._trainer: Trainer | None = None
        self._measurements: Iterator[Measurement] = iter(())

    def start(self, config: str, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Begin a trial, giving up what was there before; answers the epochs and notes of the checkpoint, if any.

        ``options`` are further arguments of the `Trainer`.
        """
        self._trainer, self._measurements = None, iter(())
        self._trainer = Trainer(TrialConfig.model_validate_json(config), group=self._group, **options)
        self._measurements = iter(self._trainer)
        return self._trainer.epochs, dict(self._trainer.notes)

    def measure(self) -> tuple[Measurement, bool, bytes] | None:
        """Train an epoch; the first rank answers the measurement, whether it was the last, and then the weights."""
        assert self._trainer is not None
        measurement, done = next(self._measurements), self._trainer.done
        return (measurement, done, self._trainer.weights if done else b"") if self._group.first else None

    def call(self, name: str, *arguments: Any) -> Any:
        """What a method of the first rank's `Trainer` returns, one that needs no other rank."""
        return getattr(self._trainer, name)(*arguments) if self._group.first else None

    def report(self, request: str, arguments: tuple[Any, ...]) -> Report:
        """Do what is asked, one of the methods above, and say how it went."""
        try:
            return Report(answer=getattr(self, request)(*arguments))
        except BaseException as error:
            return failed(error)


def failed(error: BaseException) -> Report:
    """The report of an error that has just been caught."""
    failure = Failure(kind=type(error).__name__, message=str(error), traceback=traceback.format_exc())
    return Report(failure=failure, kind=classify(error), at=time.time())


def serve(
    rank: int, size: int, device: str, meeting: str, pipe: Connection, beats: Any, parent: int, patience: float
) -> None:
    """Do what comes down the pipe until the other end has gone, or something goes wrong; never returns.

    Args:
        rank: Of this process.
        size: Of the group.
        device: ``cpu``, or ``cuda`` for the device with the number of the rank.
        meeting: Where the ranks find each other: a URL for ``torch.distributed``.
        pipe: Requests come, `Report` go.
        beats: Shared numbers of all ranks; this one's is raised before it waits for the others.
        parent: Process that this one must not outlive.
        patience: Seconds after which whoever waits for another rank fails.
    """
    _end_with(parent)

    def beat() -> None:
        beats[rank] += 1

    try:
        if device == "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = device_of(rank, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        elif "lo" in [name for _, name in socket.if_nameindex()]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the name of a host need not lead back to it
        seat = Seat(join(rank, size, device, meeting, beat, patience))
        report = Report()
        while report.failure is None:
            report = seat.report(*pipe.recv())
            pipe.send(report)
    except EOFError:
        pass
    except BaseException as error:
        pipe.send(failed(error))
    # At once: to leave the group in good order could mean to wait for ranks that have gone.
    os._exit(0)


def device_of(rank: int, visible: str) -> str:
    """The only GPU that a rank sees, so that it takes room on no other: the one with its number among those visible.

    Example:
        >>> device_of(1, "4,7"), device_of(1, "")
        ('7', '1')
    """
    return visible.split(",")[rank] if visible else str(rank)


def join(rank: int, size: int, device: str, meeting: str, beat: Callable[[], None], patience: float) -> Group:
    """Meet the other ranks.

    Args:
        rank: Of this process.
        size: Of the group.
        device: ``cpu`` or ``cuda``, of which this process sees its own alone.
        meeting: Where the ranks find each other: a URL for ``torch.distributed``.
        beat: Called before this rank waits for the others.
        patience: Seconds after which whoever waits for another rank fails.
    """
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=patience),
    )
    return Group(rank, size, beat)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when the parent ends, however that ends; the parent alone may interrupt it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
