"""The command line where no study runs: plan, schema, ui, help, and how progress is said."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from pathlib import Path

import pytest

from sparsestudy import operations
from sparsestudy.cli import _duration, _Lines, main
from sparsestudy.operations import json_schema
from sparsestudy.scheduling.progress import Progress
from sparsestudy.study import ObjectiveSpec
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import Trial, TrialState
from tests.servers import free_port, nobody_listens, running, wait_until_healthy
from tests.tracking.test_ledger import SPEC, config

ROOT = Path(__file__).parents[1]


def test_plan_shows_layers_parameters_and_cost(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["plan", str(ROOT / "studies" / "quickstart.yaml"), "-s", "search.trials=10"]) == 0
    out = capsys.readouterr().out
    assert "22,954 parameters" in out
    for part in ("features.conv3", "32x2x2", "perplexity/targets/features.conv2", "tpe, 10 trials of 60 epochs"):
        assert part in out
    assert "train 300, search 400, selection 400, test 400" in out
    assert "time     about" in out
    assert not home.exists()


def test_plan_of_a_regression_says_what_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "studies" / "regression.yaml")
    assert main(["plan", file, "-s", "data.arguments={examples: 20000, noise: 0}", "-s", "data.train_size=18000"]) == 0
    out = capsys.readouterr().out
    # E = 10 E[sin(pi u v)] + 20/12 + 5 + 2.5 with E[sin(pi u v)] = 0.5247, by quadrature; the variance is 23.9.
    found = re.search(r"friedman1: numbers of mean (\S+), standard deviation (\S+) to predict, examples \[10\]", out)
    assert found is not None
    assert float(found[1]) == pytest.approx(14.41, abs=0.2)
    assert float(found[2]) == pytest.approx(math.sqrt(23.9), abs=0.1)
    assert "classes" not in out


def test_progress_calls_the_objective_by_its_name() -> None:
    progress = Progress(study="s", total=4, epochs=10, objective=ObjectiveSpec())
    for number, task in enumerate(("classification", "regression")):
        done = Trial(
            number=number,
            config=config(number).model_copy(update={"task": task}),
            state=TrialState.COMPLETE,
            values=(0.5 + number,),
        )
        progress.on_finish(done)
        name = "best/validation/R²" if task == "regression" else "best/validation/accuracy"
        assert progress.describe_best() == f"{name} {0.5 + number}  trial {number}  none"


def test_schema_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema() == json.loads((ROOT / "studies" / "schema.json").read_text())


def test_an_empty_home_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "start one with: sparsestudy run FILE" in capsys.readouterr().out


def test_wrong_words_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "No such command 'rnu'" in capsys.readouterr().err
    assert main(["run", "nowhere.yaml"]) == 2
    assert "no study file 'nowhere.yaml'" in capsys.readouterr().err
    assert main(["run", str(ROOT / "studies" / "quickstart.yaml"), "-s", "training.epochs"]) == 2
    assert "needs the form path=value" in capsys.readouterr().err


def test_ui_serves_mlflow_on_this_machine_until_interrupted(home: Path) -> None:
    ledger = Ledger.in_folder(home / "s")
    ledger.create_study("s", SPEC)
    ledger.close()
    assert operations.studies() == ["s"]
    port = free_port()
    command = [sys.executable, "-m", "sparsestudy", "ui", "s", "--port", str(port)]
    with running(command, {"SPARSESTUDY_HOME": str(home)}) as process:
        wait_until_healthy(port, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert nobody_listens(port)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")]
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_lines_are_printed_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(study="s", total=4, epochs=10, objective=ObjectiveSpec())
    lines = _Lines()
    lines(progress)
    lines(progress)
    progress.on_start(0, "none")
    lines(progress)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[0].startswith("[s] starting; 0/4 trials; ")
    assert out[1].startswith("[s] running; 0/4 trials (1 running); ")
