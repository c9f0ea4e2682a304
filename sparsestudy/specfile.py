"""Reading study files: YAML and dotted overrides in, a `StudySpec` or every mistake out.

YAML is read by the 1.2 core rules people expect: ``1e-4`` is a number, ``no`` and ``on`` are words, a key that stands
twice is an error. Mistakes are collected, never raised one by one: `read` returns a draft that holds whatever could be
understood, so that later checks (which need the data and the network) can add theirs to the same list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sparsestudy.errors import NotFoundError, Problem, SpecError, listing, shown, suggest
from sparsestudy.study import StudySpec

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A study file as far as it could be understood.

    Attributes:
        source: Where it came from, for messages.
        spec: What was understood; sections with mistakes are replaced by their defaults, broken arms are missing.
        problems: Mistakes found so far.
        broken: Top-level sections that had mistakes; checks that depend on them must be skipped.
        arms: Index in the file of each arm in ``spec.regularizers``.
        lines: Line of each path in the file, for messages.
    """

    source: str
    spec: StudySpec
    problems: tuple[Problem, ...] = ()
    broken: frozenset[str] = frozenset()
    arms: tuple[int, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)

    def problem(self, path: Path_, message: str) -> Problem:
        """A problem at a path of the file, with its line (that of the closest enclosing key)."""
        spelled = spell(path)
        line = next((n for cut in range(len(path), 0, -1) if (n := self.lines.get(spell(path[:cut])))), None)
        return Problem(spelled, message, line)

    def raise_for(self, further: Sequence[Problem] = ()) -> StudySpec:
        """Return the spec, or raise every problem at once in the order of the file.

        Raises:
            SpecError: There is at least one problem.
        """
        known = {problem.path for problem in self.problems}
        problems = [*self.problems, *(problem for problem in further if problem.path not in known)]
        if problems:
            raise SpecError(self.source, sorted(problems, key=lambda p: p.line or 0))
        return self.spec


class _Loader(yaml.SafeLoader):
    """YAML 1.2 core scalars instead of YAML 1.1's."""


class _Dumper(yaml.SafeDumper):
    """Quotes every word that YAML 1.1 or 1.2 would read as something else."""


_Dumper.yaml_implicit_resolvers = {first: [*known] for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()}
_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    for _reader_or_writer in (_Loader, _Dumper):
        _reader_or_writer.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def load_yaml(text: str) -> Any:
    """Read one YAML value by the 1.2 core rules.

    Example:
        >>> load_yaml("[1e-4, no, 010, 0.5]")
        [0.0001, 'no', 10, 0.5]
    """
    return yaml.load(text, Loader=_Loader)


def read(source: Path, overrides: Sequence[str] = ()) -> Draft:
    """Read a study file.

    Args:
        source: The file.
        overrides: Such as ``training.epochs=5``; the value is YAML, numbers in the path index lists.

    Raises:
        NotFoundError: There is no such file.
        SpecError: It is not YAML, not a mapping, or an override cannot be applied.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no study file {str(source)!r}; give the path of a YAML file") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise SpecError(str(source), [Problem("", f"cannot be read as a text file: {error}")]) from None
    return parse(text, str(source), overrides)


def parse(text: str, source: str = "study", overrides: Sequence[str] = ()) -> Draft:
    """Read a study from text; see `read`."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        lines: dict[str, int] = {}
        problems = list(_walk(root, (), lines))
        raw = load_yaml(text)
    except yaml.YAMLError as error:
        raise SpecError(source, [_not_yaml(error, text)]) from None
    except (ValueError, KeyError):
        message = "not valid YAML: a value does not fit its tag (!!int, ...), or a number has thousands of digits"
        raise SpecError(source, [Problem("", message)]) from None
    except RecursionError:
        raise SpecError(source, [Problem("", "not valid YAML: nested too deeply")]) from None
    if not isinstance(raw, dict):
        found = "an empty file" if raw is None else f"a {_kind(raw)}"
        raise SpecError(source, [Problem("", f"a study file is a mapping of sections, got {found}")])
    raw = apply_overrides(raw, overrides)
    return _draft(raw, source, lines, problems)


_TOKENS = {
    "scalar": "a value",
    "stream end": "the end of the file",
    "block end": "the end of the block",
    "block mapping start": "a key",
    "block sequence start": "a list",
}
_YAML_WORDS = (
    (r"found character '\\t' that cannot start any token", "found a tab; indent with spaces"),
    (r"but found another document", "a second document starts here; a file holds one study"),
    (r"mapping values are not allowed here", "a second ':' in a line, or a line that is indented too far"),
    (r"found unhashable key", "a key must be a word, not a mapping or a list"),
    (r"could not determine a constructor for the tag 'tag:yaml.org,2002:(\w+)'", r"unknown tag '!!\1'; leave it out"),
    (r"could not determine a constructor for the tag ('.*')", r"unknown tag \1; leave it out"),
    (r"found unexpected end of stream", "the file ends inside a quotation"),
    (r"'?<([a-z ]+)>'?", lambda found: _TOKENS.get(found[1], found[1])),
)


def _not_yaml(error: yaml.YAMLError, text: str) -> Problem:
    """What PyYAML says, without the words of a parser."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem("", f"not valid YAML: the character {chr(int(error.character))!r} is not allowed", line)
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem("", f"not valid YAML: {error}")
    message, line = str(error.problem), error.problem_mark.line + 1
    for pattern, words in _YAML_WORDS:
        message = re.sub(pattern, words, message)
    begin = error.context_mark.line + 1 if error.context_mark else line
    since = (
        f", in what begins in line {begin}" if begin != line and message.startswith(("expected", "the file")) else ""
    )
    return Problem("", f"not valid YAML: {message}{since}", line)


def _walk(
    node: yaml.Node | None, path: Path_, lines: dict[str, int], inside: tuple[yaml.Node, ...] = ()
) -> list[Problem]:
    """Note the line of every key; report keys that stand twice."""
    problems: list[Problem] = []
    if node in inside:
        raise yaml.MarkedYAMLError(problem="an alias stands inside what it repeats", problem_mark=inside[-1].start_mark)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            here = (*path, name)
            if name in seen:
                problems.append(Problem(spell(here), "this key stands twice; keep one", line))
            seen.add(name)
            lines[spell(here)] = line
            problems += _walk(value, here, lines, (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[spell((*path, index))] = value.start_mark.line + 1
            problems += _walk(value, (*path, index), lines, (*inside, node))
    return problems


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of ``raw`` with each ``path=value`` set.

    Raises:
        SpecError: An override has no ``=``, steps into something that is neither mapping nor list, or leaves a list.

    Example:
        >>> apply_overrides({"training": {"epochs": 9}}, ["training.epochs=5", "search.trials=1e1"])
        {'training': {'epochs': 5}, 'search': {'trials': 10.0}}
    """
    result: dict[str, Any] = json.loads(json.dumps(raw))
    problems: list[Problem] = []
    for override in overrides:
        path, equals, value = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            problems.append(Problem("", f"override {override!r}: needs the form path=value, such as training.epochs=5"))
            continue
        try:
            parsed = load_yaml(value)
        except (yaml.YAMLError, ValueError, KeyError, RecursionError):
            problems.append(Problem("", f"override {override!r}: {value!r} is not valid YAML"))
            continue
        try:
            _set(result, keys, parsed)
        except ValueError as error:
            problems.append(Problem("", f"override {override!r}: {error}"))
    if problems:
        raise SpecError("command line", problems)
    return result


def _set(at: Any, keys: Sequence[str], value: Any) -> None:
    for index, key in enumerate(keys):
        here, last = ".".join(keys[:index]), index == len(keys) - 1
        step: Any = key
        if isinstance(at, list):
            if not (key.isdecimal() and int(key) < len(at)):
                count = f"entries 0 to {len(at) - 1}" if at else "no entries"
                raise ValueError(f"{here!r} is a list with {count}, got {key!r}")
            step = int(key)
        elif not isinstance(at, dict):
            raise ValueError(f"{here!r} is {_found(at)}; only mappings and lists have something below them")
        elif not last:
            at.setdefault(key, {})
        if last:
            at[step] = value
        at = at[step]


def _draft(raw: dict[str, Any], source: str, lines: Mapping[str, int], problems: list[Problem]) -> Draft:
    empty = Draft(source=source, spec=_PLACEHOLDER, lines=lines)
    try:
        spec = StudySpec.from_dict(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
    else:
        return Draft(
            source=source,
            spec=spec,
            problems=tuple(problems),
            arms=tuple(range(len(spec.regularizers))),
            lines=lines,
        )
    # A list whose every entry is broken looks empty to pydantic; that the entries are broken says it all.
    found = [e for e in found if not (e["type"] == "too_short" and e["input"])]
    problems += [empty.problem(_path(e["loc"]), describe(e)) for e in found]
    broken = {str(e["loc"][0]) for e in found}
    try:
        spec = StudySpec.from_dict(_without(raw, [_path(e["loc"]) for e in found]))
    except (ValidationError, LookupError, TypeError):
        pass  # more is wrong than single settings; whole sections and arms are left out below
    else:
        # What the training settings are compared with is not known, so that they are not compared.
        return Draft(
            source=source,
            spec=spec,
            problems=tuple(problems),
            broken=frozenset(broken & {"training"}),
            arms=tuple(range(len(spec.regularizers))),
            lines=lines,
        )
    bad_arms = {int(e["loc"][1]) for e in found if e["loc"][0] == "regularizers" and len(e["loc"]) > 1}
    kept = {k: v for k, v in raw.items() if k not in broken}
    arms: tuple[int, ...] = ()
    if "regularizers" in broken and bad_arms:
        arms = tuple(i for i in range(len(raw["regularizers"])) if i not in bad_arms)
        kept["regularizers"] = [raw["regularizers"][i] for i in arms]
        broken.discard("regularizers")
    elif "regularizers" not in broken:
        arms = tuple(range(len(raw.get("regularizers", []))))
    kept.setdefault("name", "unnamed")
    if not kept.get("regularizers"):
        kept["regularizers"] = [{"name": "none"}]
        broken.add("regularizers")
    spec = StudySpec.from_dict(kept)
    return Draft(source=source, spec=spec, problems=tuple(problems), broken=frozenset(broken), arms=arms, lines=lines)


def _without(raw: Mapping[str, Any], paths: Sequence[Path_]) -> dict[str, Any]:
    """A copy without the settings at these paths, which then have their defaults.

    Raises:
        LookupError, TypeError: A path is not that of a setting in a section, so that nothing could stand in for it.
    """
    result: dict[str, Any] = json.loads(json.dumps(raw))
    for path in paths:
        if path[0] == "regularizers" or (len(path) == 1 and path[0] in StudySpec.model_fields):
            raise LookupError(spell(path))
        at: Any = result
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
    return result


_PLACEHOLDER = StudySpec.from_dict({"name": "unnamed", "regularizers": [{"name": "none"}]})


def spell(path: Path_) -> str:
    """Spell a path as users read it.

    Example:
        >>> spell(("regularizers", 1, "targets", "features.*"))
        'regularizers[1].targets["features.*"]'
    """
    spelled = ""
    for part in path:
        if isinstance(part, int):
            spelled += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][\w-]*", part):
            spelled += f".{part}" if spelled else part
        else:
            spelled += f'["{part}"]'
    return spelled


def _path(loc: tuple[int | str, ...]) -> Path_:
    # pydantic marks the key of a mapping entry; the entry itself is where people look.
    return tuple(part for part in loc if part != "[key]")


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "word", bool: "truth value", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _found(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a {_kind(value)}"
    return shown(value)


def describe(error: ErrorDetails) -> str:
    """One sentence on a value that pydantic refused: what was found and what is allowed."""
    kind, context, found = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        allowed = _allowed_keys(error["loc"][:-1])
        return f"unknown key; allowed: {listing(allowed)}{suggest(str(error['loc'][-1]), allowed)}"
    if kind == "missing":
        return "is missing; it must be given"
    if kind == "value_error" and error["loc"][:2] == ("search", "parameters") and error["loc"][2] in _NESTED:
        return f"write the whole path as one key, such as {error['loc'][2]}.{_NESTED[str(error['loc'][2])]}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        allowed = [word.strip("'") for word in re.split(r", | or ", str(context["expected"]))]
        return f"got {_found(found)}; allowed: {listing(allowed)}{suggest(str(found), allowed)}"
    for suffix, sign in _BOUNDS.items():
        if kind == suffix:
            return f"needs a number {sign} {shown(context[_BOUND_KEYS[suffix]])}, got {_found(found)}"
    wanted = _WANTED.get(kind)
    if wanted:
        return f"needs {wanted}, got {_found(found)}{_advice(kind, error['loc'], found)}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} entry, got none"
    if kind == "string_pattern_mismatch":
        words = "needs 1 to 100 letters, digits, '.', '_' or '-', first a letter or digit"
        return f"{words}, got {_found(found)}"
    if kind in ("string_too_short", "string_too_long"):
        return f"needs 1 to 80 characters, got {len(str(found))}"
    return f"{error['msg']}, got {_found(found)}"


def _advice(kind: str, loc: tuple[int | str, ...], found: Any) -> str:
    if found is None and len(loc) > 1:
        return "; leave the key out for its default"
    if found is None and kind == "model_type":
        return "; leave the section out for its defaults"
    if kind == "string_type" and isinstance(found, int | float):
        return "; put it in quotes"
    if kind == "model_type" and len(loc) > 1 and isinstance(found, str):
        key = {"regularizers": "name", "combine": "method", "objectives": "metric"}.get(str(loc[-2]))
        return f"; write {{{key}: {found}}}" if key else ""
    if kind == "dict_type" and loc[-1] == "targets":
        return f'; for the same target in every layer write {{"*": {shown(found)}}}' if _is_target(found) else ""
    return ""


def _is_target(value: Any) -> bool:
    return value == "auto" or (isinstance(value, int | float) and not isinstance(value, bool))


_NESTED = {"training": "epochs", "data": "label_noise", "model": "arguments.dense"}
_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_BOUND_KEYS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a word",
    "bool_type": "true or false",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _allowed_keys(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = StudySpec
    for part in loc:
        if isinstance(part, int):
            continue
        model = _model_in(model.model_fields[str(part)].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    """The spec section inside an annotation such as ``tuple[ArmSpec, ...]`` or ``ArmSpec | None``."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation
    inner = [a for a in get_args(annotation) if a not in (Ellipsis, type(None))]
    assert get_origin(annotation) in (tuple, Union, UnionType), annotation
    return _model_in(inner[0])


def dump_yaml(spec: StudySpec, comment: str = "") -> str:
    """A study file that `parse` reads back to an equal spec, with an optional head comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    body = yaml.dump(
        spec.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
    )
    return head + str(body)
