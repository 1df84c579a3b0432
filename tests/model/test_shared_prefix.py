"""Shared prompts give the log-probabilities and gradients of replicated rows and of one plain forward per sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxmed_ray.model.backbone import unwrap
from boxmed_ray.model.shared_prefix import GroupInputs, Mode, ResponseLogprobs, response_logprobs
from tests.model.shared_prefix_cases import BANNED, HIDDEN, IMAGE, VOCABULARY, plain_logprobs, random_group, tiny

FAMILIES = ("qwen2", "qwen2_5", "qwen3")
SHARED: tuple[Mode, ...] = ("prefix_cache", "packed_row")


def groups_of(seed: int, sizes: tuple[int, ...] = (4, 1, 3)) -> list[GroupInputs]:
    generator = torch.Generator().manual_seed(seed)
    return [random_group(generator, size) for size in sizes]


def weighted(result: ResponseLogprobs) -> torch.Tensor:
    """A loss in which every token counts differently."""
    total = torch.zeros(())
    for logprobs, mask in zip(result.logprobs, result.mask, strict=True):
        weights = torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)
        total = total + (weights * logprobs * mask).sum()
    return total


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name] - value).norm()) / float(value.norm())
        assert error <= 1e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", SHARED)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_replicated_rows_in_value_and_gradient(family: str, mode: Mode, seed: int) -> None:
    model, groups = tiny(family, seed), groups_of(seed)
    reference = response_logprobs(model, groups, mode="replicated", banned_ids=BANNED)
    expected = gradients(model, weighted(reference))
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    found = gradients(model, weighted(result))
    for one, other in zip(result.logprobs, reference.logprobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert_close(found, expected)
    assert set(found) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("mode", [*SHARED, "replicated"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_plain_forward_of_every_sample(family: str, mode: Mode) -> None:
    model, groups = tiny(family, 7), groups_of(7)
    plain = [[plain_logprobs(model, group, i, 0.7) for i in range(len(group.responses))] for group in groups]
    padded = [torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in plain]
    masks = [
        torch.nn.utils.rnn.pad_sequence([torch.ones(len(r)) for r in rows], batch_first=True).bool() for rows in plain
    ]
    expected = gradients(model, weighted(ResponseLogprobs(padded, masks)))
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED, temperature=0.7)
    for logprobs, mask, want, want_mask in zip(result.logprobs, result.mask, padded, masks, strict=True):
        torch.testing.assert_close(logprobs, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(mask, want_mask)
    assert_close(gradients(model, weighted(result)), expected)


@pytest.mark.parametrize("mode", SHARED)
def test_tied_head_and_chunks_change_nothing(mode: Mode) -> None:
    model, groups = tiny("qwen2", 3, tied=True), groups_of(3)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="replicated", banned_ids=BANNED)))
    found = gradients(model, weighted(response_logprobs(model, groups, mode=mode, banned_ids=BANNED, chunk=5)))
    assert_close(found, expected)


class _Logits(TorchDispatchMode):
    """Elements of the largest tensor over the vocabulary that any operation makes, the head's weight set aside."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and VOCABULARY in tensor.shape and HIDDEN not in tensor.shape:
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("mode", SHARED)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_more_rows_than_a_chunk_are_never_made_forward_or_backward(family: str, mode: Mode) -> None:
    model, groups = tiny(family, 3), groups_of(3)
    rows = sum(len(response) - 1 for group in groups for response in group.responses)
    for chunk, held in ((5, 5), (rows + 1, rows)):
        with _Logits() as logits:
            gradients(model, weighted(response_logprobs(model, groups, mode=mode, banned_ids=BANNED, chunk=chunk)))
        assert logits.largest == held * VOCABULARY


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(family: str, reentrant: bool) -> None:
    model, groups = tiny(family, 4), groups_of(4)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="packed_row", banned_ids=BANNED)))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, weighted(response_logprobs(model, groups, mode="packed_row", banned_ids=BANNED)))
    if reentrant:  # the vision tower's input has no gradient, so reentrant checkpoints give its layers none anywhere
        found = {name: value for name, value in found.items() if "visual" not in name}
        expected = {name: expected[name] for name in found}
    assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_cache_under_gradient_checkpointing(family: str) -> None:
    model, groups = tiny(family, 4), groups_of(4)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="packed_row", banned_ids=BANNED)))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, weighted(response_logprobs(model, groups, mode="prefix_cache", banned_ids=BANNED)))
    assert_close(found, expected)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match="packed_row"):
        response_logprobs(model, groups, mode="prefix_cache", banned_ids=BANNED)


@pytest.mark.parametrize("mode", SHARED)
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_gets_the_gradients_of_replicated_rows_and_the_backbone_none(family: str, mode: Mode) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "down_proj", "lm_head"]
    model = get_peft_model(tiny(family, 5), LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    groups = groups_of(5)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="replicated", banned_ids=BANNED)))
    found = gradients(model, weighted(response_logprobs(model, groups, mode=mode, banned_ids=BANNED)))
    assert_close(found, expected)
    assert all("lora" in name for name in found)
    with model.disable_adapter():
        reference = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    plain = response_logprobs(tiny(family, 5), groups, mode="replicated", banned_ids=BANNED)
    for one, other in zip(reference.logprobs, plain.logprobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", SHARED)
def test_equal_images_pass_the_vision_tower_once_and_all_in_one_pass(mode: Mode) -> None:
    model, groups = tiny("qwen2", 6), groups_of(6, (2, 2, 2, 2))
    groups[1].pixel_values, groups[1].image_grid_thw = groups[0].pixel_values, groups[0].image_grid_thw
    groups[3].pixel_values, groups[3].image_grid_thw = groups[0].pixel_values.clone(), groups[0].image_grid_thw
    for group in (groups[1], groups[3]):
        group.prompt_ids = torch.cat([groups[0].prompt_ids, torch.tensor([5, 6])])
    seen: list[int] = []
    handle = model.model.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    handle.remove()
    assert seen == [len(groups[0].pixel_values) + len(groups[2].pixel_values)]
    reference = response_logprobs(model, groups, mode="replicated", banned_ids=BANNED)
    for one, other in zip(result.logprobs, reference.logprobs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", SHARED)
def test_the_company_of_other_groups_changes_nothing(mode: Mode) -> None:
    model, groups = tiny("qwen2_5", 8), groups_of(8)
    together = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    for index, group in enumerate(groups):
        alone = response_logprobs(model, [group], mode=mode, banned_ids=BANNED)
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", [*SHARED, "replicated"])
def test_one_token_responses(mode: Mode) -> None:
    model, groups = tiny("qwen2", 9), groups_of(9, (2, 2))
    for group in groups:
        group.responses = [response[:1] for response in group.responses]
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    for index, group in enumerate(groups):
        torch.testing.assert_close(result.logprobs[index][0], plain_logprobs(model, group, 0), rtol=1e-5, atol=1e-5)
    gradients(model, weighted(result))


@pytest.mark.parametrize("mode", [*SHARED, "replicated"])
def test_entropy_is_that_of_the_distribution_without_banned_ids(mode: Mode) -> None:
    model, groups = tiny("qwen2", 10), groups_of(10, (2,))
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED, with_entropy=True)
    group, response = groups[0], groups[0].responses[0]
    logits = model(
        input_ids=torch.cat([group.prompt_ids, response])[None],
        pixel_values=group.pixel_values,
        image_grid_thw=group.image_grid_thw,
        mm_token_type_ids=(torch.cat([group.prompt_ids, response])[None] == IMAGE).int(),
    ).logits[0, len(group.prompt_ids) - 1 : -1]
    keep = [token for token in range(logits.shape[-1]) if token not in BANNED]
    expected = torch.distributions.Categorical(logits=logits[:, keep]).entropy()
    assert result.entropy is not None
    torch.testing.assert_close(result.entropy[0][0, : len(response)], expected, rtol=1e-5, atol=1e-5)
    logprobs, mask, entropy = result.stacked()
    assert entropy is not None
    assert logprobs.shape == mask.shape == entropy.shape


def test_the_model_still_works_as_before_afterwards() -> None:
    model, groups = tiny("qwen2", 11), groups_of(11, (2,))
    before = plain_logprobs(model, groups[0], 0)
    response_logprobs(model, groups, banned_ids=BANNED)
    torch.testing.assert_close(plain_logprobs(model, groups[0], 0), before, rtol=1e-5, atol=1e-5)


def test_mismatches_are_refused_with_the_group_and_both_counts() -> None:
    model, groups = tiny("qwen2"), groups_of(0)
    groups[1].prompt_ids = torch.cat([groups[1].prompt_ids, torch.tensor([IMAGE])])
    with pytest.raises(ValueError, match=r"group 1: \d+ image tokens in the prompt, \d+ features"):
        response_logprobs(model, groups)
    groups = groups_of(0)
    groups[2].responses[0] = groups[2].responses[0][:0]
    with pytest.raises(ValueError, match="group 2"):
        response_logprobs(model, groups)
    with pytest.raises(ValueError, match="vision-language"):
        unwrap(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("mode", SHARED)
def test_bfloat16_stays_near_replicated_rows(mode: Mode) -> None:
    model, groups = tiny("qwen2", 12).bfloat16(), groups_of(12)
    result = response_logprobs(model, groups, mode=mode, banned_ids=BANNED)
    exact = response_logprobs(model.float(), groups, mode="replicated", banned_ids=BANNED)
    scale = max(float(part.detach().abs().max()) for part in exact.logprobs)
    for one, other in zip(result.logprobs, exact.logprobs, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).detach().abs().max()) <= 0.1 * scale


def test_the_path_without_the_cpu_kernel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from boxmed_ray.model import segment_attention

    model, groups = tiny("qwen3", 13), groups_of(13)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="packed_row", banned_ids=BANNED)))
    monkeypatch.setattr(segment_attention, "_KERNEL_DEVICE", "none")
    found = gradients(model, weighted(response_logprobs(model, groups, mode="packed_row", banned_ids=BANNED)))
    assert_close(found, expected)
