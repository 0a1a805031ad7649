"""The logits of CoPE, DAPE and DAPE V2 and the bias of FIRE written out from their formulas, pair by pair.

With tensors, so that gradients follow too.
"""

import math

import torch

from bipe_hf.model.alibi_bipe import alibi_slopes


def naive_logits(config, module, query, key, value, own_keys, segments, scaling):
    """Logits of one row before softmax, minus infinity at later keys, of shape `(heads, length, length)`.

    `query` of shape `(heads, length, head_dim)`, `key`, `value` and `own_keys` with key heads. `segments` of each
    token; over tokens, its index.
    """
    heads, length, _ = query.shape
    key, value, own_keys = (
        None if each is None else each.repeat_interleave(heads // len(each), dim=0) for each in (key, value, own_keys)
    )
    products = {
        (h, i, j): query[h, i] @ key[h, j] * scaling for h in range(heads) for i in range(length) for j in range(i + 1)
    }
    if config.inter_encoding == "cope":
        of_gates = {"keys": key, "values": value, "own_keys": own_keys}[config.cope_gates]
        added = naive_cope(config, module, query, of_gates, segments, scaling)
    else:
        added = naive_dape(config, module, products, segments)
    rows = [
        [products[h, i, j] + added[h, i, j] if j <= i else torch.tensor(-math.inf) for j in range(length)]
        for h in range(heads)
        for i in range(length)
    ]
    return torch.stack([torch.stack(row) for row in rows]).unflatten(0, (heads, length))


def naive_cope(config, module, query, of_gates, segments, scaling):
    """What CoPE adds for head, query and key."""
    table = module.table.weight
    added = {}
    for h in range(len(query)):
        for i, q in enumerate(query[h]):
            gates = [torch.sigmoid(q @ of_gates[h, t] * scaling) for t in range(i + 1)]
            for j in range(i + 1):
                position = naive_position(gates, segments if config.segmentation != "tokens" else None, i, j)
                position = torch.clamp(position, max=len(table) - 1)
                low, high = math.floor(position.item()), math.ceil(position.item())
                share = position - low
                term = (1 - share) * (q @ table[low]) + share * (q @ table[high])
                added[h, i, j] = term * (scaling if config.cope_term == "scaled" else 1)
    return added


def naive_position(gates, segments, i, j):
    position = torch.zeros((), dtype=torch.float64)
    if segments is None:
        for t in range(j, i + 1):
            position = position + gates[t]
    else:
        for t in range(j, i):
            position = position + gates[t] * (segments[t + 1] - segments[t])
    return position


def naive_dape(config, module, products, segments):
    """What DAPE and DAPE V2 add for head, query and key."""
    heads, length = config.num_attention_heads, len(segments)
    reach = config.dape_kernel // 2 if config.inter_encoding == "dape_v2" else 0
    added = {}
    for i in range(length):
        bias = [
            [naive_pair_bias(config, module.bias, h, segments[i], segments[i] - segments[j]) for h in range(heads)]
            for j in range(i + 1)
        ]

        def seen(place, i=i, bias=bias):
            if not 0 <= place <= i:
                return torch.zeros(2 * heads, dtype=torch.float64)
            return torch.stack([*(products[h, i, place] for h in range(heads)), *bias[place]])

        def hidden(place, i=i, seen=seen):
            if place < 0:
                return torch.zeros(config.dape_width, dtype=torch.float64)
            total = module.first.bias
            for tap in range(2 * reach + 1):
                total = total + module.first.weight[:, :, tap] @ seen(place + tap - reach)
            return torch.where(total > 0, total, 0.01 * total)

        hiddens = {place: hidden(place) for place in range(-reach, i + reach + 1)}
        for j in range(i + 1):
            mixed = module.second.bias
            for tap in range(2 * reach + 1):
                mixed = mixed + module.second.weight[:, :, tap] @ hiddens[j + tap - reach]
            for h in range(heads):
                added[h, i, j] = bias[j][h] + mixed[h]
    return added


def naive_pair_bias(config, bias, head, query_segment, distance):
    """The bias that DAPE adapts."""
    if config.dape_bias == "alibi":
        slope = config.alibi_slope_scale * alibi_slopes(config.num_attention_heads)[head]
        return torch.tensor(-slope * distance, dtype=torch.float64)
    if config.dape_bias == "kerple":
        return -bias.log_r1[head].exp() * torch.log(1 + bias.log_r2[head].exp() * distance)
    return naive_fire(config, bias, head, query_segment, distance, slope=0.01)


def naive_fire(config, bias, head, query_segment, distance, slope):
    """`slope` of the activation below 0."""
    far = torch.maximum(
        torch.tensor(float(query_segment), dtype=torch.float64), (bias.m[0] * config.fire_length).abs()
    )
    share = torch.log((bias.c[0] * distance).abs() + 1) / (torch.log((bias.c[0] * far).abs() + 1) + 1e-6)
    hidden = bias.first.weight[:, 0, 0] * share + bias.first.bias
    hidden = torch.where(hidden > 0, hidden, slope * hidden)
    return bias.second.weight[head, :, 0] @ hidden + bias.second.bias[head]
