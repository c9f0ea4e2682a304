"""Reading and writing study files: YAML's scalars, overrides, lines, and files that are read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from sparsestudy import operations, regularizers
from sparsestudy.errors import NotFoundError, SpecError
from sparsestudy.planning import Plan, resolve, single_point
from sparsestudy.specfile import apply_overrides, dump_yaml, load_yaml, parse, read, spell
from sparsestudy.study import StudySpec

STUDIES = sorted(Path("studies").glob("*.yaml"))
MINIMAL = "name: t\nregularizers: [{name: none}]\nsearch: {trials: 2}\n"
METHODS = {
    "dropout": "{name: dropout, strength: {choice: [0.25]}, layers: [features.*]}",
    "l1_activity": "{name: l1_activity, strength: {features.conv1: 1e-05, classifier.*: 3}, reduction: mean}",
    "none": "{name: none}",
    "perplexity": "{name: perplexity, strength: -0.1, targets: {features.*: {choice: [0.3]}}, axis: inter}",
    "weight_decay": "{name: weight_decay, strength: 1e-4}",
    "al2": "{name: al2, strength: 1e-2, cap: 50, layers: classifier.*}",
    "basis_collapse": "{name: basis_collapse, strength: 1e-2, form: log_det, layers: classifier.*}",
    "decov": "{name: decov, strength: 0.1}",
    "hoyer": "{name: hoyer, strength: 1e-4, squared: false}",
    "l2_activity": "{name: l2_activity, strength: {features.conv1: 1e-4, features.conv2: 1e-3}}",
    "label_smoothing": "{name: label_smoothing, strength: 0.1}",
    "mhe": "{name: mhe, strength: 1, power: 0, angular: true, layers: features.*}",
    "mma": "{name: mma, strength: 0.07}",
    "soft_orthogonality": "{name: soft_orthogonality, strength: 1e-3, form: dso}",
    "sparseout": "{name: sparseout, strength: 0.3, q: 1.5, gradient: exact}",
    "spatial_dropout": "{name: spatial_dropout, strength: 0.2, layers: features.*}",
    "transformed_l1": "{name: transformed_l1, strength: 1e-4}",
    "comhe": "{name: comhe, strength: 1, form: angle_preserving, dimensions: 10, iterations: 2, layers: features.*}",
    "filter_correlation": "{name: filter_correlation, strength: {features.*: 1, classifier.*: 0.1}, form: cosine}",
    "p_norm_path": "{name: p_norm_path, strength: 1e-5, p: 0.5, form: proximal, bias: true}",
    "srip": "{name: srip, strength: 1e-2, schedule: published}",
    "weight_correlation": "{name: weight_correlation, strength: 1, layers: features.*}",
}


# YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3.2), but for hexadecimal and octal numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("nil", "nil"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("0x1F", "0x1F"),
        ("'5'", "5"),
        (".inf", float("inf")),
        ("<<", "<<"),
        ("1e", "1e"),
        (".", "."),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert (found := load_yaml(text)) == value
    assert type(found) is type(value)


def test_aliases_are_followed_and_keep_their_own_lines() -> None:
    text = "name: t\nmodel: {arguments: &a {dense: 5}}\ndata: {arguments: *a}\nregularizers: [{name: none}]\n"
    draft = parse(text)
    assert draft.spec.model.arguments == draft.spec.data.arguments == {"dense": 5}


def test_lines_of_a_file() -> None:
    draft = parse("name: t\nregularizers:\n  - name: none\n  - name: dropout\n    strength: 0.5\n")
    assert dict(draft.lines) == {
        "name": 1,
        "regularizers": 2,
        "regularizers[0]": 3,
        "regularizers[0].name": 3,
        "regularizers[1]": 4,
        "regularizers[1].name": 4,
        "regularizers[1].strength": 5,
    }
    assert draft.problem(("regularizers", 1, "layers"), "?").line == 4  # of the closest key that is there
    assert draft.problem(("budget", "minutes"), "?").line is None


def test_spelling_of_paths() -> None:
    assert (
        spell(("regularizers", 0, "targets", "features.*", "choice", 2))
        == 'regularizers[0].targets["features.*"].choice[2]'
    )
    assert spell(("5",)) == '["5"]'


@pytest.mark.parametrize("make", ["missing", "folder", "bytes"])
def test_files_that_cannot_be_read(tmp_path: Path, make: str) -> None:
    file = tmp_path / "study.yaml"
    if make == "missing":
        with pytest.raises(NotFoundError, match=r"^no study file '.*study\.yaml'; give the path of a YAML file$"):
            read(file)
        return
    if make == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"name: \xff\xfe")
    with pytest.raises(
        SpecError, match=r"study\.yaml: 1 problem, nothing was started\n  cannot be read as a text file: "
    ):
        read(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: t\nquestion: '\x07'", r"line 2: not valid YAML: the character '\x07' is not allowed"),
        ("[" * 3000, "not valid YAML: nested too deeply"),
        (
            "a: " + "1" * 5000,
            "not valid YAML: a value does not fit its tag (!!int, ...), or a number has thousands of digits",
        ),
        (
            "a: !!bool maybe",
            "not valid YAML: a value does not fit its tag (!!int, ...), or a number has thousands of digits",
        ),
        (
            "a: !!python/name:os.system x",
            "line 1: not valid YAML: unknown tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
    ],
)
def test_yaml_that_cannot_be_read(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    assert str(error.value).startswith(f"study: 1 problem, nothing was started\n  {problem}")


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=5", ("training", "epochs"), 5),
        ("training.optimizer.lr=1e-4", ("training", "optimizer", "lr"), 1e-4),
        ("training.optimizer.name=adam", ("training", "optimizer", "name"), "adam"),
        ("data.train_size=null", ("data", "train_size"), None),
        ("data.train_size=", ("data", "train_size"), None),
        ("regularizers.1.strength={uniform: [0.1, 0.2]}", ("regularizers", 1, "strength"), {"uniform": [0.1, 0.2]}),
        ("regularizers.0.layers=[a, 'b']", ("regularizers", 0, "layers"), ["a", "b"]),
        ("regularizers.0=5", ("regularizers", 0), 5),
        ("values.0=1", ("values", 0), 1),
        ("question=a=b", ("question",), "a=b"),
        ("budget.minutes=0.5", ("budget", "minutes"), 0.5),
        ("a.b.c.d=true", ("a", "b", "c", "d"), True),
    ],
)
def test_overrides(override: str, path: tuple[str | int, ...], value: object) -> None:
    raw: dict[str, Any] = {
        "training": {"epochs": 9, "seed": 1},
        "regularizers": [{"name": "none"}, {"name": "dropout"}],
        "values": [None],
    }
    before = str(raw)
    at: Any = apply_overrides(raw, [override])
    for key in path:
        at = at[key]
    assert at == value
    assert type(at) is type(value)
    assert str(raw) == before


def test_overrides_reach_the_spec_and_leave_the_rest_alone() -> None:
    overrides = [
        "training.epochs=5",
        "search.parameters={training.optimizer.lr: {log_uniform: [1e-3, 1e-1]}}",
        "regularizers.0.name=dropout",
        "training.epochs=7",
    ]
    spec = parse(MINIMAL, overrides=overrides).raise_for()
    assert spec.to_dict() == {
        "name": "t",
        "training": {"epochs": 7},
        "regularizers": [{"name": "dropout"}],
        "search": {"trials": 2, "parameters": {"training.optimizer.lr": {"log_uniform": [0.001, 0.1]}}},
    }


def test_every_wrong_override_is_reported_at_once() -> None:
    overrides = [
        "training.epochs",
        ".epochs=5",
        "training..epochs=5",
        "name.first=5",
        "regularizers.one.name=none",
        "regularizers.1.name=none",
        "regularizers.-1=none",
        "regularizers.².name=none",
        "search.trials.most=5",
        "training.epochs=[5",
        "training.epochs=!!int five",
        "training.epochs=5",
    ]
    with pytest.raises(SpecError) as error:
        parse(MINIMAL, overrides=overrides)
    form = "needs the form path=value, such as training.epochs=5"
    a_list = "'regularizers' is a list with entries 0 to 0"
    below = "only mappings and lists have something below them"
    assert str(error.value).split("\n") == [
        "command line: 11 problems, nothing was started",
        f"  override 'training.epochs': {form}",
        f"  override '.epochs=5': {form}",
        f"  override 'training..epochs=5': {form}",
        f"  override 'name.first=5': 'name' is \"t\"; {below}",
        f"  override 'regularizers.one.name=none': {a_list}, got 'one'",
        f"  override 'regularizers.1.name=none': {a_list}, got '1'",
        f"  override 'regularizers.-1=none': {a_list}, got '-1'",
        f"  override 'regularizers.².name=none': {a_list}, got '²'",
        f"  override 'search.trials.most=5': 'search.trials' is 2; {below}",
        "  override 'training.epochs=[5': '[5' is not valid YAML",
        "  override 'training.epochs=!!int five': '!!int five' is not valid YAML",
    ]


def test_mistakes_in_overridden_values_are_those_of_the_file() -> None:
    with pytest.raises(SpecError, match=r"training\.epochs: needs a number > 0, got 0$"):
        resolve(parse(MINIMAL, overrides=["training.epochs=0"]))


# Files that are read back


def whole(arm: str) -> Plan:
    text = (
        f"name: t\nregularizers: [{arm}]\nsearch: {{sampler: grid}}\nmeasures: {{every: 2}}\ntraining: {{epochs: 3}}\n"
    )
    return resolve(parse(text))


def test_a_sample_of_every_method() -> None:
    assert sorted(METHODS) == regularizers.names()


@pytest.mark.parametrize(
    "arm",
    [
        *METHODS.values(),
        f"{{name: both, combine: [{METHODS['dropout']}, {METHODS['none']}]}}".replace(
            "name: dropout", "method: dropout"
        ).replace("name: none", "method: none"),
    ],
)
def test_spec_and_its_single_point_are_read_back(arm: str) -> None:
    plan = whole(arm)
    assert parse(dump_yaml(plan.spec, "two\nlines")).raise_for() == plan.spec
    (point,) = plan.space.grid()
    config = plan.configure(3, point, 12345)
    written = dump_yaml(single_point(plan.spec, config, "t-best"))
    again = resolve(parse(written))
    assert parse(dump_yaml(again.spec)).raise_for() == again.spec
    assert again.trials == 1
    (same,) = again.space.grid()
    assert same["training.seed"] == 12345
    repeated = again.configure(0, same, 12345)
    assert repeated.methods == config.methods
    assert (repeated.data, repeated.model, repeated.measures) == (config.data, config.model, config.measures)
    assert repeated.training == config.training.model_copy(update={"seed": 12345})


@pytest.mark.parametrize("file", STUDIES, ids=[file.stem for file in STUDIES])
def test_studies_are_read_back(file: Path) -> None:
    spec = read(file).raise_for()
    again = parse(dump_yaml(spec)).raise_for()
    assert again == spec
    assert again.digest == spec.digest


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(["1e5", "09", "no", "0x1F", "null", ".5", "1:30", "~", "- a", "'"])
)
def test_words_are_read_back_as_words(word: str) -> None:
    spec = StudySpec.from_dict({"name": "09", "question": word, "regularizers": [{"name": "1e5", "method": "none"}]})
    assert parse(dump_yaml(spec)).raise_for() == spec


# The schema for editors

SCHEMA = operations.json_schema()
REFUSED = [
    "name: t",
    "name: t\nregularizers: []",
    "name: my study\nregularizers: [{name: none}]",
    "name: t\nregularisers: [{name: none}]",
    "name: t\nregularizers: [none]",
    "name: t\nregularizers: [{name: none}]\ntraining: {epochs: 1.5}",
    "name: t\nregularizers: [{name: none}]\ntraining: {optimizer: {name: adamw}}",
    "name: t\nregularizers: [{name: none}]\nsearch: {parameters: {training.epochs: 5}}",
    "name: t\nregularizers: [{name: dropout, strength: high}]",
    "name: t\nregularizers: [{name: dropout, strength: true}]",
    "name: t\nregularizers: [{name: dropout, strength: {}}]",
    "name: t\nregularizers: [{name: dropout, strength: {uniform: 0.5}}]",
    "name: t\nregularizers: [{name: dropout, strength: {uniform: [0.1, 0.2, 0.3]}}]",
    "name: t\nregularizers: [{name: dropout, strength: {features.*: high}}]",
    "name: t\nregularizers: [{name: perplexity, targets: {features.*: 1}}]",
    "name: t\nregularizers: [{name: perplexity, targets: 0.5}]",
]


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    described = SCHEMA["$defs"]["ArmSpec"]["properties"]
    assert {"axis", "normalise", "warmup_epochs", "reduction"} <= set(described)


@pytest.mark.parametrize("file", STUDIES, ids=[file.stem for file in STUDIES])
def test_schema_accepts_the_studies(file: Path) -> None:
    assert not list(Draft202012Validator(SCHEMA).iter_errors(load_yaml(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("arm", METHODS.values(), ids=METHODS)
def test_schema_accepts_every_method(arm: str) -> None:
    assert not list(Draft202012Validator(SCHEMA).iter_errors(load_yaml(f"name: t\nregularizers: [{arm}]")))


@pytest.mark.parametrize("text", REFUSED)
def test_schema_refuses_what_the_reader_refuses(text: str) -> None:
    assert not Draft202012Validator(SCHEMA).is_valid(load_yaml(text))
    with pytest.raises(SpecError):
        parse(text).raise_for()
