"""What the relation says, as sections of a page: for one study's outcome page, or on a page of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparsestudy.analysis.evidence import Evidence
from sparsestudy.analysis.relation import Relation


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What there is to show.

    Attributes:
        relation: What was fitted.
        evidence: The trials it was fitted to.
        importance: Share of each searched parameter in what tells good trials from the rest, by parameter, for each
            arm and for ``all`` trials together; empty if it is not known.
    """

    relation: Relation
    evidence: Evidence
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def score(self) -> str:
        """What the score is called, as the card has it: ``accuracy`` or ``R²``."""
        return "R²" if any("R²" in f"{v.claim} {v.unit}" for v in self.relation.verdicts) else "accuracy"
