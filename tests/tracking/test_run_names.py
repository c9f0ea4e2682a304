"""What foreign metrics are called: from a file, with all its mistakes at once, or as common frameworks log them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsestudy.errors import NotFoundError, SpecError
from sparsestudy.tracking.run_names import RunNames, detected, nothing_to_read, read_names


def written(folder: Path, text: str) -> Path:
    path = folder / "names.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_are_read_and_the_others_keep_their_defaults(tmp_path: Path) -> None:
    names = read_names(written(tmp_path, 'validation_loss: val_loss\nactivations: "zeros.{layer}"\nseeds: [rng]\n'))
    assert names == RunNames(validation_loss="val_loss", activations="zeros.{layer}", seeds=("rng",))


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = """
train_los: loss
train_accuracy: 3
activations: zeros
weights: "{layer}/{layer}"
network: "{measure}/{layer}"
seeds: seed
"""
    with pytest.raises(SpecError) as told:
        read_names(written(tmp_path, text))
    found = {problem.path: problem.message for problem in told.value.problems}
    assert set(found) == {
        "train_los", "train_accuracy", "activations", "weights", "network", "seeds", "validation_loss",
    }  # fmt: skip
    assert found["train_los"].endswith("did you mean 'train_loss'?")
    assert found["train_accuracy"] == "takes a name, got 3"
    assert found["activations"].startswith("needs {layer} once, may have {measure} once")
    assert found["seeds"] == "takes a list of parameters such as [seed], got 'seed'"
    assert found["validation_loss"].startswith("is missing")


@pytest.mark.parametrize("text", ["- val_loss", "val_loss", "", "a: [", "a: b: c"])
def test_what_is_no_mapping_is_said_so(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"names\.yaml: 1 problem"):
        read_names(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"there is no file .*none\.yaml"):
        read_names(tmp_path / "none.yaml")


# As the frameworks' own documentation shows what their loggers write.
FRAMEWORKS = {
    "lightning": (
        ["epoch", "train_loss_step", "train_loss_epoch", "val_loss", "val_acc", "train_acc_epoch"],
        ("train_loss_epoch", "train_acc_epoch", "val_loss", "val_acc"),
    ),
    "keras": (["loss", "accuracy", "val_loss", "val_accuracy"], ("loss", "accuracy", "val_loss", "val_accuracy")),
    "hugging face": (
        ["loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy", "eval_runtime", "epoch"],
        ("loss", "train/accuracy", "eval_loss", "eval_accuracy"),
    ),
    "hugging face, rewritten": (
        ["train/loss", "eval/loss", "eval/accuracy"],
        ("train/loss", "train/accuracy", "eval/loss", "eval/accuracy"),
    ),
    "sparsestudy": (
        ["train/loss", "train/accuracy", "validation/loss", "validation/accuracy"],
        ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"),
    ),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_names_of_common_frameworks_are_known(framework: str) -> None:
    metrics, expected = FRAMEWORKS[framework]
    assert tuple(detected(metrics).curves.values()) == expected


def test_the_measure_that_most_layers_have_stands_in_for_perplexity() -> None:
    metrics = ["sparsity/gini/a", "sparsity/gini/b", "sparsity/hoyer/a"]
    assert detected(["val_loss", *metrics]).main == "gini"
    assert detected(["val_loss", *metrics, "sparsity/perplexity/a"]).main == "perplexity"


def test_the_file_that_an_error_offers_can_be_read(tmp_path: Path) -> None:
    told = str(nothing_to_read("e", 3, ["acc", "my_loss"], None))
    assert "none of the 3 runs of experiment 'e' logged a validation loss (validation/loss, val_loss" in told
    offered = told.split("--names FILE:\n")[1]
    assert read_names(written(tmp_path, offered)) == RunNames(validation_loss="my_loss")
