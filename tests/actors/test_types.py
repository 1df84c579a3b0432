"""What a prompt is called where people may read it."""

from __future__ import annotations

from boxmed_ray.actors.types import Prompt
from boxmed_ray.data.prompts import Task


def test_a_prompts_name_tells_phrases_of_one_image_apart_without_their_words() -> None:
    first, second = (
        Prompt(f"study-7/ground/{phrase}", Task.GROUND, phrase, "study-7", "s.png", 10, 10)
        for phrase in ("Mrs Smith has a nodule.", "There is an effusion.")
    )
    assert first.name.startswith("study-7/ground/")
    assert first.name != second.name
    assert "Smith" not in first.name
    assert Prompt("p1", Task.GROUND, "There is a nodule.", "s", "s.png", 10, 10).name == "p1"
