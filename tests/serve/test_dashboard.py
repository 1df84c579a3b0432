"""The dashboard asks for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import serve.metrics
from boxmed_ray.model import tiny
from serve.engine_start import Counters

DASHBOARD = Path(tiny.__file__).parents[2] / "cluster" / "grafana" / "serving.json"


def test_every_panel_asks_for_metrics_of_a_replica() -> None:
    source = Path(serve.metrics.__file__).read_text()
    counted = {each.name for each in fields(Counters)}
    named = re.findall(r'"(\w+)", "[A-Z]', source)  # a name and its description
    known = {f"engine_{name}" if name in counted else name for name in named}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel["targets"] for name in _names(target["expr"])}
    assert {name.removesuffix("_bucket") for name in asked} == known


def _names(expression: str) -> list[str]:
    return re.findall(r"ray_boxmed_(\w+)", expression)
