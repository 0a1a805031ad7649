"""The kernels of flash attention, by their contract, on any machine."""

import torch


def naive_flash(query, key, value, softmax_scale=None, causal=False, window_size=(-1, -1), **kwargs):
    """Same contract as `flash_attn_func`: `(batch, length, heads, head_dim)`, one head dimension, a multiple of 8."""
    assert query.shape[-1] == key.shape[-1] == value.shape[-1]
    assert query.shape[-1] % 8 == 0
    assert causal
    groups = query.shape[2] // key.shape[2]
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    logits = query @ key.transpose(2, 3) * softmax_scale
    # aligned at the lower right, as in flash attention 2.1 and later
    past = key.shape[2] - query.shape[2]
    mask = torch.ones(logits.shape[-2:]).tril(past).bool()
    if window_size[0] >= 0:  # so many keys before the query's own
        mask = mask.triu(past - window_size[0])
    return (logits.masked_fill(~mask, float("-inf")).softmax(-1) @ value).transpose(1, 2)


def naive_flash_varlen(
    query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, window_size=(-1, -1), **kwargs
):
    """Same contract as `flash_attn_varlen_func`: sequences one after the other along the first dimension."""
    output = torch.empty_like(query)
    queries, keys = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert queries[-1] == len(query)
    for i in range(len(queries) - 1):
        q, k = slice(*queries[i : i + 2]), slice(*keys[i : i + 2])
        output[q] = naive_flash(query[None, q], key[None, k], value[None, k], window_size=window_size, **kwargs)[0]
    return output
