"""The image: built from locked versions, by the files that are there, for a user who is not root."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

TOP = Path(__file__).parents[2]
IMAGE = TOP / "cluster/image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text()


def locked(path: Path) -> dict[str, str]:
    """Versions by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.M))


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = [line[1:] for line in (IMAGE / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M) for name in line.split()[:-1]]
    assert len(copied) == 7
    for name in copied:
        assert (TOP / name).exists()
        assert name in kept
    assert sorted(kept) == sorted(copied)  # and nothing else reaches the builder, no secrets and no results


def test_ignored_first_is_everything() -> None:
    rules = [line for line in (IMAGE / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert any(fnmatch("sparsestudy/training/__pycache__", rule) for rule in rules[1:])


def test_every_version_is_locked_with_a_hash() -> None:
    (install,) = re.findall(r"^RUN uv pip install (.*--require-hashes.*)$", DOCKERFILE, re.M)
    assert "-r requirements.lock -r cluster.lock" in install
    entries = re.split(r"^(?=[\w.-]+==)", (IMAGE / "requirements.lock").read_text(), flags=re.M)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    main, own = locked(TOP / "requirements.lock"), locked(IMAGE / "requirements.lock")
    assert {"boto3", "psycopg"} <= set(own)
    assert {name: own[name] for name in own.keys() & main.keys()} == {n: main[n] for n in own.keys() & main.keys()}


def test_uv_is_the_one_of_the_makefile() -> None:
    (version,) = re.findall(r"^UV_VERSION := (\S+)", (TOP / "Makefile").read_text(), re.M)
    assert f"uv=={version} " in DOCKERFILE


def test_it_is_not_root() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    assert re.findall(r"^USER (\S+)$", stages[-1], re.M) == ["1000:1000"]
    assert {stage.split()[0] for stage in stages} == {"python:3.11-slim-bookworm"}
