"""Snapshots as files: they come back as they were, and whatever is wrong with a file is a picture less, no more."""

from __future__ import annotations

import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsestudy import snapshot
from sparsestudy.snapshot import CORRELATED, FilterMaps, LayerSnapshot, Snapshot

NAN = float("nan")


def make_maps(filters: tuple[int, ...], examples: int, side: int = 2) -> FilterMaps:
    """Maps that tell their filter: all zero but for the filter's number plus one in the last pixel."""
    maps = np.zeros((examples, len(filters), side, side), dtype=np.float32)
    maps[:, :, -1, -1] = np.array(filters, dtype=np.float32) + 1
    sparsity = np.array([0.75 - filter_ / 100 for filter_ in filters], dtype=np.float32)
    return FilterMaps(filters=np.array(filters, dtype=np.int64), sparsity=sparsity, maps=maps)


def make_layer(name: str = "features.conv1", filters: int = 4, *, examples: int = 2, **changes: Any) -> LayerSnapshot:
    """A layer whose last filter is dead: sparsity .5 on all training images, .25 to .75 and once none in validation."""
    kept = min(filters, CORRELATED)
    matrix = np.eye(kept, dtype=np.float16)
    matrix[-1, :] = matrix[:, -1] = NAN
    live = tuple(range(filters - 1))
    half = (len(live) + 1) // 2
    parts = {
        "name": name,
        "shape": (filters, 2, 2),
        "sparsity": {
            "train": np.full(4, 0.5, dtype=np.float32),
            "validation": np.array([0.25, 0.75, 0.75, NAN], dtype=np.float32),
        },
        "dead": {"train": 1, "validation": 1},
        "correlation": matrix,
        "sparsest": make_maps(live[:half][:4], examples),
        "densest": make_maps(live[half:][-4:], examples),
    }
    return LayerSnapshot(**{**parts, **changes})


def make_snapshot(*layers: LayerSnapshot, channels: int = 1) -> Snapshot:
    """Two examples, of which the second is taken for another class; a black image and a white one."""
    images = np.zeros((2, channels, 4, 4), dtype=np.uint8)
    images[1] = 255
    return Snapshot(
        layers=layers or (make_layer(),),
        examples=np.array([0, 3]),
        images=images,
        labels=np.array([7, 1]),
        predictions=np.array([7, 2]),
    )


def flat(of: Snapshot) -> dict[str, Any]:
    """Everything in a snapshot by its path."""
    found: dict[str, Any] = {name: getattr(of, name) for name in ("examples", "images", "labels", "predictions")}
    for layer in of.layers:
        found |= {f"{layer.name}.{key}": getattr(layer, key) for key in ("shape", "correlation")}
        found |= {f"{layer.name}.{split}": values for split, values in layer.sparsity.items()}
        found |= {f"{layer.name}.dead.{split}": count for split, count in layer.dead.items()}
        for group in ("sparsest", "densest"):
            maps = getattr(layer, group)
            found |= {f"{layer.name}.{group}.{key}": getattr(maps, key) for key in ("filters", "sparsity", "maps")}
    return found


def test_bytes_are_read_back_as_they_were() -> None:
    odd = "layer1.0.relu#2/<b>%{x} 漢"
    before = make_snapshot(make_layer(), make_layer(odd, filters=70))
    after = Snapshot.from_bytes(before.to_bytes())
    assert [layer.name for layer in after.layers] == ["features.conv1", odd]
    left, right = flat(before), flat(after)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(right[name], value, err_msg=name)
        assert getattr(right[name], "dtype", None) == getattr(value, "dtype", None), name
    assert after.to_bytes() == before.to_bytes()


def test_a_network_without_layers_is_read_back() -> None:
    none = np.empty(0, dtype=np.int64)
    empty = Snapshot(
        layers=(), examples=none, images=np.empty((0, 1, 1, 1), dtype=np.uint8), labels=none, predictions=none
    )
    assert Snapshot.from_bytes(empty.to_bytes()).layers == ()
    assert empty.images_of("train") == 0


def rewritten(**changes: Any) -> bytes:
    """A well-formed file with other arrays in it."""
    with np.load(io.BytesIO(make_snapshot().to_bytes())) as stored:
        arrays = {name: stored[name] for name in stored.files}
    out = io.BytesIO()
    np.savez_compressed(out, **{**arrays, **changes})
    return out.getvalue()


def header(**changes: Any) -> np.ndarray[Any, Any]:
    entry = {"name": "features.conv1", "shape": [4, 2, 2], "dead": {"train": 1, "validation": 1}}
    text = json.dumps({"format": snapshot.FORMAT, "layers": [entry], **changes})
    return np.frombuffer(text.encode(), dtype=np.uint8)


class Trap:
    """Would say so if a file were ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a snapshot was unpickled",)


WHOLE = make_snapshot().to_bytes()
DAMAGED = {
    "empty": b"",
    "text": b"not a zip at all",
    "cut": WHOLE[:-200],
    "head": WHOLE[:100],
    "flipped": WHOLE[:300] + bytes([WHOLE[300] ^ 0xFF]) + WHOLE[301:],
    "pickle": pickle.dumps(Trap()),
    "objects": rewritten(images=np.array([Trap()], dtype=object)),
    "single": (lambda out: (np.save(out, np.zeros(3)), out.getvalue())[1])(io.BytesIO()),
    "format": rewritten(header=header(format=99)),
    "header": rewritten(header=np.frombuffer(b"{]", dtype=np.uint8)),
    "layers": rewritten(header=header(layers=[{"name": "other"}])),
    "matrix": rewritten(**{"0/correlation": np.zeros((3, 4), dtype=np.float16)}),
    "maps": rewritten(**{"0/densest/maps": np.zeros((2, 9, 2, 2), dtype=np.float32)}),
    "examples": rewritten(examples=np.arange(5)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_error(case: str) -> None:
    with pytest.raises(ValueError, match="not a readable snapshot: "):
        Snapshot.from_bytes(DAMAGED[case])


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_no_snapshot(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshot.write(tmp_path, 7, DAMAGED[case])
    with caplog.at_level(logging.WARNING):
        assert snapshot.read(tmp_path, 7) is None
    assert "7.npz cannot be used, its pictures are left out" in caplog.text


def test_a_missing_file_is_no_snapshot_and_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert snapshot.read(tmp_path, 7) is None
    assert caplog.text == ""


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.write(tmp_path, 7, WHOLE)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["7.npz"]
    found = snapshot.read(tmp_path, 7)
    assert found is not None
    assert found.to_bytes() == WHOLE

    def dies(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)  # killed after the draft, before its renaming
        with pytest.raises(KeyboardInterrupt):
            snapshot.write(tmp_path, 7, b"half")
    assert (tmp_path / "snapshots" / "7.npz").read_bytes() == WHOLE
    snapshot.write(tmp_path, 7, WHOLE)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["7.npz"]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="2 filters do not fit maps of shape"):
        FilterMaps(filters=np.arange(2), sparsity=np.zeros(2), maps=np.zeros((1, 3, 2, 2)))
    with pytest.raises(ValueError, match="4 filters do not fit a matrix of shape"):
        make_layer(correlation=np.eye(3))
    with pytest.raises(ValueError, match="probe set validation is missing"):
        make_layer(sparsity={"train": np.zeros(4)}, dead={"train": 0})
    with pytest.raises(ValueError, match="a layer has not one map for each of 2 examples"):
        make_snapshot(make_layer(examples=3))
