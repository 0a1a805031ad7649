"""What the package computes for the numbers of each system: one function each, and the table of them.

A function gets a [`Golden`] and a family, takes all shapes and options from it, and gives what it [`Found`] for each
tensor that the package computes. What a family cannot have is an `UnsupportedError`.
"""

import math
from collections.abc import Callable, Iterator

import torch
from transformers import DynamicCache

from bipe_hf.model import modeling_bipe_gpt_neox, modeling_bipe_llama
from bipe_hf.model.alibi_bipe import alibi_slopes
from bipe_hf.model.attention_bipe import rotate_by_head
from bipe_hf.model.index_steps_bipe import IndexSteps
from bipe_hf.model.inter_terms_bipe import InterTerms, PairIds
from bipe_hf.model.logits_bipe import LogitsBlock, attention_with_logits, grouped_product
from bipe_hf.model.segmentation_bipe import segment_tokens
from bipe_hf.model.sepllm_cache_bipe import SepLLMCache
from bipe_hf.model.tape_bipe import angles_of

from .golden import Found, Golden, UnsupportedError
from .one_layer import FAMILIES, OneLayer, set_values


ROTATE = {
    "llama": modeling_bipe_llama.apply_rotary_pos_emb,
    "gpt_neox": modeling_bipe_gpt_neox.apply_rotary_pos_emb,
}


def padding_of(golden: Golden) -> torch.Tensor:
    """The mask of the batch whose row 0 starts with padding."""
    mask = torch.ones(golden["x"].shape[:2], dtype=torch.long)
    mask[0, : golden.config["padding_of_row_0"]] = 0
    return mask


def with_columns(layer: OneLayer, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """The bias of its columns and the logits, both up to the diagonal, and the output."""
    seen = []
    encoding = layer.attention.layer_encoding
    hook = encoding.register_forward_hook(lambda module, given, terms: seen.append((*given[1:3], terms.columns)))
    output, _ = layer(x, mask)
    hook.remove()
    query, key, columns = seen[0]
    bias = grouped_product(columns.query, columns.key.transpose(2, 3)) * columns.scaling
    logits = grouped_product(query, key.transpose(2, 3)) * layer.attention.scaling + bias
    return bias.tril(), logits.tril(), output


def with_logits(layer: OneLayer, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What its logits gain and what they become, both up to the diagonal, and the output."""
    seen = []
    logits = layer.attention.layer_logits
    hook = logits.register_forward_hook(lambda module, given, result: seen.append((given[0], result)))
    output, _ = layer(x)
    hook.remove()
    before, after = seen[0]
    return (after - before).tril(), after.tril(), output


CABLE_KINDS = {
    "released": ("cable", "released"),
    "weighted": ("cable", "weighted"),
    "kernel": ("cable_kernel", "released"),
    "kernel_weighted": ("cable_kernel", "weighted"),
}


def cable(golden: Golden, family: str) -> Iterator[Found]:
    """Of one fused projection; logits are scaled as the file says."""
    heads, head_dim = golden.config["num_heads"], golden.config["head_dim"]
    x, fused = golden["x"], golden.values("layer.c_attn")
    of_keys = (len(fused[0]) - heads * head_dim) // 2
    parts = [each.split([heads * head_dim, of_keys, of_keys]) for each in fused]
    query, key, value = (list(each) for each in zip(*parts, strict=True))
    scales = {kind: scale for kinds, scale in golden.config["logit_scale"].items() for kind in kinds.split(", ")}
    for kind, (inter_encoding, cable_kind) in CABLE_KINDS.items():
        if f"{kind}.bias" not in golden:
            continue
        layer = OneLayer(
            family,
            heads=heads,
            key_heads=of_keys // head_dim,
            head_dim=head_dim,
            hidden=x.shape[-1],
            has_bias=len(fused) > 1,
            inter_encoding=inter_encoding,
            cable_kind=cable_kind,
        )
        is_kernel = inter_encoding == "cable_kernel"
        encoding = layer.attention.layer_logits.decrements if is_kernel else layer.attention.layer_encoding
        set_values(encoding.map, golden.values("layer.h_attn"))
        if encoding.weight_map is not None:
            set_values(encoding.weight_map, golden.values("scale"))
        rescale = scales[kind] * head_dim**0.5
        layer.load([rescale * each for each in query], key, value, golden.values("layer.c_proj"))
        bias, scores, output = (with_logits if is_kernel else with_columns)(layer, x)
        yield Found(f"{kind}.bias", bias)
        if f"{kind}.scores" in golden:
            yield Found(f"{kind}.scores", scores)
        yield Found(f"{kind}.output", output)


FOX_VARIANTS = {"plain": "fox", "pro": "fox_pro"}
FOX_PRO = {
    "key_shift": "k_proj.shift_proj",
    "value_shift": "v_proj.shift_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "output_norm": "output_norm",
    "output_gate": "ogate_proj",
}


def fox(golden: Golden, family: str) -> Iterator[Found]:
    """FoX, and FoX (Pro)."""
    heads, head_dim = golden.config["num_heads"], golden.config["head_dim"]
    x = golden["x"]
    for variant, inter_encoding in FOX_VARIANTS.items():
        if f"{variant}.output" not in golden:
            continue
        is_pro = variant == "pro"
        names = (
            ("q_proj", "k_proj.linear", "v_proj.linear", "o_proj") if is_pro else [f"{each}_proj" for each in "qkvo"]
        )
        projections = [golden.values(f"{variant}.{name}") for name in names]
        key_heads = len(projections[1][0]) // head_dim
        shape = {"heads": heads, "key_heads": key_heads, "head_dim": head_dim, "hidden": x.shape[-1]}
        layer = OneLayer(family, **shape, inter_encoding=inter_encoding)
        layer.load(*projections)
        set_values(layer.attention.layer_encoding.map, golden.values(f"{variant}.fgate_proj"))
        if is_pro:
            golden.require("norm_eps", {"q_norm, k_norm": 1e-5, "output_norm": 1e-6})
            mixing = layer.attention.layer_mixing
            for name, theirs in FOX_PRO.items():
                getattr(mixing, name).data.copy_(golden[f"pro.{theirs}.weight"])
        bias, _, output = with_columns(layer, x)
        yield Found(f"{variant}.bias", bias)
        yield Found(f"{variant}.output", output)
        if f"{variant}.padded.output" in golden:
            is_token = padding_of(golden).bool()
            padded = with_columns(layer, x, padding_of(golden))[2]
            yield Found(f"{variant}.padded.output", padded[is_token], lambda expected, kept=is_token: expected[kept])


COPE_VARIANTS = {
    "default": {},
    "nodiv": {"cope_term": "unscaled"},
    "sep_key": {"cope_gates": "own_keys"},
    "val_gates": {"cope_gates": "values"},
}


def cope(golden: Golden, family: str) -> Iterator[Found]:
    """Every variant with the same weights."""
    heads, head_dim = golden.config["num_heads"], golden.config["head_dim"]
    x, table = golden["x"], golden["pos_emb"]
    projections = [golden.values(f"proj_{name}") for name in ("query", "key", "val", "out")]
    for variant, fields in COPE_VARIANTS.items():
        if f"{variant}.output" not in golden:
            continue
        layer = OneLayer(
            family,
            heads=heads,
            key_heads=len(projections[1][0]) // head_dim,
            head_dim=head_dim,
            hidden=x.shape[-1],
            has_bias=len(projections[0]) > 1,
            inter_encoding="cope",
            cope_positions=table.shape[-1],
            **fields,
        )
        layer.load(*projections)
        logits, seen = layer.attention.layer_logits, []
        logits.table.weight.data.copy_(table[0].T)
        if variant == "sep_key":
            set_values(logits.key_map, golden.values("proj_key_cope"))
        logits.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(module.positions(*given)))
        output, weights = layer(x)
        yield Found(f"{variant}.positions", seen[0].tril())
        yield Found(f"{variant}.weights", weights)
        yield Found(f"{variant}.output", output)
        if variant == "default" and "padded.output" in golden:
            is_token = padding_of(golden).bool()
            padded = layer(x, padding_of(golden))[0]
            yield Found("padded.output", padded[is_token], lambda expected, kept=is_token: expected[kept])


@torch.no_grad()
def dape(golden: Golden, family: str) -> Iterator[Found]:
    """DAPE and DAPE V2, whose logits are given; every bias has parameters of its own."""
    heads, is_v2 = golden.config["num_heads"], golden.system == "DAPE V2"
    scores, kernel = golden["scores"], golden.config["kernel"] if is_v2 else 1
    length = scores.shape[-1]
    ids, is_visible = torch.arange(length)[None], torch.ones(1, 1, length, length).tril().bool()
    block = LogitsBlock(None, None, None, None, is_visible, ids, ids, 1.0)
    for bias in ("alibi", "kerple", "fire"):
        if f"{bias}.expected" not in golden:
            continue
        first, second = (golden.values(f"{bias}.mlp2.{number}") for number in (0, 2))
        fields = {"dape_bias": bias, "dape_width": len(first[0]), "dape_kernel": kernel, "alibi_slope_scale": 1.0}
        if bias == "fire":
            golden.require("fire_eps", 1e-6)
            fields["fire_length"] = int(golden["fire.init_L"])
        fields["inter_encoding"] = "dape_v2" if is_v2 else "dape"
        layer = OneLayer(family, heads=heads, key_heads=heads, head_dim=2, hidden=2 * heads, **fields)
        module = layer.attention.layer_logits
        set_values(module.first, first)
        set_values(module.second, second)
        if bias == "alibi":
            yield Found("alibi.slopes", torch.tensor(alibi_slopes(heads)))
        elif bias == "kerple":
            for parameter, name in ((module.bias.log_r1, "bias_p"), (module.bias.log_r2, "bias_a")):
                parameter.copy_(golden[f"kerple.{name}"].flatten().clamp(min=golden.config["kerple_floor"]).log())
        else:
            module.bias.c.copy_(golden["fire.c"])
            module.bias.m.copy_(golden["fire.L_multiplier"])
            set_values(module.bias.first, golden.values("fire.mlp.0"))
            set_values(module.bias.second, golden.values("fire.mlp.2"))
        logits = module(scores, block).tril()
        if is_v2:  # one rule for all rows: that of a longer sequence, which the last ones of a shorter do not follow
            kept = length - kernel // 2
            yield Found(f"{bias}.expected_in_longer", logits)
            yield Found(f"{bias}.expected", logits[:, :, :kept], lambda expected, kept=kept: expected[:, :, :kept])
        else:
            yield Found(f"{bias}.expected", logits)
        if f"{bias}.expected_step" in golden:
            step = block._replace(query_ids=ids[:, -1:], is_visible=is_visible[:, :, -1:])
            yield Found(f"{bias}.expected_step", module(scores[:, :, -1:], step))


@torch.no_grad()
def hirope(golden: Golden, family: str) -> Iterator[Found]:
    """With the token's index in the text for the fast pairs; the other reading of the paper is not there."""
    query, key, units = golden["q"], golden["k"], golden["unit_ids"].expand(len(golden["q"]), -1)
    (_, heads, length, head_dim), key_heads = query.shape, key.shape[1]
    theta, low = golden.config["rope_theta"], golden.config["low_dimensions"]
    whole = {"partial_rotary_factor": 1.0} if family == "gpt_neox" else {}
    layer = OneLayer(
        family,
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        hidden=heads * head_dim,
        segmentation="separators",
        separator_token_ids=[0],  # which given units replace
        inter_encoding="hirope",
        hirope_window=golden.config["window"],
        hybrid_max_period=2 * math.pi * theta ** ((low - 1) / head_dim),  # that of no pair: between fast and slow ones
        rope_parameters={"rope_type": "default", "rope_theta": theta} | whole,
    )
    x = torch.zeros(len(query), length, heads * head_dim)
    segments = layer.model.segment(None, x, segment_ids=units)
    query, key = ROTATE[family](query, key, *layer.model.inter_encoding(segments, x).rotary)
    logits = grouped_product(query, key.transpose(2, 3)) * head_dim**-0.5
    yield Found("by_token.logits", logits.tril())
    is_visible = torch.ones(length, length).tril().bool()[None, None]
    block = LogitsBlock(query, key, key, None, is_visible, units, units, head_dim**-0.5)
    yield Found("by_token.windowed_logits", layer.attention.layer_logits.products(block).tril())


@torch.no_grad()
def dca(golden: Golden, family: str) -> Iterator[Found]:
    """The layer, and the distances, read from the angles of a slow pair.

    The factor `mscale` is here that of a text which ends at the query, theirs that of the whole input: a row has it
    in a model whose length in training is as much shorter.
    """
    config, x = golden.config, golden["x"]
    shape = {"heads": config["num_heads"], "key_heads": config["num_key_value_heads"], "head_dim": config["head_dim"]}
    chunks = {"dca_chunk_size": config["chunk_size"], "dca_window": config["local_window"]}
    whole = {"rope_type": "default"} | ({"partial_rotary_factor": 1.0} if family == "gpt_neox" else {})
    rope = {"rope_parameters": {"rope_theta": config["rope_theta"]} | whole}
    plain = {"inter_encoding": "dca", "dca_train_length": config["pretraining_length"], **chunks, **rope}

    def output(**fields: int | str) -> torch.Tensor:
        layer = OneLayer(family, **shape, hidden=x.shape[-1], **plain | fields)
        layer.load(*(golden.values(f"{name}_proj") for name in "qkvo"))
        return layer(x)[0]

    yield Found("output", output())
    length = x.shape[1]
    if "mscale.output" in golden:
        trained = config["mscale"]["max_position_embeddings"]
        for row in range(length):
            shorter, rest = divmod((row + 1) * trained, length)
            if rest == 0 and shorter >= config["chunk_size"]:
                found = output(dca_train_length=shorter, dca_mscale="log")
                yield Found("mscale.output", found[:, row], lambda expected, row=row: expected[:, row])

    turn = 1 / (2 * max(config["chunk_size"], 2 * config["chunk_len"]))  # no distance is half a turn of the slow pair
    slow = {"rope_parameters": {"rope_theta": turn**-2} | whole}
    layer = OneLayer(family, heads=1, key_heads=1, head_dim=4, hidden=4, **plain | slow)
    segments = layer.model.segment(None, torch.zeros(1, length, 4))
    terms = layer.model.inter_encoding(segments, torch.zeros(1, length, 4))
    is_visible = torch.ones(length, length).tril().bool()[None, None]
    ids, products = segments.segment_ids, []
    key = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(1, 1, length, 4)
    for query in (key, key.roll(2, dims=-1)):  # the second is a quarter of a turn ahead
        turned = ROTATE[family](query, key, *terms.rotary)
        block = LogitsBlock(*turned, key, None, is_visible, ids, ids, 1.0)
        products.append(layer.attention.layer_logits.products(block)[0, 0])
    cosine, sine = products
    yield Found("relative_positions", (torch.atan2(-sine, cosine) / turn).round().long().tril())


@torch.no_grad()
def sepllm(golden: Golden, family: str) -> Iterator[Found]:
    """Who sees whom, segments, and what a stream of tokens leaves in the cache."""
    config, ids = golden.config, golden["input_ids"]
    config_class, model_class = FAMILIES[family]
    shape = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"vocab_size": config["vocabulary"], "separator_token_ids": config["separator_token_ids"]}
    is_separator = torch.isin(ids, torch.tensor(config["separator_token_ids"]))
    segments = segment_tokens(is_separator)  # of padding too, as theirs
    yield Found("bipe.intra_positions", segments.intra_positions)
    yield Found("bipe.segment_ids", segments.segment_ids)

    limits = {"sepllm_initial_tokens": config["initial_tokens"], "sepllm_neighbors": config["neighbours"]}
    model = model_class(config_class(**shape, **limits, attn_implementation="eager")).eval()
    is_token = ids != config["padding_token_id"]

    def sees(**mask: torch.Tensor) -> torch.Tensor:
        weights = model(ids, **mask, use_cache=False, output_attentions=True).attentions[0]
        return (weights.gt(0).any(dim=1) & is_token[:, None])[is_token]

    def of_tokens(expected: torch.Tensor) -> torch.Tensor:  # what padding sees means nothing
        return expected[:, 0][is_token]

    yield Found("mask", sees(), of_tokens)  # whose initial tokens are the first columns
    yield Found("mask_left_padded", sees(attention_mask=is_token.long()), of_tokens)

    model = model_class(config_class(**shape)).eval()
    sizes, stream = config["streaming"], golden["stream_ids"]
    names = ("init_cache_size", "sep_cache_size", "local_size", "cache_size")
    cache, full = SepLLMCache(model.config, *(sizes[name] for name in names)), DynamicCache(config=model.config)
    kept = torch.full_like(golden["stream_kept"], -1)
    for step in range(len(kept)):
        for each in (cache, full):
            model(stream[:, step : step + 1], past_key_values=each)
        all_keys, keys = (each.layers[0].keys[0].transpose(0, 1).flatten(1) for each in (full, cache))
        kept[step, : len(keys)] = (keys[:, None] == all_keys).all(-1).long().argmax(-1)
    yield Found("stream_kept", kept)


@torch.no_grad()
def path(golden: Golden, family: str) -> Iterator[Found]:
    """The operator, whose vectors, strengths and gates are given."""
    query, key, value = (golden[name].transpose(1, 2) for name in "qkv")
    (batch, heads, length, head_dim), key_heads = query.shape, key.shape[1]
    ids = torch.arange(length).expand(batch, -1)
    steps = IndexSteps(torch.ones(batch, length, dtype=torch.long))
    for variant, gates in {"path": "none", "path_fox": "fox"}.items():
        if f"{variant}.output" not in golden:
            continue
        shape = {"heads": heads, "key_heads": key_heads, "head_dim": head_dim, "hidden": heads * head_dim}
        layer = OneLayer(family, **shape, inter_encoding="path", path_gates=gates)
        logits = layer.attention.layer_logits
        log_gates = None if gates == "none" else golden["g"]
        own = logits.placed(golden["w"], golden["beta"], log_gates, steps, None)
        given = {"scaling": golden.config["scale"], "dropout": 0.0, "backend": "sdpa", "own_queries": own}
        output, _ = attention_with_logits(logits, query, key, value, own, None, PairIds(ids, ids), **given)
        yield Found(f"{variant}.output", output)


@torch.no_grad()
def selective_rope(golden: Golden, family: str) -> Iterator[Found]:
    """Queries and keys behind the rotation."""
    config, x = golden.config, golden["x"]
    query, key = (golden[name].transpose(1, 2) for name in "qk")
    (_, heads, length, head_dim), key_heads = query.shape, key.shape[1]
    golden.require("temp_max", 1.0)
    if config["conv_act"] not in (None, "silu"):
        raise UnsupportedError(f"conv_act={config['conv_act']!r} is not there, only None and 'silu'")
    layer = OneLayer(
        family,
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        hidden=x.shape[-1],
        inter_encoding="selective_rope",
        selective_rope_rank=len(golden["phi_proj.0.weight"]),
        selective_rope_kernel=golden["phi_conv1d.weight"].shape[-1],
        selective_rope_theta=config["temp_theta"],
        selective_rope_activation=config["conv_act"] or "none",
        selective_rope_gate="sigmoid" if config["use_gate"] else "none",
    )
    encoding = layer.attention.layer_encoding
    encoding.down.copy_(golden["phi_proj.0.weight"])
    encoding.up.copy_(golden["phi_proj.1.weight"])
    encoding.taps.copy_(golden["phi_conv1d.weight"].flatten(1))
    if encoding.gate is not None:
        set_values(encoding.gate, golden.values("phase_gate_proj"))
    of_steps_of_1 = encoding.rotary(torch.ones(1, 1, len(encoding.up), dtype=torch.float64), torch.float64)
    turns = torch.atan2(*reversed(of_steps_of_1))[:, :1, :, : head_dim // 2]
    yield Found("temperature", turns)
    # theirs take in the step of the first token, which no product of a query and a key sees
    steps = IndexSteps(torch.ones(len(x), length, dtype=torch.long))
    terms = encoding(x, query, key, InterTerms(steps=steps), None, 0)
    turned = rotate_by_head(ROTATE[family], query, key, *terms.head_rotary)
    for name, each in zip("qk", turned, strict=True):
        yield Found(f"rotated_{name}", each.transpose(1, 2))


TAPE_UPDATES = {
    "attended": "post_attention_linear",
    "up": "pe.up_proj",
    "gate": "pe.x_proj",
    "down": "pe.down_proj",
}


@torch.no_grad()
def tape(golden: Golden, family: str) -> Iterator[Found]:
    """Whole layers, and the state that enters the first of them."""
    if family == "gpt_neox":
        raise UnsupportedError("GPT-NeoX has no RMS norms and no gate in its MLP")
    config, x = golden.config, golden["x"]
    golden.require("hidden_act", "silu")
    config_class, model_class = FAMILIES[family]
    model = model_class(
        config_class(
            vocab_size=8,
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_heads"],
            head_dim=config["head_dim"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            segmentation="tokens",
            intra_encoding="none",
            inter_encoding="tape",
            tape_channels=config["position_size"],
        )
    ).eval()
    given, found = [], []
    for at, layer in enumerate(model.layers):
        for name, parameter in layer.named_parameters():
            module, _, own = name.rpartition(".")
            theirs = f"{TAPE_UPDATES[own]}.weight" if module == "rotary_updates" else name
            parameter.copy_(golden[f"layers.{at}.{theirs}"])
        layer.register_forward_pre_hook(lambda module, arguments: given.append(arguments[3]))
        layer.register_forward_hook(lambda module, arguments, handed: found.append(handed))
    model(inputs_embeds=x, use_cache=False)
    for name, numbers in zip(("cos", "sin"), angles_of(given[0]), strict=True):
        yield Found(name, numbers)
    for at, (hidden_states, state) in enumerate(found):
        cos, sin = angles_of(state)
        for name, numbers in (("hidden", hidden_states), ("cos", cos), ("sin", sin)):
            yield Found(f"layers.{at}.{name}", numbers)


CHECKERS: dict[str, Callable[[Golden, str], Iterator[Found]]] = {
    "CABLE": cable,
    "FoX": fox,
    "CoPE": cope,
    "DAPE": dape,
    "DAPE V2": dape,
    "HiRoPE": hirope,
    "DCA": dca,
    "SepLLM": sepllm,
    "PaTH attention": path,
    "Selective RoPE": selective_rope,
    "TAPE": tape,
}
"""By [`Golden.system`]."""
