"""Greedy answers to prompts of unequal length."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def write_greedily(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, pad_token_id: int, **options: int
) -> list[list[int]]:
    """The likeliest continuation of each prompt, which are padded on the left to run at once.

    Args:
        model: with `generate`.
        prompts: token ids.
        max_new_tokens: at most so many are written.
        pad_token_id: stands before short prompts, masked, and behind answers that have ended.
        options: more for `generate`, such as `eos_token_id`.

    Returns:
        The new token ids of each, all of one length.
    """
    width = max(map(len, prompts))
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    written = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad_token_id,
        **options,
    )
    return written[:, width:].tolist()
