"""Reading the manifests of cluster/kuberay as kustomize does, for the few of its features that they use.

What lives here: resources, images, namespace and JSON patches (RFC 6902). tests compare it with kubectl's own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
_KEYS = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
_CLUSTER_WIDE = {"Namespace"}


def render(folder: Path) -> list[dict[str, Any]]:
    """All objects of a kustomization, in order."""
    text = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = set(text) - _KEYS
    assert not unknown, f"{folder}: kustomization.yaml has {sorted(unknown)}"
    objects: list[dict[str, Any]] = []
    for name in text["resources"]:
        place = (folder / name).resolve()
        objects += render(place) if place.is_dir() else _read(place)
    for patch in text.get("patches", []):
        chosen = [each for each in objects if _is_meant(each, patch["target"])]
        assert chosen, f"{folder}: a patch meets nothing: {patch['target']}"
        for each in chosen:
            _apply(each, yaml.safe_load(patch["patch"]))
    for image in text.get("images", []):
        _rename(objects, image["name"], f"{image['newName']}:{image['newTag']}")
    if "namespace" in text:
        for each in objects:
            if each["kind"] not in _CLUSTER_WIDE:
                each["metadata"]["namespace"] = text["namespace"]
    return objects


def _read(path: Path) -> list[dict[str, Any]]:
    # Copied, because what YAML shares by an anchor must not be patched in both places.
    return [copy.deepcopy(each) for each in yaml.safe_load_all(path.read_text()) if each]


def _is_meant(each: dict[str, Any], target: dict[str, str]) -> bool:
    return each["kind"] == target["kind"] and target.get("name") in (None, each["metadata"]["name"])


def _apply(each: dict[str, Any], operations: list[dict[str, Any]]) -> None:
    for operation in operations:
        *parents, last = operation["path"].lstrip("/").split("/")
        node: Any = each
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        place: Any = int(last) if isinstance(node, list) else last
        if operation["op"] != "add":
            assert place in node if isinstance(node, dict) else place < len(node), operation["path"]
        if operation["op"] == "remove":
            del node[place]
        else:
            node[place] = operation["value"]


def _rename(node: Any, name: str, image: str) -> None:
    """Containers' images, wherever they are."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "image" and value == name:
                node[key] = image
            else:
                _rename(value, name, image)
    elif isinstance(node, list):
        for value in node:
            _rename(value, name, image)
