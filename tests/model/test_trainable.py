"""What a stage trains, LoRA merged into whole tensors, and the reference, on tiny models of the three families."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from boxmed_ray.config import LoraConfig, TrainableConfig
from boxmed_ray.model.engine import Engine
from boxmed_ray.model.engine_state import full_state_dict
from boxmed_ray.model.merged import merged_tensors
from boxmed_ray.model.reference import DisabledAdapter, FrozenCopy
from boxmed_ray.model.shared_prefix import ResponsePolicy, response_logprobs
from boxmed_ray.model.trainable import only_lora_trains, select_trainable
from tests import one_rank
from tests.model.shared_prefix_cases import BANNED, random_group, tiny

FAMILIES = ("qwen2", "qwen2_5", "qwen3")
PARTS = ("language_model", "projector", "vision_tower")
SWITCHES = [on for on in itertools.product((True, False), repeat=3) if any(on)]


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> None:
    one_rank.join()


def mergers(model: Any) -> list[nn.Module]:
    return [model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", [])]


def of_part(model: Any, part: str) -> set[int]:
    """Identities of a part's parameters, found by walking the modules and not by name."""
    projector = {id(p) for merger in mergers(model) for p in merger.parameters()}
    if part == "projector":
        return projector
    if part == "vision_tower":
        return {id(p) for p in model.model.visual.parameters()} - projector
    return {id(p) for module in (model.model.language_model, model.lm_head) for p in module.parameters()}


def groups_of(seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [random_group(generator, 3, grid=(4, 4)) for _ in range(2)]


def settings(zero_stage: int = 0) -> Any:
    return SimpleNamespace(
        lr=1e-2, warmup_steps=0, min_lr_ratio=1.0, weight_decay=0.0, adam_beta2=0.99, grad_clip=1.0,
        zero_stage=zero_stage,
    )  # fmt: skip


def engine_of(model: Any, zero_stage: int = 0) -> Engine:
    return Engine(ResponsePolicy(model.train()), settings(zero_stage), total_steps=10)


def update(engine: Engine, groups: list) -> None:
    out = engine(groups, banned_ids=BANNED)
    engine.backward(-sum(part.sum() for part in out.logprobs) / 50)
    assert engine.step().taken


def lora(*parts: Any, rank: int = 4) -> LoraConfig:
    return LoraConfig(rank=rank, alpha=2 * rank, parts=parts or ("language_model",))


def stir(model: nn.Module) -> None:
    """Give every LoRA matrix values, as B is zero at the start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("on", SWITCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_switched_on_change_and_the_others_stay_bit_for_bit(family: str, on: tuple[bool, ...]) -> None:
    model = tiny(family)
    switches = dict(zip(PARTS, on, strict=True))
    expected = set().union(*(of_part(model, part) for part in PARTS if switches[part]))
    assert select_trainable(model, TrainableConfig(**switches)) is None
    assert {id(p) for p in model.parameters() if p.requires_grad} == expected
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    engine = engine_of(model)
    assert {id(p) for group in engine.adamw.param_groups for p in group["params"]} == expected
    update(engine, groups_of(1))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (id(parameter) in expected), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_tied_to_the_embeddings_goes_with_the_language_model(family: str) -> None:
    model = tiny(family, tied=True)
    select_trainable(model, TrainableConfig(language_model=False))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not model.lm_head.weight.requires_grad
    frozen = model.lm_head.weight.detach().clone()
    update(engine_of(model), groups_of(2))
    assert torch.equal(model.lm_head.weight, frozen)


@pytest.mark.parametrize("parts", [("language_model",), ("projector",), ("vision_tower",), PARTS])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_with_lora_are_frozen_and_the_others_follow_their_switch(family: str, parts: tuple[str, ...]) -> None:
    model = tiny(family)
    whole = of_part(model, "vision_tower") if "vision_tower" not in parts else set()
    linear = {
        id(module.weight)
        for part in parts
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not model.lm_head and id(module.weight) in of_part(model, part)
    }
    config = TrainableConfig(projector=False, lora=lora(*parts))  # language model and vision tower are switched on
    if "language_model" not in parts:
        whole |= of_part(model, "language_model")
    select_trainable(model, config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for name, p in trained.items() if ".lora_" not in name} == whole
    on_layers = {id(tensor.base) for tensor in merged_tensors(model) if tensor.lora is not None}
    assert on_layers == linear
    assert sum(".lora_A" in name for name in trained) == sum(".lora_B" in name for name in trained) == len(linear)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_optimiser_of_every_stage_holds_what_trains_and_nothing_else(zero_stage: int) -> None:
    model = tiny("qwen2")
    select_trainable(model, TrainableConfig(vision_tower=False, lora=lora()))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    engine = engine_of(model, zero_stage)
    update(engine, groups_of(3))
    held = sum(state["exp_avg"].numel() for state in engine.adamw.state.values())
    assert trained <= held <= trained + 64  # partitions are padded


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_tensors_are_pefts_own_merge_under_the_backbones_names(family: str, tied: bool) -> None:
    plain = {name: tuple(p.shape) for name, p in tiny(family, tied=tied).named_parameters()}
    model = tiny(family, tied=tied)
    adapted: Any = select_trainable(model, TrainableConfig(lora=lora(*PARTS)))
    stir(model)
    found = {tensor.name: tensor.value() for tensor in merged_tensors(model)}
    assert {name: tuple(value.shape) for name, value in found.items()} == plain
    expected = dict(copy.deepcopy(adapted).merge_and_unload().named_parameters())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].detach(), rtol=0, atol=1e-6)
    bases = {tensor.name: tensor.base for tensor in merged_tensors(model) if tensor.lora is not None}
    assert bases
    assert all(not torch.equal(found[name], base) for name, base in bases.items())


def test_bfloat16_is_rounded_once() -> None:
    model = tiny("qwen2").bfloat16()
    select_trainable(model, TrainableConfig(lora=lora()))
    stir(model)
    for tensor in merged_tensors(model):
        if tensor.lora is not None:
            a, b, scale = tensor.lora
            exact = tensor.base.detach().double() + scale * b.detach().double() @ a.detach().double()
            assert tensor.value().dtype == torch.bfloat16
            assert ((tensor.value().double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_disabled_adapter_is_the_starting_model_exactly_and_training_goes_on(zero_stage: int) -> None:
    groups = groups_of(4)
    start, model = tiny("qwen2"), tiny("qwen2")
    off = TrainableConfig(language_model=False, projector=False, vision_tower=False, lora=lora())
    adapted: Any = select_trainable(model, off)
    assert only_lora_trains(model)
    engine = engine_of(model, zero_stage)
    reference = DisabledAdapter(engine, adapted)
    frozen = FrozenCopy(start, torch.device("cpu"), torch.device("cpu"))
    update(engine, groups)
    update(engine, groups)
    with reference.ready() as forward, frozen.ready() as expected:
        found, plain = forward(groups, banned_ids=BANNED), expected(groups, banned_ids=BANNED)
    moved = engine(groups, banned_ids=BANNED)
    for one, other, now in zip(found.logprobs, plain.logprobs, moved.logprobs, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
        assert not torch.allclose(one, now, atol=1e-3)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }
    before, _, after = full_state_dict(model, 0), update(engine, groups), full_state_dict(model, 0)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if ".lora_" in name
    }


def test_a_whole_part_beside_lora_changes_what_the_disabled_adapter_would_give() -> None:
    model = tiny("qwen2")
    select_trainable(model, TrainableConfig(vision_tower=False, lora=lora()))
    assert not only_lora_trains(model)


def test_a_copy_has_its_tensors_at_home_again_after_a_pass_that_failed() -> None:
    model = tiny("qwen2")
    places = [p.data_ptr() for p in model.parameters()]
    reference = FrozenCopy(model, torch.device("cpu"), torch.device("cpu"))
    expected = response_logprobs(tiny("qwen2"), groups_of(5), banned_ids=BANNED).logprobs
    groups = groups_of(5)
    with reference.ready() as forward:
        found = forward(groups, banned_ids=BANNED).logprobs
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    groups[0].responses = []
    with pytest.raises(ValueError, match="needs at least one response"), reference.ready() as forward:
        forward(groups)
    assert [p.data_ptr() for p in model.parameters()] == places
    assert not any(p.requires_grad for p in model.parameters())


def test_a_model_of_another_make_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Linear has no projector and no vision_tower; use Qwen2-VL"):
        select_trainable(nn.Linear(2, 2), TrainableConfig())  # type: ignore[arg-type]
