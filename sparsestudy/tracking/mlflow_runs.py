"""All runs of an MLflow experiment with the histories of chosen metrics, in bulk.

A store in a database is read with three queries. A server is asked for 100 runs of one metric at a time, by the
address that its own pages use (``get-history-bulk``); it is not part of the documented interface, so a server without
it is asked run by run. Nothing is written, neither to a database nor to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, bindparam, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from sparsestudy.errors import NotFoundError, TrackingError, listing, suggest

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUNS_PER_CALL, POINTS_PER_CALL = 100, 25_000
"""What a server takes and gives in one call at most."""
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_LARGEST = 1.7976931348623157e308
Point: TypeAlias = tuple[int, int, float]
"""Step, timestamp, value."""
Series: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps, increasing, and the value last logged at each."""
Wanted: TypeAlias = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run.

    Attributes:
        id: Its identifier.
        status: FINISHED, KILLED, FAILED, RUNNING or SCHEDULED.
        started, ended: Milliseconds since 1970, None if unknown.
        metrics: Names of all its metrics.
        series: Histories of those that were asked for.
    """

    id: str
    status: str
    started: int | None
    ended: int | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    series: dict[str, Series] = field(default_factory=dict)


def read_runs(uri: str, experiment: str, wanted: Wanted) -> list[Run]:
    """All active runs of an experiment, in the order they started.

    Args:
        uri: ``sqlite:///…`` or another database, or ``http(s)://…``.
        experiment: Its name, or its number.
        wanted: Of the names of all metrics there, those whose histories are wanted.

    Raises:
        NotFoundError: There is no such experiment; the message lists what there is.
        TrackingError: The store cannot be read.
    """
    runs = (
        _from_database(uri, experiment, wanted) if uri.startswith(_DATABASES) else _from_server(uri, experiment, wanted)
    )
    return sorted(runs, key=lambda run: (run.started or 0, run.id))


def _series(points: Iterable[Point]) -> Series:
    """Of points in any order; MLflow has no infinity and writes the largest number for it."""
    last = {step: value for step, _, value in sorted(points)}
    values = np.array(list(last.values()), dtype=np.float64)
    values[np.abs(values) >= _LARGEST] = np.nan
    return np.array(list(last), dtype=np.int64), values


def _chosen(known: dict[str, str], experiment: str) -> str:
    """Identifier of the experiment of that name or identifier, of a mapping name -> identifier."""
    if experiment in known:
        return known[experiment]
    if experiment in known.values():
        return experiment
    raise NotFoundError(
        f"no experiment {experiment!r} in this MLflow store; experiments: {listing(known)}{suggest(experiment, known)}"
    )


# Databases

_EXPERIMENTS = "SELECT name, experiment_id FROM experiments"
_OURS = "SELECT run_uuid FROM runs WHERE experiment_id = :experiment AND lifecycle_stage = 'active'"
_RUNS = (
    "SELECT run_uuid, status, start_time, end_time FROM runs "
    "WHERE experiment_id = :experiment AND lifecycle_stage = 'active'"
)
_POINTS = (
    f"SELECT run_uuid, key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid IN ({_OURS}) AND key IN :keys "
    "ORDER BY run_uuid, key"
)


def _from_database(uri: str, experiment: str, wanted: Wanted) -> list[Run]:
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite") and not path.is_file():
        raise NotFoundError(f"there is no MLflow store {uri}; the path of a file follows sqlite:///")
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            known = {str(name): str(identifier) for name, identifier in connection.execute(text(_EXPERIMENTS))}
            return _database_runs(connection, int(_chosen(known, experiment)), wanted)
    except SQLAlchemyError as error:
        raise TrackingError(f"{uri} cannot be read as an MLflow store: {error}") from error
    finally:
        engine.dispose()


def _database_runs(connection: Connection, experiment: int, wanted: Wanted) -> list[Run]:
    given = {"experiment": experiment}
    rows = connection.execute(text(_RUNS), given)
    runs = {row[0]: Run(id=row[0], status=row[1], started=row[2], ended=row[3]) for row in rows}
    for table in ("params", "tags"):
        for run, key, value in connection.execute(
            text(f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({_OURS})"), given
        ):
            getattr(runs[run], table)[key] = value
    for run, key in connection.execute(
        text(f"SELECT run_uuid, key FROM latest_metrics WHERE run_uuid IN ({_OURS})"), given
    ):
        runs[run].metrics.append(key)
    keys = wanted(sorted({key for run in runs.values() for key in run.metrics}))
    query = text(_POINTS).bindparams(bindparam("keys", expanding=True))
    points = connection.execution_options(yield_per=10_000).execute(query, {**given, "keys": keys})
    for (run, key), group in groupby(points, lambda row: (row[0], row[1])):
        runs[run].series[key] = _series((row[2], row[3], np.nan if row[5] else row[4]) for row in group)
    return list(runs.values())


# Servers


def _from_server(uri: str, experiment: str, wanted: Wanted) -> list[Run]:
    # MLflow takes a second to import.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        known = {
            e.name: str(e.experiment_id) for e in _pages(lambda token: client.search_experiments(page_token=token))
        }
        runs = [_run(found) for found in _found_runs(client, _chosen(known, experiment))]
        keys = wanted(sorted({key for run in runs for key in run.metrics}))
        for key in keys:
            having = {run.id: run for run in runs if key in run.metrics}
            for run, points in _histories(client, key, list(having)):
                having[run].series[key] = _series(points)
    except MlflowException as error:
        raise TrackingError(f"the MLflow server {uri} cannot be read: {error}") from error
    return runs


def _pages(page: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def _found_runs(client: MlflowClient, experiment: str) -> Iterator[Any]:
    return _pages(lambda token: client.search_runs([experiment], max_results=1000, page_token=token))


def _run(found: Any) -> Run:
    return Run(
        id=found.info.run_id,
        status=found.info.status,
        started=found.info.start_time,
        ended=found.info.end_time,
        params=dict(found.data.params),
        tags=dict(found.data.tags),
        metrics=list(found.data.metrics),
    )


def _histories(client: MlflowClient, key: str, runs: Sequence[str]) -> Iterator[tuple[str, list[Point]]]:
    """Points of one metric by run."""
    for start in range(0, len(runs), RUNS_PER_CALL):
        yield from _bulk(client, key, runs[start : start + RUNS_PER_CALL])


def _bulk(client: MlflowClient, key: str, runs: Sequence[str]) -> Iterator[tuple[str, list[Point]]]:
    from mlflow.utils.rest_utils import http_request

    answer = http_request(
        host_creds=client._tracking_client.store.get_host_creds(),
        endpoint="/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        method="GET",
        params={"run_id": list(runs), "metric_key": key, "max_results": POINTS_PER_CALL},
        raise_on_status=False,
    )
    found = answer.json()["metrics"] if answer.status_code == 200 else None
    if found is not None and len(found) < POINTS_PER_CALL:
        for run, group in groupby(found, lambda point: str(point["run_id"])):
            yield run, [(int(p["step"]), int(p["timestamp"]), float(p["value"])) for p in group]
    elif found is not None and len(runs) > 1:  # the answer was cut off
        middle = len(runs) // 2
        yield from _bulk(client, key, runs[:middle])
        yield from _bulk(client, key, runs[middle:])
    else:
        for run in runs:
            yield run, [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run, key)]
