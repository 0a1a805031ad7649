"""Every inter encoding against its formula, computed pair by pair in float64; and cached against uncached."""

import importlib
import math
from copy import deepcopy

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_weights
from same_step import SHAPE, assert_same_step
from transformers import DynamicCache, StaticCache
from transformers.models.t5.modeling_t5 import T5Attention

from bipe_hf.model.compatibility_bipe import CACHE_NAME
from bipe_hf.model.inter_bipe import MAX_XPOS_INDEX


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "rope, partly by token": {"inter_encoding": "rope", "token_share": 0.3},
    "xpos": {"inter_encoding": "xpos"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid, slow pairs still": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0},
    "hybrid, slow pairs by segment": {
        "inter_encoding": "hybrid",
        "hybrid_max_period": 20.0,
        "hybrid_slow_pairs": "segments",
        "hybrid_alibi_scale": 0.5,
        "hybrid_alibi_power": 0.5,
    },
    "hybrid, slow pairs partly by token": {
        "inter_encoding": "hybrid",
        "hybrid_max_period": 20.0,
        "hybrid_slow_pairs": "segments",
        "token_share": 0.7,
    },
    "hybrid without ALiBi": {"inter_encoding": "hybrid", "hybrid_max_period": 8.0, "hybrid_alibi_scale": 0.0},
    "axes": {
        "inter_encoding": "axes",
        "hybrid_max_period": 20.0,
        "inner_separator_token_ids": [[4, 5, 6, 7], [6, 8, 10, 11, 13]],
        "max_segment_length": 3,
        "max_inner_index": 2,
    },
    "axes without inner levels": {
        "inter_encoding": "axes",
        "hybrid_max_period": 8.0,
        "hybrid_alibi_scale": 0.5,
        "hybrid_alibi_power": 0.5,
    },
    "kerple": {"inter_encoding": "kerple"},
    "t5": {"inter_encoding": "t5"},
    "fire": {"inter_encoding": "fire", "fire_length": 4},
    "log-n": {"inter_encoding": "alibi", "logn_train_length": 12},
    "log-n and log scale": {"inter_encoding": "rope", "logn_train_length": 12, "log_scale_train_length": 5},
    "fox": {"inter_encoding": "fox"},
    "fox, one gate a head": {"inter_encoding": "fox", "fox_gate": "bias_only"},
    "fox, fixed gates": {"inter_encoding": "fox", "fox_gate": "fixed"},
    "fox with rope, by token": {"inter_encoding": "fox", "added_rotation": "rope", "segmentation": "tokens"},
    "fox with fast pairs": {"inter_encoding": "fox", "added_rotation": "fast", "hybrid_max_period": 8.0},
    "cable with rope": {"inter_encoding": "cable", "added_rotation": "rope"},
    "cable": {"inter_encoding": "cable"},
    "cable without weights": {"inter_encoding": "cable", "cable_kind": "unweighted"},
    "cable as released, by token": {"inter_encoding": "cable", "cable_kind": "released", "segmentation": "tokens"},
    "none": {"inter_encoding": "none"},
}
BIASES = ["kerple", "t5", "fire"]
IN_LAYERS = ["fox", "cable"]
IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


@pytest.fixture
def bipe(family, encoding, tiny_model):
    """A tiny model of each family with each inter encoding over segments."""
    return tiny_model(family, **ENCODINGS[encoding])


def captured(model, monkeypatch, **inputs):
    """Queries and keys of the first layer before any encoding, the attention weights that follow from them, the
    encoding of the layer and what enters it."""
    module = importlib.import_module(type(model).__module__)
    attend, seen = module.bilevel_attention, []

    def capture(layer, query, key, *args, **kwargs):
        output, weights = attend(layer, query, key, *args, **kwargs)
        seen.append((query, key, weights, layer.layer_encoding, kwargs["hidden_states"]))
        return output, weights

    monkeypatch.setattr(module, "bilevel_attention", capture)
    model(**inputs, use_cache=False)
    return seen[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
def test_attention_weights_follow_the_formula(family, encoding, dtype, tolerance, monkeypatch):
    """transformers computes the angles in float32, whatever the model's dtype."""
    torch.manual_seed(0)
    fields = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    model = FAMILIES[family].make_causal_lm(
        **fields,
        num_attention_heads=2,
        **({"num_key_value_heads": 1} if family == "llama" else {"rotary_pct": 0.5}),
        initializer_range=0.3,
        separator_token_ids=list(range(0, 60, 3)),
        attn_implementation="eager",
        alibi_slope_scale=3.0,
        **ENCODINGS[encoding],
    )
    model = model.to(dtype).eval()
    query, key, weights, *of_layer = captured(model, monkeypatch, input_ids=IDS[:1])
    ids, (layer_encoding, hidden_states) = IDS[0].tolist(), of_layer
    expected = naive_weights(model, query[0].double(), key[0].double(), ids, layer_encoding, hidden_states[0].double())
    torch.testing.assert_close(weights[0].double(), expected, rtol=0, atol=tolerance)


def test_t5_buckets_are_those_of_transformers():
    distance = torch.arange(0, 400)[None, None]
    encoding = (
        FAMILIES["llama"].make_causal_lm(**SHAPE, separator_token_ids=[1], inter_encoding="t5").model.inter_encoding
    )
    buckets = T5Attention._relative_position_bucket(-distance, bidirectional=False, num_buckets=32, max_distance=128)
    with torch.no_grad():
        expected = encoding.table(buckets).permute(0, 3, 1, 2)
        assert torch.equal(encoding.bias_of(distance), expected)


@pytest.mark.parametrize("name", ["kerple", "t5", *IN_LAYERS])
def test_the_learnt_bias_has_the_gradient_of_its_formula(tiny_model, family, name):
    """A step along the gradient changes the loss by what the gradient says.

    By central differences, of losses that Llama's float32 norms make a little rough; CABLE in its form without a kink.
    """
    torch.manual_seed(0)
    fields = {"inter_encoding": name, "cable_kind": "released"}
    model = FAMILIES[family].make_causal_lm(**tiny_model(family).config.to_diff_dict() | fields)
    model = model.double().eval()
    parameters = {
        name: each for name, each in model.named_parameters() if "inter_encoding" in name or "layer_encoding" in name
    }
    assert len(parameters) == {"kerple": 2, "t5": 1, "fox": 4, "cable": 4}[name]

    def loss():  # that of transformers is float32
        return torch.nn.functional.cross_entropy(
            model(input_ids=IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
        )

    loss().backward()
    for parameter in parameters.values():
        assert parameter.grad.abs().max() > 1e-6
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        losses = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                parameter.add_(step * direction)
                losses.append(loss().item())
                parameter.sub_(step * direction)
        slope = (losses[0] - losses[1]) / 2e-2
        assert slope == pytest.approx((parameter.grad * direction).sum().item(), rel=5e-3)


# What must equal what


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}


@pytest.mark.parametrize(
    "scaling", [{"rope_type": "default"}, {"rope_type": "linear"}, {"rope_type": "llama3", **LLAMA3}]
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hybrid_with_every_pair_fast_and_no_bias_equals_the_stock_model_exactly(family, attention, scaling):
    torch.manual_seed(0)
    shape = {**SHAPE, "rope_parameters": {"rope_theta": 100.0, "factor": 4.0, **scaling}}
    stock = FAMILIES[family].make_stock_causal_lm(**shape, attn_implementation=attention)
    ours = FAMILIES[family].make_causal_lm(
        **shape,
        attn_implementation=attention,
        inter_encoding="hybrid",
        hybrid_max_period=1e9,
        hybrid_alibi_scale=0,
        intra_encoding="none",
        separator_token_ids=[1, 2, 3, 4, 5],
    )
    ours.load_state_dict(stock.state_dict())
    assert_same_step(stock, ours)
    prompt = {
        "input_ids": torch.arange(20, 44).view(2, 12),
        "attention_mask": torch.tensor([[0] * 5 + [1] * 7, [1] * 12]),
    }
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(stock.eval().generate(**prompt, **options), ours.eval().generate(**prompt, **options))


def test_hybrid_with_no_pair_fast_equals_rope_and_alibi_over_segments(family, tiny_model):
    """Slow pairs that turn with segments are BiPE-RoPE, slow pairs that do not turn are BiPE-ALiBi."""
    shared = {"inter_encoding": "hybrid", "hybrid_max_period": 1e-3}
    for fields, same_as in (
        ({"hybrid_slow_pairs": "segments", "hybrid_alibi_scale": 0}, {"inter_encoding": "rope"}),
        ({"hybrid_alibi_scale": 4.0}, {"inter_encoding": "alibi"}),
    ):
        hybrid, other = tiny_model(family, **shared, **fields), tiny_model(family, **same_as)
        hybrid.load_state_dict(other.state_dict())
        torch.testing.assert_close(hybrid(IDS).logits, other(IDS).logits, rtol=0, atol=1e-5)


def test_which_pairs_are_fast_is_kept_when_a_cast_rounds_the_frequencies(family, tiny_model, tmp_path):
    model = tiny_model(family, inter_encoding="hybrid", hybrid_max_period=20.0)
    turning = len(model.base_model.inter_encoding.is_fast)
    frequencies = [10000.0 ** (-2 * i / turning) for i in range(turning // 2)]
    expected = [2 * math.pi / frequency <= 20.0 for frequency in frequencies] * 2
    assert any(expected)
    assert model.base_model.inter_encoding.is_fast.tolist() == expected
    model.save_pretrained(tmp_path)
    for loaded in (type(model).from_pretrained(tmp_path), type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)):
        assert loaded.base_model.inter_encoding.is_fast.tolist() == expected
        assert loaded.bfloat16().base_model.inter_encoding.is_fast.tolist() == expected


def test_scaled_pairs_are_fast_by_the_wavelength_that_they_turn_with(family, tiny_model):
    """Four times as slow, so that fewer have a wavelength up to 20 tokens."""
    plain, scaled = (
        tiny_model(
            family,
            inter_encoding="hybrid",
            hybrid_max_period=20.0,
            rope_parameters={"rope_type": kind, "rope_theta": 10.0, "factor": 4.0},
        ).base_model.inter_encoding.is_fast
        for kind in ("default", "linear")
    )
    turning = len(plain) // 2
    frequencies = [10.0 ** (-at / turning) for at in range(turning)]
    assert plain.tolist() == [2 * math.pi / frequency <= 20.0 for frequency in frequencies] * 2
    assert scaled.tolist() == [4 * 2 * math.pi / frequency <= 20.0 for frequency in frequencies] * 2
    assert plain.any()
    assert not torch.equal(plain, scaled)


# Caches, padding, packing


def test_cached_steps_equal_the_full_forward(bipe):
    """A prefill, a chunk and single tokens, with left padding."""
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    full = bipe(input_ids=IDS, attention_mask=mask).logits
    for cache in (DynamicCache(config=bipe.config), StaticCache(config=bipe.config, max_cache_len=40)):
        steps = [(0, 11), (11, 20), *((i, i + 1) for i in range(20, 30))]
        logits = [
            bipe(input_ids=IDS[:, a:b], attention_mask=mask[:, :b], **{CACHE_NAME: cache}).logits for a, b in steps
        ]
        torch.testing.assert_close(torch.cat(logits, dim=1)[mask.bool()], full[mask.bool()], rtol=1e-4, atol=2e-5)


def test_left_padded_rows_and_packed_documents_equal_each_alone(bipe):
    alone = [bipe(input_ids=IDS[:1, :12]).logits[0], bipe(input_ids=IDS[1:, :18]).logits[0]]
    packed = torch.cat([IDS[0, :12], IDS[1, :18]])[None]
    positions = torch.tensor([[*range(12), *range(18)]])
    logits = bipe(input_ids=packed, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-4, atol=2e-5)
    rows = torch.stack([torch.cat([IDS[0, :6], IDS[0, :12]]), IDS[1, :18]])
    mask = torch.ones_like(rows)
    mask[0, :6] = 0
    padded = bipe(input_ids=rows, attention_mask=mask).logits
    torch.testing.assert_close(padded[0, 6:], alone[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"cache_implementation": "static"}], ids=["beam", "static"])
def test_generation_equals_generation_without_a_cache(bipe, options):
    prompt = {"input_ids": IDS[:, :14], "attention_mask": torch.tensor([[0] * 5 + [1] * 9, [1] * 14])}
    shared = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "num_beams": options.get("num_beams", 1)}
    cached = bipe.generate(**prompt, **{**shared, **options}, disable_compile=True)
    assert torch.equal(cached, bipe.generate(**prompt, **shared, use_cache=False))


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_backends_agree_on_a_bias(family, name, dtype, tiny_model, uncompiled_flex_attention):
    """With padding and packing; flex attention is CPU forward only."""
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    inputs = [{"attention_mask": mask}, {"position_ids": torch.tensor([[*range(10), *range(20)]] * 2)}, {}]
    logits = {}
    for attention in ("eager", "sdpa", "flex_attention"):
        model = tiny_model(family, inter_encoding=name, attn_implementation=attention)
        if dtype != torch.float32:
            model = FAMILIES[family].causal_lm(model.config).eval().to(dtype)
            model.load_state_dict(tiny_model(family, inter_encoding=name, attn_implementation=attention).state_dict())
        with torch.inference_mode():
            rows = [model(input_ids=IDS, use_cache=False, **more).logits[:, 7:].float() for more in inputs]
        logits[attention] = torch.stack(rows)
    tolerance = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.4}[dtype]
    for attention in ("sdpa", "flex_attention"):
        torch.testing.assert_close(logits[attention], logits["eager"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BIASES)
def test_a_backend_that_adds_no_bias_is_refused(family, name, tiny_model):
    model = FAMILIES[family].causal_lm(deepcopy(tiny_model(family, inter_encoding=name).config))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="cannot add. Use 'sdpa', 'eager' or 'flex_attention'"):
        model(input_ids=IDS)


def test_xpos_is_refused_where_its_factors_leave_the_range(tiny_model):
    model = tiny_model("llama", inter_encoding="xpos")
    embeddings = model.get_input_embeddings()(IDS[:1, :2])
    far = torch.tensor([[MAX_XPOS_INDEX - 1, MAX_XPOS_INDEX]])
    near = torch.tensor([[0, 1]])
    logits = [model(inputs_embeds=embeddings, segment_ids=ids).logits for ids in (near, far)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0.01)  # angles of float32 at that index
    with pytest.raises(ValueError, match=f"up to segment index {MAX_XPOS_INDEX}"):
        model(inputs_embeds=embeddings, segment_ids=far + 1)
    with pytest.raises(ValueError, match="float16"):
        FAMILIES["llama"].causal_lm(model.config).half()(input_ids=IDS)


# Segments of one length


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 9), padding=st.integers(0, 6), chunk=st.integers(1, 20))
def test_fixed_segments_count_tokens_of_each_document(tiny_model, length, padding, chunk):
    model = tiny_model("llama", segmentation="fixed", fixed_segment_length=length)
    mask = torch.ones(1, 21, dtype=torch.long)
    mask[:, :padding] = 0
    segments = model.model.segment(torch.zeros(1, 21, dtype=torch.long), is_token=mask.bool())
    expected = [-1] * padding + [i // length for i in range(21 - padding)]
    assert segments.segment_ids[0].tolist() == expected
    inside = [0] * padding + [i % length for i in range(21 - padding)]
    assert segments.intra_positions[0].tolist() == inside

    ids = IDS[:1, :21]
    cache = DynamicCache(config=model.config)
    first = model(input_ids=ids[:, :chunk], attention_mask=mask[:, :chunk], **{CACHE_NAME: cache}).logits
    rest = model(input_ids=ids[:, chunk:], attention_mask=mask, **{CACHE_NAME: cache}).logits
    whole = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(torch.cat([first, rest], 1)[:, padding:], whole[:, padding:], rtol=1e-4, atol=2e-5)


def test_fixed_segments_restart_in_packed_documents(tiny_model):
    model = tiny_model("llama", segmentation="fixed", fixed_segment_length=4)
    starts = torch.zeros(1, 12, dtype=torch.bool)
    starts[0, 6] = True
    segments = model.model.segment(torch.zeros(1, 12, dtype=torch.long), starts_document=starts)
    assert segments.segment_ids[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1]
    assert segments.token_positions[0].tolist() == [*range(6), *range(6)]


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inter_encoding": "hybrid"}, "needs hybrid_max_period"),
        ({"inter_encoding": "hybrid", "hybrid_max_period": 0}, "needs hybrid_max_period"),
        (
            {"inter_encoding": "hybrid", "hybrid_max_period": 64, "hybrid_alibi_scale": -1.0},
            "hybrid_alibi_scale must be 0 or lie",
        ),
        (
            {"inter_encoding": "hybrid", "hybrid_max_period": 64, "hybrid_alibi_power": 1.5},
            "hybrid_alibi_power must lie between 0 and 1, got 1.5",
        ),
        (
            {"inter_encoding": "hybrid", "hybrid_max_period": 64, "hybrid_alibi_power": float("nan")},
            "hybrid_alibi_power must lie between 0 and 1, got nan",
        ),
        (
            {
                "inter_encoding": "hybrid",
                "hybrid_max_period": 64,
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0},
            },
            "must have rope_type default or linear or llama3, got 'dynamic'",
        ),
        ({"token_share": 1.5}, "token_share must lie between 0 and 1, got 1.5"),
        ({"token_share": float("nan")}, "token_share must lie between 0 and 1, got nan"),
        (
            {"inter_encoding": "hybrid", "hybrid_max_period": 64, "token_share": 0.5},
            "token_share is 0.5, but hybrid_slow_pairs is 'none'",
        ),
        ({"hybrid_slow_pairs": "tokens"}, "hybrid_slow_pairs must be one of none, segments"),
        ({"segmentation": "fixed"}, "needs fixed_segment_length"),
        ({"logn_train_length": 1}, "logn_train_length must be None or at least 2"),
        (
            {"inter_encoding": "ape"},
            "hybrid, hirope, dca, axes, kerple, t5, fire, fox, fox_pro, cable, .*, dape_v2, none",
        ),
        ({"fox_gate": "half"}, "fox_gate must be one of full, bias_only, fixed, got 'half'"),
        ({"added_rotation": "xpos"}, "added_rotation must be one of none, rope, fast, got 'xpos'"),
        (
            {"inter_encoding": "fox", "added_rotation": "fast"},
            "inter_encoding 'fox' with added_rotation 'fast' needs hybrid_max_period",
        ),
        ({"fox_min_time": 0.0}, "fox_min_time and fox_max_time must be above 0, the second at least the first, got 0"),
        ({"fox_min_time": 9.0, "fox_max_time": 8.0}, "the second at least the first, got 9.0 and 8.0"),
        ({"fox_max_time": float("nan")}, "the second at least the first, got 2.0 and nan"),
        ({"cable_kind": "kernel"}, "cable_kind must be one of weighted, unweighted, released, got 'kernel'"),
        ({"inter_encoding": "axes"}, "inter_encoding 'axes' needs hybrid_max_period"),
        (
            {"inter_encoding": "axes", "hybrid_max_period": 64, "segmentation": "tokens"},
            "needs a segmentation other than 'tokens'",
        ),
        (
            {"inter_encoding": "axes", "hybrid_max_period": 64, "intra_encoding": "none"},
            "and an intra_encoding, whose tables say where",
        ),
        (
            {"inter_encoding": "axes", "hybrid_max_period": 64, "hybrid_alibi_scale": 0},
            "by ALiBi alone: hybrid_alibi_scale is not 0",
        ),
        (
            {"inter_encoding": "axes", "hybrid_max_period": 64, "hybrid_alibi_power": 1.5},
            "hybrid_alibi_power must lie between 0 and 1",
        ),
        (
            {
                "inter_encoding": "axes",
                "hybrid_max_period": 64,
                "rope_parameters": {"rope_type": "yarn", "factor": 2.0},
            },
            "rope_parameters of inter_encoding 'axes' must have rope_type default or linear or llama3, got 'yarn'",
        ),
    ],
)
def test_settings_that_make_no_encoding_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].make_config(separator_token_ids=[1], **fields)


def test_what_is_saved_loads_to_the_same_logits(bipe, tmp_path):
    bipe.save_pretrained(tmp_path)
    assert torch.equal(type(bipe).from_pretrained(tmp_path)(IDS).logits, bipe(IDS).logits)


def test_kerple_starts_inside_the_ranges_of_the_paper(family, tiny_model):
    kerple = tiny_model(family, inter_encoding="kerple").base_model.inter_encoding
    for parameter, highest in ((kerple.log_r1, 2), (kerple.log_r2, 1)):
        assert 0 < parameter.exp().min() < parameter.exp().max() <= highest


def test_a_hybrid_over_the_whole_document_is_no_nope(family):
    """Its fast pairs still turn with the token."""
    fields = {"inter_encoding": "hybrid", "hybrid_max_period": 64, "segmentation": "document"}
    assert FAMILIES[family].make_config(**fields).encoding_label == "hybrid with learned APE"
    assert FAMILIES[family].make_config(**fields, intra_encoding="none").encoding_label == "hybrid"
