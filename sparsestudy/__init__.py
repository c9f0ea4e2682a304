"""Studies of regularisers and per-layer activation sparsity, for networks that overfit.

The public names, each imported when it is first used (torch alone takes seconds):

- `run`, `plan`, `open_study`, `studies`: the verbs on a study; see `sparsestudy.operations`.
- `select`, `load_winner`: the configuration to ship, and its trained network; see `sparsestudy.selecting`.
- `StudySpec`, `TrialConfig`, `Trial`, `TrialState`, `Measurement`: the vocabulary; see `sparsestudy.study`
  and `sparsestudy.trial`.
- `fit`, `Probe`: train one configuration, look inside any network; see `sparsestudy.training`.
- `sparsestudy.regularizers` and `sparsestudy.measures`: the methods and the statistics.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsestudy.operations import open_study, plan, run, studies
    from sparsestudy.selecting import select
    from sparsestudy.study import StudySpec
    from sparsestudy.training.loop import fit
    from sparsestudy.training.probe import Probe
    from sparsestudy.training.weights import load_winner
    from sparsestudy.trial import Measurement, Trial, TrialConfig, TrialState

__all__ = [
    "Measurement",
    "Probe",
    "StudySpec",
    "Trial",
    "TrialConfig",
    "TrialState",
    "fit",
    "load_winner",
    "open_study",
    "plan",
    "run",
    "select",
    "studies",
]

_HOMES = {
    "sparsestudy.operations": ("open_study", "plan", "run", "studies"),
    "sparsestudy.selecting": ("select",),
    "sparsestudy.study": ("StudySpec",),
    "sparsestudy.trial": ("Measurement", "Trial", "TrialConfig", "TrialState"),
    "sparsestudy.training.loop": ("fit",),
    "sparsestudy.training.probe": ("Probe",),
    "sparsestudy.training.weights": ("load_winner",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
