"""Packed measurements come back as they went, and ledgers from before packing go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import StatementError

from sparsestudy.tracking.ledger import Ledger
from sparsestudy.tracking.packing import pack, unpack
from sparsestudy.trial import Measurement
from tests.tracking.test_ledger import SPEC, config, measurement

names = st.text(min_size=1, max_size=5)
values = st.none() | st.floats(allow_nan=False)
nested = st.dictionaries(names, st.dictionaries(names, st.dictionaries(names, values, min_size=1), min_size=1))


@settings(max_examples=200, deadline=None)
@given(nested)
def test_any_statistics_come_back_equal(statistics: dict[str, Any]) -> None:
    data, shape = pack({"epoch": 3, "statistics": statistics})
    assert (shape is None) == (not statistics)
    written = json.loads(json.dumps(data))
    assert unpack(written, dict([shape] if shape else [])) == {"epoch": 3, "statistics": statistics}


@pytest.mark.parametrize(
    "statistics", [{"train": {}}, {"train": {"a": {}, "b": {"gini": 1.0}}}, {"train": {"a": {"gini": math.nan}}}, {}]
)
def test_what_would_not_come_back_equal_is_not_packed(statistics: dict[str, Any]) -> None:
    assert pack({"statistics": statistics}) == ({"statistics": statistics}, None)


def test_numbers_alone_are_written_again_and_again_and_names_once(tmp_path: Path) -> None:
    layers = {
        f"features.block{i}": {"perplexity": i / 7, "perplexity_image": None, "zero_fraction": 0.5} for i in range(16)
    }
    sent = [
        Measurement.from_dict({**measurement(e).to_dict(), "statistics": {"validation": layers}}) for e in range(40)
    ]
    ledger = Ledger.in_folder(tmp_path)
    lease = ledger.lease(ledger.create_study("s", SPEC))
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    for taken in sent:
        ledger.record(lease, 0, 1, [taken])
    assert ledger.trajectory(lease.study_id, 0) == sent
    texts = [text for _, _, text in ledger.measurement_texts(lease.study_id)]
    assert len(ledger.shapes(lease.study_id)) == 1
    # 48 numbers of 8 bytes in base64, and a few scalars; the names alone would be 2,000 characters.
    assert max(len(text) for text in texts) < 48 * 8 * 4 / 3 + 400
    ledger.close()
    again = Ledger.in_folder(tmp_path)
    assert again.trajectory(lease.study_id, 0) == sent
    assert list(again.undelivered(lease.study_id)[0].measurements) == sent
    again.close()


def test_a_shape_whose_transaction_failed_is_written_with_the_next(tmp_path: Path) -> None:
    ledger = Ledger.in_folder(tmp_path)
    lease = ledger.lease(ledger.create_study("s", SPEC))
    ledger.add_trials(lease, [config(0)])
    ledger.start(lease, 0)
    broken = Measurement.from_dict({**measurement(0).to_dict(), "timestamp": object()})
    with pytest.raises(StatementError, match="not JSON serializable"):
        ledger.record(lease, 0, 1, [broken])
    assert ledger.shapes(lease.study_id) == {}
    ledger.record(lease, 0, 1, [measurement(0)])
    assert ledger.trajectory(lease.study_id, 0) == [measurement(0)]
    ledger.close()
