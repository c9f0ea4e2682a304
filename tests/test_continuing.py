"""Which files continue a study, and what the others are told."""

from __future__ import annotations

from typing import Any

import pytest

from sparsestudy import recorded
from sparsestudy.continuing import obstacles
from sparsestudy.errors import ConflictError, NotFoundError
from sparsestudy.study import StudySpec
from sparsestudy.tracking.ledger import Ledger
from tests.servers import Postgres
from tests.tracking.test_ledger import config

NONE = {"name": "none"}
DROPOUT = {"name": "dropout", "strength": {"uniform": [0.1, 0.5]}}
DECAY = {"name": "weight_decay", "strength": 0.001}
FILE: dict[str, Any] = {"name": "s", "regularizers": [NONE, DROPOUT], "search": {"trials": 4, "sampler": "random"}}


def spec(**changes: Any) -> StudySpec:
    return StudySpec.from_dict({**FILE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"question": "Why?"},
        {"search": {"trials": 400, "sampler": "random"}},
        {"search": {"trials": 2, "sampler": "random"}},
        {"regularizers": [NONE, DROPOUT, DECAY]},
        {"regularizers": [DECAY, NONE, DROPOUT], "search": {"trials": 9, "sampler": "random"}},
    ],
)
def test_more_trials_and_further_arms_continue(changes: dict[str, Any]) -> None:
    assert obstacles(spec(), spec(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"regularizers": [NONE]}, ["regularizers[1]: arm 'dropout' is gone; arms can only be added"]),
        (
            {"regularizers": [NONE, {"name": "dropout", "strength": 0.3}, DECAY]},
            ['regularizers[1].strength: {"uniform": [0.1, 0.5]} -> 0.3'],
        ),
        ({"regularizers": [DROPOUT, NONE]}, ["regularizers: arms in the order none, dropout -> dropout, none"]),
        (
            {"training": {"epochs": 5}, "search": {"trials": 9}, "regularizers": [NONE, DROPOUT, DECAY]},
            ['search: {"sampler": "random"} -> (default)', 'training: (default) -> {"epochs": 5}'],
        ),
    ],
)
def test_anything_else_does_not(changes: dict[str, Any], lines: list[str]) -> None:
    assert obstacles(spec(), spec(**changes)) == lines


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ledgers in the folders of their studies, and then all in one database."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres_server")
        monkeypatch.setenv("SPARSESTUDY_DATABASE_URL", server.database())
    return str(request.param)


def test_studies_are_claimed_continued_and_told_apart(where: str) -> None:
    with recorded.claim(spec()) as study:
        lease = study.ledger.lease(study.record)
        study.ledger.add_trials(lease, [config(n) for n in range(3)])
        study.ledger.create_study("s-finals", spec(name="s-finals"), parent=study.record)
        lease.release()
        first = study.record.id
    for changes in ({}, {"search": {"trials": 3, "sampler": "random"}}, {"regularizers": [NONE, DROPOUT, DECAY]}):
        with recorded.claim(spec(**changes)) as study:
            assert (study.name, study.record.id) == ("s", first)
    with pytest.raises(ConflictError, match=r"study 's' has 3 trials, search.trials: 2 is fewer; ask for at least 3"):
        recorded.claim(spec(search={"trials": 2, "sampler": "random"}))
    with pytest.raises(ConflictError, match=r"started from a different file:\n  training: \(default\) -> "):
        recorded.claim(spec(training={"epochs": 5}))
    if where == "postgresql":  # where names of finals are taken too
        with recorded.claim(spec(name="s-finals")) as study:
            assert study.name == "s-finals-2"
    with recorded.claim(spec(training={"epochs": 5}), new=True) as study:
        assert study.name == "s-2"
        assert study.folder == recorded.home() / "s-2"
    assert {name for name in recorded.studies() if "finals" not in name} == {"s", "s-2"}
    with recorded.claim(spec()) as study:
        assert study.name == "s"
    with pytest.raises(NotFoundError, match=r"no study named 's-3' in .*; studies: .*; did you mean"):
        recorded.open_study("s-3")
    ledgers = [path.name for path in recorded.home().rglob("ledger.db")]
    assert len(ledgers) == (2 if where == "sqlite" else 0)


def test_a_name_that_somebody_else_has_just_taken(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking for the study and making it, another process makes it: it is the same study."""
    original = Ledger.create_study
    raced: list[str] = []

    def create(self: Ledger, name: str, *arguments: Any, **more: Any) -> Any:
        if not raced:
            raced.append(name)
            recorded.claim(spec()).ledger.close()
        return original(self, name, *arguments, **more)

    monkeypatch.setattr(Ledger, "create_study", create)
    with recorded.claim(spec()) as study:
        assert study.name == raced[0] == "s"
    assert recorded.studies() == ["s"]


def test_a_study_that_grew_meanwhile_is_looked_at_again(where: str) -> None:
    with recorded.claim(spec()) as study:
        lease = study.ledger.lease(study.record)
        study.ledger.update_spec(lease, spec(regularizers=[NONE, DROPOUT, DECAY]))
        with pytest.raises(ConflictError, match=r"regularizers\[2\]: arm 'weight_decay' is gone"):
            study.check(spec())
