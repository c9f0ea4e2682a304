"""Does the analysis keep up with a large study? Times and memory of all it does with 10,000 trials, and with 39 arms.

A synthetic ledger is written first (not timed against the goal): trials of 50 epochs, with 4 measures of 16 layers on
two probe sets in every measurement. Sparsity falls, then climbs, with noise; the validation loss turns up in most
trials. Then the stages of the analysis follow, each with its wall clock, its processor time and the peak of the
process's memory so far. The goals are of processor time, in one thread: what others do on the machine does not change
it, and on a free core it is the wall clock. A second study is broad, not long: 39 arms, 78 signals and 117 trials, as
studies/zoo.yaml.

Usage: ``python -m tests.benchmarks.scale [--trials N] [--epochs E] [--layers L] [--folder FOLDER] [--unpacked]``
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pandas as pd

from sparsestudy import gathering
from sparsestudy.analysis.evidence import Evidence, Signal
from sparsestudy.analysis.relation import Relation, relate, to_json
from sparsestudy.analysis.rows import epoch_rows, trial_rows
from sparsestudy.analysis.table import write_parquet
from sparsestudy.recorded import LEDGER, Study
from sparsestudy.study import StudySpec
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.packing import pack
from sparsestudy.trial import TrialConfig

MEASURES = ("perplexity", "perplexity_image", "zero_fraction", "dead_fraction")
GOAL_SECONDS, GOAL_BYTES, GOAL_BROAD = 60.0, 4e9, 15.0
SPEC = StudySpec.from_dict(
    {"name": "scale", "regularizers": [{"name": "perplexity", "strength": {"log_uniform": [0.1, 10]}}]}
)
METHODS = {"perplexity": frozenset({"perplexity"})}
Result = TypeVar("Result")


def write_ledger(folder: Path, trials: int, epochs: int, layers: int, *, packed: bool) -> None:
    """A ledger as a study of that size leaves it."""
    ledger = Ledger.in_folder(folder)
    ledger.create_study(SPEC.name, SPEC)
    ledger.close()
    names = [f"features.block{i // 4}.conv{i % 4}" for i in range(layers)]
    random = np.random.default_rng(0)
    with sqlite3.connect(folder / LEDGER) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.executemany(
            'INSERT INTO trials (id, study_id, number, config, state, "values", epochs, headlines, delivered, started, '
            "finished) VALUES (?, 1, ?, ?, 'COMPLETE', '[]', ?, '{}', 1, 0.0, ?)",
            ((n + 1, n, json.dumps(_config(n, names, random)), epochs, 60.0 + n % 7) for n in range(trials)),
        )
        for number in range(trials):
            connection.executemany(
                "INSERT INTO measurements VALUES (?, ?, 1, ?, ?, 1)",
                (
                    (
                        number + 1,
                        data["epoch"],
                        data["timestamp"],
                        orjson.dumps(pack(data)[0] if packed else data).decode(),
                    )
                    for data in _measurements(random, epochs, names)
                ),
            )
        shape = pack(next(_measurements(random, epochs, names)))[1]
        assert shape is not None
        connection.execute("INSERT INTO shapes VALUES (1, ?, ?)", (shape[0], json.dumps(shape[1])))
    connection.close()


def _config(number: int, layers: list[str], random: np.random.Generator) -> dict[str, Any]:
    """Three replicates of each configuration, with a target for every layer."""
    point = np.random.default_rng(number // 3)
    targets = dict(zip(layers, point.uniform(0.3, 0.8, len(layers)).tolist(), strict=True))
    strength = float(point.uniform(0.1, 10))
    searched = {f"perplexity/targets/{layer}": target for layer, target in targets.items()}
    return TrialConfig(
        study=SPEC.name,
        number=number,
        arm="perplexity",
        parameters={"arm": "perplexity", "perplexity/strength": strength, **searched},
        methods=({"method": "perplexity", "strength": strength, "targets": targets},),
        data=SPEC.data,
        model=SPEC.model,
        training=SPEC.training,
        measures=SPEC.measures,
        seed=int(random.integers(2**31)),
    ).model_dump(mode="json")


def _measurements(random: np.random.Generator, epochs: int, layers: list[str]) -> Iterator[dict[str, Any]]:
    at, onset = np.arange(epochs), random.uniform(0.2, 1.2) * epochs
    turn = 0.01 * np.maximum(at - onset, 0) - 0.004 * at
    noise = 0.005 * random.standard_normal((epochs, 2, len(layers), len(MEASURES)))
    # Measures are float32 that became float64, with all their digits.
    values = (0.6 + turn[:, None, None, None] + noise).astype(np.float32).astype(np.float64).tolist()
    loss = 0.5 + 1.5 * np.exp(-at / 6) + 0.02 * np.maximum(at - onset - 5, 0) + 0.02 * random.standard_normal(epochs)
    train = 1.9 * np.exp(-at / 8)
    for e in range(epochs):
        probes = [
            {n: dict(zip(MEASURES, v, strict=True)) for n, v in zip(layers, own, strict=True)} for own in values[e]
        ]
        yield {
            "epoch": e,
            "train_loss": float(train[e]),
            "train_accuracy": 0.9,
            "validation_loss": float(loss[e]),
            "validation_accuracy": 0.8,
            "penalty": 0.01,
            "learning_rate": 0.05,
            "seconds": 0.05,
            "timestamp": e,
            "statistics": {"train": probes[0], "validation": probes[1]},
        }


def read(folder: Path) -> Evidence:
    """The study in a folder as evidence."""
    ledger = Ledger.in_folder(folder)
    with Study(folder=folder, ledger=ledger, record=ledger.study(SPEC.name)) as study:
        return gathering.from_studies(study)


def timed(stage: str, function: Callable[[], Result]) -> tuple[Result, float]:
    """Run a stage and print its line; returns its result and its processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    say(f"| {stage} | {wall:.1f} | {processor:.1f} | {peak() / 1e9:.2f} |")
    return result, processor


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def peak() -> float:
    """Largest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def run(folder: Path, trials: int, epochs: int, layers: int, *, packed: bool) -> bool:
    """Write a ledger and time all stages; returns whether the goals are met."""
    say(f"{trials} trials x {epochs} epochs x {layers} layers x {len(MEASURES)} measures\n")
    say("| stage | seconds | processor seconds | peak memory, GB |\n| --- | --- | --- | --- |")
    timed("write the ledger", lambda: write_ledger(folder, trials, epochs, layers, packed=packed))
    evidence, reading = timed("read it as evidence", lambda: read(folder))
    table, tabulating = timed("one row a trial, with onsets", lambda: trial_rows(evidence))
    _, first = timed("write it as Parquet", lambda: write_parquet(table, folder / "trials.parquet"))
    _, second = timed(
        "one row a trial, layer and epoch", lambda: write_parquet(epoch_rows(evidence), folder / "e.parquet")
    )
    total = reading + tabulating + first + second
    relation, relating = timed("the relation", lambda: relate(evidence, METHODS, sampler="random"))
    _, writing = timed("relation.json", lambda: write_json(relation, folder))
    total += relating + writing
    size = (folder / LEDGER).stat().st_size / 1e9
    say(f"\nin all {total:.1f} s of a processor (goal: {GOAL_SECONDS:.0f} s), {peak() / 1e9:.2f} GB")
    say(f"the ledger has {size:.1f} GB")
    arms = broad()
    say(f"\n{arms.trials['arm'].nunique()} arms, {len(arms.signals)} signals, {len(arms)} trials\n")
    say("| stage | seconds | processor seconds | peak memory, GB |\n| --- | --- | --- | --- |")
    wide, arms_seconds = timed("the relation", lambda: relate(arms, {}, sampler="random"))
    timed("relation.json", lambda: write_json(wide, folder))
    say(f"\ngoal: {GOAL_BROAD:.0f} s of a processor")
    return total < GOAL_SECONDS and peak() < GOAL_BYTES and arms_seconds < GOAL_BROAD


def write_json(relation: Relation, folder: Path) -> None:
    """As `sparsestudy analyze` does."""
    (folder / "relation.json").write_text(json.dumps(to_json(relation), indent=1, allow_nan=False))


def broad(arms: int = 39, signals: int = 78, trials: int = 117, epochs: int = 30) -> Evidence:
    """A study of many arms with a strength each, ten measures of every layer, and no replicates."""
    random, at = np.random.default_rng(0), np.arange(epochs)
    arm, onset = np.arange(trials) % arms, random.uniform(0.2, 1.2, trials)[:, None] * epochs
    climb = 0.01 * np.maximum(at - onset, 0)[:, :, None] + 0.01 * random.standard_normal((trials, epochs, signals))
    loss = 0.5 + 1.5 * np.exp(-at / 6) + 4 * climb[:, :, 0] + 0.02 * random.standard_normal((trials, epochs))
    measures = [*MEASURES[:1], *(f"measure{i}" for i in range(1, 10))]
    trial = {
        "study": "broad", "trial": np.arange(trials), "arm": [f"arm{a}" for a in arm],
        "configuration": np.arange(trials), "replicate": 0, "epochs": epochs, "state": "COMPLETE", "seconds": 1.0,
    }  # fmt: skip
    strengths = {f"parameter/arm{a}/strength": np.where(arm == a, random.random(trials), np.nan) for a in range(arms)}
    accuracy = 0.8 + 0.05 * random.standard_normal((trials, epochs))
    return Evidence(
        trials=pd.DataFrame({**trial, **strengths}),
        curves={
            "train/loss": np.broadcast_to(1.9 * np.exp(-at / 8), loss.shape), "validation/loss": loss,
            "train/accuracy": accuracy + 0.1, "validation/accuracy": accuracy,
        },
        signals=tuple(
            Signal(kind="activations", layer=f"layer{i // 10}", measure=measures[i % 10]) for i in range(signals)
        ),
        values=(0.3 + 0.3 * random.random((trials, 1, signals)) + climb).astype(np.float32),
    )  # fmt: skip


def main() -> None:
    """Run in the folder given, or in a temporary one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=None, help="where the ledger stays; default: nowhere")
    parser.add_argument(
        "--unpacked", action="store_true", help="a ledger of version 1, in which every number has a name"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = given.folder or Path(temporary)
        met = run(folder, given.trials, given.epochs, given.layers, packed=not given.unpacked)
    say("goals met" if met else "goals missed")


if __name__ == "__main__":
    main()
