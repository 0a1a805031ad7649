"""The inter encodings written out from their formulas, pair by pair in float64: what every fast form must equal."""

import cmath
import math

import torch
from naive_logits import naive_fire

from bipe_hf.model.alibi_bipe import alibi_slopes


def naive_positions(config, ids):
    """Segment of each token, found in a loop; the token's index is that in the list."""
    if config.segmentation == "tokens":
        return list(range(len(ids)))
    segments, current = [], 0
    for token in ids:
        segments.append(current)
        current += token in config.separator_token_ids
    return segments


def naive_inside(config, ids):
    """Of each token the index of its unit at every inner level, and its place in the innermost; in a loop."""
    found, indices, place = [], [0] * len(config.inner_separator_token_ids), 0
    for token in ids:
        found.append([min(index, config.max_inner_index - 1) for index in indices])
        found[-1].append(min(place, config.max_segment_length - 1))
        place += 1
        for level, ends in enumerate([config.separator_token_ids, *config.inner_separator_token_ids]):
            if token in ends:
                if level > 0:
                    indices[level - 1] += 1
                indices[level:] = [0] * len(indices[level:])
                place = 0
                break
    return found


def naive_pairs(config, head_dim):
    """Frequency of each pair that turns, and its two dimensions: those of the first half with those of the second."""
    theta = config.rope_parameters["rope_theta"]
    turning = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    return [(theta ** (-2 * i / turning), i, i + turning // 2) for i in range(turning // 2)]


def naive_rotation(config, head_dim, segment, token, inside):
    """A complex factor for each pair of a token's query, and the one of its key."""
    factors = []
    pairs = naive_pairs(config, head_dim)
    for i, (frequency, _, _) in enumerate(pairs):
        query = key = 1 + 0j
        index = config.token_share * token + (1 - config.token_share) * segment
        added = config.added_rotation if config.inter_encoding in ("fox", "cable") else "none"
        is_fast = config.inter_encoding == "hybrid" or added == "fast"
        if added == "rope" or config.inter_encoding in ("rope", "xpos"):
            query = key = cmath.exp(1j * frequency * index)
        elif is_fast and 2 * math.pi / frequency <= config.hybrid_max_period:
            query = key = cmath.exp(1j * frequency * token)
        elif config.inter_encoding == "hybrid" and config.hybrid_slow_pairs == "segments":
            query = key = cmath.exp(1j * frequency * index)
        elif config.inter_encoding == "axes":
            axis = i % (len(inside) + 1)
            if axis < len(inside):
                query = key = cmath.exp(1j * frequency * inside[axis])
            elif 2 * math.pi / frequency <= config.hybrid_max_period:
                query = key = cmath.exp(1j * frequency * token)
        if config.inter_encoding == "xpos":
            zeta = (i / len(pairs) + 0.4) / 1.4
            query, key = query * zeta ** (segment / 512), key * zeta ** (-segment / 512)
        factors.append((query, key))
    return factors


def naive_t5_bucket(distance):
    if distance < 16:
        return distance
    return min(16 + math.floor(math.log(distance / 16) / math.log(128 / 16) * 16), 31)


def naive_bias(model, head, query_segment, distance):
    config = model.config
    inter = model.base_model.inter_encoding
    if config.inter_encoding in ("alibi", "hybrid", "axes"):
        slope = alibi_slopes(config.num_attention_heads)[head]
        if config.inter_encoding == "alibi":
            return -config.alibi_slope_scale * slope * distance
        return -config.hybrid_alibi_scale * slope**config.hybrid_alibi_power * distance
    if config.inter_encoding == "kerple":
        r1, r2 = math.exp(inter.log_r1[head].item()), math.exp(inter.log_r2[head].item())
        return -r1 * math.log(1 + r2 * distance)
    if config.inter_encoding == "t5":
        return inter.table.weight[naive_t5_bucket(distance), head].item()
    if config.inter_encoding == "fire":
        return naive_fire(config, inter.double(), head, query_segment, distance, slope=0.0).item()
    return 0.0


def naive_brought(encoding, config, x, head):
    """What a token of hidden states `x` adds to the running sum of a head: number by number."""

    def of(linear):
        weight, bias = linear.weight[head].tolist(), linear.bias[head].item()
        return sum(a * b for a, b in zip(weight, x, strict=True)) + bias

    if config.inter_encoding == "cable":
        h = of(encoding.map)
        return -math.log1p(math.exp(h)) if config.cable_kind == "released" else -max(h, 0.0)
    if config.fox_gate == "fixed":
        share = head / (config.num_attention_heads - 1)
        return -1 / (config.fox_min_time ** (1 - share) * config.fox_max_time**share)
    h = of(encoding.map) if config.fox_gate == "full" else encoding.bias[head].item()
    return math.log(1 / (1 + math.exp(-h)))


def naive_running_bias(model, encoding, hidden_states, ids, head, i, j):
    """That of FoX and CABLE: what stands between the key and the query, summed up."""
    config = model.config
    between = range(j + 1, i + 1)
    if config.segmentation != "tokens":
        between = [t for t in range(j, i) if ids[t] in config.separator_token_ids]
    total = sum(naive_brought(encoding, config, hidden_states[t].tolist(), head) for t in between)
    if config.inter_encoding == "cable" and config.cable_kind == "weighted":
        weight_map = encoding.weight_map
        h = sum(a * b for a, b in zip(weight_map.weight[head].tolist(), hidden_states[i].tolist(), strict=True))
        total *= math.log1p(math.exp(h + weight_map.bias[head].item()))
    return total


def naive_query_factor(config, segment, token):
    factor = 1.0
    if config.logn_train_length is not None:
        factor *= max(1.0, math.log(token + 1) / math.log(config.logn_train_length))
    if config.log_scale_train_length is not None:
        factor *= math.log(segment + 1) / math.log(config.log_scale_train_length)
    return factor


def naive_weights(model, query, key, ids, encoding=None, hidden_states=None):
    """Attention weights of one row from its queries and keys before any encoding, `(heads, length, head_dim)`.

    `encoding` is the part of the inter encoding that the layer has, `hidden_states` of `(length, hidden_size)` what
    enters the layer.
    """
    config = model.config
    segments = naive_positions(config, ids)
    heads, length, head_dim = query.shape
    pairs = naive_pairs(config, head_dim)
    rest = [d for d in range(head_dim) if d >= 2 * len(pairs)]
    inside = naive_inside(config, ids)
    rotations = [naive_rotation(config, head_dim, segments[t], t, inside[t]) for t in range(length)]
    weights = torch.zeros(heads, length, length, dtype=torch.float64)
    for head in range(heads):
        q, k = query[head].tolist(), key[head * len(key) // heads].tolist()
        for i in range(length):
            logits = []
            for j in range(i + 1):
                product = sum(q[i][d] * k[j][d] for d in rest)
                for (_, a, b), (turn_i, _), (_, turn_j) in zip(pairs, rotations[i], rotations[j], strict=True):
                    product += (
                        complex(q[i][a], q[i][b]) * turn_i * (complex(k[j][a], k[j][b]) * turn_j).conjugate()
                    ).real
                product *= naive_query_factor(config, segments[i], i) / math.sqrt(head_dim)
                if encoding is None:
                    bias = naive_bias(model, head, segments[i], segments[i] - segments[j])
                else:
                    bias = naive_running_bias(model, encoding, hidden_states, ids, head, i, j)
                logits.append(product + bias)
            weights[head, i, : i + 1] = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    return weights
