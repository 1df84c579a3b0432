"""Which curves are drawn, and that smoothing is what it says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from boxmed_ray.config import ConfigError
from boxmed_ray.evaluate.curves import curves_csv, draw_curves, read_curves, running_mean, series


def line(stage: str, step: int, **values: float | None) -> dict[str, Any]:
    return {"stage": stage, "step": step, "weight_version": step, "time": 0.0, **values}


def test_running_mean_by_hand():
    assert running_mean([1, 2, 6, 3], 3) == pytest.approx([1.5, 3, 11 / 3, 4.5])
    assert running_mean([5.0], 3) == [5]


def test_missing_and_null_values_are_left_out():
    metrics = [line("svr", 1, kl=None), line("svr", 2, kl=0.5), line("svr", 3), line("mcl", 4, kl=1.0)]
    assert series(metrics, "svr", "kl") == [(2, 0.5)]


def test_only_curves_with_points_are_drawn_in_order():
    metrics = [line("mcl", i, loss=1 / i) for i in (1, 2, 3)] + [line("svr", i, reward=1.0, kl=None) for i in (1, 2)]
    assert [curve.title for curve in draw_curves(metrics)] == ["SVR: reward", "MCL: loss, nats a token"]
    assert draw_curves([line("svr", 1, reward=1.0)]) == []


def test_each_drawing_is_one_svg_element_with_ids_of_its_own():
    metrics = [line("svr", i, reward=math.sin(i), iou=i / 10) for i in range(1, 10)]
    first, second = draw_curves(metrics)
    ids = [set(re.findall(r' id="([^"]+)"', curve.svg)) for curve in (first, second)]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])
    for curve in (first, second):
        assert ET.fromstring(curve.svg).tag.endswith("svg")
    assert second.words == "0.150 → 0.850 in 9 steps"


def test_curves_come_back_from_their_csv(tmp_path: Path):
    metrics = [line("svr", i, reward=i / 3, seconds=2.0) for i in (1, 2)] + [line("mcl", 1, loss=1e-9)]
    (tmp_path / "curves.csv").write_text(curves_csv(metrics))
    again = read_curves(tmp_path / "curves.csv")
    assert series(again, "svr", "reward") == [(1, 1 / 3), (2, 2 / 3)]
    assert series(again, "mcl", "loss") == [(1, 1e-9)]
    assert read_curves(tmp_path / "gone.csv") == []
    (tmp_path / "curves.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="not readable as curves"):
        read_curves(tmp_path / "curves.csv")
