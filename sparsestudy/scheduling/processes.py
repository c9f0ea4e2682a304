"""Ranks that are processes of this machine, and end with the one that started them."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.multiprocessing as mp

from sparsestudy.scheduling.rank import Report, serve
from sparsestudy.scheduling.ranks import GRACE_SECONDS, Ranks, death


class LocalRanks(Ranks):
    """Processes of this machine; rank r has the r-th of the visible GPUs. They end when this process does."""

    _processes: Sequence[Any] = ()
    _pipes: Sequence[Connection] = ()

    @property
    def pids(self) -> list[int]:
        """Process numbers in order of rank; none before the first trial, and after a failure."""
        return [process.pid for process in self._processes]

    def _spawn(self) -> None:
        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="sparsestudy-ranks-")
        meeting = f"file://{self._folder.name}/meeting"
        self._counts = context.RawArray("q", self.size)
        # Whoever watches speaks first, and says who is missing; those who wait could only say that they waited.
        patience = self.patience + 60
        processes, pipes = [], []
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (rank, self.size, self.device, meeting, theirs, self._counts, os.getpid(), patience)
            process = context.Process(target=serve, args=arguments, name=f"rank{rank}", daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            processes.append(process)
            pipes.append(ours)
        self._processes, self._pipes = processes, pipes

    def _send(self, request: str, arguments: tuple[Any, ...]) -> None:
        self._waiting = {pipe: rank for rank, pipe in enumerate(self._pipes)}
        for pipe in self._pipes:
            with suppress(OSError):  # if it has died since, reading from it will tell
                pipe.send((request, arguments))

    def _receive(self, seconds: float) -> dict[int, Report]:
        found = {}
        for pipe in wait(list(self._waiting), timeout=seconds):
            assert isinstance(pipe, Connection)
            rank = self._waiting.pop(pipe)
            try:
                found[rank] = pipe.recv()
            except (EOFError, OSError):
                found[rank] = self._death(rank)
        return found

    def _beats(self) -> list[int]:
        return list(self._counts)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        if self._processes:
            self._folder.cleanup()
        self._processes = self._pipes = ()

    def _death(self, rank: int) -> Report:
        process = self._processes[rank]
        process.join(GRACE_SECONDS)
        code = process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        # One that a library aborts because another one has gone is no cause; any other comes before what is said.
        return death(rank, self.size, how, time.time() if code == -signal.SIGABRT else 0.0)
