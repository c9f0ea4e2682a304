"""All measurements of a study at once, straight from the ledger's texts to arrays.

A study of 10,000 trials has half a million measurements, which as `Measurement` objects would take minutes. Here every
text is parsed once. Packed numbers go where the names of their shape say; those that stand with their names are picked
by name in an order that the first epoch of a trial sets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sparsestudy.space import ARM
from sparsestudy.tracking.ledger import Ledger, StudyRecord
from sparsestudy.tracking.packing import Places, numbers, shape_of
from sparsestudy.tracking.recordings import Array, Excluded, Place, RecordedTrial, Recordings, single
from sparsestudy.trial import SEED, TrialConfig, TrialState, without_seeds

CURVES = {
    "train/loss": "train_loss",
    "train/accuracy": "train_accuracy",
    "validation/loss": "validation_loss",
    "validation/accuracy": "validation_accuracy",
}
"""Scalars that are read, and what a measurement calls them."""
_KINDS = {"validation": "activations", "weights": "weights", "network": "network"}
_USED = (TrialState.COMPLETE, TrialState.PRUNED)
_DEFAULTS = {name: field.default for name, field in TrialConfig.model_fields.items() if not field.is_required()}
_Statistics = Mapping[str, Mapping[str, Mapping[str, float | None]]]


def recordings(ledger: Ledger, study: StudyRecord) -> Recordings:
    """Read a study.

    COMPLETE and PRUNED trials with at least one epoch are used. Measures of layers are those on the validation probe
    set. Those of the network have no layer; what was taken on the validation set is called ``validation/NAME``.
    """
    trials: list[RecordedTrial] = []
    excluded: list[Excluded] = []
    rows: dict[int, int] = {}
    for row in ledger.trial_texts(study.id):
        config = _parsed(row["config"])
        reason = _unusable(row)
        if reason:
            excluded.append(Excluded(study=study.name, number=row["number"], arm=config[ARM], reason=reason))
        else:
            rows[row["id"]] = len(trials)
            trials.append(_trial(study.name, row, config))
    reader = _Reader(len(trials), max((trial.epochs for trial in trials), default=0), ledger.shapes(study.id))
    reader.read(ledger.measurement_texts(study.id), rows)
    return Recordings(
        trials=tuple(trials),
        curves=reader.curves,
        places=tuple(reader.columns),
        values=reader.values(),
        excluded=tuple(excluded),
        main=study.spec.measures.main,
    )


def _unusable(row: Mapping[str, Any]) -> str:
    if row["state"] == TrialState.FAIL:
        failure = _parsed(row["failure"]) or {}
        return f"failed with {failure.get('kind', 'an unknown error')}: {failure.get('message', '')}".rstrip(": ")
    if row["state"] not in _USED:
        return f"has not finished: {row['state']}"
    return "" if row["epochs"] else "ended before its first epoch"


def _trial(study: str, row: Mapping[str, Any], config: Mapping[str, Any]) -> RecordedTrial:
    started, finished = row["started"], row["finished"]
    targets: dict[str, float] = {}
    for method in config["methods"]:
        targets = {**(method.get("targets") or {}), **targets}  # the first method that names a layer has the say
    return RecordedTrial(
        study=study,
        number=row["number"],
        arm=config[ARM],
        state=row["state"],
        epochs=row["epochs"],
        seconds=None if started is None or finished is None else finished - started,
        parameters={name: value for name, value in config["parameters"].items() if name not in (ARM, SEED)},
        targets=targets,
        # A field that is younger than the trial has its default, as in trials of the same study that came later.
        configuration=orjson.dumps({**_DEFAULTS, **without_seeds(config)}, option=orjson.OPT_SORT_KEYS).decode(),
    )


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # NaN and Infinity, which only Python writes and reads
        return json.loads(text)


class _Layout:
    """Where the numbers of measurements of one shape stand and where they go.

    Args:
        statistics: The shape.
        columns: Column of each place known so far; places that are new are added.
    """

    def __init__(self, statistics: _Statistics, columns: dict[Place, int]) -> None:
        self._steps: list[tuple[str, str, int, Callable[[Mapping[str, Any]], Iterable[Any]]]] = []
        self._sizes = {split: len(statistics.get(split, ())) for split in _KINDS}
        own: list[int] = []
        for split, kind in _KINDS.items():
            for layer, found in statistics.get(split, {}).items():
                names = list(found)
                self._steps.append((split, layer, len(names), _picker(names)))
                own += [columns.setdefault(_place(kind, layer, name), len(columns)) for name in names]
        self.columns = np.array(own, dtype=np.int64)

    def read(self, statistics: _Statistics) -> list[float | None] | None:
        """The numbers in order; None for another shape."""
        row: list[float | None] = []
        try:
            for split, layer, size, pick in self._steps:
                found = statistics[split][layer]
                if len(found) != size:
                    return None
                row += pick(found)
        except KeyError:
            return None
        same = all(len(statistics.get(split, ())) == size for split, size in self._sizes.items())
        return row if same else None


def _picker(names: list[str]) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda found: [found[name] for name in names]


def _place(kind: str, layer: str, measure: str) -> Place:
    if kind != "network":
        return kind, layer, measure
    return kind, "", measure if layer == "train" else f"{layer}/{measure}"


class _Reader:
    """Collects measurements of ``count`` trials of at most ``epochs`` epochs, with ``shapes`` to unpack them.

    Attributes:
        curves: As in `Recordings`.
        columns: Column of each place.
    """

    def __init__(self, count: int, epochs: int, shapes: Mapping[str, Places]) -> None:
        self.curves: dict[str, Array] = {name: np.full((count, epochs), np.nan) for name in CURVES}
        self.columns: dict[Place, int] = {}
        self._size, self._shapes = (count, epochs), shapes
        self._blocks: list[tuple[int, NDArray[np.int64], NDArray[np.int64], Array]] = []

    def read(self, texts: Iterable[tuple[int, int, str]], rows: Mapping[int, int]) -> None:
        """Read measurements ordered by trial; those of trials without a row are passed over."""
        pick = itemgetter(*CURVES.values())
        for key, group in groupby(texts, itemgetter(0)):
            if key not in rows:
                continue
            parsed = [(epoch, _parsed(text)) for _, epoch, text in group]
            epochs = [epoch for epoch, _ in parsed]
            scalars = np.array([pick(data) for _, data in parsed], dtype=np.float64)
            for curve, column in zip(self.curves.values(), scalars.T, strict=True):
                curve[rows[key], epochs] = column
            measured = [(epoch, data["statistics"]) for epoch, data in parsed if data["statistics"]]
            for shape, of_shape in groupby(measured, lambda pair: shape_of(pair[1])):
                if shape is None:
                    self._take(rows[key], list(of_shape))
                else:
                    self._take_packed(rows[key], list(of_shape), self._shapes[shape])

    def _take_packed(self, row: int, measured: list[tuple[int, _Statistics]], places: Places) -> None:
        kept = [i for i, (split, _, _) in enumerate(places) if split in _KINDS]
        named = [_place(_KINDS[split], layer, measure) for split, layer, measure in (places[i] for i in kept)]
        columns = np.array([self.columns.setdefault(place, len(self.columns)) for place in named], dtype=np.int64)
        values = np.stack([numbers(statistics) for _, statistics in measured])[:, kept]
        epochs = np.array([epoch for epoch, _ in measured], dtype=np.int64)
        self._blocks.append((row, epochs, columns, single(values)))

    def _take(self, row: int, measured: list[tuple[int, _Statistics]]) -> None:
        while measured:
            layout = _Layout(measured[0][1], self.columns)
            read = [(epoch, layout.read(statistics)) for epoch, statistics in measured]
            like = [(epoch, own) for epoch, own in read if own is not None]
            epochs = np.array([epoch for epoch, _ in like], dtype=np.int64)
            values = single(np.array([own for _, own in like], dtype=np.float64))
            self._blocks.append((row, epochs, layout.columns, values))
            measured = [given for given, (_, own) in zip(measured, read, strict=True) if own is None]

    def values(self) -> Array:
        """All that was read, ``[n, E, S]``."""
        found = np.full((*self._size, len(self.columns)), np.nan, dtype=np.float32)
        for row, epochs, columns, values in self._blocks:
            found[row, epochs[:, None], columns] = values
        return found
