"""Selective RoPE: its formula, limits that are another encoding, and its state in a cache."""

import cmath
import math

import pytest
import torch
from families import FAMILIES, pairs
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_documents_are_alone,
    assert_generation_is_recomputation,
    assert_pieces_are_one_forward,
    assert_rows_are_repeated_selected_and_reset,
    assert_states_do_not_depend_on_pieces,
    gradients_of_a_step,
    padding_in_all_places,
)

from bipe_hf.model import modeling_bipe_gpt_neox, modeling_bipe_llama
from bipe_hf.model.attention_bipe import rotate_by_head
from bipe_hf.model.index_steps_bipe import IndexSteps
from bipe_hf.model.inter_terms_bipe import InterTerms
from bipe_hf.model.last_inputs_bipe import last_inputs
from bipe_hf.model.selective_rope_bipe import SelectiveAngles


BEST = {"selective_rope_activation": "silu", "selective_rope_gate": "sigmoid"}
VARIANTS = {
    "segments": {},
    "segments, with gate": {**BEST, "selective_rope_rank": 3},
    "tokens": {"segmentation": "tokens"},
    "tokens, with gate": {**BEST, "segmentation": "tokens", "selective_rope_kernel": 1},
}
ROTATE = {
    "llama": modeling_bipe_llama.apply_rotary_pos_emb,
    "gpt_neox": modeling_bipe_gpt_neox.apply_rotary_pos_emb,
}


def fresh(tiny_model, family, **fields):
    """A tiny model of its own; half of a head of GPT-NeoX turns, two pairs."""
    config = tiny_model(family).config.to_diff_dict() | fields
    if family == "gpt_neox":
        config = {**config, "rope_parameters": {**config["rope_parameters"], "partial_rotary_factor": 0.5}}
        config = {**config, "rope_parameters": {**config["rope_parameters"], **fields.get("rope_parameters", {})}}
    torch.manual_seed(0)  # behind the tiny model, which may have to be made first
    return FAMILIES[family].make_causal_lm(**config).eval()


def selective(tiny_model, family, variant):
    return fresh(tiny_model, family, inter_encoding="selective_rope", **VARIANTS[variant])


def layer_encodings(model):
    return [module for module in model.modules() if isinstance(module, SelectiveAngles)]


# The formula


def naive_steps(encoding, config, x):
    """The step of every token, key head and pair, from lists of numbers."""
    down, up, taps = (each.tolist() for each in (encoding.down, encoding.up, encoding.taps))
    share = config.hidden_size // config.num_attention_heads
    normed, mapped, steps = [], [], []
    for token in x.tolist():
        heads = [token[at : at + share] for at in range(0, len(token), share)]
        heads = [[n / math.sqrt(sum(m * m for m in head) + 1e-6) for n in head] for head in heads]
        normed.append([n for head in heads for n in head])
        inner = [sum(a * b for a, b in zip(row, normed[-1], strict=True)) for row in down]
        mapped.append([sum(a * b for a, b in zip(row, inner, strict=True)) for row in up])
    for t, of_token in enumerate(normed):
        found = []
        for pair, of_pair in enumerate(taps):
            step = sum(tap * mapped[t - back][pair] for back, tap in enumerate(reversed(of_pair)) if back <= t)
            if config.selective_rope_activation == "silu":
                step = step / (1 + math.exp(-step))
            if encoding.gate is not None:
                head = pair * len(encoding.gate.bias) // len(taps)
                weight, bias = encoding.gate.weight[head].tolist(), encoding.gate.bias[head].item()
                step /= 1 + math.exp(-bias - sum(a * b for a, b in zip(weight, of_token, strict=True)))
            found.append(step)
        steps.append(found)
    return steps


def naive_weights(encoding, config, x, query, key, ids):
    steps = naive_steps(encoding, config, x)
    heads, length, head_dim = query.shape
    num_pairs = len(steps[0]) // len(key)
    weights = torch.zeros(heads, length, length, dtype=torch.float64)
    for head in range(heads):
        group = head * len(key) // heads
        q, k = query[head].tolist(), key[group].tolist()
        for i in range(length):
            logits = []
            for j in range(i + 1):
                between = range(j + 1, i + 1)
                if config.segmentation != "tokens":
                    between = [t for t in range(j, i) if ids[t] in config.separator_token_ids]
                product = sum(q[i][d] * k[j][d] for d in range(2 * num_pairs, head_dim))
                for p in range(num_pairs):
                    angle = sum(steps[t][group * num_pairs + p] for t in between)
                    turn = cmath.exp(1j * angle * config.selective_rope_theta ** (-p / num_pairs))
                    of_query, of_key = (complex(each[p], each[p + num_pairs]) for each in (q[i], k[j]))
                    product += (of_query * turn * of_key.conjugate()).real
                logits.append(product / math.sqrt(head_dim))
            weights[head, i, : i + 1] = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    return weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_weights_follow_the_formula(tiny_model, family, variant):
    model = selective(tiny_model, family, variant).double()
    model.set_attn_implementation("eager")
    encoding, seen = layer_encodings(model)[0], []
    encoding.register_forward_hook(lambda module, given, terms: seen.append(given[:3]))
    weights = model(IDS[:1], use_cache=False, output_attentions=True).attentions[0][0]
    given = (each[0].double() for each in seen[0])
    expected = naive_weights(encoding, model.config, *given, IDS[0].tolist())
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_a_convolution_sees_the_last_tokens_of_its_document(kernel):
    """Padding and starts of documents in all places, against a loop."""
    generator = torch.Generator().manual_seed(kernel)
    is_token = torch.rand(8, 12, generator=generator) < 0.7
    starts = (torch.rand(8, 12, generator=generator) < 0.3) & is_token
    inputs = torch.randn(8, 12, 3, generator=generator)
    past = torch.randn(8, kernel - 1, 3, generator=generator)
    latest = torch.where(is_token, torch.arange(1, 13), 0).cummax(1).values
    found = last_inputs(inputs, past, IndexSteps(latest, latest, starts), kernel)
    for row in range(8):
        window = list(past[row])
        for t in range(12):
            if starts[row, t]:
                window = [torch.zeros(3)] * (kernel - 1)
            if is_token[row, t]:
                window.append(inputs[row, t])
            expected = torch.stack([torch.zeros(3)] * (kernel - len(window)) + window[-kernel:])
            assert torch.equal(found[row, t, 1:], expected[1:])  # of padding too: what comes next sees these
            assert not is_token[row, t] or torch.equal(found[row, t], expected)


# Limits


def assert_same_logits(model, other, **inputs):
    other.load_state_dict({name: each for name, each in model.state_dict().items() if "layer_encoding" not in name})
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, other(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["segments", "tokens"])
def test_steps_of_1_are_rope(tiny_model, family, variant, monkeypatch):
    """Over segments BiPE-RoPE, with given ids that jump too."""
    model = selective(tiny_model, family, variant)
    steps = SelectiveAngles.steps

    def steps_of_1(*given):
        found, inputs = steps(*given)
        return torch.ones_like(found), inputs

    monkeypatch.setattr(SelectiveAngles, "steps", steps_of_1)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    rope = fresh(tiny_model, family, **VARIANTS[variant], **rope)
    assert rope.config.rope_parameters["rope_theta"] == 500000.0
    assert_same_logits(model, rope, input_ids=IDS)
    if variant == "segments":
        segment_ids = torch.tensor([[5] * 4 + [6] * 8 + [9] * 3 + [15] * 15, [0] * 10 + [1] * 20])
        assert_same_logits(model, rope, inputs_embeds=model.get_input_embeddings()(IDS), segment_ids=segment_ids)


def test_no_steps_are_no_encoding(tiny_model, family):
    model = selective(tiny_model, family, "segments")
    for encoding in layer_encodings(model):
        encoding.up.data.zero_()
    assert_same_logits(model, fresh(tiny_model, family, inter_encoding="none"), input_ids=IDS)


# Exactness


def module_of(**fields):
    config = FAMILIES["llama"].make_config(
        vocab_size=8, hidden_size=8, num_attention_heads=2, inter_encoding="selective_rope", **fields
    )
    encoding = SelectiveAngles(config, head_dim=4, num_key_heads=1)
    generator = torch.Generator().manual_seed(0)
    for parameter in encoding.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return encoding


@pytest.mark.parametrize("variant", ["segments, with gate", "tokens"])
def test_gradients_are_those_of_differences(variant):
    encoding = module_of(**VARIANTS[variant]).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    steps = IndexSteps(torch.tensor([[0, 1, 0, 2, 1, 1]]))
    names, parameters = zip(*encoding.named_parameters(), strict=True)

    def angles(x, *values):
        given = (x, x, x, InterTerms(steps=steps), None, 0)
        return torch.func.functional_call(encoding, dict(zip(names, values, strict=True)), given).head_rotary

    assert torch.autograd.gradcheck(angles, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_angles_of_a_long_text_do_not_depend_on_the_dtype(dtype):
    """Steps of about 1 over 20,000 tokens, where float32 holds angles to 1e-3, and 16 bits to whole turns."""
    encoding = module_of(segmentation="tokens").to(dtype)
    x = torch.randn(1, 20000, 8, generator=torch.Generator().manual_seed(1)).add(2).to(dtype)
    steps = IndexSteps(torch.ones(1, 20000, dtype=torch.long))
    cos, sin = encoding(x, x, x, InterTerms(steps=steps), None, 0).head_rotary
    sums, _ = encoding.double().steps(x.double(), None, steps)
    frequencies = 500000.0 ** -torch.tensor([0.0, 0.5], dtype=torch.float64)
    angles = sums.cumsum(1) * frequencies
    assert angles.abs().max() > 10000
    assert cos.dtype == sin.dtype == torch.float32
    torch.testing.assert_close(cos[0, 0, :, :2].double(), angles[0].cos(), rtol=0, atol=1e-2)
    torch.testing.assert_close(sin[0, 0, :, 2:].double(), angles[0].sin(), rtol=0, atol=1e-2)


# The state in a cache


@pytest.fixture(params=pairs(["segments", "tokens, with gate", "tokens"]))
def model(request, tiny_model):
    return selective(tiny_model, *request.param)


@pytest.fixture
def quick_model(tiny_model, family):
    return selective(tiny_model, family, "segments" if family == "llama" else "tokens")


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(quick_model, kind):
    pieces = ((0, 3), (3, 12), (12, 13), (13, 14), (14, 24))
    crop = 0 if kind == "static" else 5  # whose keys cannot be cropped
    assert_pieces_are_one_forward(quick_model, CACHES[kind](quick_model.config), padding_in_all_places(), pieces, crop)


def test_padding_and_packing_are_documents_alone(quick_model):
    """Padding in all places; documents shorter than the convolution, with padding inside."""
    assert_documents_are_alone(quick_model)


def test_the_sums_of_a_cache_do_not_depend_on_its_pieces(quick_model):
    assert_states_do_not_depend_on_pieces(quick_model)


def test_rows_of_a_cache_are_repeated_selected_and_reset(quick_model):
    assert_rows_are_repeated_selected_and_reset(quick_model)


@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(model, options):
    assert_generation_is_recomputation(model, options)


# Training, saving, refusals


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_every_parameter_learns_with_checkpointing_too(tiny_model, family, use_reentrant):
    gradients = [
        gradients_of_a_step(selective(tiny_model, family, "segments, with gate").train(), each)
        for each in (None, use_reentrant)
    ]
    assert all(each.abs().max() > 1e-7 for name, each in gradients[0].items() if "layer_encoding" in name)
    torch.testing.assert_close(*gradients)


def test_what_is_saved_loads_to_the_same_logits(quick_model, tmp_path):
    quick_model.save_pretrained(tmp_path)
    assert torch.equal(type(quick_model).from_pretrained(tmp_path)(IDS).logits, quick_model(IDS).logits)


def test_the_other_weights_do_not_depend_on_the_encoding(family):
    shape = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    states = []
    for fields in ({"inter_encoding": "none"}, {"inter_encoding": "selective_rope", **BEST}):
        torch.manual_seed(0)
        model = FAMILIES[family].make_causal_lm(**shape, num_attention_heads=2, separator_token_ids=[5], **fields)
        states.append((model.state_dict(), torch.get_rng_state()))
    (plain, random), (weights, same) = states
    assert torch.equal(random, same)
    assert all(torch.equal(weights[name], expected) for name, expected in plain.items())
    first, second = layer_encodings(model)
    assert not torch.equal(first.down, second.down)
    for parameter in (first.down, first.up, first.taps, first.gate.weight):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.5)
    assert not first.gate.bias.any()


def test_heads_that_are_split_over_devices_are_refused(family):
    cos = torch.ones(1, 4, 3, 4)
    query, key = torch.ones(1, 4, 3, 8), torch.ones(1, 2, 3, 8)
    with pytest.raises(ValueError, match="angles for each of 4 key heads, attention got 2: tensor parallelism is not"):
        rotate_by_head(ROTATE[family], query, key, cos, cos)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selective_rope_rank": 0}, "selective_rope_rank must be at least 1, got 0"),
        ({"selective_rope_kernel": 0}, "selective_rope_kernel must be at least 1, got 0"),
        ({"selective_rope_theta": 0.5}, "selective_rope_theta must be at least 1, got 0.5"),
        ({"selective_rope_theta": float("nan")}, "selective_rope_theta must be at least 1, got nan"),
        ({"selective_rope_activation": "relu"}, "selective_rope_activation must be one of none, silu, got 'relu'"),
        ({"selective_rope_gate": "head"}, "selective_rope_gate must be one of none, sigmoid, got 'head'"),
        (
            {"inter_encoding": "selective_rope", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters of inter_encoding 'selective_rope' must have rope_type 'default'",
        ),
    ],
)
def test_settings_that_make_no_angles_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].make_config(separator_token_ids=[1], **fields)
