"""What of BiPE a paged cache can hold, the one in which servers keep keys and values of many requests.

A paged cache keeps what a forward writes into it, in blocks of one shape, and a paged kernel adds nothing to logits.
So an encoding must be finished in queries and keys: angles, factors and bias columns are, whose positions each step
gets as [`Segments`].
"""

import torch
from transformers import PreTrainedConfig

from .attention_bipe import mask_for_columns
from .errors_bipe import InputError
from .inter_bipe import INTER_ENCODINGS
from .segmentation_bipe import Segmenter, Segments, SegmentState


OF_THE_BATCH = ("dynamic", "longrope")
"""Kinds of RoPE whose angles follow from the longest text of a forward, which a server mixes with others."""


def head_columns(config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
    """How much wider than `head_dim` keys and values are.

    Args:
        config: of the model.
        head_dim: of queries and keys, without columns.
        dtype: in which attention computes.
    """
    return INTER_ENCODINGS[config.inter_encoding].num_columns(config, head_dim, dtype)


def check_paged(config: PreTrainedConfig, what: str) -> None:
    """Raises `ValueError` for a configuration whose attention no paged cache holds.

    Args:
        config: of the model.
        what: asked for such a cache, for the message.
    """
    encoding = INTER_ENCODINGS[config.inter_encoding]
    why = None
    if encoding.has_bias:
        why = "has a bias for each pair of tokens, which no paged kernel adds"
    elif encoding.logits_class is not None:
        why = "changes finished logits, which no paged kernel does"
    elif encoding.layer_class is not None or encoding.mixing_class is not None or encoding.updates_class is not None:
        why = "has a state in every layer, which a paged cache does not keep"
    if why is not None:
        raise InputError(
            f"{what}: inter_encoding={config.inter_encoding!r} {why}. Use generate with a padded batch"
            " (docs/serving.md has the encodings that a paged cache holds)"
        )
    if config.sepllm_neighbors is not None:
        raise InputError(f"{what}: no paged kernel has the mask of sepllm_neighbors. Use generate with a padded batch")
    if config.layer_encodings:
        raise InputError(
            f"{what}: layers of several kinds (layer_encodings) need caches of several kinds. Use generate with a"
            " padded batch"
        )
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if rope_type in OF_THE_BATCH and config.inter_encoding not in ("alibi", "none"):  # which turn nothing
        raise InputError(
            f"{what}: rope_type={rope_type!r} would turn the keys of a request by how long others are. Use rope_type"
            " 'linear', 'yarn' or 'llama3', or generate with one text at a time"
        )


def paged_mask(mask: torch.Tensor | None, backend: str) -> torch.Tensor | None:
    """The additive mask of a flat batch, 0 or its dtype's minimum, in a form that stays below the columns of any bias.

    Between texts a bias has no bound and either sign, so a float16 sum with the minimum may be anything.

    Args:
        mask (`torch.FloatTensor` of shape `(1, 1, length, keys)`, *optional*): of transformers.
        backend: that gets it, as the configuration calls it.

    Returns:
        `torch.FloatTensor` or `torch.BoolTensor` of the same shape; None for None.
    """
    if mask is None or mask.dtype not in (torch.float16, torch.bfloat16):
        return mask
    return mask_for_columns(mask) if backend == "paged|eager" else mask == 0


def paged_segments(
    segmenter: Segmenter, input_ids: torch.Tensor, cu_seq_lens_q: torch.Tensor, logits_processor_args: torch.Tensor
) -> Segments:
    """The segments of a flat batch of transformers' continuous batching.

    Args:
        segmenter ([`Segmenter`]): of the model.
        input_ids (`torch.IntTensor` of shape `(1, length)`): pieces of requests, behind them perhaps padding.
        cu_seq_lens_q (`torch.IntTensor` of shape `(pieces + 1,)`): where each piece starts and the last one ends.
        logits_processor_args (`torch.IntTensor` of shape `(rows, pieces)`):
            The last rows are the columns of the [`SegmentState`] in front of each piece.

    Raises:
        ValueError: if these rows are not there.
    """
    num_columns = 4 + 2 * len(segmenter.inner_separator_token_ids)
    if logits_processor_args.shape[0] < num_columns:
        raise InputError(
            "a paged cache was given without the segments of its requests: get the manager from"
            " model.init_continuous_batching()"
        )
    column = torch.arange(input_ids.shape[1], dtype=cu_seq_lens_q.dtype, device=input_ids.device)
    piece = torch.searchsorted(cu_seq_lens_q[1:], column, right=True)
    piece = piece.clamp(max=logits_processor_args.shape[1] - 1)  # of padding, where nothing reads what is found
    past = logits_processor_args[-num_columns:, piece].long()
    starts_piece = column == cu_seq_lens_q[piece]
    return segmenter.flat(input_ids.long(), starts_piece[None], SegmentState.from_columns(past[:, None].unbind(0)))
