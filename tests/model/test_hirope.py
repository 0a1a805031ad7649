"""HiRoPE: limits that are another encoding, caches, padding and packing."""

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
    assert_pieces_are_one_forward,
    padding_in_all_places,
)

from bipe_hf.model import logits_bipe


def hirope(tiny_model, family, window=5, **fields):
    """A tiny model with one fast pair and more slow ones."""
    shape = {"hybrid_max_period": 20.0, "hirope_window": window, "inter_encoding": "hirope"}
    config = tiny_model(family).config.to_diff_dict()
    if family == "gpt_neox":
        config["rope_parameters"] = {**config["rope_parameters"], "partial_rotary_factor": 0.5}
    torch.manual_seed(0)  # behind the tiny model, which may have to be made first
    return FAMILIES[family].make_causal_lm(**config | shape | fields).eval()


@torch.no_grad()
def assert_same_logits(model, other):
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(IDS).logits, other(IDS).logits, rtol=0, atol=1e-5)


def test_without_a_window_it_is_the_hybrid(tiny_model, family):
    fields = {"inter_encoding": "hybrid", "hybrid_slow_pairs": "segments", "hybrid_alibi_scale": 0.0}
    assert_same_logits(hirope(tiny_model, family, window=1), hirope(tiny_model, family, **fields))


def test_in_a_window_as_long_as_the_text_it_is_rope(tiny_model, family):
    fields = {"inter_encoding": "rope", "token_share": 1.0}
    assert_same_logits(hirope(tiny_model, family, window=30), hirope(tiny_model, family, **fields))


def test_the_window_is_seen(tiny_model, family):
    logits = [hirope(tiny_model, family, window=window)(IDS).logits for window in (1, 5, 30)]
    assert (logits[0] - logits[1]).abs().max() > 0.1
    assert (logits[2] - logits[1]).abs().max() > 0.1


@pytest.fixture(params=pairs(["rope"]))
def model(request, tiny_model, monkeypatch):
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    return hirope(tiny_model, request.param[0])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_caches_in_pieces_are_one_forward(model, kind):
    pieces = ((0, 3), (3, 12), (12, 13), (13, 30))
    assert_pieces_are_one_forward(model, CACHES[kind](model.config), padding_in_all_places(), pieces)


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


def test_what_is_saved_loads_to_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_window_of_no_token_is_refused(family):
    with pytest.raises(ValueError, match="hirope_window must be at least 1, got 0"):
        FAMILIES[family].make_config(separator_token_ids=[1], hirope_window=0)
    with pytest.raises(ValueError, match="inter_encoding 'hirope' needs hybrid_max_period"):
        FAMILIES[family].make_config(separator_token_ids=[1], inter_encoding="hirope")
