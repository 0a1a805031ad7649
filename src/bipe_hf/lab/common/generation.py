"""Greedy answers to prompts of unequal length."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a prompt, behind the special tokens that the tokenizer puts first. Those in the text are text."""
    return tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"]


@torch.inference_mode()
def write_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    pad_token_id: int,
    eos_token_id: int | None = None,
) -> list[list[int]]:
    """The likeliest continuation of each prompt, which are padded on the left to run at once.

    Of what the model's generation config says, such as a penalty on repetition, only `eos_token_id` holds.

    Args:
        model: with `generate`.
        prompts: token ids.
        max_new_tokens: at most so many are written.
        pad_token_id: stands before short prompts, masked, and behind answers that have ended.
        eos_token_id: ends an answer; None takes that of the model's generation config.

    Returns:
        The new token ids of each, all of one length.
    """
    width = max(map(len, prompts))
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    saved = model.generation_config
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad_token_id,
        eos_token_id=saved.eos_token_id if eos_token_id is None else eos_token_id,
    )
    model.generation_config = greedy  # from which `generate` fills in what the one that it is given leaves open
    try:
        written = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=greedy,
        )
    finally:
        model.generation_config = saved
    return written[:, width:].tolist()
