"""The verb analyze on somebody else's MLflow experiment: a database and a server, known names and given ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsestudy.analyzing import analyze_mlflow
from sparsestudy.cli import main
from sparsestudy.recorded import studies
from sparsestudy.tracking import mlflow_runs
from tests.servers import free_port, mlflow_server
from tests.test_analyzing import relation_in
from tests.test_gathering import log

EPOCHS = 14


def fill(uri: str) -> None:
    """Experiments as Lightning and as somebody's own loop log them, and one without any loss."""
    from mlflow import MlflowClient

    client, random = MlflowClient(tracking_uri=uri), np.random.default_rng(0)
    lightning, own, empty = (client.create_experiment(name) for name in ("lightning/run", "own", "empty"))

    def curve(shape: Callable[[int], float]) -> dict[int, float]:
        return {10 * epoch: shape(epoch) + 0.01 * random.standard_normal() for epoch in range(EPOCHS)}

    for number in range(12):
        level, turn = random.uniform(0.3, 0.6), int(random.integers(4, EPOCHS))
        arm = "dropout" if number % 2 else "none"
        validation = curve(lambda e, t=turn: 0.5 + np.exp(-e / 3) + 0.05 * max(e - t, 0))
        training = curve(lambda e: float(np.exp(-e / 3)))
        sparsity = curve(lambda e, base=level: base + 0.01 * e)
        params = {"lr": number / 10, "seed": number}
        series = {
            "val_loss": validation, "train_loss_epoch": training, "val_acc": curve(lambda e: 0.8),
            "sparsity/gini/conv1": sparsity,
        }  # fmt: skip
        log(client, lightning, series, params={**params, "sparsestudy.arm": arm}, start=1000 * number)
        log(client, own, {"risk": validation, "fit": training, "gini_at_conv1": sparsity}, params=params)
    log(client, empty, {"score": {0: 1.0}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that an MLflow server can serve."""
    found = tmp_path_factory.mktemp("theirs")
    fill(f"sqlite:///{found / 'server.db'}")
    return found


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'server.db'}"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with mlflow_server(folder, free_port()) as address:
        yield address


def test_names_of_a_framework_need_no_file(uri: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "--mlflow", uri, "lightning/run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("12 trials of 12 configurations in 2 arms; 0 left out\n")
    out = home / "lightning-run-relation"
    relation = relation_in(out)
    assert relation["studies"] == ["lightning/run"]
    assert (relation["level"]["measure"], list(relation["level"]["layers"])) == ("gini", ["conv1"])
    assert relation["level"]["pooled"]["within"]["estimate"] is not None
    # Arms that are called as methods are compared as such.
    said = {verdict["claim"]: verdict["said"] for verdict in relation["verdicts"]}
    told = said["Penalising activation sparsity beats dropout."]
    assert told == "The study has no usable trial of penalised sparsity."
    assert studies() == []
    page = (out / "relation.html").read_text(encoding="utf-8")
    assert "How sparsity goes with overfitting in lightning/run" in page
    table = mlflow_runs.read_runs(uri, "lightning/run", lambda metrics: [])
    assert len(table) == 12
    assert all(run.id in page for run in table)


def test_a_server_gives_what_its_database_gives(uri: str, server: str, tmp_path: Path) -> None:
    files = [
        analyze_mlflow(store, "lightning/run", out=tmp_path / name).files
        for name, store in {"base": uri, "server": server}.items()
    ]
    read, served = (json.loads(paths[0].read_text()) for paths in files)
    assert read == served
    assert files[0][0].parent == tmp_path / "base"


def test_own_names_come_from_a_file(uri: str, home: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.yaml"
    names.write_text(
        'validation_loss: risk\ntrain_loss: fit\nactivations: "{measure}_at_{layer}"\nmain: gini\n', encoding="utf-8"
    )
    assert main(["analyze", "--mlflow", uri, "own", "--names", str(names), "--out", str(tmp_path / "here")]) == 0
    relation = relation_in(tmp_path / "here")
    assert (relation["trials"], list(relation["level"]["layers"])) == (12, ["conv1"])


def test_unknown_metrics_are_listed_with_a_file_to_copy(
    uri: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "--mlflow", uri, "empty"]) == 2
    told = capsys.readouterr().err
    assert "metrics there: score" in told
    assert "  validation_loss: NAME OF THE METRIC" in told
    assert not list(home.glob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--names", "x.yaml"], "--names and --out are for an MLflow experiment: add --mlflow URI"),
        (["a", "b", "--mlflow", "sqlite:///x.db"], "--mlflow takes one experiment, got 2"),
        (["a", "--mlflow", "sqlite:///x.db", "--names", "none.yaml"], "there is no file none.yaml"),
        (["a", "--mlflow", "sqlite:///none.db"], "there is no MLflow store sqlite:///none.db"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", *arguments]) == 2
    assert message in capsys.readouterr().err
