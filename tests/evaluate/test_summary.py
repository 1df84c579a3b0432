"""summary.json: the keys that machines read, and refusal of anything less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from boxmed_ray.evaluate.summary import labels_below_baseline, read_summary, write_summary
from tests.evaluate.examples import grounding, summary

KEYS = {
    "": {"seed", "wall_seconds", "versions", "data", "grounding", "wilcoxon_p", "report", "backbone_unchanged"},
    "data": {"name", "studies", "hash"},
    "grounding": {"constant_box", "mcl", "svr", "adapter_off"},
    "report": {"bleu_4", "rouge_l", "disease_f1"},
}
GROUNDING = {"mean_iou", "sampled_mean_iou", "share_50", "format_rate", "n", "per_label"}


def test_written_file_has_the_agreed_keys(tmp_path: Path):
    written = json.loads(write_summary(tmp_path, summary()).read_text())
    for section, keys in KEYS.items():
        assert keys <= (written[section] if section else written).keys()
    for stage in KEYS["grounding"]:
        assert written["grounding"][stage].keys() >= GROUNDING
        assert written["grounding"][stage]["per_label"]["Pneumothorax"].keys() >= {"mean_iou", "n"}
    assert written["backbone_unchanged"] is True
    assert not list(tmp_path.glob("*.part"))


def test_reading_gives_back_what_was_written_and_keeps_later_keys(tmp_path: Path):
    path = write_summary(tmp_path, summary())
    assert read_summary(tmp_path) == summary()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    assert read_summary(tmp_path).model_extra == {"later": 1}


@pytest.mark.parametrize("key", sorted(KEYS[""]))
def test_a_missing_key_is_refused(tmp_path: Path, key: str):
    path = write_summary(tmp_path, summary())
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    with pytest.raises(ValidationError, match=key):
        read_summary(tmp_path)


def test_a_figure_out_of_range_is_refused():
    with pytest.raises(ValidationError):
        grounding(1.2)


def test_labels_that_do_not_beat_the_constant_box_are_named():
    assert labels_below_baseline(summary()) == []
    assert labels_below_baseline(summary(svr=0.2)) == ["Lung Lesion", "Pneumothorax"]
