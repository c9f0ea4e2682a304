"""What metrics and parameters are called in somebody's MLflow runs: told in a file, or known from common frameworks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from sparsestudy.errors import NotFoundError, Problem, SpecError, listing, suggest
from sparsestudy.specfile import load_yaml
from sparsestudy.tracking.recordings import Place

KNOWN = {
    "validation_loss": ("validation/loss", "val_loss", "val_loss_epoch", "val/loss", "eval/loss", "eval_loss",
                        "valid_loss", "validation_loss"),
    "train_loss": ("train/loss", "train_loss_epoch", "train_loss", "training_loss", "loss_epoch", "loss"),
    "validation_accuracy": ("validation/accuracy", "val_accuracy", "val_acc", "val_accuracy_epoch", "val_acc_epoch",
                            "val/accuracy", "val/acc", "eval/accuracy", "eval_accuracy", "valid_accuracy",
                            "validation_accuracy"),
    "train_accuracy": ("train/accuracy", "train_accuracy_epoch", "train_acc_epoch", "train_accuracy", "train_acc",
                       "train/acc", "training_accuracy", "accuracy", "acc"),
}  # fmt: skip
"""Names under which this project, Lightning, Keras, Hugging Face's trainer and fastai log; the first there counts."""
_TEMPLATES = {
    "activations": ({"layer"}, {"measure"}),
    "weights": ({"layer"}, {"measure"}),
    "network": ({"measure"}, {"split"}),
    "targets": ({"layer"}, {"arm"}),
}
"""Places that a template has to have, and may have."""


@dataclass(frozen=True, kw_only=True)
class RunNames:
    """What things are called in the runs; the defaults are this project's own names.

    Attributes:
        train_loss, train_accuracy, validation_loss, validation_accuracy: Metrics. Only the validation loss is needed.
        activations: Metrics that are measures of a layer, ``{layer}`` and perhaps ``{measure}`` in place of the names.
        weights: Likewise of weights.
        network: Likewise of the network, with ``{measure}`` and perhaps ``{split}``.
        arm: The tag or parameter that holds the arm; runs without it are of arm ``all``.
        seeds: Parameters that tell replicates of one configuration apart.
        targets: Parameters that are sparsity targets, with ``{layer}`` and perhaps ``{arm}``.
        main: The measure that targets are in, and that ``activations`` without ``{measure}`` yield.
    """

    train_loss: str = "train/loss"
    train_accuracy: str = "train/accuracy"
    validation_loss: str = "validation/loss"
    validation_accuracy: str = "validation/accuracy"
    activations: str = "sparsity/{measure}/{layer}"
    weights: str = "weights/{measure}/{layer}"
    network: str = "network/{split}/{measure}"
    arm: str = "sparsestudy.arm"
    seeds: tuple[str, ...] = ("seed", "training.seed")
    targets: str = "{arm}/targets/{layer}"
    main: str = "perplexity"

    @property
    def curves(self) -> dict[str, str]:
        """Metric of each curve."""
        return {
            "train/loss": self.train_loss,
            "train/accuracy": self.train_accuracy,
            "validation/loss": self.validation_loss,
            "validation/accuracy": self.validation_accuracy,
        }

    def place(self, metric: str) -> Place | None:
        """What series a metric is, None if it is none.

        Example:
            >>> RunNames().place("sparsity/perplexity/conv1")
            ('activations', 'conv1', 'perplexity')
            >>> RunNames(activations="act_{layer}_zeros", main="zero_fraction").place("act_3_zeros")
            ('activations', '3', 'zero_fraction')
        """
        for kind, template in (("activations", self.activations), ("weights", self.weights), ("network", self.network)):
            if (found := match(template, metric)) is not None:
                measure = found.get("measure", self.main)
                if kind == "network" and found.get("split", "train") != "train":
                    measure = f"{found['split']}/{measure}"
                return kind, found.get("layer", ""), measure
        return None

    def wanted(self, metrics: Iterable[str]) -> list[str]:
        """Those of some metrics that mean something."""
        curves = set(self.curves.values())
        return [metric for metric in metrics if metric in curves or self.place(metric) is not None]


def match(template: str, text: str) -> Mapping[str, str] | None:
    """Parts of ``text`` that stand in the place of ``{name}`` in the template; only a layer has slashes.

    Example:
        >>> match("sparsity/{measure}/{layer}", "sparsity/gini/block1/conv2")
        {'measure': 'gini', 'layer': 'block1/conv2'}
    """
    parts = re.split(r"\{(\w+)\}", template)
    pattern = "".join(
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{'.+' if part == 'layer' else '[^/]+'})"
        for i, part in enumerate(parts)
    )
    found = re.fullmatch(pattern, text)
    return None if found is None else found.groupdict()


def detected(metrics: Collection[str]) -> RunNames:
    """Names for an experiment of which only its metrics are known: those of `KNOWN` that are there.

    Targets are taken to be in perplexity, or in the measure of layers that most metrics are of.

    Example:
        >>> found = detected(["val_loss", "loss", "accuracy", "val_accuracy"])  # as Keras logs
        >>> found.validation_loss, found.train_loss, found.train_accuracy
        ('val_loss', 'loss', 'accuracy')
    """
    named: dict[str, Any] = {
        field: next((n for n in names if n in metrics), names[0]) for field, names in KNOWN.items()
    }
    places = [place for metric in metrics if (place := RunNames().place(metric)) is not None]
    measures = [measure for kind, _, measure in places if kind == "activations"]
    usual = RunNames().main
    main = max(sorted(set(measures)), key=measures.count) if measures and usual not in measures else usual
    return RunNames(**named, main=main)


def nothing_to_read(experiment: str, runs: int, metrics: Collection[str], names: RunNames | None) -> NotFoundError:
    """The error for runs without a validation loss, with all that it takes to name one."""
    missed = repr(names.validation_loss) if names else f"a validation loss ({listing(KNOWN['validation_loss'])})"
    guess = next((m for m in sorted(metrics) if "loss" in m.lower()), "NAME OF THE METRIC")
    others = [field for field in fields(RunNames) if field.name != "validation_loss"]
    lines = [
        f"none of the {runs} runs of experiment {experiment!r} logged {missed}",
        f"metrics there: {listing(sorted(metrics))}",
        "say which is which in a file, and give it with --names FILE:",
        f"  validation_loss: {guess}",
        *(f"  {field.name}: {_spelled(field.default)}" for field in others),
    ]
    return NotFoundError("\n".join(lines))


def _spelled(value: Any) -> str:
    """A default as YAML on one line; a brace would begin a mapping."""
    if isinstance(value, str):
        return f'"{value}"' if "{" in value else value
    return f"[{listing(value)}]"


def read_names(path: Path) -> RunNames:
    """Names as a YAML file gives them: any of the attributes of `RunNames`, the others as their defaults.

    Raises:
        NotFoundError: There is no such file.
        SpecError: With every mistake in it.
    """
    if not path.is_file():
        raise NotFoundError(
            f"there is no file {path}; --names takes a YAML file, such as {{validation_loss: val_loss}}"
        )
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(str(path), [Problem("", f"is no YAML: {' '.join(str(error).split())}")]) from error
    known = [field.name for field in fields(RunNames)]
    if not isinstance(raw, dict):
        message = f"takes names as `key: name`; keys: {listing(known)}"
        raise SpecError(str(path), [Problem("", message)])
    problems = [problem for key, value in raw.items() if (problem := _problem(str(key), value, known)) is not None]
    if "validation_loss" not in raw:
        problems.append(Problem("validation_loss", "is missing: without it there are no epochs"))
    if problems:
        raise SpecError(str(path), problems)
    given: dict[str, Any] = {key: tuple(value) if key == "seeds" else value for key, value in raw.items()}
    return RunNames(**given)


def _problem(key: str, value: Any, known: Collection[str]) -> Problem | None:
    if key not in known:
        return Problem(key, f"unknown key; allowed: {listing(known)}{suggest(key, known)}")
    if key == "seeds":
        good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return None if good else Problem(key, f"takes a list of parameters such as [seed], got {value!r}")
    if not isinstance(value, str) or not value:
        return Problem(key, f"takes a name, got {value!r}")
    if key not in _TEMPLATES:
        return None
    needed, allowed = _TEMPLATES[key]
    given = re.findall(r"\{(\w+)\}", value)
    if len(given) == len(set(given)) and needed <= set(given) <= needed | allowed:
        return None
    places = [f"{{{name}}}" for name in (*sorted(needed), *sorted(allowed))]
    return Problem(key, f"needs {places[0]} once, may have {places[1]} once, and nothing else in braces; got {value!r}")
