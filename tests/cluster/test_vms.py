"""The cluster files for virtual machines, held against Ray's own schema and the rest of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

TOP = Path(__file__).parents[2]
FOLDER = TOP / "cluster/vms"
FILES = ["aws.yaml", "local.yaml"]


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does it, before it asks any provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_it(name: str) -> None:
    prepared = validated(read(name))
    workers = {kind: node for kind, node in prepared["available_node_types"].items() if kind != "head"}
    # A study counts its workers once, when it starts.
    assert [node["min_workers"] for node in workers.values()] == [prepared["max_workers"]]


def test_ray_would_refuse_a_mistake() -> None:
    with pytest.raises(ValidationError, match="max_worker"):
        validated({**read("aws.yaml"), "max_worker": 2})
    with pytest.raises(ValueError, match="head_node_type"):
        validated({**read("aws.yaml"), "head_node_type": "chief"})


@pytest.mark.parametrize("name", FILES)
def test_all_nodes_share_a_token_that_is_not_in_the_repository(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        (start,) = (line for line in commands if "ray start" in line)
        assert start.startswith("RAY_AUTH_MODE=token ")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]


@pytest.mark.parametrize("name", FILES)
def test_the_folder_that_is_sent_is_this_repository(name: str) -> None:
    (source,) = (local for remote, local in read(name)["file_mounts"].items() if remote == "~/sparsestudy")
    assert (FOLDER / source).resolve() == TOP
    assert "make -C ~/sparsestudy .venv/ready" in read(name)["setup_commands"]
