"""DCA: limits that are another encoding, caches, padding and packing."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, pairs
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_documents_are_alone,
    assert_generation_is_recomputation,
    assert_one_graph_and_one_program,
    assert_pieces_are_one_forward,
    assert_rows_are_repeated_selected_and_reset,
    padding_in_all_places,
)

from bipe_hf.model import logits_bipe


def dca(tiny_model, family, **fields):
    """A tiny model whose chunks are of 5 tokens or segments, of which the texts here have more than two."""
    config = tiny_model(family).config.to_diff_dict()
    if family == "gpt_neox":  # one pair would show little
        config["rope_parameters"] = {**config["rope_parameters"], "partial_rotary_factor": 0.5}
    config["separator_token_ids"] = list(range(0, 60, 2))  # about every second token
    own = {"inter_encoding": "dca", "dca_train_length": 8}  # longest distance 6, window 1
    torch.manual_seed(0)  # behind the tiny model, which may have to be made first
    return FAMILIES[family].make_causal_lm(**config | own | fields).eval()


OVER = {"tokens": {"segmentation": "tokens", "intra_encoding": "none"}, "segments": {}}
every_unit = pytest.mark.parametrize("unit", OVER)


# Limits


@torch.no_grad()
def assert_same_logits(model, other):
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(IDS).logits, other(IDS).logits, rtol=1e-4, atol=2e-5)


@every_unit
def test_one_chunk_is_rope(tiny_model, family, unit):
    rope = dca(tiny_model, family, inter_encoding="rope", **OVER[unit])
    assert_same_logits(dca(tiny_model, family, dca_train_length=48, **OVER[unit]), rope)  # chunks of 30
    with_factor = dca(tiny_model, family, dca_train_length=48, dca_mscale="log", **OVER[unit])
    assert_same_logits(with_factor, rope)


@every_unit
@torch.no_grad()
def test_up_to_the_longest_distance_it_is_rope_and_then_no_more(tiny_model, family, unit):
    model = dca(tiny_model, family, **OVER[unit])
    rope = dca(tiny_model, family, inter_encoding="rope", **OVER[unit])
    rope.load_state_dict(model.state_dict())
    logits, expected = (each(IDS).logits for each in (model, rope))
    index = model.base_model.segment(IDS).segment_ids
    # the first two places of the second chunk see the first one as RoPE does
    torch.testing.assert_close(logits[index < 7], expected[index < 7], rtol=1e-4, atol=2e-5)
    assert ((logits - expected)[index >= 7].abs().amax(-1) > 1e-3).all()


def test_the_factor_is_seen(tiny_model, family):
    model = dca(tiny_model, family, **OVER["tokens"])
    other = dca(tiny_model, family, dca_mscale="log", **OVER["tokens"])
    other.load_state_dict(model.state_dict())
    logits, scaled = (each(IDS).logits for each in (model, other))
    torch.testing.assert_close(logits[:, :8], scaled[:, :8], rtol=1e-4, atol=2e-5)
    assert (logits - scaled)[:, 8:].abs().max() > 1e-3


# Caches, padding, packing


@pytest.fixture(params=pairs(["rope"]))
def model(request, tiny_model, monkeypatch):
    """Over tokens in GPT-NeoX, over segments in Llama, with the factor in both."""
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    family, _ = request.param
    unit = "segments" if family == "llama" else "tokens"
    return dca(tiny_model, family, dca_mscale="log", **OVER[unit])


@pytest.mark.parametrize("kind", CACHES)
def test_caches_in_pieces_are_one_forward(model, kind):
    pieces = ((0, 3), (3, 12), (12, 13), (13, 30))
    crop = 0 if kind == "static" else 7
    assert_pieces_are_one_forward(model, CACHES[kind](model.config), padding_in_all_places(), pieces, crop)


def test_rows_of_a_cache_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


def test_padding_and_packing_are_documents_alone(model):
    assert_documents_are_alone(model)


@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(model, options):
    assert_generation_is_recomputation(model, options)


def test_gradients_of_blocks_are_those_of_eager_attention(model):
    eager, gradients = deepcopy(model), []
    eager.set_attn_implementation("eager")
    for each in (model, eager):
        each(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in each.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_16_bits_are_near_float32(model, dtype):
    """Distances stay short, so that a long text is as near as a short one."""
    ids = torch.randint(0, 60, (1, 400), generator=torch.Generator().manual_seed(2))
    exact = model(ids).logits
    rounded = deepcopy(model).to(dtype)(ids).logits.float()
    assert (rounded - exact).norm() < 16 * torch.finfo(dtype).eps * exact.norm()


def test_what_is_saved_loads_to_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_rope_checkpoint_loads_as_dca_without_training(tiny_model, family, tmp_path):
    rope = dca(tiny_model, family, inter_encoding="rope")
    rope.save_pretrained(tmp_path)
    loaded = type(rope).from_pretrained(tmp_path, inter_encoding="dca", dca_train_length=48)
    torch.testing.assert_close(loaded(IDS).logits, rope(IDS).logits, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_one_graph_is_compiled_and_one_program_serves_every_length(model):
    assert_one_graph_and_one_program(model)


# Refusals


@pytest.mark.parametrize("backend", ["flash_attention_2", "flex_attention"])
def test_a_backend_that_shows_no_logits_is_refused(tiny_model, family, backend):
    with pytest.raises(ValueError, match=f"{backend}.*inter_encoding='dca' changes the logits.*Use 'sdpa'"):
        dca(tiny_model, family).set_attn_implementation(backend)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs dca_train_length, at least 2 segments .bipe-hf segments counts .*, got None"),
        ({"segmentation": "tokens"}, "needs dca_train_length, at least 2 tokens: how long a text was in training"),
        ({"dca_train_length": 1}, "needs dca_train_length, at least 2 segments .*, got 1"),
        (
            {"dca_train_length": 8, "dca_chunk_size": 9},
            r"dca_chunk_size must lie between 1 and dca_train_length \(8\), got 9",
        ),
        ({"dca_train_length": 8, "dca_chunk_size": 0}, "dca_chunk_size must lie between 1 and .*, got 0"),
        ({"dca_train_length": 8, "dca_window": 6}, "dca_window must lie between 0 and 5, below dca_chunk_size, got 6"),
        ({"dca_train_length": 8, "dca_window": -1}, "dca_window must lie between 0 and 5, .*, got -1"),
        ({"dca_train_length": 8, "dca_mscale": "on"}, "dca_mscale must be one of none, log, got 'on'"),
        (
            {"dca_train_length": 8, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "inter_encoding 'dca' must have rope_type 'default': .*, got 'linear'",
        ),
    ],
)
def test_settings_that_make_no_chunks_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].make_config(separator_token_ids=[1], inter_encoding="dca", **fields)
