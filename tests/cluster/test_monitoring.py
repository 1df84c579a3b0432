"""Dashboard and alerts: well-formed, and asking for what Ray exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ray
import yaml

from tests.cluster.manifests import CLUSTER

DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana" / "training.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((CLUSTER / "prometheus" / "alerts.yml").read_text())


def expressions() -> list[str]:
    shown = [t["expr"] for panel in DASHBOARD["panels"] if panel["type"] != "row" for t in panel["targets"]]
    return shown + [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def test_panels_have_places_of_their_own_and_ids() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in across for y in down}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_variables_that_are_used_are_defined() -> None:
    defined = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) == defined


def test_names_of_rays_own_metrics_are_rays() -> None:
    root = Path(ray.__file__).parent
    known = "".join(path.read_text() for path in root.glob("dashboard/modules/metrics/dashboards/*.py"))
    asked = {name for text in expressions() for name in re.findall(r"\bray_(?!boxmed)(\w+)", text)}
    assert asked
    assert not [name for name in asked if f"ray_{name}" not in known]


def test_brackets_close() -> None:
    for text in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert text.count(opening) == text.count(closing), text


def test_alerts_say_how_bad_and_what() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"]["summary"]
