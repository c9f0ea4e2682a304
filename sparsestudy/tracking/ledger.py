"""The ledger: the durable record of studies, trials, attempts and measurements; the only truth about what was tried.

One SQL database: SQLite in the study's folder by default, or PostgreSQL for all studies. Whoever drives a study holds
its *lease*, which carries a fencing number: every write names it, and a driver that lost its lease cannot write any
more. Measurements are rows here first; the tracker reads them from here (they are its outbox) and marks what it has
delivered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Select, Text, cast, func, select, update
from sqlalchemy.exc import IntegrityError

from sparsestudy.errors import ConflictError, NotFoundError, TrackingError, listing, suggest
from sparsestudy.study import StudySpec
from sparsestudy.tracking.database import Database, persistent
from sparsestudy.tracking.leases import RELEASED, Lease, held, ownership
from sparsestudy.tracking.migrating import bring_up_to_date
from sparsestudy.tracking.packing import Places, pack, places_of, shape_of, unpack
from sparsestudy.tracking.tables import ATTEMPTS, MEASUREMENTS, SHAPES, SPEC_VERSIONS, STUDIES, TRIALS
from sparsestudy.trial import Failure, Measurement, Trial, TrialConfig, TrialState


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as recorded.

    Attributes:
        id: Key within this ledger.
        name: Its folder's name: the spec's name, with a number after it for later versions.
        spec: The study file it was created from.
        created: Seconds since 1970.
        run_id: Its parent run in MLflow, once there is one.
        driver: ``host:pid`` of whoever holds an unexpired lease, None if nobody does.
        version: Number of its spec, from 1; a study that grew has had several.
        parent: Key of the study whose finals these are.
        stopping: The driver has been asked to stop.
    """

    id: int
    name: str
    spec: StudySpec
    created: float
    run_id: str | None
    driver: str | None
    version: int = 1
    parent: int | None = None
    stopping: bool = False


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Measurements of one trial that MLflow has not got yet, in order of epochs."""

    trial: Trial
    measurements: tuple[Measurement, ...]
    closing: bool
    """The trial has finished and these are the last ones: close its run."""


class Ledger:
    """Open the ledger at an SQLAlchemy URL; tables that are missing are created, those of earlier versions migrated.

    Raises:
        TrackingError: The database cannot be opened, or was written by a newer version of sparsestudy.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._database = Database(url)
        self._shapes: dict[int, dict[str, Places]] = {}
        try:
            bring_up_to_date(self._database)
        except BaseException:
            self.close()
            raise

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """The SQLite ledger of a study's folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrackingError(
                f"the folder {folder} cannot be made: {error.strerror}; set SPARSESTUDY_HOME"
            ) from error
        return cls(f"sqlite:///{folder / 'ledger.db'}")

    def close(self) -> None:
        """Give all connections back."""
        self._database.engine.dispose()

    # Studies

    @persistent
    def create_study(self, name: str, spec: StudySpec, parent: StudyRecord | None = None) -> StudyRecord:
        """Record a new study.

        Args:
            name: Of the study; unique in this ledger.
            spec: What it asks for.
            parent: The study whose finals these are.

        Raises:
            ConflictError: There is one of that name.
        """
        now, known = time.time(), {"digest": spec.digest, "spec": spec.to_dict()}
        row = {"name": name, "created": now, "parent": parent.id if parent else None, **known}
        try:
            with self._database.change() as connection:
                key = connection.execute(STUDIES.insert().values(**row).returning(STUDIES.c.id)).scalar_one()
                connection.execute(SPEC_VERSIONS.insert().values(study_id=key, version=1, created=now, **known))
        except IntegrityError:
            raise ConflictError(f"a study named {name!r} is already recorded in {self._database.name}") from None
        return self.study(name)

    @persistent
    def study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            NotFoundError: There is none.
        """
        with self._database.read() as connection:
            row = connection.execute(select(STUDIES).where(STUDIES.c.name == name)).mappings().first()
            if row is None:
                known = connection.execute(select(STUDIES.c.name).order_by(STUDIES.c.created)).scalars().all()
                raise NotFoundError(f"no study named {name!r}; studies: {listing(known)}{suggest(name, known)}")
            return _record(dict(row), self._database.now(connection))

    @persistent
    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(STUDIES).order_by(STUDIES.c.created, STUDIES.c.id)).mappings().all()
            now = self._database.now(connection)
        return [_record(dict(row), now) for row in rows]

    @persistent
    def update_spec(self, lease: Lease, spec: StudySpec) -> int:
        """Replace the recorded spec; returns the number of its version.

        One of the same digest, with another question, budget or machine, stands in for the recorded one. Another one,
        of further arms or more trials, is a new version; the earlier ones stay in ``spec_versions``.
        """
        known = {"digest": spec.digest, "spec": spec.to_dict()}
        with self._write(lease) as connection:
            row = connection.execute(select(STUDIES).where(STUDIES.c.id == lease.study_id)).mappings().one()
            version: int = row["version"]
            if row["digest"] != spec.digest:
                version += 1
                rows = {"study_id": lease.study_id, "version": version, "created": time.time(), **known}
                connection.execute(SPEC_VERSIONS.insert().values(**rows))
            connection.execute(update(STUDIES).where(STUDIES.c.id == lease.study_id).values(version=version, **known))
        return version

    @persistent
    def spec_versions(self, study_id: int) -> list[tuple[int, StudySpec, float]]:
        """Number, spec and time of recording of every version of a study's spec, in order."""
        query = select(SPEC_VERSIONS).where(SPEC_VERSIONS.c.study_id == study_id).order_by(SPEC_VERSIONS.c.version)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [(row["version"], StudySpec.from_dict(row["spec"]), row["created"]) for row in rows]

    # Who drives it

    @persistent
    def lease(self, study: StudyRecord) -> Lease:
        """Become the study's only driver.

        Raises:
            ConflictError: Somebody else is; the message says who and what to do.
        """
        with self._database.change() as connection:
            query = select(STUDIES).where(STUDIES.c.id == study.id).with_for_update()
            row = dict(connection.execute(query).mappings().one())
            now = self._database.now(connection)
            if held(row, now):
                raise ConflictError(
                    f"study {study.name!r} is already being run by process {row['owner_pid']} on {row['owner_host']}; "
                    f"wait for it, or stop it with: sparsestudy stop {study.name}"
                )
            fence = row["fence"] + 1
            values = {"fence": fence, "stop_asked": None, **ownership(now)}
            connection.execute(update(STUDIES).where(STUDIES.c.id == study.id).values(**values))
        return Lease(ledger=self, study_id=study.id, study=study.name, fence=fence)

    @persistent
    def renew(self, lease: Lease) -> bool:
        """See `Lease.renew`."""
        ours = STUDIES.c.id == lease.study_id
        with self._write(lease) as connection:
            connection.execute(update(STUDIES).where(ours).values(**ownership(self._database.now(connection))))
            return connection.execute(select(STUDIES.c.stop_asked).where(ours)).scalar() is not None

    @persistent
    def release(self, lease: Lease) -> None:
        """See `Lease.release`."""
        with self._write(lease) as connection:
            connection.execute(update(STUDIES).where(STUDIES.c.id == lease.study_id).values(**RELEASED))

    @persistent
    def ask_to_stop(self, study: StudyRecord) -> str | None:
        """Ask whoever drives a study to stop; returns ``host:pid`` of them, None if nobody does."""
        with self._database.change() as connection:
            query = select(STUDIES).where(STUDIES.c.id == study.id).with_for_update()
            row = dict(connection.execute(query).mappings().one())
            now = self._database.now(connection)
            if not held(row, now):
                return None
            connection.execute(update(STUDIES).where(STUDIES.c.id == study.id).values(stop_asked=now))
        return _driver(row)

    # Trials

    @persistent
    def add_trials(self, lease: Lease, configs: Sequence[TrialConfig]) -> None:
        """Record trials as WAITING, of the version the spec has now; those that are recorded stay as they are."""
        numbers = [config.number for config in configs]
        ours = (TRIALS.c.study_id == lease.study_id) & TRIALS.c.number.between(min(numbers), max(numbers))
        with self._write(lease) as connection:
            known = set(connection.execute(select(TRIALS.c.number).where(ours)).scalars())
            query = select(STUDIES.c.version).where(STUDIES.c.id == lease.study_id)
            version = connection.execute(query).scalar_one()
            rows = [
                {
                    "study_id": lease.study_id,
                    "number": config.number,
                    "config": config.model_dump(mode="json"),
                    "state": TrialState.WAITING,
                    "version": version,
                }
                for config in configs
                if config.number not in known
            ]
            if rows:
                connection.execute(TRIALS.insert(), rows)

    @persistent
    def start(self, lease: Lease, number: int) -> int:
        """Mark a WAITING trial RUNNING and open an attempt; returns the attempt's number, from 1.

        Said again under the same lease, it returns the attempt that is open.
        """
        now = time.time()
        with self._write(lease) as connection:
            trial = self._row(connection, lease.study_id, number)
            last = ATTEMPTS.c.trial_id == trial["id"]
            query = select(ATTEMPTS.c.number, ATTEMPTS.c.fence).where(last).order_by(ATTEMPTS.c.number.desc()).limit(1)
            attempt, fence = connection.execute(query).first() or (0, None)
            if trial["state"] == TrialState.RUNNING and fence == lease.fence:
                return int(attempt)
            assert trial["state"] == TrialState.WAITING, f"trial {number} is {trial['state']}"
            connection.execute(
                update(TRIALS)
                .where(TRIALS.c.id == trial["id"])
                .values(state=TrialState.RUNNING, started=trial["started"] or now)
            )
            opened = {"number": attempt + 1, "fence": lease.fence, "started": now}
            connection.execute(ATTEMPTS.insert().values(trial_id=trial["id"], **opened))
        return int(attempt) + 1

    @persistent
    def record(self, lease: Lease, number: int, attempt: int, measurements: Sequence[Measurement]) -> None:
        """Add epochs to a trial. An epoch that is already recorded stays as it is, timestamp included."""
        with self._write(lease) as connection:
            trial = self._row(connection, lease.study_id, number)
            last = connection.execute(
                select(func.max(MEASUREMENTS.c.epoch)).where(MEASUREMENTS.c.trial_id == trial["id"])
            ).scalar()
            fresh = [m for m in measurements if last is None or m.epoch > last]
            if not fresh:
                return
            packed = [pack(m.to_dict()) for m in fresh]
            self._keep_shapes(connection, lease.study_id, dict(shape for _, shape in packed if shape))
            rows = [
                {
                    "trial_id": trial["id"],
                    "epoch": m.epoch,
                    "attempt": attempt,
                    "timestamp": m.timestamp,
                    "data": data,
                }
                for m, (data, _) in zip(fresh, packed, strict=True)
            ]
            connection.execute(MEASUREMENTS.insert(), rows)
            connection.execute(update(TRIALS).where(TRIALS.c.id == trial["id"]).values(epochs=fresh[-1].epoch + 1))

    @persistent
    def finish(
        self,
        lease: Lease,
        number: int,
        state: TrialState,
        *,
        values: Sequence[float] = (),
        headlines: Mapping[str, float] | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Close a RUNNING trial as COMPLETE, PRUNED or FAIL; said again with the same values, it does nothing."""
        assert state.finished, state
        now = time.time()
        with self._write(lease) as connection:
            trial = self._row(connection, lease.study_id, number)
            if (trial["state"], trial["values"]) == (state, list(values)):
                return
            if trial["state"] != TrialState.RUNNING:
                raise ConflictError(f"trial {number} of {lease.study!r} is {trial['state']}, it cannot become {state}")
            # The write lock on the study makes this safe; the index makes it cheap in a study of any size.
            last = connection.execute(select(func.max(TRIALS.c.order)).where(TRIALS.c.study_id == lease.study_id))
            highest = last.scalar()
            connection.execute(
                update(TRIALS)
                .where(TRIALS.c.id == trial["id"])
                .values(
                    state=state,
                    values=list(values),
                    headlines=dict(headlines or {}),
                    failure=asdict(failure) if failure else None,
                    order=0 if highest is None else highest + 1,
                    finished=now,
                )
            )
            self._close_attempts(connection, [trial["id"]], now, failure.kind if failure else str(state))

    @persistent
    def outcomes(self, study_id: int, number: int) -> list[str]:
        """How the ended attempts at a trial ended, in order."""
        with self._database.read() as connection:
            trial = self._row(connection, study_id, number)
            ended = (ATTEMPTS.c.trial_id == trial["id"]) & ATTEMPTS.c.outcome.is_not(None)
            query = select(ATTEMPTS.c.outcome).where(ended).order_by(ATTEMPTS.c.number)
            return [str(outcome) for outcome in connection.execute(query).scalars()]

    @persistent
    def requeue_running(self, lease: Lease, reason: str, number: int | None = None) -> list[int]:
        """Put every RUNNING trial, or the one of that number, back to WAITING; returns their numbers. Idempotent.

        Nothing that is recorded is lost: configuration, seed and epochs stay, so the next attempt repeats the trial.
        """
        running = (TRIALS.c.study_id == lease.study_id) & (TRIALS.c.state == TrialState.RUNNING)
        if number is not None:
            running &= TRIALS.c.number == number
        with self._write(lease) as connection:
            found = connection.execute(select(TRIALS.c.id, TRIALS.c.number).where(running)).all()
            connection.execute(update(TRIALS).where(running).values(state=TrialState.WAITING))
            self._close_attempts(connection, [row.id for row in found], time.time(), reason)
        return [row.number for row in found]

    @persistent
    def retry(self, lease: Lease, numbers: Sequence[int] | None = None) -> list[int]:
        """Put failed trials back to WAITING, those of the given numbers or all; returns their numbers.

        Configuration, seed, attempts, MLflow run and recorded epochs stay.

        Raises:
            NotFoundError: There is no trial of such a number.
            ConflictError: One of them has not failed, or none has.
        """
        ours = TRIALS.c.study_id == lease.study_id
        failed = ours & (TRIALS.c.state == TrialState.FAIL)
        with self._write(lease) as connection:
            query = select(TRIALS.c.number).where(failed).order_by(TRIALS.c.number)
            known = connection.execute(query).scalars().all()
            chosen = sorted(set(known if numbers is None else numbers))
            for number in chosen:
                state = self._row(connection, lease.study_id, number)["state"]
                if state != TrialState.FAIL:
                    raise ConflictError(f"trial {number} of {lease.study!r} is {state}; failed: {listing(known)}")
            if not chosen:
                raise ConflictError(f"no trial of {lease.study!r} has failed")
            again = {"state": TrialState.WAITING, "failure": None, "order": None, "finished": None, "delivered": False}
            for number in chosen:
                connection.execute(update(TRIALS).where(ours, TRIALS.c.number == number).values(**again))
        return chosen

    def trial(self, study_id: int, number: int) -> Trial:
        """One trial.

        Raises:
            NotFoundError: The study has no trial of that number.
        """
        found = self.trials(study_id, number)
        if not found:
            raise NotFoundError(f"there is no trial {number} in this study; `sparsestudy trials` lists them")
        return found[0]

    @persistent
    def trials(self, study_id: int, number: int | None = None) -> list[Trial]:
        """All trials of a study by number, or the one of that number."""
        query = _with_attempts().where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
        if number is not None:
            query = query.where(TRIALS.c.number == number)
        with self._database.read() as connection:
            return [_trial(dict(row)) for row in connection.execute(query).mappings()]

    @persistent
    def states(self, study_id: int) -> Counter[TrialState]:
        """How many trials of a study are in each state."""
        query = select(TRIALS.c.state, func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
        with self._database.read() as connection:
            return Counter({TrialState(state): count for state, count in connection.execute(query)})

    @persistent
    def trajectory(self, study_id: int, number: int) -> list[Measurement]:
        """Recorded epochs of a trial in order."""
        with self._database.read() as connection:
            trial = self._row(connection, study_id, number)
            rows = connection.execute(
                select(MEASUREMENTS.c.data).where(MEASUREMENTS.c.trial_id == trial["id"]).order_by(MEASUREMENTS.c.epoch)
            ).scalars()
            return self._measurements(connection, study_id, rows.all())

    @persistent
    def trial_texts(self, study_id: int) -> list[dict[str, Any]]:
        """All trials by number as the database has them: ``config`` and ``failure`` are JSON that nobody has parsed."""
        columns = (TRIALS.c[name] for name in ("id", "number", "state", "epochs", "started", "finished"))
        texts = (cast(TRIALS.c[name], Text).label(name) for name in ("config", "failure"))
        query = select(*columns, *texts).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @persistent
    def shapes(self, study_id: int) -> dict[str, Places]:
        """Names of the numbers in a study's packed measurements, by the identifier of their shape."""
        with self._database.read() as connection:
            return self._stored_shapes(connection, study_id)

    def measurement_texts(self, study_id: int) -> Iterator[tuple[int, int, str]]:
        """Trial key, epoch and JSON of every measurement, ordered by the first two; read as they are consumed.

        The JSON is as it was written: `sparsestudy.tracking.packing` says how to read it.
        """
        ours = select(TRIALS.c.id).where(TRIALS.c.study_id == study_id)
        query = (
            select(MEASUREMENTS.c.trial_id, MEASUREMENTS.c.epoch, cast(MEASUREMENTS.c.data, Text))
            .where(MEASUREMENTS.c.trial_id.in_(ours))
            .order_by(MEASUREMENTS.c.trial_id, MEASUREMENTS.c.epoch)
        )
        with self._database.read() as connection:
            rows = connection.execution_options(yield_per=500).execute(query)
            for part in rows.partitions():
                yield from ((row[0], row[1], row[2]) for row in part)

    # Delivery to MLflow

    @persistent
    def undelivered(self, study_id: int, *, minimum: int = 1, trials: int = 8) -> list[Delivery]:
        """What MLflow has not got: trials with at least ``minimum`` new epochs, and all that have finished."""
        ours = _with_attempts().where(TRIALS.c.study_id == study_id, TRIALS.c.delivered.is_(False))
        finished = ours.where(TRIALS.c.order.is_not(None)).order_by(TRIALS.c.order).limit(trials)
        # Few trials have begun and not finished, so that only their epochs need counting. They are sorted here: to have
        # them in order, SQLite would read all trials of the study.
        begun = ours.where(TRIALS.c.order.is_(None), TRIALS.c.epochs > 0)
        with self._database.read() as connection:
            rows = [dict(row) for row in connection.execute(finished).mappings()]
            if len(rows) < trials:
                going = [dict(row) for row in connection.execute(begun).mappings()]
                rows += sorted(going, key=lambda row: row["number"])
            found = []
            for row in rows:
                query = (
                    select(MEASUREMENTS.c.data)
                    .where(MEASUREMENTS.c.trial_id == row["id"], MEASUREMENTS.c.delivered.is_(False))
                    .order_by(MEASUREMENTS.c.epoch)
                )
                data = connection.execute(query).scalars().all()
                closing = row["order"] is not None
                if closing or len(data) >= minimum:
                    measurements = tuple(self._measurements(connection, study_id, data))
                    found.append(Delivery(trial=_trial(row), measurements=measurements, closing=closing))
        return found[:trials]

    @persistent
    def running_runs(self, study_id: int) -> set[str]:
        """MLflow runs, as far as there are any yet, of the trials that are RUNNING."""
        running = (TRIALS.c.study_id == study_id) & (TRIALS.c.state == TrialState.RUNNING)
        with self._database.read() as connection:
            found = connection.execute(select(TRIALS.c.run_id).where(running, TRIALS.c.run_id.is_not(None)))
            return set(found.scalars())

    @persistent
    def mark_delivered(self, study_id: int, delivery: Delivery) -> None:
        """Note that MLflow has these measurements, and the trial's end if the delivery was closing."""
        with self._database.change() as connection:
            trial = self._row(connection, study_id, delivery.trial.number)
            if delivery.measurements:
                last = delivery.measurements[-1].epoch
                connection.execute(
                    update(MEASUREMENTS)
                    .where(MEASUREMENTS.c.trial_id == trial["id"], MEASUREMENTS.c.epoch <= last)
                    .values(delivered=True)
                )
            if delivery.closing:
                connection.execute(update(TRIALS).where(TRIALS.c.id == trial["id"]).values(delivered=True))

    @persistent
    def set_run(self, study_id: int, run_id: str, number: int | None = None) -> None:
        """Note the MLflow run of the study, or of one of its trials."""
        with self._database.change() as connection:
            if number is None:
                connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(run_id=run_id))
            else:
                trial = self._row(connection, study_id, number)
                connection.execute(update(TRIALS).where(TRIALS.c.id == trial["id"]).values(run_id=run_id))

    @persistent
    def forget_deliveries(self, study_id: int) -> None:
        """Note that MLflow has nothing of the study, not even its run."""
        ours = select(TRIALS.c.id).where(TRIALS.c.study_id == study_id)
        with self._database.change() as connection:
            connection.execute(update(MEASUREMENTS).where(MEASUREMENTS.c.trial_id.in_(ours)).values(delivered=False))
            connection.execute(update(TRIALS).where(TRIALS.c.study_id == study_id).values(delivered=False, run_id=None))
            connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(run_id=None))

    # Helpers

    @contextmanager
    def _write(self, lease: Lease) -> Iterator[Connection]:
        with self._database.change() as connection:
            # Nobody else takes the lease, or writes, before this transaction ends.
            query = select(STUDIES.c.fence).where(STUDIES.c.id == lease.study_id).with_for_update()
            fence = connection.execute(query).scalar_one()
            if fence != lease.fence:
                raise ConflictError(
                    f"another process has taken over study {lease.study!r}; this one must not write any more"
                )
            yield connection

    def _measurements(self, connection: Connection, study_id: int, rows: Sequence[Any]) -> list[Measurement]:
        known = self._shapes.setdefault(study_id, {})
        if any(shape not in known for data in rows if (shape := shape_of(data["statistics"]))):
            known |= self._stored_shapes(connection, study_id)
        return [Measurement.from_dict(unpack(data, known)) for data in rows]

    def _keep_shapes(self, connection: Connection, study_id: int, shapes: Mapping[str, Places]) -> None:
        known = self._shapes.setdefault(study_id, {})
        if shapes.keys() <= known.keys():
            return
        # Only what is committed may count as known: this transaction may still be rolled back.
        known |= self._stored_shapes(connection, study_id)
        rows = [{"study_id": study_id, "id": key, "places": shapes[key]} for key in shapes.keys() - known.keys()]
        if rows:
            connection.execute(SHAPES.insert(), rows)

    @staticmethod
    def _stored_shapes(connection: Connection, study_id: int) -> dict[str, Places]:
        query = select(SHAPES.c.id, SHAPES.c.places).where(SHAPES.c.study_id == study_id)
        return {row.id: places_of(row.places) for row in connection.execute(query)}

    @staticmethod
    def _row(connection: Connection, study_id: int, number: int) -> Mapping[str, Any]:
        query = select(TRIALS).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)
        row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no trial {number} in this study; `sparsestudy trials` lists them")
        return dict(row)

    @staticmethod
    def _close_attempts(connection: Connection, trials: Sequence[int], now: float, outcome: str) -> None:
        connection.execute(
            update(ATTEMPTS)
            .where(ATTEMPTS.c.trial_id.in_(trials), ATTEMPTS.c.ended.is_(None))
            .values(ended=now, outcome=outcome)
        )


def _record(row: Mapping[str, Any], now: float) -> StudyRecord:
    return StudyRecord(
        id=row["id"],
        name=row["name"],
        spec=StudySpec.from_dict(row["spec"]),
        created=row["created"],
        run_id=row["run_id"],
        driver=_driver(row) if held(row, now) else None,
        version=row["version"],
        parent=row["parent"],
        stopping=row["stop_asked"] is not None,
    )


def _driver(row: Mapping[str, Any]) -> str:
    return f"{row['owner_host']}:{row['owner_pid']}"


def _with_attempts() -> Select[Any]:
    own = select(func.count()).where(ATTEMPTS.c.trial_id == TRIALS.c.id).scalar_subquery()
    return select(TRIALS, own.label("attempts"))


def _trial(row: Mapping[str, Any]) -> Trial:
    return Trial(
        number=row["number"],
        config=TrialConfig.from_dict(row["config"]),
        state=TrialState(row["state"]),
        values=tuple(row["values"]),
        epochs=row["epochs"],
        headlines=row["headlines"],
        failure=Failure(**row["failure"]) if row["failure"] else None,
        attempts=row["attempts"],
        order=row["order"],
        started=row["started"],
        finished=row["finished"],
        run_id=row["run_id"],
        version=row["version"],
    )
