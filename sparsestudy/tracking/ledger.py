"""The ledger: the durable record of studies, trials, attempts and measurements; the only truth about what was tried.

One SQL database, SQLite in the study's folder by default. Whoever drives a study holds its *lease*, which carries a
fencing number: every write names it, and a driver that lost its lease cannot write any more. Measurements are rows
here first; the tracker reads them from here (they are its outbox) and marks what it has delivered.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, Text, cast, create_engine, event, func, select, update
from sqlalchemy.exc import DatabaseError, IntegrityError

from sparsestudy.errors import ConflictError, NotFoundError, TrackingError, listing, suggest
from sparsestudy.study import StudySpec
from sparsestudy.tracking.packing import Places, pack, places_of, shape_of, unpack
from sparsestudy.tracking.tables import (
    ATTEMPTS,
    MEASUREMENTS,
    METADATA,
    SCHEMA,
    SCHEMA_VERSION,
    SHAPES,
    STUDIES,
    TRIALS,
)
from sparsestudy.trial import Failure, Measurement, Trial, TrialConfig, TrialState

LEASE_SECONDS = 60.0
"""A lease that was not renewed for this long may be taken by another driver."""


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
    """

    id: int
    name: str
    spec: StudySpec
    created: float
    run_id: str | None
    driver: str | None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Measurements of one trial that MLflow has not got yet, in order of epochs."""

    trial: Trial
    measurements: tuple[Measurement, ...]
    closing: bool
    """The trial has finished and these are the last ones: close its run."""


class Ledger:
    """Open the ledger at an SQLAlchemy URL; the schema is created if it is missing.

    Raises:
        TrackingError: The database cannot be opened, or was written by a newer version of sparsestudy.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)
        self._shapes: dict[int, dict[str, Places]] = {}
        try:
            METADATA.create_all(self._engine)
            with self._engine.begin() as connection:
                version = connection.execute(select(SCHEMA.c.version)).scalar()
                if version is None:
                    connection.execute(SCHEMA.insert().values(version=SCHEMA_VERSION))
        except DatabaseError as error:
            raise TrackingError(f"the ledger {url} cannot be opened: {error.orig}") from error
        if version is not None and not 1 <= version <= SCHEMA_VERSION:
            raise TrackingError(
                f"the ledger {url} has schema version {version}, this sparsestudy reads versions 1 to "
                f"{SCHEMA_VERSION}; use the version of sparsestudy that wrote it"
            )

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
        self._engine.dispose()

    # Studies

    def create_study(self, name: str, spec: StudySpec) -> StudyRecord:
        """Record a new study.

        Raises:
            ConflictError: There is one of that name.
        """
        row = {"name": name, "digest": spec.digest, "spec": spec.to_dict(), "created": time.time()}
        try:
            with self._change() as connection:
                connection.execute(STUDIES.insert().values(**row))
        except IntegrityError:
            raise ConflictError(f"a study named {name!r} is already recorded in {self.url}") from None
        return self.study(name)

    def study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            NotFoundError: There is none.
        """
        known = {record.name: record for record in self.studies()}
        if name not in known:
            raise NotFoundError(f"no study named {name!r}; studies: {listing(known)}{suggest(name, known)}")
        return known[name]

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(STUDIES).order_by(STUDIES.c.created)).mappings().all()
        return [
            StudyRecord(
                id=row["id"],
                name=row["name"],
                spec=StudySpec.from_dict(row["spec"]),
                created=row["created"],
                run_id=row["run_id"],
                driver=f"{row['owner_host']}:{row['owner_pid']}" if _held(dict(row)) else None,
            )
            for row in rows
        ]

    def update_spec(self, lease: Lease, spec: StudySpec) -> None:
        """Replace the recorded spec by one of the same digest: another question, budget or machine."""
        with self._write(lease) as connection:
            connection.execute(update(STUDIES).where(STUDIES.c.id == lease.study_id).values(spec=spec.to_dict()))

    def lease(self, study: StudyRecord) -> Lease:
        """Become the study's only driver.

        Raises:
            ConflictError: Somebody else is; the message says who and what to do.
        """
        with self._change() as connection:
            query = select(STUDIES).where(STUDIES.c.id == study.id).with_for_update()
            row = dict(connection.execute(query).mappings().one())
            if _held(row):
                raise ConflictError(
                    f"study {study.name!r} is already being run by process {row['owner_pid']} on {row['owner_host']}; "
                    f"wait for it, or stop it with Ctrl-C there"
                )
            fence = row["fence"] + 1
            connection.execute(
                update(STUDIES).where(STUDIES.c.id == study.id).values(fence=fence, **_ownership(time.time()))
            )
        return Lease(ledger=self, study_id=study.id, study=study.name, fence=fence)

    # Trials

    def add_trials(self, lease: Lease, configs: Sequence[TrialConfig]) -> None:
        """Record trials as WAITING."""
        rows = [
            {
                "study_id": lease.study_id,
                "number": config.number,
                "config": config.model_dump(mode="json"),
                "state": TrialState.WAITING,
            }
            for config in configs
        ]
        with self._write(lease) as connection:
            connection.execute(TRIALS.insert(), rows)

    def start(self, lease: Lease, number: int) -> int:
        """Mark a WAITING trial RUNNING and open an attempt; returns the attempt's number, from 1."""
        now = time.time()
        with self._write(lease) as connection:
            trial = self._row(connection, lease.study_id, number)
            assert trial["state"] == TrialState.WAITING, f"trial {number} is {trial['state']}"
            attempt = (
                1
                + connection.execute(
                    select(func.count()).select_from(ATTEMPTS).where(ATTEMPTS.c.trial_id == trial["id"])
                ).scalar_one()
            )
            connection.execute(
                update(TRIALS)
                .where(TRIALS.c.id == trial["id"])
                .values(state=TrialState.RUNNING, started=trial["started"] or now)
            )
            connection.execute(
                ATTEMPTS.insert().values(trial_id=trial["id"], number=attempt, fence=lease.fence, started=now)
            )
        return attempt

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
        """Close a RUNNING trial as COMPLETE, PRUNED or FAIL."""
        assert state.finished, state
        now = time.time()
        with self._write(lease) as connection:
            trial = self._row(connection, lease.study_id, number)
            if trial["state"] != TrialState.RUNNING:
                raise ConflictError(f"trial {number} of {lease.study!r} is {trial['state']}, it cannot become {state}")
            order = connection.execute(
                select(func.count())
                .select_from(TRIALS)
                .where(TRIALS.c.study_id == lease.study_id, TRIALS.c.order.is_not(None))
            ).scalar_one()
            connection.execute(
                update(TRIALS)
                .where(TRIALS.c.id == trial["id"])
                .values(
                    state=state,
                    values=list(values),
                    headlines=dict(headlines or {}),
                    failure=asdict(failure) if failure else None,
                    order=order,
                    finished=now,
                )
            )
            self._close_attempts(connection, [trial["id"]], now, failure.kind if failure else str(state))

    def outcomes(self, study_id: int, number: int) -> list[str]:
        """How the ended attempts at a trial ended, in order."""
        with self._read() as connection:
            trial = self._row(connection, study_id, number)
            ended = (ATTEMPTS.c.trial_id == trial["id"]) & ATTEMPTS.c.outcome.is_not(None)
            query = select(ATTEMPTS.c.outcome).where(ended).order_by(ATTEMPTS.c.number)
            return [str(outcome) for outcome in connection.execute(query).scalars()]

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

    def trial(self, study_id: int, number: int) -> Trial:
        """One trial.

        Raises:
            NotFoundError: The study has no trial of that number.
        """
        found = self.trials(study_id, number)
        if not found:
            raise NotFoundError(f"there is no trial {number} in this study; `sparsestudy trials` lists them")
        return found[0]

    def trials(self, study_id: int, number: int | None = None) -> list[Trial]:
        """All trials of a study by number, or the one of that number."""
        attempts = select(ATTEMPTS.c.trial_id, func.count().label("attempts")).group_by(ATTEMPTS.c.trial_id).subquery()
        query = (
            select(TRIALS, attempts.c.attempts)
            .outerjoin(attempts, attempts.c.trial_id == TRIALS.c.id)
            .where(TRIALS.c.study_id == study_id)
            .order_by(TRIALS.c.number)
        )
        if number is not None:
            query = query.where(TRIALS.c.number == number)
        with self._read() as connection:
            return [_trial(dict(row)) for row in connection.execute(query).mappings()]

    def trajectory(self, study_id: int, number: int) -> list[Measurement]:
        """Recorded epochs of a trial in order."""
        with self._read() as connection:
            trial = self._row(connection, study_id, number)
            rows = connection.execute(
                select(MEASUREMENTS.c.data).where(MEASUREMENTS.c.trial_id == trial["id"]).order_by(MEASUREMENTS.c.epoch)
            ).scalars()
            return self._measurements(connection, study_id, rows.all())

    def trial_texts(self, study_id: int) -> list[dict[str, Any]]:
        """All trials by number as the database has them: ``config`` and ``failure`` are JSON that nobody has parsed."""
        columns = (TRIALS.c[name] for name in ("id", "number", "state", "epochs", "started", "finished"))
        texts = (cast(TRIALS.c[name], Text).label(name) for name in ("config", "failure"))
        query = select(*columns, *texts).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
        with self._read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def shapes(self, study_id: int) -> dict[str, Places]:
        """Names of the numbers in a study's packed measurements, by the identifier of their shape."""
        with self._read() as connection:
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
        with self._read() as connection:
            rows = connection.execution_options(yield_per=500).execute(query)
            for part in rows.partitions():
                yield from ((row[0], row[1], row[2]) for row in part)

    # Delivery to MLflow

    def undelivered(self, study_id: int, *, minimum: int = 1, trials: int = 8) -> list[Delivery]:
        """What MLflow has not got: trials with at least ``minimum`` new epochs, and all that have finished."""
        new = MEASUREMENTS.c.delivered.is_(False)
        count = func.count().label("count")
        waiting = select(MEASUREMENTS.c.trial_id, count).where(new).group_by(MEASUREMENTS.c.trial_id).subquery()
        query = (
            select(TRIALS, waiting.c.count)
            .outerjoin(waiting, waiting.c.trial_id == TRIALS.c.id)
            .where(TRIALS.c.study_id == study_id, TRIALS.c.delivered.is_(False))
            .where((waiting.c.count >= minimum) | TRIALS.c.order.is_not(None))
            .order_by(TRIALS.c.order.is_(None), TRIALS.c.number)
            .limit(trials)
        )
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
            found = []
            for row in rows:
                data = connection.execute(
                    select(MEASUREMENTS.c.data)
                    .where(MEASUREMENTS.c.trial_id == row["id"], new)
                    .order_by(MEASUREMENTS.c.epoch)
                ).scalars()
                measurements = tuple(self._measurements(connection, study_id, data.all()))
                closing = row["order"] is not None
                found.append(Delivery(trial=_trial(dict(row)), measurements=measurements, closing=closing))
        return found

    def mark_delivered(self, study_id: int, delivery: Delivery) -> None:
        """Note that MLflow has these measurements, and the trial's end if the delivery was closing."""
        with self._change() as connection:
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

    def set_run(self, study_id: int, run_id: str, number: int | None = None) -> None:
        """Note the MLflow run of the study, or of one of its trials."""
        with self._change() as connection:
            if number is None:
                connection.execute(update(STUDIES).where(STUDIES.c.id == study_id).values(run_id=run_id))
            else:
                trial = self._row(connection, study_id, number)
                connection.execute(update(TRIALS).where(TRIALS.c.id == trial["id"]).values(run_id=run_id))

    # Helpers

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection.execution_options(reads=True)

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _write(self, lease: Lease) -> Iterator[Connection]:
        with self._change() as connection:
            fence = connection.execute(select(STUDIES.c.fence).where(STUDIES.c.id == lease.study_id)).scalar_one()
            if fence != lease.fence:
                raise ConflictError(
                    f"another process has taken over study {lease.study!r}; this one must not write any more"
                )
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the database refuses, such as a write to a full disk, in the user's words."""
        try:
            yield
        except IntegrityError:
            raise
        except DatabaseError as error:
            raise TrackingError(
                f"the ledger {self.url} did not take a read or a write: {error.orig}; what it has recorded is safe: "
                f"mend the cause and run the same command again"
            ) from error

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
            connection.execute(update(SCHEMA).values(version=SCHEMA_VERSION))

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


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to drive a study, until released, or until it is not renewed for `LEASE_SECONDS`."""

    ledger: Ledger
    study_id: int
    study: str
    fence: int

    def renew(self) -> None:
        """Hold it for another `LEASE_SECONDS`.

        Raises:
            ConflictError: Somebody else has it now.
        """
        self._set(_ownership(time.time()))

    def release(self) -> None:
        """Let others drive the study."""
        self._set({"owner_host": None, "owner_pid": None, "lease_expires": None})

    def _set(self, values: Mapping[str, Any]) -> None:
        with self.ledger._write(self) as connection:
            connection.execute(update(STUDIES).where(STUDIES.c.id == self.study_id).values(**values))


def _ownership(now: float) -> dict[str, Any]:
    return {"owner_host": socket.gethostname(), "owner_pid": os.getpid(), "lease_expires": now + LEASE_SECONDS}


def _held(row: Mapping[str, Any]) -> bool:
    if row["lease_expires"] is None or row["lease_expires"] < time.time():
        return False
    # On this machine the lease of a dead process need not be waited out.
    return row["owner_host"] != socket.gethostname() or _alive(row["owner_pid"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _trial(row: Mapping[str, Any]) -> Trial:
    return Trial(
        number=row["number"],
        config=TrialConfig.from_dict(row["config"]),
        state=TrialState(row["state"]),
        values=tuple(row["values"]),
        epochs=row["epochs"],
        headlines=row["headlines"],
        failure=Failure(**row["failure"]) if row["failure"] else None,
        attempts=row.get("attempts") or 0,
        order=row["order"],
        started=row["started"],
        finished=row["finished"],
        run_id=row["run_id"],
    )


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver
        # WAL lets the tracker read while the driver writes; NORMAL survives the death of any process.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer inside a transaction can deadlock; take the write lock at once.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if not connection.get_execution_options().get("reads") else "BEGIN"
        )

    return engine
