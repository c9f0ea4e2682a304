"""Where checkpoints of running trials are kept, and when one is due.

A study keeps them in ``checkpoints/STUDY/TRIAL`` of its folder, or below the path or URL in SPARSESTUDY_CHECKPOINTS,
which every worker must reach: ``/nfs/folder``, ``file:///nfs/folder``, ``s3://bucket/folder`` or whatever else
`pyarrow.fs` knows, ``fsspec+PROTOCOL://`` included. They may be deleted at any time, which costs repeated epochs only,
and they go when their trial has ended.

The name of a file begins with the number of the attempt that wrote it. A worker whose driver is long gone may wake up
and write, but never in the name of a later attempt; and it deletes nothing that a later one has written.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pyarrow import fs

from sparsestudy.errors import ConflictError
from sparsestudy.files import replace
from sparsestudy.study import CheckpointsSpec

logger = logging.getLogger(__name__)
KEPT = 2
"""The latest checkpoint, and the one before in case that the latest is damaged."""
SHARE = 0.03
"""Writing checkpoints takes at most this share of a trial's time, however large its network."""
VARIABLE = "SPARSESTUDY_CHECKPOINTS"
TROUBLE = (OSError, ValueError, ImportError, pa.ArrowException)
"""What storage raises: what it meets, what it makes of a URL, and what is not installed for that."""
_NAME = re.compile(r"(\d{6})-(\d{8})\.checkpoint")


def root(folder: Path, study: str, created: float) -> str:
    """Path or URL below which a study keeps its checkpoints.

    Args:
        folder: Of the study.
        study: Its name.
        created: When it was recorded; where studies of several folders meet, it tells those of one name apart.
    """
    place = os.environ.get(VARIABLE)
    if not place:
        return str(folder.resolve() / "checkpoints" / study)
    base = place.rstrip("/") if "://" in place else str(Path(place).resolve())
    return f"{base}/{study}-{int(1000 * created):x}"


def sweep(url: str, running: Container[int]) -> None:
    """Delete the checkpoints of a study but for those of the trials that may still need them.

    Raises:
        ConflictError: The place cannot be used.
    """
    try:
        system, path = _opened(url)
        if system.get_file_info(path).type is fs.FileType.NotFound:
            return
        for info in system.get_file_info(fs.FileSelector(path)):
            if not (info.base_name.isdecimal() and int(info.base_name) in running):
                system.delete_dir(info.path)
        if not system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
            system.delete_dir(path)
    except TROUBLE as error:
        raise ConflictError(f"checkpoints cannot be kept at {url}: {error}; mend it, or set {VARIABLE}") from error


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The checkpoints of one trial, as one attempt at it may use them.

    Attributes:
        url: Path or URL of their folder.
        attempt: The number of the attempt.
    """

    url: str
    attempt: int

    def contents(self) -> Iterator[bytes]:
        """What there is, the latest attempt's latest first; whether it is any good is not known here."""
        system, path = self._place
        for name in reversed(self._names()):
            try:
                with system.open_input_stream(f"{path}/{name}") as stream:
                    yield stream.read()
            except OSError as error:
                logger.warning("the checkpoint %s/%s cannot be read: %s", self.url, name, error)

    def put(self, epochs: int, content: bytes) -> None:
        """Keep a checkpoint, whole or not at all, and delete what it makes superfluous.

        Raises:
            OSError: It cannot be kept.
        """
        system, path = self._place
        name = f"{self.attempt:06d}-{epochs:08d}.checkpoint"
        if isinstance(system, fs.LocalFileSystem):
            replace(Path(path, name), content, durable=True)
        else:  # an object is there when its stream is closed
            system.create_dir(path)
            with system.open_output_stream(f"{path}/{name}") as stream:
                stream.write(content)
        ours = [n for n in self._names() if int(n[:6]) <= self.attempt]
        for superfluous in ours[:-KEPT]:
            system.delete_file(f"{path}/{superfluous}")

    def clear(self) -> None:
        """Delete them all.

        Raises:
            OSError: They cannot be deleted.
        """
        system, path = self._place
        if system.get_file_info(path).type is not fs.FileType.NotFound:
            system.delete_dir(path)

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        return _opened(self.url)

    def _names(self) -> list[str]:
        """Names of files by attempt and epoch."""
        system, path = self._place
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if _NAME.fullmatch(info.base_name))


class Keeper:
    """Keeps the checkpoints of one attempt at a trial, as often as the study file wants.

    Args:
        shelf: Where; None: nowhere.
        spec: When.
        clock: Seconds from any start.
    """

    def __init__(self, shelf: Shelf | None, spec: CheckpointsSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf = shelf if spec.seconds or spec.epochs else None
        self._spec, self._clock = spec, clock
        self._last, self._cost, self._epochs = clock(), 0.0, 0

    @classmethod
    def of(cls, task: dict[str, Any] | None) -> Self:
        """From what `task` made; of None one that keeps nothing."""
        if task is None:
            return cls(None, CheckpointsSpec())
        return cls(Shelf(**task["shelf"]), CheckpointsSpec.from_dict(task["spec"]))

    def contents(self) -> Iterator[bytes]:
        """Checkpoints to go on from, the best first; none if they cannot be reached."""
        try:
            yield from self._shelf.contents() if self._shelf else ()
        except TROUBLE as error:
            logger.warning("there may be checkpoints that cannot be reached: %s", error)

    def started(self, epochs: int) -> None:
        """The attempt goes on after so many epochs."""
        self._last, self._epochs = self._clock(), epochs

    def due(self, epochs: int) -> bool:
        """Whether a checkpoint should be taken after so many epochs."""
        if self._shelf is None or epochs <= self._epochs:
            return False
        by_epochs = self._spec.epochs is not None and epochs - self._epochs >= self._spec.epochs
        if self._spec.seconds is None:
            return by_epochs
        return by_epochs or self._clock() - self._last >= max(self._spec.seconds, self._cost / SHARE)

    def keep(self, epochs: int, take: Callable[[], bytes]) -> None:
        """Take a checkpoint and keep it; that it cannot be kept is no reason to end a trial."""
        if self._shelf is None or epochs <= self._epochs:
            return
        began, content = self._clock(), take()
        try:
            self._shelf.put(epochs, content)
            self._epochs = epochs
        except TROUBLE as error:
            logger.warning("the checkpoint after %d epochs cannot be kept: %s", epochs, error)
        self._last = self._clock()
        self._cost = self._last - began


def task(url: str, number: int, attempt: int, spec: CheckpointsSpec) -> dict[str, Any]:
    """What a worker has to know, as plain data."""
    return {"shelf": asdict(Shelf(url=f"{url}/{number}", attempt=attempt)), "spec": spec.model_dump(mode="json")}


def _opened(url: str) -> tuple[fs.FileSystem, str]:
    if "://" not in url:
        return fs.LocalFileSystem(), url
    system, path = fs.FileSystem.from_uri(url)
    return system, path
