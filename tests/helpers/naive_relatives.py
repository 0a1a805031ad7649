"""Folders of numbers in the form of tests/golden_relatives, in other shapes: from the formulas, in float64.

Each function gets a [`Maker`], draws what goes in, keeps what comes out and gives the settings of `config.json`.
"""

import json
import math
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from bipe_hf.model.alibi_bipe import alibi_slopes


class Shape(NamedTuple):
    heads: int
    key_heads: int
    head_dim: int
    hidden: int
    length: int

    @property
    def group(self):
        return self.heads // self.key_heads


class Maker:
    def __init__(self, shape, seed):
        self.shape, self.tensors = shape, {}
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name, *shape, std=0.5):
        """Float32 as it is stored, in float64."""
        self.tensors[name] = std * torch.randn(shape, generator=self.generator)
        return self.tensors[name].double()

    def linear(self, name, num_outputs, num_inputs, has_bias=True):
        """A function, with weights that are drawn."""
        weight = self.draw(f"{name}.weight", num_outputs, num_inputs, std=num_inputs**-0.5)
        bias = self.draw(f"{name}.bias", num_outputs) if has_bias else None
        return lambda x: F.linear(x, weight, bias)

    def keep(self, name, numbers):
        self.tensors[name] = numbers.to(torch.float32).contiguous()

    def write(self, folder, system, config, tolerance=2e-5):
        folder.mkdir()
        settings = {"system": f"{system} (of formulas)", "tolerance": tolerance, **config}
        (folder / "config.json").write_text(json.dumps(settings))
        save_file(self.tensors, folder / "golden.safetensors")


def by_head(numbers, heads):
    """`(batch, length, heads * dim)` to `(batch, heads, length, dim)`."""
    return numbers.unflatten(-1, (heads, -1)).transpose(1, 2)


def repeated(numbers, group):
    return numbers.repeat_interleave(group, dim=1)


def weights_of(logits, is_token=None):
    """Causal; a padding token sees itself."""
    seen = torch.ones(logits.shape[-2:]).tril().bool().expand(len(logits), 1, -1, -1)
    if is_token is not None:
        seen = seen & is_token[:, None, None] | torch.eye(logits.shape[-1]).bool()
    return logits.masked_fill(~seen, -math.inf).softmax(-1)


def mixed(weights, value):
    return (weights @ value).transpose(1, 2).flatten(2)


def with_padding(batch, length, padding):
    is_token = torch.ones(batch, length).bool()
    is_token[0, :padding] = False
    return is_token


def cable(maker):
    shape, batch = maker.shape, 2
    x = maker.draw("x", batch, shape.length, shape.hidden, std=1.0)
    of_queries, of_keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    projected = maker.linear("layer.c_attn", of_queries + 2 * of_keys, shape.hidden)(x)
    query, key, value = projected.split([of_queries, of_keys, of_keys], dim=-1)
    query, key, value = by_head(query, shape.heads), by_head(key, shape.key_heads), by_head(value, shape.key_heads)
    products = query @ repeated(key, shape.group).transpose(2, 3)
    decrements = maker.linear("layer.h_attn", shape.heads, shape.hidden)(x).transpose(1, 2)
    weights = F.softplus(maker.linear("scale", shape.heads, shape.hidden)(x).transpose(1, 2))[..., None]
    output = maker.linear("layer.c_proj", shape.hidden, of_queries)

    def far(brought):
        sums = -brought.cumsum(-1)
        return sums[..., :, None] - sums[..., None, :]

    soft, hard = far(F.softplus(decrements)), far(F.relu(decrements))
    kinds = {
        "released": soft,
        "weighted": weights * hard,
        "kernel": -torch.log(1 + soft**2),
        "kernel_weighted": -weights * torch.log(1 + hard**2),
    }
    for kind, bias in kinds.items():
        scores = products * (1.0 if kind == "released" else shape.head_dim**-0.5) + bias
        maker.keep(f"{kind}.bias", bias.tril())
        if kind == "released":
            maker.keep("released.scores", scores.tril())
        maker.keep(f"{kind}.output", output(mixed(weights_of(scores), repeated(value, shape.group))))
    scales = {"released": 1.0, "weighted, kernel, kernel_weighted": shape.head_dim**-0.5}
    return {"num_heads": shape.heads, "head_dim": shape.head_dim, "logit_scale": scales}


def fox(maker):
    shape, batch, padding = maker.shape, 2, 4
    x = maker.draw("x", batch, shape.length, shape.hidden, std=1.0)
    of_queries, of_keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    settings = {"norm_eps": {"q_norm, k_norm": 1e-5, "output_norm": 1e-6}}

    def linear(name, num_outputs, has_bias=False):
        return maker.linear(name, num_outputs, shape.hidden, has_bias)

    def normed(numbers, weight, eps):
        """`(batch, heads, length, head_dim)`, of each head."""
        scale = torch.rsqrt(numbers.square().mean(-1, keepdim=True) + eps)
        return numbers * scale * weight.unflatten(0, (-1, 1, shape.head_dim))

    def shifted(numbers, gates, is_token):
        numbers = numbers * is_token[:, None, :, None]
        before = F.pad(numbers, (0, 0, 1, 0))[:, :, :-1]
        gates = torch.sigmoid(gates).transpose(1, 2)[..., None]
        return gates * before + (1 - gates) * numbers

    for variant in ("plain", "pro"):
        is_pro = variant == "pro"
        names = ("k_proj.linear", "v_proj.linear") if is_pro else ("k_proj", "v_proj")
        query = by_head(linear(f"{variant}.q_proj", of_queries)(x), shape.heads)
        key, value = (by_head(linear(f"{variant}.{name}", of_keys)(x), shape.key_heads) for name in names)
        log_gates = F.logsigmoid(linear(f"{variant}.fgate_proj", shape.heads, has_bias=True)(x)).transpose(1, 2)
        output = maker.linear(f"{variant}.o_proj", shape.hidden, of_queries, has_bias=False)
        if is_pro:
            of_gates = [linear(f"pro.{name}.shift_proj", shape.key_heads)(x) for name in ("k_proj", "v_proj")]
            norms = [
                maker.draw(f"pro.{name}.weight", size)
                for name, size in (("q_norm", of_queries), ("k_norm", of_keys), ("output_norm", of_queries))
            ]
            out_gate = torch.sigmoid(linear("pro.ogate_proj", of_queries)(x))
        for place, is_token in (
            ("", with_padding(batch, shape.length, 0)),
            ("padded.", with_padding(batch, shape.length, padding)),
        ):
            q, k, v = query, key, value
            if is_pro:
                k, v = (shifted(each, gates, is_token) for each, gates in zip((key, value), of_gates, strict=True))
                q, k = normed(q, norms[0], 1e-5), normed(k, norms[1], 1e-5)
            sums = (log_gates * is_token[:, None]).cumsum(-1)
            bias = sums[..., :, None] - sums[..., None, :]
            scores = q @ repeated(k, shape.group).transpose(2, 3) * shape.head_dim**-0.5 + bias
            found = weights_of(scores, is_token) @ repeated(v, shape.group)
            if is_pro:
                found = normed(found, norms[2], 1e-6)
            found = found.transpose(1, 2).flatten(2)
            found = output(found * out_gate if is_pro else found)
            if not place:
                maker.keep(f"{variant}.bias", bias.tril())
            maker.keep(f"{variant}.{place}output", found * is_token[..., None])
    return {"num_heads": shape.heads, "head_dim": shape.head_dim, "padding_of_row_0": padding, **settings}


def cope(maker, positions=5):
    shape, batch, padding = maker.shape, 3, 2
    x = maker.draw("x", batch, shape.length, shape.hidden, std=1.0)
    table = maker.draw("pos_emb", 1, shape.head_dim, positions)[0]
    of_queries, of_keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    query = by_head(maker.linear("proj_query", of_queries, shape.hidden)(x), shape.heads)
    key, value, own_key = (
        repeated(by_head(maker.linear(name, of_keys, shape.hidden)(x), shape.key_heads), shape.group)
        for name in ("proj_key", "proj_val", "proj_key_cope")
    )
    output = maker.linear("proj_out", shape.hidden, of_queries)
    scale = shape.head_dim**-0.5
    causal = torch.ones(shape.length, shape.length).tril()

    def found(of_gates, is_token, factor):
        gates = torch.sigmoid(query @ of_gates.transpose(2, 3) * scale) * causal * is_token[:, None, None]
        place = torch.stack([gates[..., at:].sum(-1) for at in range(shape.length)], dim=-1).clamp(max=positions - 1)
        rows, share = query @ table, place - place.floor()
        term = (1 - share) * rows.gather(-1, place.floor().long()) + share * rows.gather(-1, place.ceil().long())
        weights = weights_of(query @ key.transpose(2, 3) * scale + factor * term, is_token)
        return place.tril(), weights, output(mixed(weights, value))

    whole = with_padding(batch, shape.length, 0)
    variants = {"default": (key, scale), "nodiv": (key, 1.0), "sep_key": (own_key, scale), "val_gates": (value, scale)}
    for variant, (of_gates, factor) in variants.items():
        for name, numbers in zip(("positions", "weights", "output"), found(of_gates, whole, factor), strict=True):
            maker.keep(f"{variant}.{name}", numbers)
    maker.keep("padded.output", found(key, with_padding(batch, shape.length, padding), scale)[2])
    return {"num_heads": shape.heads, "head_dim": shape.head_dim, "padding_of_row_0": padding}


def dape(maker, kernel=1, width=7, fire_length=6):
    """With a kernel above 1 it is DAPE V2, and `scores` are those of a longer sequence, cut."""
    shape, is_v2, more = maker.shape, kernel > 1, 5
    heads, length = shape.heads, shape.length
    longer = 2 * torch.randn(2, heads, length + more, length + more, generator=maker.generator)
    maker.keep("scores", longer[:, :, :length, :length])
    far = torch.arange(length + more, dtype=torch.float64)
    distance = (far[:, None] - far).clamp(min=0)
    slopes = torch.tensor(alibi_slopes(heads), dtype=torch.float64)
    maker.keep("alibi.slopes", slopes)
    r1, r2 = (maker.draw(f"kerple.{name}", heads, 1, 1) for name in ("bias_p", "bias_a"))
    c, factor = (maker.draw(f"fire.{name}", std=0.5) for name in ("c", "L_multiplier"))
    maker.keep("fire.init_L", torch.tensor(float(fire_length)))
    share = torch.log((c * distance).abs() + 1)
    reach = torch.maximum(far, (factor * fire_length).abs())[:, None]
    share = share / (torch.log((c * reach).abs() + 1) + 1e-6)
    first, second = maker.linear("fire.mlp.0", width, 1), maker.linear("fire.mlp.2", heads, width)
    biases = {
        "alibi": -slopes[:, None, None] * distance,
        "kerple": -r1.clamp(min=0.01) * torch.log(1 + r2.clamp(min=0.01) * distance),
        "fire": second(F.leaky_relu(first(share[..., None]))).permute(2, 0, 1),
    }
    for name, bias in biases.items():
        taps = [
            (
                maker.draw(f"{name}.mlp2.{at}.weight", *sizes, 1, kernel, std=0.2),
                maker.draw(f"{name}.mlp2.{at}.bias", sizes[0]),
            )
            for at, sizes in ((0, (width, 2 * heads)), (2, (heads, width)))
        ]
        if not is_v2:
            for at in (0, 2):
                maker.tensors[f"{name}.mlp2.{at}.weight"] = maker.tensors[f"{name}.mlp2.{at}.weight"].flatten(1)

        def logits(size, bias=bias, taps=taps):
            a = longer[:, :, :size, :size].double()
            b = bias[:, :size, :size].expand_as(a)
            both = torch.cat([a, b], dim=1)
            hidden = F.conv2d(both.tril() if is_v2 else both, *taps[0], padding=(0, kernel // 2))
            return (a + b + F.conv2d(F.leaky_relu(hidden), *taps[1], padding=(0, kernel // 2))).tril()

        maker.keep(f"{name}.expected", logits(length))
        if is_v2:
            maker.keep(f"{name}.expected_in_longer", logits(length + more)[:, :, :length, :length])
        else:
            maker.keep(f"{name}.expected_step", logits(length)[:, :, -1:])
    return {"num_heads": heads, "kernel": kernel, "fire_eps": 1e-6, "kerple_floor": 0.01}


def hirope(maker, low=4, window=3, theta=500.0, unit_lengths=(2, 5, 1, 4)):
    shape = maker.shape
    length, pairs = sum(unit_lengths), shape.head_dim // 2
    query = maker.draw("q", 2, shape.heads, length, shape.head_dim, std=1.0)
    key = maker.draw("k", 2, shape.key_heads, length, shape.head_dim, std=1.0)
    units = torch.repeat_interleave(torch.arange(len(unit_lengths)), torch.tensor(unit_lengths))
    maker.tensors["unit_ids"] = units
    query, key = (torch.complex(*each.split(pairs, dim=-1)) for each in (query, repeated(key, shape.group)))
    tokens = torch.arange(length)
    far, units_apart = tokens[:, None] - tokens, units[:, None] - units
    for name, has_window in (("logits", False), ("windowed_logits", True)):
        logits = 0
        for pair in range(pairs):
            index = far
            if pair >= low // 2:
                index = torch.where(far < window, far, units_apart + window - 1) if has_window else units_apart
            angle = index.double() * theta ** (-2 * pair / shape.head_dim)
            products = query[..., :, None, pair] * key[..., None, :, pair].conj()
            logits = logits + (products * torch.polar(torch.ones_like(angle), angle)).real
        maker.keep(f"by_token.{name}", (logits * shape.head_dim**-0.5).tril())
    return {"low_dimensions": low, "window": window, "rope_theta": theta}


def dca(maker, trained=9, chunk=6, window=2, theta=50.0):
    """The last row alone has the factor of a text that ends there."""
    shape, length, pairs = maker.shape, 30, maker.shape.head_dim // 2
    x = maker.draw("x", 1, length, shape.hidden, std=1.0)
    sizes = {"q": shape.heads, "k": shape.key_heads, "v": shape.key_heads}
    query, key, value = (
        by_head(maker.linear(f"{name}_proj", heads * shape.head_dim, shape.hidden, has_bias=False)(x), heads)
        for name, heads in sizes.items()
    )
    out = maker.linear("o_proj", shape.hidden, shape.heads * shape.head_dim, has_bias=False)
    long = chunk - window
    distances = torch.zeros(length, length, dtype=torch.long)
    for i in range(length):
        for j in range(i + 1):
            behind = i // long - j // long
            turn = (
                i % long if behind == 0 else min(i % long + long, chunk) if behind == 1 else min(2 * long - 1, chunk)
            )
            distances[i, j] = turn - j % long
    maker.tensors["relative_positions"] = distances
    query, key = (torch.complex(*each.split(pairs, dim=-1)) for each in (query, repeated(key, shape.group)))
    angles = distances[..., None] * theta ** (-2 * torch.arange(pairs).double() / shape.head_dim)
    products = query[..., :, None, :] * key[..., None, :, :].conj() * torch.polar(torch.ones_like(angles), angles)
    logits = products.real.sum(-1) * shape.head_dim**-0.5
    value, longer = repeated(value, shape.group), 15
    for name, factor in (("output", 1.0), ("mscale.output", 0.05 * math.log(length / longer) + 1)):
        maker.keep(name, out(mixed(weights_of(factor**2 * logits), value)))
    return {
        "num_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_dim,
        "rope_theta": theta,
        "pretraining_length": trained,
        "chunk_size": chunk,
        "local_window": window,
        "chunk_len": long,
        "mscale": {"max_position_embeddings": longer},
    }


def sepllm(maker, length=50, initial=4, neighbours=5, padding=7):
    separators, sizes = [2, 5, 9], (1, 3, 6, 15)
    ids = torch.randint(1, 11, (2, length), generator=maker.generator)
    ids[0, :padding] = 0
    stream = torch.randint(1, 11, (1, 90), generator=maker.generator)
    maker.tensors |= {"input_ids": ids, "stream_ids": stream}
    is_separator = torch.isin(ids, torch.tensor(separators))
    ended = torch.nn.functional.pad(is_separator.cumsum(1), (1, -1))
    maker.tensors["bipe.segment_ids"] = ended
    places = [[list(row[:at]).count(row[at]) for at in range(length)] for row in ended.tolist()]
    maker.tensors["bipe.intra_positions"] = torch.tensor(places)
    for name, is_counted in (("mask", False), ("mask_left_padded", True)):
        sees = torch.zeros(2, 1, length, length, dtype=torch.bool)
        for row, first in enumerate((padding, 0)):
            start = first if is_counted else 0
            for i in range(length):
                for j in range(first, i + 1):
                    sees[row, 0, i, j] = j - start < initial or is_separator[row, j] or i - j < neighbours
        maker.tensors[name] = sees
    names = ("init_cache_size", "sep_cache_size", "local_size", "cache_size")
    limits = dict(zip(("initial_tokens", "separators", "neighbors", "capacity"), sizes, strict=True))
    steps = kept_in_a_stream(torch.isin(stream[0], torch.tensor(separators)).tolist(), **limits)
    maker.tensors["stream_kept"] = torch.tensor([step + [-1] * (sizes[3] + 1 - len(step)) for step in steps])
    return {
        "vocabulary": 11,
        "separator_token_ids": separators,
        "padding_token_id": 0,
        "initial_tokens": initial,
        "neighbours": neighbours,
        "streaming": dict(zip(names, sizes, strict=True)),
    }


def kept_in_a_stream(is_separator, *, initial_tokens, separators, neighbors, capacity):
    """The tokens that SepLLM's cache keeps after each token, in its order."""
    initial, marks, others, steps = [], [], [], []
    for token in range(len(is_separator)):
        (initial if token < initial_tokens else others).append(token)
        if len(initial + marks + others) > capacity:
            marks += [each for each in others[:-neighbors] if is_separator[each]]
            others = others[-neighbors:]
            while len(marks) > separators:
                marks.pop(0)
        steps.append(initial + marks + others)
    return steps


def tape(maker, width=5, layers=3, theta=30.0):
    """Heads have keys of their own, whatever the shape says; numbers are complex: cos and i sin of a pair."""
    shape, batch, pairs = maker.shape, 2, maker.shape.head_dim // 2
    heads, of_heads, inner = shape.heads, shape.heads * shape.head_dim, 7
    hidden = maker.draw("x", batch, shape.length, shape.hidden, std=1.0)
    speeds = theta ** (-2 * torch.arange(pairs, dtype=torch.float64) / shape.head_dim)
    angles = torch.arange(shape.length)[:, None] * speeds
    state = torch.polar(torch.ones_like(angles), angles).expand(batch, heads, -1, -1)

    def keep(place):
        for name, numbers in (("cos", state.real), ("sin", state.imag)):
            maker.keep(f"{place}{name}", torch.cat([numbers, numbers], dim=-1))

    def normed(name):
        weight = maker.draw(f"{name}.weight", shape.hidden)
        return hidden / (hidden.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    keep("")
    for layer in range(layers):

        def linear(name, num_outputs, num_inputs, layer=layer):
            return maker.linear(f"layers.{layer}.{name}", num_outputs, num_inputs, has_bias=False)

        x = normed(f"layers.{layer}.input_layernorm")
        query, key, value = (
            by_head(linear(f"self_attn.{name}_proj", of_heads, shape.hidden)(x), heads) for name in "qkv"
        )
        query, key = (torch.complex(*each.split(pairs, dim=-1)) * state for each in (query, key))
        weights = weights_of((query @ key.conj().transpose(2, 3)).real * shape.head_dim**-0.5)
        rows = linear("post_attention_linear", heads, heads)(torch.ones(heads, dtype=torch.float64))
        state = state + rows[:, None, None] * (weights.to(state.dtype) @ state)
        hidden = hidden + linear("self_attn.o_proj", shape.hidden, of_heads)(mixed(weights, value))
        x = normed(f"layers.{layer}.post_attention_layernorm")
        gate, up = (linear(f"mlp.{name}_proj", inner, shape.hidden)(x) for name in ("gate", "up"))
        added = linear("mlp.down_proj", shape.hidden, inner)(F.silu(gate) * up)
        channels = linear("pe.up_proj", width, heads)
        gates, down = F.silu(linear("pe.x_proj", width, shape.hidden)(added)), linear("pe.down_proj", heads, width)
        parts = []
        for numbers in (state.real, state.imag):
            by_token = numbers.permute(0, 2, 3, 1)  # heads come last
            parts.append((by_token + down(gates[:, :, None] * channels(by_token))).permute(0, 3, 1, 2))
        state, hidden = torch.complex(*parts), hidden + added
        maker.keep(f"layers.{layer}.hidden", hidden)
        keep(f"layers.{layer}.")
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": inner,
        "num_layers": layers,
        "num_heads": heads,
        "head_dim": shape.head_dim,
        "position_size": width,
        "rms_norm_eps": 1e-3,
        "rope_theta": theta,
        "hidden_act": "silu",
    }


def path(maker, length):
    """Longer than a chunk of keys; token by token."""
    shape, batch = maker.shape, 2
    query = maker.draw("q", batch, length, shape.heads, shape.head_dim, std=1.0).transpose(1, 2)
    key, value, vectors = (
        maker.draw(name, batch, length, shape.key_heads, shape.head_dim, std=1.0).transpose(1, 2) for name in "kvw"
    )
    vectors = F.normalize(vectors, dim=-1)
    maker.keep("w", vectors.transpose(1, 2))
    vectors = maker.tensors["w"].double().transpose(1, 2)
    maker.keep("beta", 2 * torch.rand(batch, length, shape.key_heads, generator=maker.generator))
    beta = maker.tensors["beta"].double().transpose(1, 2)
    maker.keep("g", -torch.rand(batch, length, shape.heads, generator=maker.generator))
    sums = maker.tensors["g"].double().transpose(1, 2).cumsum(-1)
    keys, rows = key.clone(), []
    for t in range(length):
        w = vectors[:, :, t, None]
        before = keys[:, :, :t]
        changed = before - beta[:, :, t, None, None] * (before * w).sum(-1, keepdim=True) * w
        keys = torch.cat([changed, key[:, :, t:]], dim=2)
        rows.append((query[:, :, t, None] * repeated(keys, shape.group)).sum(-1))
    logits, scale = torch.stack(rows, dim=2), 0.3
    gates = sums[..., :, None] - sums[..., None, :]
    for name, each in (("path", logits), ("path_fox", logits + gates)):
        output = weights_of(scale * each) @ repeated(value, shape.group)
        maker.keep(f"{name}.output", output.transpose(1, 2))
    return {"scale": scale}


def selective_rope(maker, rank=3, kernel=3, theta=1000.0, activation=None, has_gate=False):
    shape, batch = maker.shape, 2
    pairs = shape.head_dim // 2
    x = maker.draw("x", batch, shape.length, shape.hidden, std=1.0)
    query = maker.draw("q", batch, shape.length, shape.heads, shape.head_dim, std=1.0)
    key = maker.draw("k", batch, shape.length, shape.key_heads, shape.head_dim, std=1.0)
    shares = x.unflatten(-1, (shape.heads, -1))
    normed = (shares * torch.rsqrt(shares.square().sum(-1, keepdim=True) + 1e-6)).flatten(2)
    down = maker.linear("phi_proj.0", rank, shape.hidden, has_bias=False)
    steps = maker.linear("phi_proj.1", shape.key_heads * pairs, rank, has_bias=False)(down(normed))
    taps = maker.draw("phi_conv1d.weight", shape.key_heads * pairs, 1, kernel)[:, 0]
    behind = F.pad(steps, (0, 0, kernel - 1, 0))
    steps = sum(behind[:, at : at + shape.length] * taps[:, at] for at in range(kernel))
    if activation is not None:
        steps = steps * torch.sigmoid(steps)
    steps = steps.unflatten(-1, (shape.key_heads, pairs))
    if has_gate:
        steps = (
            steps * torch.sigmoid(maker.linear("phase_gate_proj", shape.key_heads, shape.hidden)(normed))[..., None]
        )
    temperature = theta ** (-2 * torch.arange(pairs, dtype=torch.float64) / shape.head_dim)
    maker.keep("temperature", temperature.view(1, 1, 1, -1))
    turn = torch.polar(torch.ones_like(steps), steps.cumsum(1) * temperature)
    for name, numbers, turns in (("q", query, turn.repeat_interleave(shape.group, dim=2)), ("k", key, turn)):
        turned = torch.complex(*numbers.split(pairs, dim=-1)) * turns
        maker.keep(f"rotated_{name}", torch.cat([turned.real, turned.imag], dim=-1))
    return {"temp_theta": theta, "temp_max": 1.0, "conv_act": activation, "use_gate": has_gate}
