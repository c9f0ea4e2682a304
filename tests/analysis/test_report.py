import base64
import hashlib
import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from plotly.offline import get_plotlyjs

from sparsestudy.analysis.report import requested_target, summary, write_report
from sparsestudy.study import StudySpec
from sparsestudy.trial import Failure, Measurement, Trial, TrialConfig, TrialState, headlines
from tests.test_snapshot import make_layer, make_snapshot

LAYERS = ("features.conv1.relu", "features.conv2.relu", "features.conv3.relu", "classifier.relu")
EVIL = "<script>alert('x')</script>"
COMMANDS = {"Run again": "sparsestudy run studies/s.yaml", "Browse in MLflow": "sparsestudy ui"}


def read_spec(given):
    return StudySpec.model_validate_json(json.dumps(given))


def make_spec(**changes):
    arms = [
        {"name": "none"},
        {"name": "perplexity", "strength": {"log_uniform": [0.001, 1.0]}, "targets": {"features.conv2.relu": 0.5}},
        {"name": "l1", "strength": {"log_uniform": [1e-6, 1e-3]}, "axis": {"choice": ["layer", "channel"]}},
    ]
    shared = {
        "parameters": {"training.optimizer.lr": {"log_uniform": [0.01, 0.1]}, "training.batch_size": {"int": [16, 64]}}
    }
    given = {
        "name": "overfit-digits",
        "question": "Which regulariser cures it?",
        "regularizers": arms,
        "search": shared,
    }
    return read_spec({**given, **changes})


def make_trajectory(rng, *, epochs=30, sparse=0.3, statistics=True):
    """Validation loss with a minimum in the middle, as a network that overfits has."""
    turn, found = rng.randint(8, 20), []
    for e in range(epochs):
        layers = {
            layer: {
                "perplexity": None if i == 2 and e > 20 else min(1, sparse * (i + 1) / 2 + 0.004 * e),
                "zero_fraction": 0.5,
            }
            for i, layer in enumerate(LAYERS)
        }
        found.append(
            Measurement(
                epoch=e, train_loss=2 * math.exp(-e / 6), train_accuracy=min(1, 0.3 + 0.03 * e),
                validation_loss=0.6 + 0.002 * (e - turn) ** 2, validation_accuracy=0.8 - 0.0005 * (e - turn) ** 2,
                penalty=0.01, learning_rate=0.05, seconds=0.5, timestamp=e,
                statistics={"train": layers, "validation": layers} if statistics else {},
            )
        )  # fmt: skip
    return found


def make_trial(spec, number, arm, value, *, state=TrialState.COMPLETE, trajectory=(), failure=None, values=None):
    rng = random.Random(number)
    lr, method = 10 ** rng.uniform(-2, -1), next(a for a in spec.regularizers if a.name == arm)
    parameters = {"arm": arm, "training.optimizer.lr": lr, "training.batch_size": rng.randint(16, 64)}
    kwargs = {"method": arm}
    if method.strength is not None:
        kwargs["strength"] = parameters[f"{arm}/strength"] = 10 ** rng.uniform(-3, -0.1)
    if method.parameters:
        kwargs["axis"] = parameters[f"{arm}/axis"] = rng.choice(["layer", "channel"])
    if method.targets:
        kwargs["targets"] = dict(method.targets)
    config = TrialConfig(
        study=spec.name, number=number, arm=arm, parameters=parameters, methods=(kwargs,), data=spec.data,
        model=spec.model, training=spec.training, measures=spec.measures, seed=number,
    )  # fmt: skip
    recorded = state in (TrialState.COMPLETE, TrialState.PRUNED)
    return Trial(
        number=number, config=config, state=state, values=values or ((value,) if recorded else ()),
        epochs=len(trajectory), headlines=headlines(trajectory, spec.measures.main) if trajectory else {},
        failure=failure, attempts=1, started=100.0, finished=160.0 if state.finished else None,
    )  # fmt: skip


def make_study(spec, *, statistics=True):
    """Six complete trials of none, six of perplexity, six of l1; one pruned and one failed.

    Trial 7 of perplexity is best with 0.93.
    """
    values = {
        "none": [0.80, 0.82, 0.84, 0.86, 0.88, 0.90],
        "perplexity": [0.85, 0.93, 0.87, 0.88, 0.89, 0.91],
        "l1": [0.70, 0.71, 0.72, 0.73, 0.74, 0.75],
    }
    trials, trajectories = [], {}
    for arm, of_arm in values.items():
        for value in of_arm:
            n = len(trials)
            trajectories[n] = make_trajectory(random.Random(n), sparse=0.1 + 0.02 * n, statistics=statistics)
            trials.append(make_trial(spec, n, arm, value, trajectory=trajectories[n]))
    trajectories[18] = make_trajectory(random.Random(18), epochs=5, statistics=statistics)
    trials.append(make_trial(spec, 18, "l1", 0.3, state=TrialState.PRUNED, trajectory=trajectories[18]))
    failure = Failure(kind="DivergedError", message="the loss of step 3 is not finite", traceback="secret traceback")
    trials.append(make_trial(spec, 19, "none", 0, state=TrialState.FAIL, failure=failure))
    return trials, trajectories


class Page(HTMLParser):
    """What a reader and a browser get out of the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.raw = path.read_text(encoding="utf-8")
        self.tags, self.scripts, self.words, self._inside = [], [], [], ""
        self.feed(self.raw)
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        self.figures, self.tables = self.data("figures"), self.data("tables")

    def data(self, name):
        found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', self.raw)
        return json.loads(found.group(1)) if found else {}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            if tag == "script":
                self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag):
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside == "script":
            kind, text = self.scripts.pop()
            self.scripts.append((kind, text + data))
        elif not self._inside:
            self.words.append(data)

    def check(self):
        """What holds for every page."""
        for tag, attributes in self.tags:
            remote = [v for k, v in attributes.items() if k in ("src", "href", "data", "action", "srcset")]
            assert not remote or (tag == "a" and remote[0].startswith("http")), (tag, remote)
            assert not [k for k in attributes if k.startswith("on")], (tag, attributes)
            assert tag not in ("link", "img", "iframe", "object", "base")
        style = re.search(r"<style>(.*?)</style>", self.raw, re.DOTALL).group(1)
        assert "url(" not in style
        assert "@import" not in style
        assert all("<" not in script for kind, script in self.scripts if kind == "application/json")
        drawn = json.dumps(self.figures)
        for absent in ("nan", "None", "inf", "Traceback", "NaN"):
            assert not re.search(rf"\b{absent}\b", self.text), absent
            assert not re.search(rf"\b{absent}\b", drawn), absent
        code = 2 * bool(self.figures) + bool(self.tables)
        assert len([s for kind, s in self.scripts if kind is None]) == code
        return self


def render(tmp_path, spec, trials, trajectories, commands=COMMANDS, inside=None):
    write_report(tmp_path / "out" / "report.html", spec, trials, trajectories, commands=commands, inside=inside)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html"]
    return Page(tmp_path / "out" / "report.html").check()


def test_a_search_over_data_says_so():
    spec = read_spec({"name": "s", "regularizers": [{"name": "none"}],
                      "search": {"parameters": {"data.label_noise": {"choice": [0.0, 0.2]}}}})  # fmt: skip
    told = "Trials differ in their data (data.label_noise), so the best of them is one on the easiest data."
    trials = [make_trial(spec, 0, "none", 0.75), make_trial(spec, 1, "none", 0.5)]
    assert told in summary(spec, trials)
    assert "easiest" not in summary(make_spec(), trials)


def test_summary_names_the_best_and_compares_every_arm():
    spec = make_spec()
    trials, _ = make_study(spec)
    lines = summary(spec, trials).split("\n")
    assert lines[0].startswith("Best on the search split: trial 7 of arm perplexity (perplexity·λ")
    assert lines[0].endswith(
        "with validation accuracy at its epoch of lowest validation loss 93.00 % (higher is better)."
    )
    assert lines[1] == (
        "Against arm none: better by 3.00 percentage points than its best trial (90.00 %), better by 8.00 percentage "
        "points than its median (85.00 % over 6 complete trials)."
    )
    assert lines[2].startswith("Against arm l1: better by 18.00 percentage points than its best trial (75.00 %)")
    assert lines[3:5] == ["Stopped early, and not compared: 1 trial.", "Failed: 1 trial (1 × DivergedError)."]
    assert lines[5].startswith("Caution: this is the best of 18 complete trials")
    assert "optimistic" in lines[5]
    assert lines[5].endswith("`sparsestudy select` confirms the choice on fresh seeds.")
    assert "unequal" not in lines[5]
    assert "unequal numbers" in summary(spec, trials[1:])


def test_summary_of_a_minimised_loss_has_no_percentages():
    spec = make_spec(search={"objectives": [{"metric": "final/validation/loss", "direction": "minimize"}]})
    trials = [make_trial(spec, 0, "none", 0.75), make_trial(spec, 1, "l1", 0.5)]
    text = summary(spec, trials)
    assert "trial 1 of arm l1" in text
    assert "validation loss at its last epoch 0.5 (lower is better)" in text
    assert "better by 0.25 than its best trial (0.75)" in text
    assert "No complete trial of perplexity, so nothing can be said of it." in text
    assert "%" not in text


def on_numbers(trials):
    return [replace(trial, config=trial.config.model_copy(update={"task": "regression"})) for trial in trials]


def test_words_of_a_regression(tmp_path):
    spec = make_spec()
    trials, trajectories = make_study(spec)
    trials = on_numbers(trials)
    lines = summary(spec, trials).split("\n")
    assert lines[0].endswith("with validation R² at its epoch of lowest validation loss 0.93 (higher is better).")
    assert lines[1] == (
        "Against arm none: better by 0.03 than its best trial (0.9), better by 0.08 than its median (0.85 over 6 "
        "complete trials)."
    )
    page = render(tmp_path, spec, trials, trajectories)
    assert "Best and median of validation R² at its epoch of lowest validation loss" in page.text
    assert "Losses are mean squared errors, in units of the variance of the training labels." in page.text
    shown, drawn = page.text.partition("Study file")[0], json.dumps(page.figures, ensure_ascii=False)
    assert shown.count("accuracy") == 1  # where it is said that this is what R² is called elsewhere
    assert "best/validation/R²" in drawn
    for absent in ("nats", "accuracy"):
        assert absent not in drawn
    assert "%" not in shown
    assert "nats" not in shown


def test_words_of_a_classification_are_without_r_squared(tmp_path):
    spec = make_spec()
    page = render(tmp_path, spec, *make_study(spec))
    assert "R²" not in page.text
    assert "mean squared" not in page.raw.replace(get_plotlyjs(), "")


def test_summary_says_what_cannot_be_said():
    spec = make_spec()
    failure = Failure(kind="DivergedError", message="m")
    failed = [make_trial(spec, n, "none", 0, state=TrialState.FAIL, failure=failure) for n in range(2)]
    assert summary(spec, failed) == (
        "No trial is complete yet, so no arm can be called best.\nFailed: 2 trials (2 × DivergedError)."
    )
    one = summary(spec, [make_trial(spec, 0, "none", 0.5), make_trial(spec, 1, "l1", 0, state=TrialState.WAITING)])
    assert one.startswith("Best so far on the search split: trial 0")
    assert "No complete trial of perplexity, l1, so nothing can be said of them." in one
    assert "Only one arm has complete trials, so arms cannot be compared." in one
    assert "Still waiting or running: 1 trial, so this may change." in one
    assert "Caution: one complete trial with one seed says nothing about chance." in one


def test_summary_of_equal_trials_calls_none_better():
    spec = make_spec()
    text = summary(spec, [make_trial(spec, 0, "none", 0.5), make_trial(spec, 1, "l1", 0.5)])
    assert "trial 0 of arm none" in text
    assert "Against arm l1: level with its best trial (50.00 %), level with its median" in text


def test_page_has_the_answer_tables_figures_commands_and_spec(tmp_path):
    spec = make_spec()
    trials, trajectories = make_study(spec)
    page = render(tmp_path, spec, trials, trajectories)
    for line in summary(spec, trials).split("\n"):
        assert line in page.text
    assert "Which regulariser cures it?" in page.text
    assert "18 COMPLETE" in page.text
    assert "1 FAIL" in page.text
    # Trial 7 turns at the epoch drawn below; conv2 has sparsity 0.24 + 0.004 * turn there, against 0.5.
    turn = random.Random(7).randint(8, 20)
    got = 0.24 + 0.004 * turn
    assert f"{got:.3f} (target 0.50, {got - 0.5:+.2f})" in page.text
    assert "the loss of step 3 is not finite" in page.text
    assert "secret traceback" not in page.raw
    assert "sparsestudy run studies/s.yaml" in page.text
    shown = re.search(r"<details>.*?<pre>(.*?)</pre>", page.raw, re.DOTALL).group(1)
    assert read_spec(yaml.safe_load(shown)) == spec
    assert set(page.figures) == {
        "arms", "loss", "layers5", "layers7", "layers17", "map7", "map12",
        "value0", "value1", "value2", "value3", "value4",
    }  # fmt: skip
    plots = {a["id"] for _, a in page.tags if a.get("class") == "plot"}
    assert plots == {f"plot-{name}" for name in page.figures}


def test_page_inlines_plotly_once_and_embeds_only_what_is_drawn(tmp_path):
    spec = make_spec()
    trials, trajectories = make_study(spec)
    hidden = {"validation": {"undrawn.relu": {"perplexity": 0.5}}}
    trajectories[3] = [Measurement.from_dict({**m.to_dict(), "statistics": hidden}) for m in trajectories[3]]
    page = render(tmp_path, spec, trials, trajectories)
    assert page.raw.count("plotly.js v") == 1
    assert "undrawn" not in page.raw
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    code = [script for kind, script in page.scripts if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in code]
    assert len(code) == 3
    assert f"script-src {' '.join(repr(f'sha256-{digest}') for digest in hashes)};" in policy
    assert "unsafe-eval" not in policy


def test_long_curves_are_thinned_but_keep_the_minimum(tmp_path):
    spec = make_spec()
    trajectory = make_trajectory(random.Random(1), epochs=1001)
    low = min(trajectory, key=lambda m: m.validation_loss).epoch
    page = render(tmp_path, spec, [make_trial(spec, 0, "none", 0.5, trajectory=trajectory)], {0: trajectory})
    epochs = page.figures["loss"]["data"][0]["x"]
    assert len(epochs) <= 201
    assert {0, low, 1000} <= set(epochs)


def test_user_text_is_inert(tmp_path):
    arms = [{"name": EVIL.replace("/", "|"), "method": "l1", "strength": 0.1}, {"name": "none"}]
    spec = make_spec(question=EVIL, regularizers=arms)
    trajectory = make_trajectory(random.Random(0))
    failure = Failure(kind="<b>Kind", message=f"{EVIL}\udc80")
    trials = [
        make_trial(spec, 0, EVIL.replace("/", "|"), 0.5, trajectory=trajectory),
        make_trial(spec, 1, "none", 0.4, trajectory=trajectory),
        make_trial(spec, 2, "none", 0, state=TrialState.FAIL, failure=failure),
    ]
    page = render(tmp_path, spec, trials, {0: trajectory, 1: trajectory}, {EVIL: EVIL})
    assert page.text.count(EVIL) == 4 + 1  # question, message, command twice, and the question in the study file
    assert "<script>alert" not in page.raw
    assert "&lt;script&gt;alert" in page.figures["arms"]["data"][1]["y"][0]
    assert "<b>" not in json.dumps(page.figures)


@pytest.mark.parametrize("case", ["empty", "failed", "one", "bare", "absent", "running", "undefined"])
def test_page_of_an_odd_study(tmp_path, case):
    spec = make_spec()
    trials, trajectories = make_study(spec, statistics=case != "bare")
    if case == "empty":
        trials = []
    elif case == "failed":
        trials = [make_trial(spec, n, "none", 0, state=TrialState.FAIL) for n in range(3)]
    elif case == "one":
        trials = trials[:1]
    elif case == "absent":
        trajectories = {}
    elif case == "running":
        trials = [make_trial(spec, 0, "l1", 0, state=TrialState.RUNNING, trajectory=trajectories[0])]
    elif case == "undefined":
        trials = [make_trial(spec, 0, "none", math.nan), make_trial(spec, 1, "l1", math.nan)]
    page = render(tmp_path, spec, trials, trajectories)
    expected = {
        "empty": "No trial has been recorded yet, so there is no answer yet.",
        "failed": "Failed: 3 trials (3 × unknown).",
        "one": "Only one arm has complete trials, so arms cannot be compared.",
        "bare": "No layer statistics were recorded, so nothing can be said about sparsity.",
        "absent": "The epochs of these trials are not at hand, so no curves can be drawn.",
        "running": "Still waiting or running: 1 trial, so this may change.",
        "undefined": "– (higher is better)",
    }
    assert expected[case] in page.text
    assert bool(page.figures) == (case not in ("empty", "failed", "running"))


def test_page_of_several_objectives(tmp_path):
    objectives = [{"metric": "best/validation/accuracy"}, {"metric": "best/gap/loss", "direction": "minimize"}]
    spec = make_spec(search={"objectives": objectives})
    trials = [
        make_trial(spec, 0, "none", 0, values=(0.9, 0.5)),
        make_trial(spec, 1, "l1", 0, values=(0.8, 0.1)),
        make_trial(spec, 2, "l1", 0, values=(0.7, 0.3)),
    ]
    page = render(tmp_path, spec, trials, {})
    assert "trial 0 of arm none" in page.text
    assert "by the first of 2 objectives; 2 complete trials are on the Pareto front" in page.text
    assert "90.00 % 0.5" in page.text
    # Both span their range, so their distances are equal, and the lower number comes first.
    assert (
        "Pareto front, the best compromise first (all objectives weighing the same): trial 0 (best/validation/accuracy "
        "0.9, best/gap/loss 0.5); trial 1 (best/validation/accuracy 0.8, best/gap/loss 0.1)." in page.text
    )
    assert "Large points are on the front" in page.text


def test_commands_may_be_missing_and_an_old_page_is_replaced(tmp_path):
    spec = make_spec()
    render(tmp_path, spec, *make_study(spec))
    page = render(tmp_path, spec, [], {}, {})
    assert "Reproduce" not in page.text
    assert len(page.raw) < 20_000


def test_page_looks_inside_the_best_network(tmp_path):
    spec = make_spec()
    trials, _ = make_study(spec)
    inside = make_snapshot(make_layer("a.conv1"), make_layer(EVIL))
    page = render(tmp_path, spec, trials, {}, inside=inside)
    assert "Inside the best network Trial 7, perplexity·λ" in page.text
    assert "on each of 4 training and 4 validation examples" in page.text
    assert {"images", "correlation0", "correlation1", "maps0", "maps1"} <= set(page.figures)
    assert f"{EVIL}: mean |r| 0.00, 4 filters, 1 constant" in page.text
    absent = render(tmp_path, spec, trials, {})
    assert "Trial 7" in absent.text
    assert "there is no snapshot of it that can be read, so its inside cannot be shown" in absent.text
    assert "Inside" not in render(tmp_path, make_spec(measures={"snapshots": "none"}), trials, {}).text
    assert "Inside" not in render(tmp_path, spec, [], {}).text


def test_requested_target_reads_exact_names_and_patterns():
    spec = make_spec()
    trial = make_trial(spec, 0, "perplexity", 0.5)
    assert requested_target(trial, "features.conv2.relu") == 0.5
    assert requested_target(trial, "features.conv1.relu") is None
    methods = ({"method": "l1"}, {"method": "perplexity", "targets": {"features.*": 0.25, "*": 0.75}})
    config = trial.config.model_copy(update={"methods": methods})
    other = Trial(number=0, config=config, state=TrialState.COMPLETE)
    assert requested_target(other, "features.conv1.relu") == 0.25
    assert requested_target(other, "classifier.relu") == 0.75


def test_summary_of_many_arms_compares_the_best_and_the_control():
    arms = [{"name": f"d{i}", "method": "dropout", "strength": 0.1} for i in range(9)]
    spec = make_spec(regularizers=[*arms, {"name": "none"}])
    trials = [make_trial(spec, i, arm.name, 0.9 - 0.01 * i) for i, arm in enumerate(spec.regularizers)]
    lines = summary(spec, trials).split("\n")
    assert [line.split(":")[0] for line in lines[1:8]] == [
        *(f"Against arm d{i}" for i in range(1, 7)),
        "Against arm none",
    ]
    assert lines[8] == "The best trial of each of 2 further arms is worse; the page lists them."
