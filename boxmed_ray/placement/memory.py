"""Bytes of GPU memory that a learner rank and a rollout worker take: arithmetic alone, without torch or Ray.

What lives here: one function a role, each item with the formula it came from. What does not: which roles meet on which
GPU, and whether they fit (plan.py).

b is the bytes of a weight. Activations are upper bounds for what the code keeps: with FlashAttention-like kernels no
item grows with the square of the length (after the counting of arXiv 2205.05198, adapted to gated MLPs and grouped
queries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxmed_ray.model.architecture import Architecture

GB = 1e9
GIB = 2**30

CONTEXT_BYTES = int(1.0 * GB)
"""Of a process: CUDA context, cuBLAS workspaces, NCCL buffers. Assumed."""
GRAPHS_BYTES = int(2.0 * GB)
"""Of an engine: CUDA graphs, and the layer that a weight push has in flight. Assumed."""
BUCKET_ELEMENTS = 100_000_000
"""Of DeepSpeed's reduce and all-gather buckets together, as model/engine.py sets them."""
LIVE_ELEMENTS = 1_000_000_000
"""Gathered parameters that ZeRO 3 keeps at once (DeepSpeed's default)."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""That ZeRO 3 steps at once (DeepSpeed's default)."""
LOGIT_BYTES = 4 * (1 << 24) * 4
"""A chunk of float32 logits as model/logprobs.py takes them, its softmax, gradient and copy."""
BATCHED_TOKENS = 4096
"""Tokens of an engine's step, as actors/vllm_start.py sets them."""

_MORE = "more than the activations of training"


@dataclass(frozen=True, slots=True)
class Item:
    """A use of memory: what, how many bytes, and how they were worked out."""

    name: str
    size: int
    formula: str


@dataclass(frozen=True, slots=True)
class LearnerLoad:
    """What a learner rank works on.

    Attributes:
        trained: parameters that train.
        ranks: that share the state.
        zero_stage: of DeepSpeed.
        weight_bytes: b.
        checkpointing: whether layers are computed again in the backward pass.
        tokens: of a forward and backward.
        images: of a forward and backward.
        image_tokens: of one image.
        reference: where a frozen copy waits; None without one.
    """

    trained: int
    ranks: int
    zero_stage: int
    weight_bytes: int
    checkpointing: bool
    tokens: int
    images: int
    image_tokens: int
    reference: str | None = None


def learner(model: Architecture, load: LearnerLoad) -> list[Item]:
    """What a learner rank holds at its fullest moment: a backward pass, a step, or the reference's pass."""
    b, ranks, total = load.weight_bytes, load.ranks, model.total
    stage = max(1, load.zero_stage) if b == 2 else load.zero_stage
    share = f" / {ranks} ranks" if ranks > 1 else ""
    weights = b * total // (ranks if stage == 3 else 1)
    gradients = b * load.trained // (ranks if stage >= 2 else 1)
    each = 12 if stage else 8
    state = each * load.trained // (ranks if stage else 1)
    items = [
        Item("weights", weights, f"{b} B x {_billions(total)}{share if stage == 3 else ''}"),
        Item("gradients", gradients, f"{b} B x {_billions(load.trained)}{share if stage >= 2 else ''}"),
        Item(
            "optimiser",
            state,
            f"{each} B ({'float32 copy, ' if stage else ''}two moments) x {_billions(load.trained)}"
            f"{share if stage else ''}",
        ),
    ]
    if stage:
        items.append(Item("buckets", b * BUCKET_ELEMENTS, f"{b} B x {_billions(BUCKET_ELEMENTS)}"))
    if stage == 3 and ranks > 1:
        live = min(total, LIVE_ELEMENTS)
        items.append(Item("gathered", b * live, f"{b} B x {_billions(live)} of ZeRO 3 at once"))
    process = Item("process", CONTEXT_BYTES, "CUDA context, NCCL (assumed)")
    return [*items, *_working(model, load), process]


def _working(model: Architecture, load: LearnerLoad) -> list[Item]:
    """What comes on top of the state at the fullest of three moments.

    They are the backward pass, the optimiser's step, and the pass of a reference that waits on the host otherwise;
    activations are there in the first only.
    """
    b = load.weight_bytes
    text, how = _text_activations(model, load)
    vision, seen = _vision_activations(model, load)
    moments = [
        [
            Item("activations", text, how),
            Item("vision activations", vision, seen),
            Item("logits", LOGIT_BYTES, "chunks of float32 logits, four times"),
        ],
        [_step(load)],
    ]
    copy = Item("reference", b * model.total, f"{b} B x {_billions(model.total)}, whole on every rank")
    if load.reference == "cpu":
        moments.append([Item("reference in its pass", copy.size, f"{copy.formula}; {_MORE}")])
    fullest = max(moments, key=lambda items: sum(item.size for item in items))
    return [*fullest, copy] if load.reference == "learner" else fullest


def _step(load: LearnerLoad) -> Item:
    """Of the gradient's float32 copy and torch's AdamW, which keeps one tensor of the moments' size beside them."""
    ranks = load.ranks if load.zero_stage or load.weight_bytes == 2 else 1
    count, more = load.trained // ranks, 8 - load.weight_bytes
    if load.zero_stage == 3:
        count = min(count, SUB_GROUP_ELEMENTS)
    return Item(
        "optimiser's step",
        more * count,
        f"{more} B x {_billions(count)} (float32 gradient, AdamW's temporary) beside the gradients; {_MORE}",
    )


def _text_activations(model: Architecture, load: LearnerLoad) -> tuple[int, str]:
    b, queries, keys = load.weight_bytes, model.heads * model.head_size, model.kv_heads * model.head_size
    # Of a layer and token: inputs of both norms and of both products, queries, keys and values before and after
    # rotation, the attention's output, and the four tensors of the gated MLP.
    full = b * (4 * model.hidden + 2 * (queries + 2 * keys) + queries + 4 * model.intermediate)
    return _layers(load, full, b * model.hidden, model.layers, load.tokens, "tokens")


def _vision_activations(model: Architecture, load: LearnerLoad) -> tuple[int, str]:
    b, width = load.weight_bytes, model.vision_hidden
    patches = load.images * load.image_tokens * model.patches
    full = b * (4 * width + 3 * 2 * width + width + 2 * model.vision_intermediate)
    return _layers(load, full, b * width, model.vision_layers, patches, "patches")


def _layers(load: LearnerLoad, full: int, kept: int, layers: int, count: int, unit: str) -> tuple[int, str]:
    if load.checkpointing:
        return count * (kept * layers + full), f"{count} {unit} x ({kept} B x {layers} layers + {full} B of one)"
    return count * full * layers, f"{count} {unit} x {full} B x {layers} layers"


def engine(
    model: Architecture, *, tensor_parallel: int, weight_bytes: int, kv_gib: float, sequences: int, max_length: int
) -> list[Item]:
    """What a rollout worker holds on each of its GPUs."""
    b, share = weight_bytes, f" / {tensor_parallel} GPUs" if tensor_parallel > 1 else ""
    batched = max(BATCHED_TOKENS, max_length)
    width = 2 * model.hidden + 2 * model.intermediate // tensor_parallel
    vision = model.patches * (2 * model.vision_hidden + 2 * model.vision_intermediate // tensor_parallel)
    return [
        Item("weights", b * model.total // tensor_parallel, f"{b} B x {_billions(model.total)}{share}"),
        Item("KV cache", int(kv_gib * GIB), f"resources.kv_cache_gb {kv_gib:g} x 2^30"),
        Item("logits", 8 * sequences * model.vocabulary, f"2 x 4 B x {sequences} sequences x {model.vocabulary}"),
        Item("step", b * batched * (width + vision), f"{b} B x {batched} tokens x ({width} + {vision} of its patches)"),
        Item("graphs, push", GRAPHS_BYTES, "CUDA graphs, a layer in flight (assumed)"),
        Item("process", CONTEXT_BYTES, "CUDA context, NCCL (assumed)"),
    ]


def kv_token(model: Architecture, tensor_parallel: int, weight_bytes: int) -> int:
    """Bytes of keys and values of a token on each GPU; fewer heads than GPUs are held more than once."""
    heads = -(-model.kv_heads // tensor_parallel)
    return weight_bytes * model.kv_elements * heads // model.kv_heads


def group_tokens(prompt: int, responses: int, length: int) -> int:
    """Tokens in the cache of a group whose responses all have ``length``: the prompt is there once."""
    return prompt + responses * length


def _billions(count: int) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"
