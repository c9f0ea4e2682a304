"""Just enough of kustomize to see what `kubectl apply -k` would send; what it does not know, it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "generatorOptions",
    "secretGenerator",
    "configMapGenerator",
    "patches",
}


def render(folder: Path) -> list[Manifest]:
    """The objects of a folder with a kustomization.yaml.

    Secrets are made of the example file, which is in the repository, where theirs is not.
    """
    root = load(folder / "kustomization.yaml")
    assert set(root) <= KNOWN, f"{folder}: kustomize.py does not know {set(root) - KNOWN}"
    made = root.get("secretGenerator", []) + root.get("configMapGenerator", [])
    assert not made or root["generatorOptions"] == {"disableNameSuffixHash": True}
    objects = [found for name in root["resources"] for found in _resource(folder / name)]
    objects += [_secret(folder, entry) for entry in root.get("secretGenerator", [])]
    objects += [_config_map(folder, entry) for entry in root.get("configMapGenerator", [])]
    for component in root.get("components", []):
        for image in load(folder / component / "kustomization.yaml")["images"]:
            _rename_image(objects, image["name"], f"{image['newName']}:{image['newTag']}")
    for patch in root.get("patches", []):
        _patch(objects, patch["target"], yaml.safe_load(patch["patch"]))
    for found in objects:
        if "namespace" in root and found["kind"] != "Namespace":
            found["metadata"]["namespace"] = root["namespace"]
    return objects


def load(path: Path) -> Manifest:
    """One YAML document."""
    document: Manifest = yaml.safe_load(path.read_text())
    return document


def _resource(path: Path) -> list[Manifest]:
    return render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _secret(folder: Path, entry: Manifest) -> Manifest:
    lines = [line for name in entry["envs"] for line in (folder / example(name)).read_text().splitlines()]
    data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": entry["name"]}, "stringData": data}


def example(name: str) -> str:
    """`secrets.env` -> `secrets.example.env`."""
    return name.replace(".env", ".example.env")


def _config_map(folder: Path, entry: Manifest) -> Manifest:
    data = {name: (folder / name).read_text() for name in entry["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data}


def _rename_image(node: Any, name: str, image: str) -> None:
    if isinstance(node, dict):
        if node.get("image") == name:
            node["image"] = image
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _rename_image(child, name, image)


def _patch(objects: list[Manifest], target: Manifest, operations: list[Manifest]) -> None:
    (found,) = (o for o in objects if o["kind"] == target["kind"] and o["metadata"]["name"] == target["name"])
    for operation in operations:
        assert operation["op"] == "add"
        *path, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        node: Any = found
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = operation["value"]
