"""Edits of a cached prompt against the edited prompt in one forward, where both must be the same."""

import copy

import pytest
import torch
from families import FAMILIES, all_key_heads, pairs
from tiny import LEVELS, TINY
from transformers import DynamicCache, StaticCache

from bipe_hf import SepLLMCache, edit_cache


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "rope over tokens": {"inter_encoding": "rope", "segmentation": "tokens", "intra_encoding": "none"},
    "rope between": {"inter_encoding": "rope", "token_share": 0.25},
    "yarn": {
        "inter_encoding": "rope",
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "rope_theta": 1e4,
        },
    },
    "document": {"inter_encoding": "none", "segmentation": "document"},
    "xpos": {"inter_encoding": "xpos"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0, "hybrid_slow_pairs": "segments"},
    "no intra": {"inter_encoding": "alibi", "intra_encoding": "none"},
    "kerple": {"inter_encoding": "kerple"},
    "hirope": {"inter_encoding": "hirope", "hybrid_max_period": 20.0, "hirope_window": 5},
    "cope": {"inter_encoding": "cope"},
    "dca": {"inter_encoding": "dca", "dca_train_length": 6},  # chunks of 4 segments
    "cope with rope and yarn": {
        "inter_encoding": "cope",
        "added_rotation": "rope",
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "rope_theta": 1e4,
        },
    },
    "dape with fast pairs": {"inter_encoding": "dape", "added_rotation": "fast", "hybrid_max_period": 20.0},
    "levels": {"inter_encoding": "rope", **LEVELS},
    "axes": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    "masked": {"inter_encoding": "rope", "sepllm_neighbors": 6},
}
# Separators are 3, 7, 11 and 19: segments of 4, 2, 6, 1, 7 and 4 tokens in row 0, of others in row 1.
IDS = torch.tensor(
    [
        [5, 2, 9, 3, 12, 7, 8, 13, 14, 2, 9, 11, 3, 21, 22, 8, 24, 25, 26, 19, 27, 28, 2, 30],
        [3, 5, 6, 9, 2, 3, 8, 9, 7, 13, 14, 15, 16, 2, 8, 9, 11, 12, 31, 32, 33, 2, 3, 35],
    ]
)
EDITS = {
    "equal length": (8, 10, [[40, 41], [42, 43]]),
    "longer": (7, 9, [[40, 41, 42, 43], [44, 45, 46, 47]]),
    "shorter": (7, 10, [[40], [41]]),
    "deletion": (7, 10, [[], []]),
    "insertion": (14, 14, [[40, 2], [41, 8]]),
    "more segments": (8, 10, [[40, 3, 41, 7, 2], [3, 3, 42, 8, 43]]),
    "fewer segments": (2, 9, [[40], [41]]),
    "rows differ": (8, 10, [[40, 3], [41, 42]]),
    "first tokens": (0, 2, [[40, 3, 7], [41, 42, 43]]),
    "all but the last": (0, 23, [[40], [3]]),
    "last token": (23, 24, [[3], [41]]),
    "behind the last": (24, 24, [[40, 3], [41, 42]]),
    "end taken away": (20, 24, [[], []]),
    "all": (0, 24, [[40, 3, 41], [41, 42, 43]]),
}


@pytest.fixture(params=EDITS)
def edit(request):
    start, stop, new_ids = EDITS[request.param]
    return start, stop, torch.tensor(new_ids).long()


@pytest.fixture(params=pairs(ENCODINGS))
def model(request, tiny_model):
    family, encoding = request.param
    return tiny_model(family, **copy.deepcopy(ENCODINGS[encoding]))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def filled(model, ids):
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache)
    return cache


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def make(family, **fields):
    """A model whose last half of every head turns too, in double precision where asked for."""
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**{**TINY, **fields}).eval()


def test_layer_0_and_the_segments_are_those_of_the_edited_prompt(model, edit):
    cache = filled(model, IDS)
    ids = edit_cache(model, cache, IDS, *edit)
    start, stop, new_ids = edit
    assert torch.equal(ids, torch.cat([IDS[:, :start], new_ids, IDS[:, stop:]], dim=1))
    expected = filled(model, ids)
    assert cache.get_seq_length() == ids.shape[1]
    assert torch.equal(cache.layers[-1].states, expected.layers[-1].states)
    assert_same(cache.layers[0].keys, expected.layers[0].keys)
    assert_same(cache.layers[0].values, expected.layers[0].values)
    before = slice(start)
    assert torch.equal(cache.layers[1].keys[:, :, before], filled(model, IDS).layers[1].keys[:, :, before])


@pytest.mark.parametrize("encoding", ["rope", "alibi", "hybrid", "levels", "yarn", "rope over tokens"])
def test_one_layer_goes_on_as_after_the_edited_prompt(encoding, family, edit):
    """The keys of layer 0 depend on nothing but tokens and places, so that the logits of the next token are exact."""
    model = make(family, **copy.deepcopy(ENCODINGS[encoding]), num_hidden_layers=1)
    cache = filled(model, IDS)
    ids = edit_cache(model, cache, IDS, *edit)
    expected = model(ids, use_cache=False).logits
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert_same(model(ids.flip(0)[:, -1:], past_key_values=cache).logits, expected.flip(0)[:, -1:])
    cache.reorder_cache(torch.tensor([1, 0]))
    following = torch.tensor([[3, 9], [12, 7]])
    longer = torch.cat([ids, following], dim=1)
    found = model(following, past_key_values=cache).logits
    assert_same(found, model(longer, use_cache=False).logits[:, -2:])


def test_generation_goes_on_from_an_edited_cache(family):
    model = make(family, num_hidden_layers=1)
    for start, stop, new_ids in EDITS.values():
        cache = filled(model, IDS)
        ids = model.edit_cache(cache, IDS, start, stop, torch.tensor(new_ids).long())
        cache.crop(-1)
        given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        found = model.generate(ids, past_key_values=cache, **given)
        assert torch.equal(found, model.generate(ids, use_cache=False, **given))


def test_an_edit_that_keeps_places_turns_nothing(model):
    """Of equal length and with the separators where they were."""
    cache, expected = filled(model, IDS), filled(model, IDS)
    edit_cache(model, cache, IDS, 8, 10, torch.tensor([[40, 41], [7, 43]]))
    for layer, own in zip(cache.layers[:-1], expected.layers, strict=False):
        kept = torch.ones(24, dtype=torch.bool)
        kept[8:10] = False
        if model.config.inner_separator_token_ids:  # token 2 ended a unit
            kept[10:17] = False
        assert torch.equal(layer.keys[:, :, kept], own.keys[:, :, kept])
        assert torch.equal(layer.values[:, :, kept], own.values[:, :, kept])


def test_bipe_encodes_again_up_to_the_end_of_the_segment_alone(family, tiny_model):
    model, lengths = tiny_model(family), []
    embedding = model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda module, given, result: lengths.append(given[0].shape[1]))
    row = IDS[:1]
    for start, stop, new_ids, again in (
        (8, 10, [[40, 41]], 2),  # the places behind are what they were
        (7, 9, [[40, 41, 42]], 3 + 3),  # to the separator at 11
        (7, 7, [[40, 3, 41, 42]], 4 + 5),
        (11, 12, [[40]], 1 + 1),  # two segments become one, which ends at 12
        (13, 20, [[40, 19]], 2),
        (13, 20, [[]], 0),  # a whole segment goes
    ):
        cache = filled(model, row)
        before = [layer.keys for layer in cache.layers[:-1]]
        lengths.clear()
        edit_cache(model, cache, row, start, stop, torch.tensor(new_ids).long())
        assert sum(lengths) == again
        if start in (8, 7) and 3 not in new_ids[0]:  # no separator more or less: nothing is turned
            for layer, keys in zip(cache.layers, before, strict=False):
                assert torch.equal(layer.keys[:, :, -12:], keys[:, :, -12:])
    hook.remove()


def test_there_and_back_gives_the_same_keys(model):
    cache, expected = filled(model, IDS), filled(model, IDS)
    ids = edit_cache(model, cache, IDS, 8, 8, torch.tensor([[3, 40, 7, 3], [41, 3, 42, 3]]))
    assert torch.equal(edit_cache(model, cache, ids, 8, 12, torch.empty(2, 0).long()), IDS)
    assert torch.equal(cache.layers[-1].states, expected.layers[-1].states)
    for layer, own in zip(cache.layers[:-1], expected.layers, strict=False):
        # what was encoded again read a prompt that has no new tokens any more, or the one that it was
        assert_same(layer.keys[:, :, -4:], own.keys[:, :, -4:])


@pytest.mark.parametrize("encoding", ["rope", "hybrid", "alibi", "xpos"])
def test_two_turns_are_one(encoding, family, tiny_model):
    """R(a) R(b) = R(a + b): in every layer, segments added in two steps or in one."""
    model = tiny_model(family, **ENCODINGS[encoding])
    first, second = torch.tensor([[3, 40, 7]] * 2), torch.tensor([[41, 3]] * 2)
    steps, once = filled(model, IDS), filled(model, IDS)
    ids = edit_cache(model, steps, IDS, 4, 4, first)
    ids = edit_cache(model, steps, ids, 7, 7, second)
    assert torch.equal(ids, edit_cache(model, once, IDS, 4, 4, torch.cat([first, second], dim=1)))
    for layer, own in zip(steps.layers[:-1], once.layers, strict=False):
        assert_same(layer.keys[:, :, -4:], own.keys[:, :, -4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("encoding", ["rope", "alibi", "hybrid"])
def test_other_dtypes_keep_their_own(dtype, encoding, family):
    model = make(family, **ENCODINGS[encoding]).to(dtype)
    cache = filled(model, IDS)
    ids = edit_cache(model, cache, IDS, 7, 9, torch.tensor([[3, 40, 7], [41, 3, 42]]))
    found, expected = cache.layers[0].keys, filled(model, ids).layers[0].keys
    assert found.dtype == dtype
    # a key that is rounded, turned and rounded again: two roundings more than one that is turned once
    tolerance = {torch.bfloat16: 2**-6, torch.float64: 1e-5}[dtype]  # cos and sin of transformers are float32
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_what_cannot_be_is_a_clear_error_and_changes_nothing(family, tiny_model):
    model, new_ids = tiny_model(family), torch.tensor([[40], [41]])
    cache = filled(model, IDS)
    before = copy.deepcopy(cache)
    for given, message in (
        ((IDS[:, :-1], 1, 2, new_ids), r"input_ids must be the cached tokens, of shape \(2, 24\), got \(2, 23\)"),
        ((IDS, 1, 2, new_ids[0]), r"new_ids must have the shape \(2, new tokens\), got \(1,\)"),
        ((IDS, 1, 2, new_ids[:1]), r"new_ids must have the shape \(2, new tokens\), got \(1, 1\)"),
        ((IDS, 2, 1, new_ids), "start and stop must be in order, from 0 to 24, got 2 and 1"),
        ((IDS, 2, 25, new_ids), "start and stop must be in order, from 0 to 24, got 2 and 25"),
        ((IDS, 0, 24, new_ids[:, :0]), "the edit leaves no token"),
        ((IDS.roll(1, dims=1), 1, 2, new_ids), "input_ids are not the tokens that the cache was filled with"),
    ):
        with pytest.raises(ValueError, match=message):
            edit_cache(model, cache, *given)
    for layer, own in zip(cache.layers[:-1], before.layers, strict=False):
        assert torch.equal(layer.keys, own.keys)
    padded = DynamicCache(config=model.config)
    model(IDS, attention_mask=(torch.arange(24) > torch.tensor([[3], [-1]])).long(), past_key_values=padded)
    with pytest.raises(ValueError, match="the cached prompt has padding"):
        edit_cache(model, padded, IDS, 7, 8, new_ids)
    others = [SepLLMCache(model.config), StaticCache(config=model.config, max_cache_len=30), DynamicCache()]
    for other, found in zip(others, ("SepLLMHistoryLayer", "StaticLayer", "no layer"), strict=True):
        if found != "no layer":
            model(IDS, past_key_values=other)
        with pytest.raises(ValueError, match=f"needs a DynamicCache that a BiPE model has filled, .* got .*{found}"):
            edit_cache(model, other, IDS, 7, 8, new_ids)
    names = ("fox", "fox_pro", "cable", "cable_kernel", "selective_rope", "tape", "path", "cope")
    for name in names:
        fields = {"cope": {"cope_gates": "own_keys"}, "tape": all_key_heads(family)}
        other = tiny_model(family, inter_encoding=name, **fields.get(name, {}))
        with pytest.raises(ValueError, match=f"inter_encoding='{name}' keeps what every layer has read"):
            edit_cache(other, filled(other, IDS), IDS, 7, 8, new_ids)
    other = tiny_model(family, layer_encodings=["rope", "inter"])
    with pytest.raises(ValueError, match="turns the keys of all layers alike, which layer_encodings makes differ"):
        edit_cache(other, filled(other, IDS), IDS, 7, 8, new_ids)
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    for fields in ({}, {"inter_encoding": "dape", "added_rotation": "rope"}):
        other = make(family, rope_parameters=scaling, hidden_size=64, **fields)  # of one pair it makes no frequency
        with pytest.raises(ValueError, match="rope_type 'dynamic' turns keys by frequencies that follow the length"):
            edit_cache(other, filled(other, IDS), IDS, 7, 8, new_ids)


def test_a_forward_that_fails_leaves_the_prompt_as_it_was(family, tiny_model):
    model = tiny_model(family)
    cache = filled(model, IDS)
    before = copy.deepcopy(cache)
    with pytest.raises(IndexError):
        edit_cache(model, cache, IDS, 7, 8, torch.tensor([[1_000_000], [40]]))
    for layer, own in zip(cache.layers[:-1], before.layers, strict=False):
        assert torch.equal(layer.keys, own.keys)
        assert torch.equal(layer.values, own.values)
    assert torch.equal(cache.layers[-1].states, before.layers[-1].states)
