"""The winner of real studies: finals in the ledger, checkable scores, one look, and what happens when it is stopped."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from sparsestudy import load_winner, operations, regularizers, selecting
from sparsestudy.analysis.selection import judge
from sparsestudy.cli import main
from sparsestudy.errors import ConflictError, DivergedError, NotFoundError, TrialFailedError
from sparsestudy.launching import leased
from sparsestudy.operations import open_study
from sparsestudy.recorded import Study
from sparsestudy.scheduling.progress import Progress
from sparsestudy.scheduling.search import StudySearch
from sparsestudy.selecting import Selection, select
from sparsestudy.study import derive_seed
from sparsestudy.tracking.mlflow_tracker import Tracker
from sparsestudy.training import data, weights
from sparsestudy.training.loop import Trainer, fit
from sparsestudy.trial import Failure, Trial, TrialState

pytestmark = pytest.mark.study

TINY: dict[str, Any] = {
    "name": "tiny",
    "question": "Which of a few?",
    "data": {"name": "digits", "train_size": 60, "splits": {"search": 60, "selection": 80, "test": 90}},
    "model": {"name": "mlp", "arguments": {"hidden": [12]}},
    "training": {"epochs": 3, "batch_size": 20},
    "regularizers": [
        {"name": "none"},
        {"name": "batch_norm"},
        {"name": "dropout", "strength": {"uniform": [0.1, 0.3]}},
    ],
    "search": {"sampler": "random", "trials": 3, "arms": "balanced"},
    "measures": {"snapshots": "none"},
    "selection": {"finalists": 3, "seeds": 2},
}
SEEDS = [derive_seed(0, "finalist", place) for place in range(2)]


def write(folder: Path, spec: dict[str, Any], **changes: Any) -> Path:
    path = folder / f"{spec['name']}.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes}), encoding="utf-8")
    return path


def finals_of(name: str, study: str | None = None) -> list[Trial]:
    with open_study(name) as opened:
        record = opened.ledger.study(study or f"{name}-finals")
        return opened.ledger.trials(record.id)


@pytest.fixture(scope="module")
def tiny(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Selection, Path, list[str]]:
    """A small study and its winner, made once for all tests that only look; and which splits were scored."""
    folder = tmp_path_factory.mktemp("selecting")
    looked: list[str] = []
    score = selecting._score

    def watched(final: Any, trial: Trial, split: str) -> dict[str, float]:
        looked.append(f"{split} of {trial.config.arm} on seed {trial.config.seed}")
        return score(final, trial, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSESTUDY_HOME", str(folder / "results"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(selecting, "_score", watched)
        operations.run(write(folder, TINY))
        return select("tiny"), folder / "results", looked


@pytest.fixture
def tiny_home(tiny: tuple[Selection, Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSESTUDY_HOME", str(tiny[1]))
    return tiny[1]


def accuracy(model: torch.nn.Module, split: data.Split) -> float:
    with torch.no_grad():
        return float((model(split.inputs).argmax(1) == split.labels).double().mean())


def test_finals_are_every_finalist_on_fresh_seeds(tiny: tuple[Selection, Path, list[str]], tiny_home: Path) -> None:
    with open_study("tiny") as study:
        searched = study.trials()
        assert [record.name for record in study.ledger.studies()] == ["tiny", "tiny-finals"]
    finals = finals_of("tiny")
    assert Counter(t.state for t in finals) == {TrialState.COMPLETE: 6}
    assert sorted((t.config.arm, t.config.seed) for t in finals) == sorted(
        (f"trial-{t.number}", seed) for t in searched for seed in SEEDS
    )
    assert not {t.config.seed for t in finals} & {t.config.seed for t in searched}
    by_arm = {f"trial-{t.number}": t.config for t in searched}
    for trial in finals:
        before = by_arm[trial.config.arm]
        assert (trial.config.methods, trial.config.data, trial.config.model) == (
            before.methods, before.data, before.model,
        )  # fmt: skip
        assert trial.config.training == before.training.model_copy(update={"seed": trial.config.seed})


def test_selection_scores_are_those_of_networks_trained_here(
    tiny: tuple[Selection, Path, list[str]], tiny_home: Path
) -> None:
    """Every network of the finals is trained again in this process, and its right answers are counted by hand."""
    record, recorded = tiny[0].record, {}
    for finalist in record["finalists"]:
        recorded[f"trial-{finalist['trial']}"] = finalist["selection"]
        assert finalist["mean"] == pytest.approx(sum(finalist["selection"]) / 2, rel=1e-12)
    found: dict[str, list[float]] = {arm: [] for arm in recorded}
    for trial in finals_of("tiny"):
        trainer = Trainer(trial.config)
        *_, _ = trainer
        kept = (tiny_home / "tiny" / "weights" / "tiny-finals" / f"{trial.number}.safetensors").read_bytes()
        assert trainer.weights == kept
        found[trial.config.arm].append(accuracy(weights.restore(trial.config, kept), trainer.dataset.selection))
    assert len(found) == 3
    for arm, scores in found.items():
        assert recorded[arm] == pytest.approx(scores, abs=1e-7)
    means = {arm: sum(scores) for arm, scores in found.items()}
    assert means[f"trial-{record['winner']}"] == pytest.approx(max(means.values()), abs=1e-6)


def test_the_test_split_is_looked_at_once_and_only_for_the_winner(tiny: tuple[Selection, Path, list[str]]) -> None:
    selection, _, looked = tiny
    winner = selection.record["winner"]
    assert selection.record["test"]["looks"] == 1
    assert [look for look in looked if look.startswith("test")] == [
        f"test of trial-{winner} on seed {seed}" for seed in SEEDS
    ]
    assert len(looked) == 6 + 2


def test_the_winner_is_loaded_and_gives_the_recorded_test_score(tiny: tuple[Selection, Path, list[str]]) -> None:
    selection, _, _ = tiny
    model, methods = load_winner(selection.folder)
    config = json.loads((selection.folder / "config.json").read_text(encoding="utf-8"))
    assert not model.training
    assert methods == [regularizers.get(**method) for method in config["methods"]]
    split = data.load(data.DataSpec.from_dict(config["data"])).test
    test = selection.record["test"]
    assert test["shipped"]["accuracy"] == pytest.approx(accuracy(model, split), abs=1e-7)
    with torch.no_grad():
        assert test["shipped"]["loss"] == pytest.approx(
            cross_entropy(model(split.inputs), split.labels).item(), rel=1e-5
        )
    assert test["shipped"]["accuracy"] in test["scores"]
    assert test["mean"] == pytest.approx(sum(test["scores"]) / 2, rel=1e-12)
    searched = selection.record["finalists"][0]["search"]
    assert selection.record["optimism"] == pytest.approx(searched - test["mean"], abs=1e-12)


def test_best_yaml_of_the_winner_trains_the_same_weights(
    tiny: tuple[Selection, Path, list[str]], tmp_path: Path
) -> None:
    """Bit for bit, from the file alone, at the epoch that the objective speaks of."""
    selection, _, _ = tiny
    plan = operations.plan(selection.folder / "best.yaml")
    assert plan.trials == 1
    (point,) = plan.space.grid()
    config = plan.configure(0, point, int(str(point["training.seed"])))
    trainer = Trainer(config.model_copy(update={"keep": "best"}))
    *_, _ = trainer
    assert trainer.weights == (selection.folder / "weights.safetensors").read_bytes()
    (tmp_path / "w").write_bytes(trainer.weights)
    assert load_file(tmp_path / "w").keys() == load_winner(selection.folder)[0].state_dict().keys()


def test_a_second_call_says_what_was_chosen_and_trains_nothing(
    tiny: tuple[Selection, Path, list[str]], tiny_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, looked = tiny
    before = len(looked), finals_of("tiny")
    recorded = json.loads((tiny_home / "tiny" / "winner" / "selection.json").read_text(encoding="utf-8"))
    again = select("tiny")
    assert not again.fresh
    assert dict(again.record) == recorded
    assert (len(looked), finals_of("tiny")) == before
    assert main(["select", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert "this is the recorded choice" in shown
    assert f"winner: trial {recorded['winner']} by mean; test accuracy {recorded['test']['mean']:.4g}" in shown


def test_again_counts_the_looks_and_trains_nothing_twice(
    tiny: tuple[Selection, Path, list[str]], tiny_home: Path
) -> None:
    before = finals_of("tiny")
    looks = json.loads((tiny_home / "tiny" / "winner" / "selection.json").read_text())["test"]["looks"]
    again = select("tiny", again=True)
    assert again.fresh
    assert again.record["test"]["looks"] == looks + 1
    same = ("winner", "finalists", "shipped", "optimism", "failed")
    assert {key: again.record[key] for key in same} == {key: tiny[0].record[key] for key in same}
    assert [(t.number, t.attempts, t.finished) for t in finals_of("tiny")] == [
        (t.number, t.attempts, t.finished) for t in before
    ]
    assert f"looked at {looks + 1} times" in (again.folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def copied_home(tiny: tuple[Selection, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small study and its winner in a home of their own, for tests that damage them."""
    shutil.copytree(tiny[1], tmp_path / "copied")
    monkeypatch.setenv("SPARSESTUDY_HOME", str(tmp_path / "copied"))
    return tmp_path / "copied"


DIES_LOOKING = """
import os, signal
from sparsestudy import selecting

score = selecting._score

def dies(final, trial, split):
    if split == "test":
        os.kill(os.getpid(), signal.SIGKILL)
    return score(final, trial, split)

selecting._score = dies
selecting.select("tiny", again=True)
"""


def test_a_look_counts_also_if_the_process_is_killed_while_it_looks(copied_home: Path) -> None:
    """The record still tells of the looks before; the next one knows better."""
    looks = json.loads((copied_home / "tiny" / "winner" / "selection.json").read_text())["test"]["looks"]
    died = subprocess.run([sys.executable, "-c", DIES_LOOKING], check=False, timeout=120)
    assert died.returncode == -signal.SIGKILL
    assert select("tiny").record["test"]["looks"] == looks
    assert select("tiny", again=True).record["test"]["looks"] == looks + 2
    (copied_home / "tiny" / "winner" / "selection.json").unlink()
    assert select("tiny").record["test"]["looks"] == looks + 3


def test_weights_that_have_gone_are_trained_again_to_the_last_bit(
    copied_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied_home / "tiny" / "weights" / "tiny-finals"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 6
    record = select("tiny").record
    shutil.rmtree(folder.parent)
    again = select("tiny", again=True).record
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    same = ("winner", "finalists", "shipped", "optimism", "failed")
    assert {key: again[key] for key in same} == {key: record[key] for key in same}
    assert "the weights of trial 0 of tiny-finals are gone: training it again" in caplog.messages


def test_a_winner_is_registered_by_a_later_call_if_mlflow_was_away(
    copied_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither call but the first looks at anything; without the files there is nothing to register."""

    def gone(*_: Any) -> int:
        raise ConnectionError("nobody there")

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "register", gone)
        first = select("tiny", again=True)
        assert first.record["registered"] is None
        assert "MLflow did not take the outcome of the finals: ConnectionError: nobody there" in caplog.messages
        patch.setattr(selecting, "_score", None)
        assert select("tiny").record == first.record
    monkeypatch.setattr(selecting, "_score", None)
    (first.folder / "README.md").rename(first.folder / "hidden")
    assert select("tiny").record["registered"] is None
    assert "README.md is gone" in caplog.messages[-1]
    (first.folder / "hidden").rename(first.folder / "README.md")
    late = select("tiny")
    assert (late.fresh, late.record["registered"]["alias"]) == (False, "champion")
    assert {**late.record, "registered": None} == first.record
    assert json.loads((late.folder / "selection.json").read_text(encoding="utf-8")) == late.record


def test_mlflow_has_the_winner_as_a_registered_model(
    tiny: tuple[Selection, Path, list[str]], tiny_home: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tiny_home / 'tiny' / 'mlflow.db'}")
    version = client.get_model_version_by_alias("tiny", "champion")
    record = tiny[0].record
    assert record["registered"] == {"model": "tiny", "version": 1, "alias": "champion"}
    assert version.tags == {"sparsestudy.study": "tiny", "sparsestudy.trial": str(record["winner"])}
    run = client.get_run(version.run_id)
    assert run.data.tags["sparsestudy.trial"] == str(record["shipped"])
    assert run.data.tags["sparsestudy.study"] == "tiny-finals"
    files = {f.path for f in client.list_artifacts(version.run_id, "model")}
    assert files == {f"model/{name}" for name in ("weights.safetensors", "config.json", "best.yaml", "README.md")}
    got = Path(client.download_artifacts(version.run_id, "model/weights.safetensors", str(tmp_path)))
    assert got.read_bytes() == (tiny[0].folder / "weights.safetensors").read_bytes()
    experiment = client.get_experiment_by_name("tiny-finals")
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(r.info.status for r in runs) == {"FINISHED": 7}
    (parent,) = [r for r in runs if r.data.tags["sparsestudy.kind"] == "study"]
    assert parent.data.metrics["test/accuracy"] == record["test"]["mean"]


def searched(path: Path, *overrides: str) -> None:
    """The search alone, in this process and without Ray, which selection does not ask about."""
    plan = operations.plan(path, overrides)
    with operations.claim(plan.spec) as study, leased(study) as lease:
        lease.ledger.update_spec(lease, plan.spec)
        search = StudySearch(plan.spec, plan.space, plan.configure, lease)
        while answer := search.ask():
            try:
                search.record(answer[0].number, [*Trainer(answer[0])])
                search.finish(answer[0].number, TrialState.COMPLETE)
            except DivergedError as error:
                search.finish(answer[0].number, TrialState.FAIL, Failure(kind="DivergedError", message=str(error)))


PAIR: dict[str, Any] = {
    **TINY,
    "name": "pair",
    "regularizers": [{"name": "none"}, {"name": "weight_decay", "strength": 0.01}],
    "search": {"sampler": "grid", "objectives": [{"metric": "final/validation/loss", "direction": "minimize"}]},
    "selection": {"finalists": 2, "seeds": 2},
    "resources": {"concurrent": 1},
}


def interrupt(progress: Progress) -> None:
    """Ctrl-C as soon as one trial is over."""
    if progress.finished and progress.phase == "running":
        os.kill(os.getpid(), signal.SIGINT)


def test_finals_that_were_stopped_go_on_and_plans_do_not_mix(home: Path, cluster: None, tmp_path: Path) -> None:
    """Stopped by the budget, then by Ctrl-C, then done; then fewer seeds, and the first plan again."""
    path = write(tmp_path, PAIR)
    searched(path, "budget.minutes=0.0000001")
    searched(path)
    with open_study("pair") as study:
        assert [t.state for t in study.trials()] == [TrialState.COMPLETE] * 2
    searched(path, "budget.minutes=0.0000001")
    stopped = select("pair")
    assert (dict(stopped.record), stopped.folder.exists()) == ({}, False)
    assert Counter(t.state for t in finals_of("pair")) == {TrialState.WAITING: 4}

    searched(path)
    stopped = select("pair", watch=interrupt)
    assert (dict(stopped.record), stopped.folder.exists()) == ({}, False)
    done = [t for t in finals_of("pair") if t.state.finished]
    assert 1 <= len(done) < 4

    whole = select("pair")
    finals = finals_of("pair")
    assert [t.state for t in finals] == [TrialState.COMPLETE] * 4
    assert [finals[t.number] for t in done] == [replace(t, run_id=finals[t.number].run_id) for t in done]
    # Loss decides, the smaller the better, and the weights are those of the last epoch.
    means = [f["mean"] for f in whole.record["finalists"]]
    assert (whole.record["metric"], means) == ("loss", sorted(means))
    shipped = finals[whole.record["shipped"]].config
    model, _ = load_winner(whole.folder)
    trained, _ = fit(shipped)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in trained.state_dict().items())
    winner = next(f for f in whole.record["finalists"] if f["trial"] == whole.record["winner"])
    with open_study("pair") as study:
        assert winner["search"] == study.trial(winner["trial"]).headlines["final/validation/loss"]
    assert whole.record["optimism"] == pytest.approx(whole.record["test"]["mean"] - winner["search"], abs=1e-12)

    searched(path, "selection.seeds=1")
    fewer = select("pair", again=True)
    assert (fewer.record["finals"], fewer.record["test"]["looks"]) == ("pair-finals-2", 2)
    assert {f["trial"]: f["selection"] for f in fewer.record["finalists"]} == {
        f["trial"]: f["selection"][:1] for f in whole.record["finalists"]
    }
    searched(path)
    back = select("pair", again=True)
    assert finals_of("pair") == finals
    same = ("winner", "finals", "finalists", "shipped", "optimism")
    assert {key: back.record[key] for key in same} == {key: whole.record[key] for key in same}
    assert back.record["test"]["looks"] == 3


def test_a_trial_of_the_finals_that_diverges_does_not_take_the_selection_down(
    home: Path, cluster: None, tmp_path: Path
) -> None:
    """The network answers NaN on one of the fresh seeds."""
    spec = {**PAIR, "regularizers": [{"name": "none"}], "training": {"epochs": 1, "batch_size": 20}}
    one = {
        **spec,
        "name": "one",
        "model": {"name": "tests.fragile_network:build", "arguments": {"bad": [derive_seed(SEEDS[0], "weights")]}},
    }
    searched(write(tmp_path, one))
    found = select("one")
    finals = finals_of("one")
    assert [t.state for t in finals] == [TrialState.FAIL, TrialState.COMPLETE]
    assert finals[0].failure is not None
    assert finals[0].failure.kind == "DivergedError"
    assert (found.record["failed"], found.record["shipped"]) == ([0], 1)
    (finalist,) = found.record["finalists"]
    assert (len(finalist["selection"]), finalist["bound"]) == (1, None)


def test_if_all_diverge_it_is_said(home: Path, tmp_path: Path) -> None:
    bad = [derive_seed(derive_seed(0, "trial", 0), "weights")]
    model = {"name": "tests.fragile_network:build", "arguments": {"bad": bad}}
    searched(write(tmp_path, PAIR, regularizers=[{"name": "none"}], model=model))
    with pytest.raises(ConflictError, match=r"study 'pair' has no complete trial to choose from; run it first$"):
        select("pair")
    with open_study("pair") as study, pytest.raises(TrialFailedError) as caught:
        selecting._selection_scores(study, "loss")
    expected = "every trial of the finals failed; the first one: DivergedError: train loss became nan"
    assert str(caught.value).startswith(expected)


def test_a_network_without_finite_answers_has_failed(
    tiny: tuple[Selection, Path, list[str]], tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_study("tiny") as study:
        final = Study(folder=study.folder, ledger=study.ledger, record=study.ledger.study("tiny-finals"))
        monkeypatch.setattr(selecting, "_score", lambda _, trial, split: {"loss": nan_on_first(trial)})
        scores = selecting._selection_scores(final, "loss")
        assert sorted(number for own in scores.values() for number in own) == [1, 2, 3, 4, 5]
        monkeypatch.setattr(selecting, "_score", lambda *_: {"loss": math.inf})
        with pytest.raises(TrialFailedError, match="its answers are not finite"):
            selecting._selection_scores(final, "loss")


def nan_on_first(trial: Trial) -> float:
    return math.nan if trial.number == 0 else 0.5


def test_what_cannot_be_chosen_from_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no study named 'pair'"):
        select("pair")
    path = write(tmp_path, PAIR)
    searched(path, "budget.minutes=0.0000001")
    with pytest.raises(ConflictError, match=r"study 'pair' has no complete trial to choose from; run it first$"):
        select("pair")
    searched(path, 'selection.constraints=[{"metric": "final/gap/loss", "at_most": -50}]')
    with open_study("pair") as study:
        best = min(study.trials(), key=lambda t: t.values[0])
        with leased(study), pytest.raises(ConflictError, match="'pair' is already being run by process"):
            select("pair")
    with pytest.raises(ConflictError) as caught:
        select("pair")
    assert str(caught.value) == (
        f"no configuration among the 2 complete trials of 'pair' meets selection.constraints; the best one, trial "
        f"{best.number}: final/gap/loss is {best.headlines['final/gap/loss']:.4g}, wanted at most -50; loosen them in "
        f"the study file, run it again, which trains no finished trial anew, and select again"
    )
    assert not (home / "pair" / "winner").exists()
    with open_study("pair") as study:
        assert [record.name for record in study.ledger.studies()] == ["pair"]


def test_an_objective_that_is_no_score_promises_nothing_it_did_not_say(home: Path, tmp_path: Path) -> None:
    """Finalists are picked by their sparsity; what the search promised of the accuracy is its accuracy."""
    objective = {"metric": "final/sparsity/mean", "direction": "maximize"}
    searched(write(tmp_path, PAIR, search={"sampler": "grid", "objectives": [objective]}))
    with open_study("pair") as study:
        chosen = selecting._finalists(study)
        trials = {t.number: t for t in study.trials()}
        standings = judge(study.spec, chosen, [[0.5], [0.25]], "accuracy")
    assert [c.score for c in chosen] == sorted((t.values[0] for t in trials.values()), reverse=True)
    assert [s.searched for s in standings] == [
        trials[s.number].headlines["final/validation/accuracy"] for s in standings
    ]


# Several objectives

FRONT: dict[str, Any] = {
    **TINY,
    "name": "front",
    "regularizers": [{"name": "none"}, {"name": "dropout", "strength": {"uniform": [0.1, 0.5]}}],
    "search": {
        "sampler": "random",
        "trials": 5,
        "objectives": [
            {"metric": "best/validation/accuracy"},
            {"metric": "best/gap/loss", "direction": "minimize"},
            {"metric": "best/compute/skipped", "direction": "maximize"},
        ],
        "parameters": {"training.optimizer.lr": {"log_uniform": [0.01, 0.3]}},
    },
    "selection": {"finalists": 2, "seeds": 2, "weights": {"best/gap/loss": 2}},
}
WEIGHTS = np.array([1.0, 2.0, 1.0])
SIGNS = np.array([-1.0, 1.0, -1.0])


def scaled(values: np.ndarray[Any, Any], front: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weighted sums of what values ``[n, 3]`` lack to the best of a front, in units of its range."""
    costs, known = values * SIGNS, front * SIGNS
    return ((costs - known.min(0)) / (known.max(0) - known.min(0))) @ WEIGHTS


def test_several_objectives_from_the_file_to_the_winner(
    home: Path, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The front by comparing all pairs here, distances in numpy, finals scored by networks restored here."""
    outcome = operations.run(write(tmp_path, FRONT))
    trials = {trial.number: np.array(trial.values) for trial in outcome.trials}
    assert {t.state for t in outcome.trials} == {TrialState.COMPLETE}
    assert all(t.values[2] == t.headlines["best/compute/skipped"] > 0 for t in outcome.trials)
    beaten = {
        i for i, one in trials.items() for other in trials.values()
        if (other * SIGNS <= one * SIGNS).all() and (other != one).any()
    }  # fmt: skip
    front = [number for number in trials if number not in beaten]
    assert len(front) >= 2
    distances = scaled(np.array([trials[n] for n in front]), np.array([trials[n] for n in front]))
    nearest = [front[i] for i in np.argsort(distances, kind="stable")]
    told = next(line for line in outcome.summary.splitlines() if line.startswith("Pareto front"))
    assert [int(n) for n in re.findall(r"trial (\d+)", told)] == nearest
    assert "Pareto front" in outcome.report.read_text(encoding="utf-8")

    found = select("front")
    record = found.record
    assert [point["trial"] for point in record["front"]["points"]] == nearest
    assert [point["distance"] for point in record["front"]["points"]] == pytest.approx(sorted(distances), abs=1e-9)
    assert {f["trial"] for f in record["finalists"]} == set(nearest[:2])
    values: dict[str, list[list[float]]] = {}
    for trial in finals_of("front"):
        model = weights.restore(
            trial.config, (home / f"front/weights/front-finals/{trial.number}.safetensors").read_bytes()
        )
        right = accuracy(model, data.load(trial.config.data).selection)
        own = [right, trial.headlines["best/gap/loss"], trial.headlines["best/compute/skipped"]]
        values.setdefault(trial.config.arm, []).append(own)
    known = np.array([trials[n] for n in front])
    means = {arm: scaled(np.array(own), known).mean() for arm, own in values.items()}
    assert {f"trial-{f['trial']}": f["distance"] for f in record["finalists"]} == {
        arm: pytest.approx(mean, abs=1e-6) for arm, mean in means.items()
    }
    assert f"trial-{record['winner']}" == min(means, key=lambda arm: means[arm])
    assert main(["select", "front"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"On fresh seeds its distance is {min(means.values()):.4g}" in shown
    card = (found.folder / "README.md").read_text(encoding="utf-8")
    assert "The Pareto front of the search:" in card
    assert "best/gap/loss (minimize, weight 2)" in card
