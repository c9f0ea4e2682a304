"""The recorded studies, one folder each, and which of them a study file continues.

A study lives in a folder of its name below the home folder (``./results``, or SPARSESTUDY_HOME): its ledger, its
embedded MLflow store, and its outcome. With SPARSESTUDY_DATABASE_URL the ledgers of all studies are in one database
instead, and the folder has the rest.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sparsestudy.continuing import differences, obstacles
from sparsestudy.errors import ConflictError, NotFoundError, TrackingError, listing, suggest
from sparsestudy.study import StudySpec
from sparsestudy.tracking.ledger import Ledger, StudyRecord
from sparsestudy.trial import Measurement, Trial, TrialState

LEDGER = "ledger.db"


def home() -> Path:
    """The folder that holds one folder per study: SPARSESTUDY_HOME, or ``results`` in the current folder."""
    return Path(os.environ.get("SPARSESTUDY_HOME") or "results")


def database() -> str | None:
    """URL of the database that holds the ledgers of all studies: SPARSESTUDY_DATABASE_URL; None: each has a file."""
    return os.environ.get("SPARSESTUDY_DATABASE_URL") or None


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
        return self.ledger.states(self.record.id)

    def check(self, spec: StudySpec) -> None:
        """Whether a spec continues this study, as it stands in the ledger now.

        Raises:
            ConflictError: It does not; the message shows how it differs.
        """
        recorded = self.ledger.study(self.name).spec
        if changes := obstacles(recorded, spec):
            raise ConflictError(
                "\n".join(
                    [
                        f"study {self.name!r} was started from a different file:",
                        *(f"  {line}" for line in changes),
                        "run with --new to start another version beside it, or undo the change to continue it",
                    ]
                )
            )
        asked, known = spec.search.trials, self.states().total()
        if asked is not None and asked < known:
            raise ConflictError(
                f"study {self.name!r} has {known} trials, search.trials: {asked} is fewer; ask for at least {known}, "
                f"or run with --new to start another version beside it"
            )

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.ledger.close()


def studies() -> list[str]:
    """Names of the recorded studies, oldest first."""
    if url := database():
        with closing(Ledger(url)) as ledger:
            return [record.name for record in ledger.studies() if record.parent is None]
    found = [path.parent for path in home().glob(f"*/{LEDGER}")]
    return [folder.name for folder in sorted(found, key=lambda f: f.stat().st_ctime)]


def open_study(name: str) -> Study:
    """Open a recorded study by name.

    Raises:
        NotFoundError: There is none; the message lists what there is.
    """
    known = studies()
    if name not in known:
        where = "the database" if database() else home()
        raise NotFoundError(f"no study named {name!r} in {where}; studies: {listing(known)}{suggest(name, known)}")
    ledger = _ledger(name)
    return Study(folder=home() / name, ledger=ledger, record=ledger.study(name))


def _ledger(name: str) -> Ledger:
    folder, url = home() / name, database()
    if url is None:
        return Ledger.in_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(f"the folder {folder} cannot be made: {error.strerror}; set SPARSESTUDY_HOME") from error
    return Ledger(url)


def versions(name: str) -> list[str]:
    """Recorded studies made from files of that name: the name itself, then ``name-2``, ``name-3``, ..."""
    pattern = re.compile(rf"{re.escape(name)}(-(\d+))?")
    found = [(int(m[2] or 1), study) for study in studies() if (m := pattern.fullmatch(study))]
    return [study for _, study in sorted(found) if _recorded_name(study) == name]


def _recorded_name(study: str) -> str | None:
    """The name in the spec of a study; None while its ledger is there, but it is not in it yet."""
    try:
        with open_study(study) as opened:
            return opened.spec.name
    except NotFoundError:
        return None


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
    if known and not new:
        return _continued(spec, known)
    name = next(n for n in _numbered(spec.name) if not _taken(n))
    ledger = _ledger(name)
    try:
        return Study(folder=home() / name, ledger=ledger, record=ledger.create_study(name, spec))
    except ConflictError:  # another process has just taken the name
        ledger.close()
        return claim(spec, new=new)


def _taken(name: str) -> bool:
    """Whether there is a study of that name, finals included, or a folder with anything but an empty ledger."""
    folder, url = home() / name, database()
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(LEDGER) for path in folder.iterdir())):
        return True
    if url is None and not (folder / LEDGER).exists():
        return False
    with closing(Ledger(url) if url else Ledger.in_folder(folder)) as ledger:
        return any(record.name == name for record in ledger.studies())


def _continued(spec: StudySpec, known: list[str]) -> Study:
    """The latest study that was made from this very file, else the latest one, if it may grow to it."""
    for name in reversed(known):
        study = open_study(name)
        if study.spec.digest == spec.digest:
            return study
        study.ledger.close()
    study = open_study(known[-1])
    try:
        study.check(spec)
    except ConflictError:
        study.ledger.close()
        raise
    return study


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


__all__ = ["LEDGER", "Study", "claim", "database", "differences", "home", "open_study", "studies", "versions"]
