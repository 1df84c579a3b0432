"""Chunked log-probabilities equal log_softmax over everything, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from boxmed_ray.model.logprobs import token_logprobs

M, D, V, K = 23, 8, 31, 3


def case() -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=False)
    nn.init.normal_(head.weight)
    return torch.randn(M, D, requires_grad=True), torch.randint(2, V, (M, K)), head


def naive(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden) / 0.7
    keep = torch.tensor([v not in (0, 1) for v in range(V)])
    logprobs = torch.log_softmax(logits.masked_fill(~keep, float("-inf")), -1)
    return logprobs.gather(1, targets), torch.distributions.Categorical(logits=logits[:, keep]).entropy()


@pytest.mark.parametrize("chunk", [1, 7, M, None])
def test_equals_log_softmax_whatever_the_chunk(chunk: int | None) -> None:
    hidden, targets, head = case()
    weights = torch.linspace(-1, 1, M * K).view(M, K)
    results = []
    for function in (
        lambda: naive(hidden, targets, head),
        lambda: token_logprobs(
            hidden, targets, head, banned=torch.tensor([0, 1]), temperature=0.7, chunk=chunk, with_entropy=True
        ),
    ):
        logprobs, entropy = function()
        grads = torch.autograd.grad((weights * logprobs).sum(), [hidden, head.weight])
        results.append((logprobs.detach(), entropy.detach(), *grads))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-5, atol=5e-6)  # float32: sums depend on alignment


def test_a_banned_target_is_impossible_and_harmless_to_the_gradient() -> None:
    hidden, targets, head = case()
    targets[0] = 1
    logprobs, _ = token_logprobs(hidden, targets, head, banned=torch.tensor([1]))
    assert bool(torch.isneginf(logprobs[0]).all())
    (gradient,) = torch.autograd.grad(logprobs[1:].sum(), hidden)
    assert bool(torch.isfinite(gradient).all())


def test_logits_beyond_a_chunk_never_exist() -> None:
    """Every tensor that autograd keeps between forward and backward is far smaller than all logits."""
    hidden, targets, head = case()
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_logprobs(hidden, targets, head, chunk=4)
    assert max(kept, default=0) <= max(hidden.numel(), head.weight.numel())
    seen: list[int] = []
    token_logprobs(hidden, targets, lambda part: seen.append(len(part)) or head(part), chunk=4)  # type: ignore[func-returns-value]
    assert max(seen) == 4
    assert sum(seen) == M


def test_half_precision_heads_are_normalised_in_float32() -> None:
    hidden, targets, head = case()
    logprobs, _ = token_logprobs(hidden.bfloat16(), targets, head.bfloat16())
    assert logprobs.dtype == torch.float32
    expected = torch.log_softmax(head(hidden.bfloat16()).float(), -1).gather(1, targets)
    torch.testing.assert_close(logprobs, expected)
