"""The parts of checking that broken files do not reach: one problem a mistake, and nothing blamed for another's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsestudy.checking import Checker, set_path
from sparsestudy.specfile import parse


def problems(text: str) -> list[str]:
    checker = Checker(parse(text))
    checker.check()
    return [str(problem) for problem in checker.problems]


def test_a_good_file_has_none() -> None:
    assert problems("name: t\nregularizers: [{name: dropout, strength: auto}]\nsearch: {trials: 1}\n") == []


def test_checking_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    assert problems("name: t\nregularizers: [{name: none}]\nsearch: {trials: 1}\n") == []
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "section",
    ["data: {name: nowhere}", "data: 5", "model: {name: nowhere}", "model: 5", "training: 5", "measures: 5"],
)
def test_what_depends_on_a_broken_section_is_not_blamed(section: str) -> None:
    text = f"""\
name: t
{section}
regularizers:
  - {{name: perplexity, targets: {{anywhere.*: 0.5}}, strength: {{anywhere.else: 1}}}}
search:
  trials: 1
  parameters: {{model.arguments.width: {{int: [1, 2]}}, training.epochs: {{int: [5, 60]}}}}
stopping: {{rule: asha, grace_epochs: 4}}
"""
    draft = parse(text)
    checker = Checker(draft)
    checker.check()
    found = [*draft.problems, *checker.problems]
    name = section.partition(":")[0]
    if name in ("data", "model"):
        assert [p.path.partition(".")[0] for p in found] == [name]
    else:  # the layers are known then, so what names them is judged
        assert [p.path for p in found] == [
            name,
            'regularizers[0].strength["anywhere.else"]',
            'regularizers[0].targets["anywhere.*"]',
            'search.parameters["model.arguments.width"]',
        ]


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("training.epochs: {int: [6, 9]}", []),
        ("training.batch_size: {uniform: [8, 16], step: 8}", ["needs whole numbers; search it with int"]),
        ("data.train_size: {choice: [100, null]}", []),
        ("data.arguments.resize: {choice: [8, 16, null]}", []),
        ("model.arguments.activation: {choice: [relu, gelu]}", []),
        (
            "data.arguments.resize: {int: [2, 8]}",
            ["2 poolings shrink 2x2 images below 1x1; a side of 2 allows at most 1"],
        ),
        (
            "model.arguments.channels.0: {int: [8, 9]}",
            ["model.arguments.channels has nothing below it; search a setting of its own"],
        ),
        (
            "training.schedule.warmup_epochs: {int: [0, 50]}",
            ["50 does not go with training.schedule.warmup_epochs: must be less than the 50 epochs of a trial, got 50"],
        ),
    ],
)
def test_every_corner_of_a_searched_setting_is_tried(parameters: str, found: list[str]) -> None:
    text = f"name: t\nregularizers: [{{name: none}}]\nsearch: {{trials: 1, parameters: {{{parameters}}}}}\n"
    path = f'search.parameters["{parameters.partition(":")[0]}"]'
    assert problems(text) == [f"{path}: {message}" for message in found]


def test_setting_a_path() -> None:
    raw: dict[str, Any] = {"training": {"epochs": 5}}
    set_path(raw, ["training", "optimizer", "lr"], 0.1)
    set_path(raw, ["training", "epochs"], 6)
    assert raw == {"training": {"epochs": 6, "optimizer": {"lr": 0.1}}}
