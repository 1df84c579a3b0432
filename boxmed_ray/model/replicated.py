"""The reference: every response is a row with its own copy of prompt and image.

What lives here: the plain way that other trainers compute a group, kept to compare with. What does not: anything quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from boxmed_ray.model.shared_prefix import GroupInputs


def replicated_hidden(vlm: Any, groups: Sequence[GroupInputs]) -> tuple[Tensor, Tensor]:
    """Final hidden states that predict each response's first token [ΣN, D] and all other tokens [Σ (R − 1), D].

    Rows are padded on the right to the longest and go through the whole model in one batch, vision tower included.
    """
    pairs = [(group, response) for group in groups for response in group.responses]
    device = vlm.device
    rows = [torch.cat([group.prompt_ids.to(device), response.to(device)]) for group, response in pairs]
    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    output = vlm.model(
        input_ids=ids,
        attention_mask=mask,
        mm_token_type_ids=((ids == vlm.config.image_token_id) & mask.bool()).int(),
        pixel_values=torch.cat([group.pixel_values for group, _ in pairs]).to(device),
        image_grid_thw=torch.cat([group.image_grid_thw for group, _ in pairs]).to(device),
        use_cache=False,
    )
    hidden = output.last_hidden_state
    starts = torch.tensor([len(group.prompt_ids) for group, _ in pairs], device=device)
    steps = torch.arange(ids.shape[1], device=device)
    tails = (steps >= starts[:, None]) & (steps < mask.sum(1, keepdim=True) - 1)
    return hidden[torch.arange(len(pairs), device=device), starts - 1], hidden[tails]
