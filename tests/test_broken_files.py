"""Every mistake a study file can have, and the whole text a user reads about it: ``broken_files.yaml`` is the table.

The texts were read one by one as a user would: each says where, what was found, what is allowed and, where there is a
likely intention, what was meant.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from sparsestudy import cli, planning, specfile
from sparsestudy.errors import SpecError

CASES = yaml.safe_load(Path(__file__).with_name("broken_files.yaml").read_text(encoding="utf-8"))
MANY = """\
name: my study
model:
  arguments: {dense: 0}
training:
  epochs: 3
  batch_size: 0.5
regularizers:
  - name: dropout
    strength: {uniform: [0.1, 1.2]}
  - name: droput
  - name: l1_activity
    strength: {log_uniform: [0, 1]}
search:
  objectives:
    - {metric: accuracy}
stopping:
  grace: 3
measures:
  main: zero
selection:
  finalists: -1
resources:
  {workers: 2, gpus: 0.5}
budget:
  minutes: soon
"""
MANY_PROBLEMS = """\
13 problems, nothing was started
  line 1: name: needs 1 to 100 letters, digits, '.', '_' or '-', first a letter or digit, got "my study"
  line 3: model.arguments.dense: needs an integer from 1 up; got 0
  line 6: training.batch_size: needs a whole number, got 0.5
  line 9: regularizers[0].strength: strength lies in [0, 1), got 1.2
  line 10: regularizers[1].name: no regularizer named 'droput'; there are: adversarial_training, al2, amp, \
basis_collapse, batch_norm, comhe, decoupled_weight_decay, decov, drop_grad, dropout, early_stopping, \
filter_correlation, gradient_penalty, growing_l2, hoyer, isda, l1_activity, l2_activity, label_smoothing, \
loss_gradient, mhe, mma, none, normalize_and_project, p_norm_path, perplexity, perturbation_penalty, \
soft_orthogonality, sparseout, spatial_dropout, spectral_penalty, spectral_projection, srip, transformed_l1, \
weight_correlation, weight_decay; did you mean 'dropout'?
  line 12: regularizers[2].strength: log_uniform needs low > 0, got 0
  line 13: search.trials: is missing; sampler tpe needs a number of trials
  line 15: search.objectives[0].metric: no metric named 'accuracy'; allowed: best/… or final/… and one of train/loss, \
train/accuracy, validation/loss, validation/accuracy, gap/loss, gap/accuracy, penalty, sparsity/mean, \
compute/skipped; did you mean 'best/validation/accuracy'?
  line 17: stopping.grace: unknown key; allowed: rule, grace_epochs, reduction_factor
  line 19: measures.main: 'zero' is not measured; allowed: perplexity, perplexity_inter, perplexity_intra, \
perplexity_image, perplexity_silent, zero_fraction, dead_fraction
  line 21: selection.finalists: needs a number > 0, got -1
  line 23: resources.gpus: 2 workers need a GPU each or none, so 2 or 0 for a trial, got 0.5
  line 25: budget.minutes: needs a number, got "soon"
"""


def deep(input_shape: tuple[int, ...], classes: int, depth: int = 1) -> nn.Module:
    """A network whose argument changes its layers, for the table."""
    width = input_shape[0] * input_shape[1] * input_shape[2]
    hidden = [module for _ in range(depth) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))


def normed(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network with a batch norm that norms by the batch in evaluation too, for the table."""
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), norm, nn.ReLU(), nn.Linear(8, classes))


def labelled(kind: str) -> tuple[Tensor, Tensor]:
    """Sixty examples with labels of a kind, for the table."""
    turn = torch.arange(60) % 3
    kinds = {
        "classes": turn,
        "numbers": turn.double(),
        "column": turn.double()[:, None],
        "missing": torch.where(torch.arange(60) == 7, torch.nan, turn.double()),
        "constant": torch.full((60,), 3.0),
        "ages": 20 + turn,
    }
    return torch.zeros(60, 4), kinds[kind]


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_whole_text_of_every_refusal(case: dict[str, str]) -> None:
    with pytest.raises(SpecError) as error:
        planning.resolve(specfile.parse(case["file"]))
    assert str(error.value).replace(str(Path.cwd()), "{cwd}") == case["error"].rstrip("\n")


def test_texts_speak_of_study_files_and_not_of_python() -> None:
    jargon = r"should be|pydantic|scalar|constructor|Traceback|\b(tuple|dict|str|bool|int_type|NoneType|None|False)\b"
    assert [case["case"] for case in CASES if re.search(jargon, case["error"])] == []


def test_cases_are_told_apart() -> None:
    assert len({case["case"] for case in CASES}) == len({case["file"] for case in CASES}) == len(CASES) >= 50


def test_every_mistake_of_a_file_is_reported_at_once_in_its_order() -> None:
    with pytest.raises(SpecError) as error:
        planning.resolve(specfile.parse(MANY, source="many.yaml"))
    assert str(error.value) + "\n" == f"many.yaml: {MANY_PROBLEMS}"


def test_command_line_prints_them_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, file = tmp_path / "home", tmp_path / "many.yaml"
    file.write_text(MANY, encoding="utf-8")
    monkeypatch.setenv("SPARSESTUDY_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for verb in ("validate", "plan", "run"):
        assert cli.main([verb, str(file)]) == 2
        printed = capsys.readouterr()
        assert printed.err == f"error: {file}: {MANY_PROBLEMS}"
        assert printed.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["many.yaml"]


def test_command_line_on_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nowhere.yaml"
    assert cli.main(["validate", str(file)]) == 2
    assert capsys.readouterr().err == f"error: no study file {str(file)!r}; give the path of a YAML file\n"


def test_command_line_on_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("name: t\nregularizers: [{name: none}]\n", encoding="utf-8")
    assert cli.main(["validate", str(file), "-s", "search.trials=3"]) == 0
    assert capsys.readouterr().out == f"{file}: valid; 3 trials over 1 arm\n"
