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


_SUFFIX = {"Counter": "_total", "Histogram": "_bucket", "Gauge": ""}
"""What Ray's exporter appends to the name of each kind; tests/integration/test_serve_more.py looks at the export."""


def test_every_panel_asks_for_metrics_of_a_replica_by_their_exported_names() -> None:
    source = Path(serve.metrics.__file__).read_text()
    known = {name + _SUFFIX[kind] for kind, name in re.findall(r'named\(\s*(\w+), "(\w+)", "[A-Z]', source)}
    known |= {f"engine_{each.name}_total" for each in fields(Counters)}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {name for panel in dashboard["panels"] for target in panel["targets"] for name in _names(target["expr"])}
    assert asked == known
    (chosen,) = (one["query"] for one in dashboard["templating"]["list"] if one["name"] == "model")
    assert set(_names(chosen)) <= known


def _names(expression: str) -> list[str]:
    return re.findall(r"ray_boxmed_(\w+)", expression)
