"""What `boxmed evaluate` asks about, before any worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxmed_ray.config import RunConfig
from boxmed_ray.data.images import ImageStore
from boxmed_ray.data.load import Dataset
from boxmed_ray.data.study import DataError
from boxmed_ray.stages.held_out import answer_held_out
from tests.data.conftest import make_study


def test_a_held_out_split_without_anything_to_ask_is_refused(tmp_path: Path) -> None:
    silent = make_study(tmp_path, "s", split="test", report=None, findings=())
    dataset = Dataset((silent, make_study(tmp_path, "t")), (), "0", ImageStore(56, None))
    with pytest.raises(DataError, match="nothing to ask about"):
        answer_held_out(RunConfig(), dataset, tmp_path, None)
