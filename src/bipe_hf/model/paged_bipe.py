"""What of BiPE a paged cache can hold, the one in which servers keep keys and values of many requests.

A paged cache keeps what a forward writes into it, in blocks of one shape, and a paged kernel adds nothing to logits.
So an encoding must be finished in queries and keys: angles, factors and bias columns are, whose positions each step
gets as [`Segments`].
"""

import torch
from transformers import PreTrainedConfig

from .errors_bipe import InputError
from .inter_bipe import INTER_ENCODINGS


def head_columns(config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
    """By how much keys and values are wider than `head_dim` where attention computes in `dtype`."""
    return INTER_ENCODINGS[config.inter_encoding].num_columns(config, head_dim, dtype)


def check_paged(config: PreTrainedConfig, what: str) -> None:
    """Raises `ValueError` for a configuration whose attention no paged cache holds; `what` asked for one."""
    encoding = INTER_ENCODINGS[config.inter_encoding]
    why = None
    if encoding.has_bias:
        why = "has a bias for each pair of tokens, which no paged kernel adds"
    elif encoding.logits_class is not None:
        why = "changes finished logits, which no paged kernel does"
    elif encoding.layer_class is not None or encoding.mixing_class is not None or encoding.updates_class is not None:
        why = "has a state in every layer, which a paged cache does not keep"
    if why is not None:
        raise InputError(f"{what}: inter_encoding={config.inter_encoding!r} {why}. Use generate with a padded batch")
    if config.sepllm_neighbors is not None:
        raise InputError(f"{what}: no paged kernel has the mask of sepllm_neighbors. Use generate with a padded batch")
    if config.layer_encodings:
        raise InputError(
            f"{what}: layers of several kinds (layer_encodings) need caches of several kinds. Use generate with a"
            " padded batch"
        )
