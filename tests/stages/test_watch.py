"""When steps that are not finite stop a run, and what is said then."""

from __future__ import annotations

from pathlib import Path

from boxmed_ray.stages.watch import BadSteps


def test_only_steps_in_a_row_count() -> None:
    bad = BadSteps(2, "svr.max_bad_updates")
    for taken, stops in ((False, False), (True, False), (False, False), (False, True)):
        bad.add(taken=taken, prompts=() if taken else ["a"])
        assert bad.too_many == stops


def test_the_message_names_each_prompt_once_the_checkpoint_and_the_setting(tmp_path: Path) -> None:
    bad = BadSteps(3, "svr.max_bad_updates", count=1)
    bad.add(taken=False, prompts=["a", "b"])
    bad.add(taken=False, prompts=["b", "c"])
    message = bad.message("svr", tmp_path / "step-00000004")
    assert "stage svr stopped" in message
    assert "3 steps in a row (svr.max_bad_updates = 3); prompts: a, b, c; " in message
    assert str(tmp_path / "step-00000004") in message
    bad.add(taken=False, prompts=[str(i) for i in range(40)])
    assert "and 31 more; there is no checkpoint yet" in bad.message("svr", None)
    bad.add(taken=True)
    bad.add(taken=False)
    assert "prompts: none by their loss, the gradient alone;" in bad.message("svr", None)
