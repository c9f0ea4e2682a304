"""Which study files continue a recorded study: the same one, and one that only asks for more trials or further arms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparsestudy.study import StudySpec


def obstacles(recorded: StudySpec, given: StudySpec) -> list[str]:
    """What keeps a file from continuing a study, one line a difference; nothing if it may.

    The number of trials is free here, since only the ledger knows how many there are. Arms may be added anywhere; those
    that are recorded must stay, unchanged and in their order.

    Args:
        recorded: What the study was started from, or has grown to.
        given: What is asked for now.
    """
    before, after = recorded.identity(), given.identity()
    for identity in (before, after):
        search = {key: value for key, value in identity.pop("search", {}).items() if key != "trials"}
        identity.update({"search": search} if search else {})
    arms = _changed_arms(before.pop("regularizers"), after.pop("regularizers"))
    return sorted([*differences(before, after), *arms])


def _changed_arms(recorded: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> list[str]:
    known = {arm["name"]: arm for arm in given}
    kept = [arm["name"] for arm in given if arm["name"] in {arm["name"] for arm in recorded}]
    lines = []
    for place, arm in enumerate(recorded):
        here = f"regularizers[{place}]"
        if arm["name"] in known:
            lines += differences(arm, known[arm["name"]], here)
        else:
            lines.append(f"{here}: arm {arm['name']!r} is gone; arms can only be added")
    names = [arm["name"] for arm in recorded]
    if len(kept) == len(names) and kept != names:
        lines.append(f"regularizers: arms in the order {', '.join(names)} -> {', '.join(kept)}")
    return lines


def differences(recorded: Any, given: Any, path: str = "") -> list[str]:
    """How two specs differ, one line a difference.

    Example:
        >>> differences({"training": {"epochs": 5}}, {"training": {"epochs": 9}, "data": {"seed": 1}})
        ['data: (default) -> {"seed": 1}', 'training.epochs: 5 -> 9']
    """
    if isinstance(recorded, Mapping) and isinstance(given, Mapping):
        lines = []
        for key in sorted({*recorded, *given}):
            here = f"{path}.{key}" if path else str(key)
            lines += differences(recorded.get(key, _ABSENT), given.get(key, _ABSENT), here)
        return lines
    if isinstance(recorded, list) and isinstance(given, list) and len(recorded) == len(given):
        return [
            line
            for i, (a, b) in enumerate(zip(recorded, given, strict=True))
            for line in differences(a, b, f"{path}[{i}]")
        ]
    return [] if recorded == given else [f"{path}: {_spell(recorded)} -> {_spell(given)}"]


_ABSENT = object()


def _spell(value: Any) -> str:
    return "(default)" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
