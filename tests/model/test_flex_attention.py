"""FlexAttention over a row: its mask is the one written out, and it gives what the CPU's path gives.

FlexAttention runs uncompiled on the CPU. It refuses gradients there, by a check of the device alone: without the check
torch's own backward of the uncompiled operator runs, and is compared here. The compiled kernels need a GPU.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from boxmed_ray.model import flex_attention
from boxmed_ray.model.row_layout import Pieces, RowLayout
from boxmed_ray.model.segment_attention import Row
from boxmed_ray.model.shared_prefix import Mode, response_logprobs
from tests.model.shared_prefix_cases import BANNED, tiny
from tests.model.test_shared_prefix import assert_close, gradients, groups_of, weighted

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

PASSES = ("whole", "prompts", "responses")
Token = tuple[int, int, int]
"""Group, segment (0 the prompt) and place in it."""


def layout(seed: int, longest: int = 180) -> RowLayout:
    """Two to four groups; some responses are empty."""
    draw = random.Random(seed)
    prompts = tuple(draw.randint(1, longest) for _ in range(draw.randint(2, 4)))
    responses = tuple(tuple(draw.randint(0, longest) for _ in range(draw.randint(1, 4))) for _ in prompts)
    return RowLayout(prompts, responses, torch.device("cpu"))


def tokens(row: RowLayout) -> tuple[list[Token], list[Token]]:
    """Who stands where, of the prompts and of the responses."""
    prompts = [(group, 0, i) for group, length in enumerate(row.prompt_lengths) for i in range(length)]
    responses = [
        (group, 1 + index, i)
        for group, lengths in enumerate(row.response_lengths)
        for index, length in enumerate(lengths)
        for i in range(length)
    ]
    return prompts, responses


def written_out(queries: list[Token], keys: list[Token]) -> torch.Tensor:
    """[queries, keys] bool: token by token."""
    return torch.tensor(
        [[g == h and ((s == t and j <= i) or (s > 0 and t == 0)) for h, t, j in keys] for g, s, i in queries]
    )


@pytest.fixture
def on_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attention of a row runs FlexAttention, uncompiled, with gradients."""
    monkeypatch.setattr(flex_attention, "suits", lambda q: True)
    monkeypatch.setattr(flex_attention, "_kernel", lambda: flex.flex_attention)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)


@pytest.mark.parametrize("part", PASSES)
@pytest.mark.parametrize("seed", range(4))
def test_the_mask_is_the_one_written_out_token_by_token(seed: int, part: str) -> None:
    row = layout(seed)
    prompts, responses = tokens(row)
    queries = {"whole": prompts + responses, "prompts": prompts, "responses": responses}[part]
    expected = written_out(queries, prompts if part == "prompts" else prompts + responses)
    mask = flex_attention.block_mask(getattr(row, part)())
    assert torch.equal(flex.create_mask(mask.mask_mod, 1, 1, *mask.seq_lengths, device="cpu")[0, 0], expected)


@pytest.mark.parametrize("part", PASSES)
@pytest.mark.parametrize("seed", range(4, 8))
def test_blocks_are_those_that_torch_counts_in_the_whole_mask(seed: int, part: str) -> None:
    mask = flex_attention.block_mask(getattr(layout(seed, 600), part)())
    counted = flex.create_block_mask(mask.mask_mod, 1, 1, *mask.seq_lengths, device="cpu")
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_indices", "full_q_indices"):
        assert torch.equal(getattr(mask, name), getattr(counted, name)), name
    assert int(mask.full_kv_num_blocks.sum()) > 0  # or the case shows nothing


def attended(pieces: Pieces, seed: int, heads: int, graded: bool) -> list[torch.Tensor]:
    """Output of random states, four query heads and ``heads`` key-value heads, and the gradients of all inputs."""
    generator = torch.Generator().manual_seed(seed)

    def states(count: int, width: int) -> torch.Tensor:
        return torch.randn(count, width, 16, generator=generator, requires_grad=graded)

    rows = sum(pieces.lengths)
    q, k, v = states(rows, 4), states(rows, heads), states(rows, heads)
    before = (states(pieces.before, heads), states(pieces.before, heads)) if pieces.before else ()
    out = Row(pieces, prefix={0: before} if before else None).attend(q, k, v, 0.3, 0)  # type: ignore[dict-item]
    if not graded:
        return [out]
    weights = torch.randn(out.shape, generator=generator)
    return [out.detach(), *torch.autograd.grad((weights * out).sum(), [q, k, v, *before])]


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("part", PASSES)
def test_outputs_and_gradients_are_those_of_the_cpu_path(
    part: str, heads: int, graded: bool, request: pytest.FixtureRequest
) -> None:
    pieces = getattr(layout(heads), part)()
    expected = attended(pieces, heads, heads, graded)
    request.getfixturevalue("on_flex")
    for found, value in zip(attended(pieces, heads, heads, graded), expected, strict=True):
        assert float((found - value).norm() / value.norm()) <= 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["packed_row", "prefix_cache"])
def test_a_model_gets_the_gradients_of_replicated_rows(mode: Mode, checkpointing: bool, on_flex: None) -> None:
    model, groups = tiny("qwen3", 1), groups_of(1)
    expected = gradients(model, weighted(response_logprobs(model, groups, mode="replicated", banned_ids=BANNED)))
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    found = gradients(model, weighted(response_logprobs(model, groups, mode=mode, banned_ids=BANNED)))
    assert_close(found, expected)


def test_a_mask_is_made_once_for_all_layers(on_flex: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Pieces] = []
    make = flex_attention.block_mask
    monkeypatch.setattr(flex_attention, "block_mask", lambda pieces: made.append(pieces) or make(pieces))  # type: ignore[func-returns-value]
    with torch.no_grad():
        response_logprobs(tiny("qwen2", 2), groups_of(2), mode="packed_row", banned_ids=BANNED)
    assert len(made) == 1


def test_rows_of_other_lengths_do_not_compile_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    kernel: Any = flex_attention._kernel.__wrapped__()
    monkeypatch.setattr(flex_attention, "suits", lambda q: True)
    monkeypatch.setattr(flex_attention, "_kernel", lambda: kernel)
    for seed in range(8):
        attended(layout(seed, 400).whole(), seed, 2, False)
    assert counter.frame_count == 2


def test_float64_narrow_heads_and_other_devices_are_left_to_the_other_path() -> None:
    assert not flex_attention.suits(torch.zeros(3, 2, 64))
    with FakeTensorMode():  # a CUDA tensor in name
        for kind, width, suits in (
            (torch.bfloat16, 64, True),
            (torch.float32, 80, True),
            (torch.float64, 64, False),
            (torch.float32, 8, False),
        ):
            assert flex_attention.suits(torch.empty(3, 2, width, device="cuda", dtype=kind)) is suits
