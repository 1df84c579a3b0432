"""Shared prompts give the log-probabilities and gradients of replicated rows and of one plain forward per sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxmed_ray.model.shared_prefix import GroupInputs, Mode, ResponseLogprobs, response_logprobs
from tests.model.shared_prefix_cases import BANNED, plain_logprobs, random_group, tiny

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
    scale = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        # A bias before a softmax over keys has a gradient of zero in theory; compare such with the whole's scale.
        error = float((found[name] - value).norm()) / max(float(value.norm()), 1e-3 * scale)
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
