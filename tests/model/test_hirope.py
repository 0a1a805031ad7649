"""HiRoPE: the numbers of its equations, limits that are another encoding, caches, padding and packing."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, pairs
from one_layer import golden
from transformers import DynamicCache, StaticCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from bipe_hf.model import logits_bipe
from bipe_hf.model.compatibility_bipe import CACHE_NAME
from bipe_hf.model.hirope_bipe import HiropeLogits
from bipe_hf.model.logits_bipe import LogitsBlock


IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(1))


def hirope(tiny_model, family, window=5, **fields):
    """A tiny model with one fast pair and more slow ones."""
    torch.manual_seed(0)
    shape = {"hybrid_max_period": 20.0, "hirope_window": window, "inter_encoding": "hirope"}
    config = tiny_model(family).config.to_diff_dict()
    if family == "gpt_neox":
        config["rope_parameters"] = {**config["rope_parameters"], "partial_rotary_factor": 0.5}
    return FAMILIES[family].make_causal_lm(**config | shape | fields).eval()


@torch.no_grad()
def test_windowed_logits_are_those_of_the_equations():
    tensors, assert_agrees = golden("hirope")
    query, key, units = tensors["q"], tensors["k"], tensors["unit_ids"][None]
    model = FAMILIES["llama"].make_causal_lm(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        separator_token_ids=[1],
        inter_encoding="hirope",
        hirope_window=6,
        hybrid_max_period=400.0,  # between those of pairs 3 and 4
    )
    x = torch.zeros(1, 40, 32)
    segments = model.model.segment(None, x, segment_ids=units)
    query, key = apply_rotary_pos_emb(query, key, *model.model.inter_encoding(segments, x).rotary)
    logits = query @ key.transpose(2, 3) / 4
    assert_agrees(logits.tril(), tensors["by_token.logits"])
    is_visible = torch.ones(40, 40).tril().bool()[None, None]
    block = LogitsBlock(query, key, key, None, is_visible, units, units, 0.25)
    assert_agrees(HiropeLogits(model.config, 16, 2).products(block).tril(), tensors["by_token.windowed_logits"])


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


def padding_in_all_places():
    mask = torch.ones_like(IDS)
    mask[0, :4] = mask[0, 9:13] = mask[1, 11] = mask[1, 20:22] = 0
    return mask


@torch.no_grad()
def test_caches_in_pieces_are_one_forward(model):
    mask = padding_in_all_places()
    full = model(IDS, attention_mask=mask, use_cache=False).logits
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=40)):
        rows = torch.tensor([0, 1])
        for start, end in ((0, 3), (3, 12), (12, 13), (13, 30)):
            logits = model(IDS[rows, start:end], attention_mask=mask[rows, :end], **{CACHE_NAME: cache}).logits
            is_token = mask[rows, start:end].bool()
            torch.testing.assert_close(logits[is_token], full[rows, start:end][is_token], rtol=1e-4, atol=2e-5)
            rows = rows.flip(0)
            cache.reorder_cache(torch.tensor([1, 0]))


@torch.no_grad()
def test_padding_and_packing_are_documents_alone(model):
    mask = padding_in_all_places()
    logits = model(IDS, attention_mask=mask, use_cache=False).logits
    for row in range(2):
        is_token = mask[row].bool()
        alone = model(IDS[row, is_token][None]).logits[0]
        torch.testing.assert_close(logits[row, is_token], alone, rtol=1e-4, atol=2e-5)
    positions = torch.tensor([[*range(12), *range(18)], [*range(2), 0, *range(27)]])
    logits = model(IDS, position_ids=positions, use_cache=False).logits
    for row, lengths in enumerate(((12, 18), (2, 1, 27))):
        for ids, found in zip(IDS[row].split(lengths), logits[row].split(lengths), strict=True):
            torch.testing.assert_close(found, model(ids[None]).logits[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_generation_is_recomputation(model, options):
    prompt = {"input_ids": IDS[:, :14], "attention_mask": torch.tensor([[0] * 5 + [1] * 9, [1] * 14])}
    shared = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "num_beams": options.get("num_beams", 1)}
    cached = model.generate(**prompt, **{**shared, **options}, disable_compile=True)
    assert torch.equal(cached, model.generate(**prompt, **shared, use_cache=False))


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
