"""Log-probabilities of chosen tokens, a chunk of rows at a time.

What lives here: from hidden states to the log-probabilities of given tokens, so that the logits of all rows by the
whole vocabulary never exist at once. What does not: which rows and tokens (shared_prefix.py), and any loss (grpo/).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGIT_ELEMENTS = 1 << 24
"""Logits held at once when the caller names no chunk: 64 MB in float32."""


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    banned: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
    vocabulary: int | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of ``targets`` under ``softmax(head(hidden) / temperature)`` without the banned tokens.

    Rows go through the head in chunks; with more than one chunk each is recomputed in the backward pass, so that at
    most one chunk's logits exist at any time. The head is called as a module, so LoRA on it and ZeRO-3's gathering
    of its weight work. Softmax is in float32 whatever the head's type.

    Args:
        hidden: [M, D] final hidden states; row i predicts the tokens ``targets[i]``.
        targets: [M, K] token ids; K > 1 where one row predicts the same position of several responses.
        head: the output head, [m, D] → [m, V].
        banned: ids whose logits are −∞, as in the sampler; a banned target has log-probability −∞ and no gradient.
        temperature: logits are divided by it.
        chunk: rows whose logits exist at once; by default as many as make ``LOGIT_ELEMENTS`` logits.
        vocabulary: V, needed only for the default chunk.
        with_entropy: also return the entropy of every row, in nats, without gradient.

    Returns:
        [M, K] log-probabilities in float32, and the [M] entropies or None.
    """
    if chunk is None:
        chunk = max(1, LOGIT_ELEMENTS // vocabulary) if vocabulary else 1024

    def rows(part: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(part)
        if temperature != 1.0:
            logits = logits / temperature
        if banned is not None:
            logits = logits.index_fill(-1, banned, float("-inf"))
        return _GatherLogprobs.apply(logits, ids, with_entropy)

    count = _agreed_chunks(max(1, -(-hidden.shape[0] // chunk)), head)
    if count == 1:
        logprobs, entropy = rows(hidden, targets)
    else:
        cuts = [slice(i * chunk, (i + 1) * chunk) for i in range(count)]
        parts = [checkpoint(rows, hidden[cut], targets[cut], use_reentrant=False) for cut in cuts]
        logprobs, entropy = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    return logprobs, entropy if with_entropy else None


def _agreed_chunks(count: int, head: Callable[[Tensor], Tensor]) -> int:
    """Chunks that every rank runs: calls of the head are collective under ZeRO 3, so some ranks add empty ones."""
    parameters = head.parameters() if isinstance(head, nn.Module) else ()
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return count
    agreed = torch.tensor(count, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return int(agreed)


class _GatherLogprobs(torch.autograd.Function):
    """log_softmax then gather, keeping the logits only: autograd's own pair would keep a second copy of them."""

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        normaliser = torch.logsumexp(logits.float(), -1, keepdim=True)
        ctx.save_for_backward(logits, normaliser, ids)
        logprobs = logits.gather(-1, ids).float() - normaliser
        entropy = _entropy(logits, normaliser) if with_entropy else logprobs.new_zeros(logits.shape[0])
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        logits, normaliser, ids = ctx.saved_tensors
        # d logp_k / d logit_v = [v = id_k] - p_v, summed over the K tokens of a row with their gradients.
        full = (logits.float() - normaliser).exp_().mul_(-grad.sum(-1, keepdim=True))
        full.scatter_add_(-1, ids, grad)
        return full.to(logits.dtype), None, None


def _entropy(logits: Tensor, normaliser: Tensor) -> Tensor:
    logprobs = logits.float() - normaliser
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == float("-inf"), 0.0)).sum(-1)
