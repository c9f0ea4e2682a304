"""What all trials of one or several studies say of sparsity and overfitting, fitted, written down, and put in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsestudy import files
from sparsestudy.errors import ConflictError
from sparsestudy.gathering import from_studies
from sparsestudy.recorded import open_study
from sparsestudy.words import called

if TYPE_CHECKING:
    from sparsestudy.analysis.relation import Relation

IMAGES = frozenset({"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "image_folder"})
"""Data sets of images. What a function of the user's returns is not known to be any."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was fitted, and the files it was written to: ``relation.json`` and two tables."""

    relation: Relation
    files: tuple[Path, ...]


def analyze(names: Sequence[str]) -> Analysis:
    """Fit how sparsity relates to overfitting over all trials of the studies.

    The files go to the folder of the first study.

    Args:
        names: Recorded studies, at least one.

    Raises:
        NotFoundError: One of them does not exist.
        ConflictError: None of them has a trial that can be used.
    """
    from sparsestudy.analysis.relation import relate, to_json
    from sparsestudy.analysis.rows import write_rows
    from sparsestudy.analysis.verdict import methods_of_arms

    with ExitStack() as stack:
        studies = [stack.enter_context(open_study(name)) for name in dict.fromkeys(names)]
        evidence = from_studies(*studies)
        if not len(evidence):
            raise ConflictError(
                f"no trial of {', '.join(names)} can be used: {len(evidence.excluded)} left out; "
                f"`sparsestudy trials` shows why"
            )
        methods = {arm: own for study in studies for arm, own in methods_of_arms(study.spec).items()}
        samplers = {study.spec.search.sampler for study in studies}
        relation = relate(
            evidence,
            methods,
            sampler=samplers.pop() if len(samplers) == 1 else None,
            question=studies[0].spec.question,
            accuracy=called("accuracy", studies[0].trials()[0].config.task),
            images={study.name: study.spec.data.name for study in studies if study.spec.data.name in IMAGES},
        )
        folder = studies[0].folder
        path = folder / "relation.json"
        files.replace(path, json.dumps(to_json(relation), indent=1, allow_nan=False).encode())
        return Analysis(relation=relation, files=(path, *write_rows(evidence, folder)))
