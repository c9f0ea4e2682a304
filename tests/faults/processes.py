"""Processes that this one started, however long ago their parents died."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil

_PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def adopting() -> Iterator[set[int]]:
    """Make orphans of the block children of this process, so that none gets lost; yields those known before.

    Whatever the block leaves behind is ended with it.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl refused to adopt orphans; faults are injected on Linux only")
    known = set(descendants())
    try:
        yield known
    finally:
        for pid in descendants(known):
            kill(pid)
        until(lambda: not descendants(known), 20)
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants(known: set[int] | None = None) -> dict[int, str]:
    """Living processes below this one, but for those that are known: number -> command line."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE and process.pid not in (known or ()):
                found[process.pid] = " ".join(process.cmdline())
    _bury()
    return found


def _bury() -> None:
    """Take note of the deaths of adopted children; those that somebody here waits for are left to them."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE and process.pid not in _AWAITED:
                os.waitpid(process.pid, os.WNOHANG)


def buried(pid: int) -> bool:
    """Whether a process is gone for good, and not even its death is left to be taken note of."""
    _bury()
    return not psutil.pid_exists(pid)


_AWAITED: set[int] = set()


def awaited(pid: int) -> None:
    """Somebody here will wait for this process."""
    _AWAITED.add(pid)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; returns whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool], limit: float, pause: float = 0.02) -> bool:
    """Wait for a condition; returns whether it came true within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def below(*parents: int) -> list[int]:
    """These processes and all that they have started."""
    found = []
    for pid in parents:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [pid, *(child.pid for child in process.children(recursive=True))]
    return found


def processor_seconds(pid: int) -> float:
    """What a process has used of processors, its children not counted; infinite if it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return float("inf")
    return times.user + times.system
