"""The recorded studies of a home folder, one folder each, and which of them a study file continues.

A study lives in a folder of its name below the home folder (``./results``, or SPARSESTUDY_HOME): its ledger, its
embedded MLflow store, and its outcome.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsestudy.errors import ConflictError, NotFoundError, listing, suggest
from sparsestudy.study import StudySpec
from sparsestudy.tracking.ledger import Ledger, StudyRecord
from sparsestudy.trial import Measurement, Trial, TrialState

LEDGER = "ledger.db"


def home() -> Path:
    """The folder that holds one folder per study: SPARSESTUDY_HOME, or ``results`` in the current folder."""
    return Path(os.environ.get("SPARSESTUDY_HOME") or "results")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A recorded study and where it lives. Close it, or use it as a context manager."""

    folder: Path
    ledger: Ledger
    record: StudyRecord

    @property
    def name(self) -> str:
        """Its name, which is its folder's name."""
        return self.record.name

    @property
    def spec(self) -> StudySpec:
        """The study file it was created from."""
        return self.record.spec

    def trials(self) -> list[Trial]:
        """All trials by number."""
        return self.ledger.trials(self.record.id)

    def trial(self, number: int) -> Trial:
        """One trial; NotFoundError if there is none of that number."""
        return self.ledger.trial(self.record.id, number)

    def trajectory(self, number: int) -> list[Measurement]:
        """Recorded epochs of a trial."""
        return self.ledger.trajectory(self.record.id, number)

    def states(self) -> Counter[TrialState]:
        """How many trials are in each state."""
        return Counter(trial.state for trial in self.trials())

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.ledger.close()


def studies() -> list[str]:
    """Names of the recorded studies, oldest first."""
    found = [path.parent for path in home().glob(f"*/{LEDGER}")]
    return [folder.name for folder in sorted(found, key=lambda f: f.stat().st_ctime)]


def open_study(name: str) -> Study:
    """Open a recorded study by name.

    Raises:
        NotFoundError: There is none; the message lists what there is.
    """
    folder = home() / name
    if not (folder / LEDGER).exists():
        known = studies()
        raise NotFoundError(f"no study named {name!r} in {home()}; studies: {listing(known)}{suggest(name, known)}")
    ledger = Ledger.in_folder(folder)
    return Study(folder=folder, ledger=ledger, record=ledger.study(name))


def versions(name: str) -> list[str]:
    """Recorded studies made from files of that name: the name itself, then ``name-2``, ``name-3``, ..."""
    pattern = re.compile(rf"{re.escape(name)}(-(\d+))?")
    found = [(int(m[2] or 1), study) for study in studies() if (m := pattern.fullmatch(study))]
    return [study for _, study in sorted(found) if _recorded_name(study) == name]


def _recorded_name(study: str) -> str:
    with open_study(study) as opened:
        return opened.spec.name


def claim(spec: StudySpec, *, new: bool = False) -> Study:
    """The study this spec continues, or a new one.

    Args:
        spec: The study.
        new: Start over in a new folder (``name-2``, ...) even if there is a study of that name.

    Raises:
        ConflictError: The recorded study of that name was made from a different file; the message shows how it
            differs.
    """
    known = versions(spec.name)
    if not new:
        for name in reversed(known):
            study = open_study(name)
            if study.spec.digest == spec.digest:
                return study
            study.ledger.close()
        if known:
            with open_study(known[-1]) as latest:
                changes = differences(latest.spec.identity(), spec.identity())
            raise ConflictError(
                "\n".join(
                    [
                        f"study {known[-1]!r} was started from a different file:",
                        *(f"  {line}" for line in changes),
                        "run with --new to start another version beside it, or undo the change to continue it",
                    ]
                )
            )
    taken = {*studies(), *(p.name for p in home().glob("*"))}
    name = next(n for n in _numbered(spec.name) if n not in taken)
    ledger = Ledger.in_folder(home() / name)
    return Study(folder=home() / name, ledger=ledger, record=ledger.create_study(name, spec))


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def differences(recorded: Any, given: Any, path: str = "") -> list[str]:
    """How two specs differ, one line a difference.

    Example:
        >>> differences({"training": {"epochs": 5}}, {"training": {"epochs": 9}, "data": {"seed": 1}})
        ['data: (default) -> {"seed": 1}', 'training.epochs: 5 -> 9']
    """
    if isinstance(recorded, Mapping) and isinstance(given, Mapping):
        lines = []
        for key in sorted({*recorded, *given}):
            here = f"{path}.{key}" if path else str(key)
            lines += differences(recorded.get(key, _ABSENT), given.get(key, _ABSENT), here)
        return lines
    if isinstance(recorded, list) and isinstance(given, list) and len(recorded) == len(given):
        return [
            line
            for i, (a, b) in enumerate(zip(recorded, given, strict=True))
            for line in differences(a, b, f"{path}[{i}]")
        ]
    return [] if recorded == given else [f"{path}: {_spell(recorded)} -> {_spell(given)}"]


_ABSENT = object()


def _spell(value: Any) -> str:
    return "(default)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
