"""Layers that differ in what they see of positions: a stock model with some, windows, caches, packing."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, pairs
from transformers import SmolLM3Config, SmolLM3ForCausalLM
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_generation_is_recomputation,
    assert_padding_moves_no_token,
    assert_pieces_are_one_forward,
    assert_whole_documents_are_alone,
    gradients_of_a_step,
    padding_in_all_places,
)

from bipe_hf.model.layer_pattern_bipe import windowed


SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}
OVER_TOKENS = {"segmentation": "tokens", "intra_encoding": "none"}
OVER_SEGMENTS = {"separator_token_ids": list(range(0, 60, 4))}
LOCAL = {"layer_encodings": ["local", "inter"], "local_window": 5}


def make(family, **fields):
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**{**SHAPE, **OVER_SEGMENTS, **fields}).eval()


@pytest.fixture(params=pairs(["rope", "alibi", "kerple", "fox", "cope"]))
def model(request):
    family, inter_encoding = request.param
    return make(family, inter_encoding=inter_encoding, **LOCAL)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rope", "local"])
def test_layers_without_a_position_between_others_are_smollm3(kind):
    shape = {**SHAPE, "num_key_value_heads": 2, "num_hidden_layers": 4, "pad_token_id": 0}
    window = {
        "use_sliding_window": True,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    torch.manual_seed(0)
    stock = SmolLM3ForCausalLM(
        SmolLM3Config(**shape, no_rope_layers=[1, 0, 1, 0], rope_theta=10000.0, **(window if kind == "local" else {}))
    )
    own = FAMILIES["llama"].make_causal_lm(
        **shape,
        **OVER_TOKENS,
        inter_encoding="none",
        layer_encodings=[kind, "inter"],
        local_window=5,
        rope_theta=10000.0,
    )
    own.load_state_dict(stock.state_dict())
    torch.testing.assert_close(own(IDS).logits, stock(IDS).logits, rtol=1e-5, atol=1e-5)
    prompt = {"input_ids": IDS[:, :9], "max_new_tokens": 15, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(own.generate(**prompt), stock.generate(**prompt))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rope", "local"])
def test_layers_of_rope_alone_are_the_stock_model(family, kind):
    """Also where the inter encoding turns with the token, and where the window is as long as the text."""
    own = make(family, **OVER_TOKENS, layer_encodings=[kind, "inter"], local_window=30)
    stock = FAMILIES[family].make_stock_causal_lm(**SHAPE)
    stock.load_state_dict(own.state_dict())
    assert torch.equal(own(IDS).logits, stock.eval()(IDS).logits)


@torch.no_grad()
def test_a_pattern_starts_anew_behind_its_last_entry(family):
    """Layer by layer, as a model of the same weights has each kind in all layers."""
    kinds = {"inter": {}, "rope": OVER_TOKENS, "none": {"inter_encoding": "none"}}
    mixed = make(family, layer_encodings=["rope", "none", "inter"], num_hidden_layers=5)
    plain = {kind: make(family, **fields, num_hidden_layers=5) for kind, fields in kinds.items()}
    entered = []
    for layer in mixed.model.layers if family == "llama" else mixed.gpt_neox.layers:
        layer.register_forward_pre_hook(lambda layer, args: entered.append(args[0]))
    mixed(IDS, output_hidden_states=True)
    for at, kind in enumerate(["rope", "none", "inter", "rope"]):
        other = deepcopy(plain[kind])
        other.load_state_dict(mixed.state_dict(), strict=False)
        layers = other.base_model.layers
        seen = []
        layers[at].register_forward_pre_hook(lambda layer, args, at=at: (entered[at], *args[1:]))
        layers[at].register_forward_hook(lambda layer, args, output, seen=seen: seen.append(output))
        other(IDS)
        torch.testing.assert_close(seen[0], entered[at + 1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_local_layer_attends_within_its_window_as_it_would_without(model):
    """The weights of the first layer are those without a window, where it reaches, made to sum to 1 again."""
    local, full = (deepcopy(model) for _ in range(2))
    for each in (local, full):
        each.set_attn_implementation("eager")
    full.config = full.base_model.config = deepcopy(full.config)
    full.config.local_window = 30
    weights = [each(IDS, output_attentions=True, use_cache=False).attentions[0] for each in (local, full)]
    distance = torch.arange(30)[:, None] - torch.arange(30)
    expected = weights[1] * ((distance >= 0) & (distance < 5))
    torch.testing.assert_close(weights[0], expected / expected.sum(-1, keepdim=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_caches_in_pieces_are_one_forward(model, kind):
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    pieces = ((0, 3), (3, 12), (12, 13), (13, 30))
    assert_pieces_are_one_forward(model, CACHES[kind](model.config), mask, pieces, crop=7 if kind == "dynamic" else 0)


def test_padding_and_packing_are_documents_alone(model):
    assert_whole_documents_are_alone(model)


@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(model, options):
    assert_generation_is_recomputation(model, options)


@torch.no_grad()
def test_finished_masks_get_the_window_too(family):
    """As generate hands them over with a compiled cache, and as people make them."""
    model = make(family, inter_encoding="alibi", **LOCAL)
    causal = torch.ones(30, 30).tril().bool().expand(2, 1, 30, 30)
    full = model(IDS, use_cache=False).logits
    torch.testing.assert_close(model(IDS, attention_mask=causal).logits, full, rtol=1e-5, atol=1e-5)
    added = torch.zeros(2, 1, 30, 30).masked_fill(~causal, torch.finfo(torch.float32).min)
    torch.testing.assert_close(model(IDS, attention_mask=added).logits, full, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("past", [0, 12])
def test_flex_attention_is_the_same(family, past, uncompiled_flex_attention):
    model = make(family, inter_encoding="alibi", **LOCAL)
    expected = model(IDS, use_cache=False).logits
    model.set_attn_implementation("flex_attention")
    cache = CACHES["dynamic"](model.config)
    if past:
        model(IDS[:, :past], past_key_values=cache)
    logits = model(IDS[:, past:], past_key_values=cache).logits
    torch.testing.assert_close(logits, expected[:, past:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_between_tokens_is_no_distance_or_is_refused(family):
    assert_padding_moves_no_token(make(family, layer_encodings=["rope", "inter", "none"]))
    model = make(family, **LOCAL)
    with pytest.raises(ValueError, match="padding between tokens of a document, which a local layer"):
        model(IDS, attention_mask=padding_in_all_places())
    right = torch.ones_like(IDS)
    right[0, 20:] = 0  # the tokens to come stand behind it
    for kind in ("dynamic", "static"):
        with pytest.raises(ValueError, match="padding between tokens of a document, which a local layer"):
            model.generate(
                IDS, attention_mask=right, max_new_tokens=3, pad_token_id=0, past_key_values=CACHES[kind](model.config)
            )


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_is_compiled_and_one_program_serves_every_length(family):
    model = make(family, inter_encoding="alibi", **LOCAL)
    ids = IDS[:, :12].clone()
    compiled = torch.compile(model.__call__, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    dimensions = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=4096)}
    program = torch.export.export(
        model,
        (),
        {"input_ids": ids, "use_cache": False},
        dynamic_shapes={"input_ids": dimensions, "use_cache": None},
        strict=False,
    )
    logits = program.module()(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_keeps_every_gradient(family, use_reentrant, backend):
    """That of a learnt bias too, which some layers do not take."""
    model = make(family, inter_encoding="kerple", attn_implementation=backend, num_hidden_layers=4, **LOCAL).train()
    gradients = []
    for each in (None, use_reentrant):
        model.zero_grad()
        gradients.append(gradients_of_a_step(model, each))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_what_is_saved_loads_to_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.layer_encodings == ["local", "inter"]
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_first_values_are_those_of_a_model_without_a_pattern(family):
    mixed, plain = make(family, **LOCAL).state_dict(), make(family).state_dict()
    assert mixed.keys() == plain.keys()
    assert all(torch.equal(mixed[name], plain[name]) for name in plain)


@pytest.mark.parametrize("past", [0, 7])
def test_a_mask_loses_what_is_out_of_the_window(past):
    mask = torch.ones(1, 1, 6, 6 + past).tril(past).bool()
    expected = [[0 <= past + query - key < 3 for key in range(6 + past)] for query in range(6)]
    assert windowed(mask, 3, past)[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_encodings": ["lokal", "inter"]}, "must be a list of inter, .* got 'lokal'"),
        ({"layer_encodings": ["rope", "none"]}, "must have the inter encoding in it"),
        ({"layer_encodings": ["inter"] * 4}, "at most as many entries as there are layers, 3"),
        ({"layer_encodings": ["local", "inter"]}, "needs local_window, at least 1 token, got None"),
        ({"layer_encodings": ["local", "inter"], "local_window": 0}, "needs local_window, at least 1 token, got 0"),
        ({"layer_encodings": "local"}, "layer_encodings must be of type"),
    ],
)
def test_what_no_pattern_can_be_is_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        make(family, **fields)


def test_a_pattern_cannot_change_in_place(family):
    config = make(family, **LOCAL).config
    with pytest.raises(ValueError, match="layer_encodings cannot be changed in place"):
        config.layer_encodings.append("rope")


@torch.no_grad()
def test_layers_that_count_tokens_have_no_factor_of_segments(family):
    """The authors' log_scale is 0 in the first segment: a layer of RoPE over tokens would see no position there."""
    model = make(family, layer_encodings=["rope", "inter"], log_scale_train_length=16)
    plain = make(family, layer_encodings=["rope", "inter"])
    first = [
        each(IDS[:, :1].repeat(1, 5), output_hidden_states=True, use_cache=False).hidden_states[1]
        for each in (model, plain)
    ]
    assert torch.equal(*first)


def test_patterns_of_the_same_layers_have_labels_of_their_own(family):
    labels = {
        make(family, layer_encodings=pattern, local_window=4).config.encoding_label
        for pattern in (["local", "inter"], ["local", "local", "inter"], ["local", "inter", "inter"])
    }
    assert len(labels) == 3
    assert "BiPE-RoPE and local layers" in labels
