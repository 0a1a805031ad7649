"""Answers to prompts of unequal length, the likeliest ones or drawn at random."""

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...model.errors_bipe import InputError


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of a prompt, behind the special tokens that the tokenizer puts first.

    Args:
        tokenizer: of the model.
        text: in which the names of special tokens are text.
    """
    return tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"]


def chat_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], otherwise: str) -> BatchEncoding:
    """Turns of a chat, as the chat template of the tokenizer puts them before an answer.

    Args:
        tokenizer: with a chat template.
        turns: each with its `role` and `content`.
        otherwise: what to do where the template refuses them.

    Returns:
        `input_ids` and `attention_mask`, long, `(1, tokens)`.

    Raises:
        InputError: the template refuses the turns.
    """
    try:
        return tokenizer.apply_chat_template(
            list(turns), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    except (TemplateError, TypeError) as error:
        raise InputError(f"the chat template of the tokenizer refuses a prompt ({error}): {otherwise}") from error


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
    return _write(model, prompts, max_new_tokens, pad_token_id, eos_token_id, {"do_sample": False})


def write_at_random(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    pad_token_id: int,
    eos_token_id: int | None = None,
    temperature: float = 1.0,
) -> list[list[int]]:
    """A continuation of each prompt, each token drawn from the model's probabilities.

    Args:
        model: with `generate`.
        prompts: token ids.
        max_new_tokens: at most so many are written.
        pad_token_id: stands before short prompts, masked, and behind answers that have ended.
        eos_token_id: ends an answer; None takes that of the model's generation config.
        temperature: what the logits are divided by, above 0.

    Returns:
        The new token ids of each, all of one length.
    """
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return _write(model, prompts, max_new_tokens, pad_token_id, eos_token_id, sampling)


@torch.inference_mode()
def _write(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int | None,
    sampling: dict[str, Any],
) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    saved = model.generation_config
    chosen = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        pad_token_id=pad_token_id,
        eos_token_id=saved.eos_token_id if eos_token_id is None else eos_token_id,
        **sampling,
    )
    model.generation_config = chosen  # from which `generate` fills in what the one that it is given leaves open
    try:
        written = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=chosen,
        )
    finally:
        model.generation_config = saved
    return written[:, width:].tolist()
