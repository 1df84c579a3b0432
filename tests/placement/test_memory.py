"""Bytes of a role, against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boxmed_ray.model.architecture import Architecture
from boxmed_ray.placement.memory import GB, Item, LearnerLoad, engine, group_tokens, kv_token, learner

MODEL = Architecture(
    name="m", parameters={"language_model": 900_000_000, "vision_tower": 100_000_000}, layers=10, hidden=1000,
    intermediate=3000, heads=10, kv_heads=2, head_size=100, vocabulary=50_000, vision_layers=5, vision_hidden=500,
    vision_intermediate=2000, pixels=28, patches=4,
)  # fmt: skip
LOAD = LearnerLoad(
    trained=1_000_000_000, ranks=4, zero_stage=2, weight_bytes=2, checkpointing=True, tokens=1000, images=2,
    image_tokens=100,
)  # fmt: skip


def sizes(items: list[Item]) -> dict[str, float]:
    return {item.name: item.size / GB for item in items}


def test_zero_2_shares_gradients_and_optimiser_and_not_weights() -> None:
    found = sizes(learner(MODEL, LOAD))
    assert (found["weights"], found["gradients"], found["optimiser"]) == (2.0, 0.5, 3.0)


def test_zero_3_shares_weights_and_gathers_some_of_them() -> None:
    found = sizes(learner(MODEL, replace(LOAD, zero_stage=3)))
    assert (found["weights"], found["gathered"]) == (0.5, 2.0)


def test_bfloat16_at_stage_0_trains_as_stage_1() -> None:
    found = sizes(learner(MODEL, replace(LOAD, zero_stage=0)))
    assert (found["gradients"], found["optimiser"]) == (2.0, 3.0)


def test_float32_at_stage_0_needs_no_copy() -> None:
    found = sizes(learner(MODEL, replace(LOAD, zero_stage=0, weight_bytes=4)))
    assert (found["weights"], found["gradients"], found["optimiser"]) == (4.0, 4.0, 8.0)
    assert "buckets" not in found


def test_the_reference_is_whole_on_every_rank() -> None:
    for stage in (2, 3):
        found = sizes(learner(MODEL, replace(LOAD, zero_stage=stage, reference="learner")))
        assert found["reference"] == 2.0


def test_a_reference_on_the_host_takes_the_place_of_activations_while_it_computes() -> None:
    found = sizes(learner(MODEL, replace(LOAD, reference="cpu")))
    assert found["reference in its pass"] == 2.0
    assert "activations" not in found
    busy = sizes(learner(MODEL, replace(LOAD, reference="cpu", tokens=1_000_000)))
    assert "reference in its pass" not in busy


def test_the_optimisers_step_takes_the_place_of_activations_where_it_is_more() -> None:
    # float32 gradient and AdamW's square root of 1 B parameters, in the place of their bfloat16 gradient
    alone = sizes(learner(MODEL, replace(LOAD, ranks=1)))
    assert (alone["gradients"], alone["optimiser's step"]) == (2.0, 6.0)
    assert "activations" not in alone
    assert sizes(learner(MODEL, replace(LOAD, ranks=1, weight_bytes=4, zero_stage=0)))["optimiser's step"] == 4.0
    assert "optimiser's step" not in sizes(learner(MODEL, replace(LOAD, ranks=1, tokens=1_000_000)))


def test_activations_with_and_without_computing_layers_again() -> None:
    # 4 x 1000 of norms and products, 2 x (1000 + 2 x 200) and 1000 of attention, 4 x 3000 of the MLP; 2 bytes each
    one = 2 * (4000 + 2 * 1400 + 1000 + 12000)
    many = replace(LOAD, tokens=100_000)
    assert learner(MODEL, many)[4].size == 100_000 * (2000 * 10 + one)
    assert learner(MODEL, replace(many, checkpointing=False))[4].size == 100_000 * one * 10


def test_tensor_parallel_engines_share_weights_and_heads() -> None:
    alone, pair = (
        sizes(engine(MODEL, tensor_parallel=tp, weight_bytes=2, kv_gib=1, sequences=10, max_length=512))
        for tp in (1, 2)
    )
    assert (alone["weights"], pair["weights"]) == (2.0, 1.0)
    assert alone["KV cache"] == pair["KV cache"] == pytest.approx(1.0737, rel=1e-3)
    assert [kv_token(MODEL, tp, 2) for tp in (1, 2, 4)] == [8000, 4000, 4000]  # 2 heads: held twice by 4 GPUs


def test_a_group_holds_its_prompt_once() -> None:
    assert group_tokens(prompt=700, responses=8, length=100) == 1500
