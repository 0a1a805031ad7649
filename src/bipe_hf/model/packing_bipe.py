"""Attention over packed documents in linear memory, on `sdpa`: each document by itself, without a mask."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional as F

from .alibi_bipe import kernel_dtype


class Documents(NamedTuple):
    """Where the documents of packed rows lie, the rows one behind the other; a run of padding counts as one."""

    starts: torch.Tensor
    """The first token of each and, last, the number of tokens: int32 of shape `(documents + 1,)`."""
    lengths: list[int]
    """The tokens of each."""


def find_documents(positions: torch.Tensor) -> Documents:
    """The documents of packed rows, for which a GPU is waited for.

    Args:
        positions (`torch.LongTensor` of shape `(batch, length)`): from `positions_in_document`, 0 where one starts.
    """
    starts = (positions == 0).flatten().nonzero()[:, 0]
    starts = F.pad(starts, (0, 1), value=positions.numel())
    return Documents(starts.int(), starts.diff().tolist())


def attention_by_document(
    sdpa: Callable,
    layer: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    *,
    scaling: float,
    dropout: float,
    window: int | None = None,
) -> tuple[torch.Tensor, None]:
    """Applies causal attention inside each document.

    Where the flash kernel of torch takes the tensors, on a GPU in 16 bits, it takes all documents at once. Elsewhere
    they follow one another, each as a row of its own would be computed.

    Args:
        sdpa: transformers' attention on `scaled_dot_product_attention`.
        layer: the attention module.
        query (`torch.FloatTensor` of shape `(batch, heads, length, head_dim)`): as the kernel gets them.
        key (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as the kernel gets them.
        value (`torch.FloatTensor` of shape `(batch, key heads, length, head_dim)`): as the kernel gets them.
        documents ([`Documents`]): of these rows.
        scaling: factor on the logits.
        dropout: of the weights.
        window: how many tokens up to and with its own a token sees; None for all of its document.

    Returns:
        Output of shape `(batch, length, heads, head_dim)`, and None for the weights.
    """
    batch_size, _, length, head_dim = query.shape
    dtype = kernel_dtype(query)  # autocast leaves what turns in float32, and knows nothing of the flash kernel
    query, key, value = (each.transpose(1, 2).flatten(0, 1).to(dtype) for each in (query, key, value))
    is_grouped = query.shape[1] != key.shape[1]
    takes_all = SDPAParams(
        *(each.transpose(0, 1)[None] for each in (query, key, value)), None, dropout, True, is_grouped
    )
    if dropout == 0 and head_dim % 8 == 0 and can_use_flash_attention(takes_all):
        from torch.nn.attention.varlen import varlen_attn  # loads modules that nothing else needs

        longest = max(documents.lengths)
        output = varlen_attn(
            query,
            key,
            value,
            documents.starts,
            documents.starts,
            longest,
            longest,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=is_grouped,
        )
    else:
        # One split: the gradient of a slice would be as large as all documents.
        parts = (each.split(documents.lengths) for each in (query, key, value))
        masks = {length: _window_mask(length, window, query.device) for length in set(documents.lengths)}
        outputs = []
        for part in zip(*parts, strict=True):
            rows = (each.transpose(0, 1)[None] for each in part)
            outputs.append(sdpa(layer, *rows, masks[len(part[0])], dropout=dropout, scaling=scaling)[0][0])
        output = torch.cat(outputs)
    return output.unflatten(0, (batch_size, length)), None


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which keys each query of a document sees; None where that is all up to itself."""
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)[None, None]
