"""Two processes that do what tests tell them, together; starting them takes seconds, so tests share a pair."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from sparsestudy.training.distributed import Group

SIZE = 2
Together = Callable[..., list[Any]]
"""(function, *arguments) -> what ``function(group, *arguments)`` returns in each rank; it has to be importable."""


@contextmanager
def pair(folder: Path) -> Iterator[Together]:
    context = mp.get_context("spawn")
    pipes = [context.Pipe() for _ in range(SIZE)]
    processes = [
        context.Process(target=_serve, args=(rank, str(folder), pipes[rank][1]), daemon=True) for rank in (0, 1)
    ]
    for process in processes:
        process.start()

    def together(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for ours, _ in pipes:
            ours.send((function, arguments))
        answers = [ours.recv() for ours, _ in pipes]
        for rank, (_, failed) in enumerate(answers):
            assert not failed, f"rank {rank}: {failed}"
        return [value for value, _ in answers]

    try:
        yield together
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(rank: int, folder: str, pipe: Connection) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE)
    group = Group(rank, SIZE)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((function(group, *arguments), ""))
        except Exception:
            pipe.send((None, traceback.format_exc()))
