"""The streaming cache of SepLLM: what it keeps, against the authors' and a plain list; what a token then sees."""

import copy
import json

import pytest
import torch
from families import FAMILIES, pairs
from naive_relatives import kept_in_a_stream
from paths import GOLDEN_RELATIVES
from safetensors.torch import load_file
from tiny import LEVELS
from transformers import DynamicCache
from two_rows import IDS as FEW_SEPARATORS
from two_rows import padding_in_all_places

from bipe_hf import SepLLMCache


IDS = torch.where(torch.arange(30) % 4 == torch.tensor([[1], [2]]), 7, FEW_SEPARATORS)
SMALL = {"initial_tokens": 2, "separators": 3, "neighbors": 4, "capacity": 12}
ROOMY = {"initial_tokens": 2, "separators": 3, "neighbors": 4, "capacity": 100}
TIGHT = {"initial_tokens": 0, "separators": 1, "neighbors": 2, "capacity": 3}
ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "rope over tokens": {"inter_encoding": "rope", "token_share": 1.0, "intra_encoding": "none"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0, "hybrid_slow_pairs": "segments"},
    "kerple": {"inter_encoding": "kerple"},
    "fox": {"inter_encoding": "fox"},
    "fox_pro": {"inter_encoding": "fox_pro"},
    "selective_rope": {"inter_encoding": "selective_rope"},
    "levels": {"inter_encoding": "rope", **LEVELS},
    "masked": {"inter_encoding": "alibi", "sepllm_neighbors": 6, "sepllm_initial_tokens": 1},
}
PIECES = {"single tokens": [1] * 30, "at once": [30], "pieces": [17, 1, 1, 1, 1, 9]}


@pytest.fixture(params=pairs(ENCODINGS))
def model(request, tiny_model):
    family, encoding = request.param
    return tiny_model(family, **ENCODINGS[encoding])


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def naive_logits(model, ids, limits):
    """Of one row without padding: a forward without a cache in which each token sees what was kept before it."""
    is_separator = torch.isin(ids, torch.tensor(model.config.separator_token_ids))
    kept = [[], *kept_in_a_stream(is_separator.tolist(), **limits)]
    sees = torch.tensor([[j == i or j in kept[i] for j in range(len(ids))] for i in range(len(ids))])
    neighbors = model.config.sepllm_neighbors
    if neighbors is not None:
        place = torch.arange(len(ids))
        stays = is_separator | (place < model.config.sepllm_initial_tokens)
        sees &= stays | (place[:, None] - place < neighbors)
        plain = copy.deepcopy(model.config)
        plain.sepllm_neighbors = None  # a model with it takes no mask of pairs
        own = type(model)(plain).eval()
        own.load_state_dict(model.state_dict())
        model = own
    return model(ids[None], attention_mask=sees[None, None], use_cache=False).logits[0]


def fed(model, cache, ids, sizes, mask=None):
    """The logits of all pieces."""
    logits, end = [], 0
    for chunk in ids.split(sizes, dim=1):
        end += chunk.shape[1]
        given = {} if mask is None else {"attention_mask": mask[:, :end]}
        logits.append(model(chunk, past_key_values=cache, **given).logits)
    return torch.cat(logits, dim=1)


def assert_same(logits, expected):
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=5e-5)


def test_what_is_kept_is_what_the_authors_keep(family):
    golden = load_file(GOLDEN_RELATIVES / "sepllm" / "golden.safetensors")
    settings = json.loads((GOLDEN_RELATIVES / "sepllm" / "config.json").read_text())
    sizes, ids = settings["streaming"], golden["stream_ids"]
    model = (
        FAMILIES[family]
        .make_causal_lm(
            vocab_size=settings["vocabulary"],
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            separator_token_ids=settings["separator_token_ids"],
        )
        .eval()
    )
    cache = SepLLMCache(
        model.config, sizes["init_cache_size"], sizes["sep_cache_size"], sizes["local_size"], sizes["cache_size"]
    )
    full = DynamicCache(config=model.config)
    for step, expected in enumerate(golden["stream_kept"]):
        for each in (cache, full):
            model(ids[:, step : step + 1], past_key_values=each)
        expected = expected[expected >= 0]
        assert torch.equal(cache.layers[0].keys, full.layers[0].keys[:, :, expected])
        assert torch.equal(cache.layers[0].values, full.layers[0].values[:, :, expected])
        assert torch.equal(cache.layers[-1].states, full.layers[-1].states[:, expected])
        assert cache.get_seq_length() == step + 1


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_with_room_for_all_it_is_a_full_cache(model, sizes):
    """Bit for bit: the same keys and the same masks."""
    found = fed(model, SepLLMCache(model.config, **ROOMY), IDS, sizes)
    assert torch.equal(found, fed(model, DynamicCache(config=model.config), IDS, sizes))


@pytest.mark.parametrize("limits", [SMALL, TIGHT], ids=["small", "tight"])
@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_a_token_sees_what_is_kept_however_tokens_come(model, sizes, limits):
    expected = torch.stack([naive_logits(model, row, limits) for row in IDS])
    cache = SepLLMCache(model.config, **limits)
    assert_same(fed(model, cache, IDS, sizes), expected)
    assert all(each.keys.shape[2] <= limits["capacity"] for each in cache.layers[:-1])
    assert cache.history.states.shape[1] <= limits["capacity"]
    assert (expected - model(IDS, use_cache=False).logits)[:, -1].abs().max() > 1e-2


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_each_row_of_a_padded_batch_is_as_alone(model, sizes):
    mask = padding_in_all_places()
    found = fed(model, SepLLMCache(model.config, **SMALL), IDS, sizes, mask)
    for row, is_token in enumerate(mask.bool()):
        assert_same(found[row, is_token], naive_logits(model, IDS[row, is_token], SMALL))


@pytest.mark.parametrize("sizes", [[1] * 30, [2, 28], [5, 25]], ids=["single tokens", "padding alone", "pieces"])
def test_rows_that_all_start_with_padding(model, sizes):
    mask = (torch.arange(30) >= torch.tensor([[3], [5]])).long()
    cache = SepLLMCache(model.config, **SMALL)
    found = fed(model, cache, IDS, sizes, mask)
    for row, is_token in enumerate(mask.bool()):
        assert_same(found[row, is_token], naive_logits(model, IDS[row, is_token], SMALL))
    assert cache.get_seq_length() == 30


def test_rows_are_reordered_repeated_selected_and_reset(model):
    expected = torch.stack([naive_logits(model, row, SMALL) for row in IDS])
    cache = SepLLMCache(model.config, **SMALL)
    for _ in range(2):
        rows, end = torch.tensor([0, 1]), 0
        for size in (7, 6, 1, 5):
            chunk = IDS[rows, end : end + size]
            assert_same(model(chunk, past_key_values=cache).logits, expected[rows, end : end + size])
            rows, end = rows.flip(0), end + size
            cache.reorder_cache(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([3, 0, 1]))
        rows = rows.repeat_interleave(2)[[3, 0, 1]]
        assert_same(fed(model, cache, IDS[rows, end:], [4, 1, 6]), expected[rows, end:])
        cache.reset()


PROMPT = {"attention_mask": torch.tensor([[0] * 5 + [1] * 9, [1] * 14]), "pad_token_id": 0}
PROMPT |= {"max_new_tokens": 10, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("options", [{}, {"prefill_chunk_size": 4}], ids=str)
def test_generate_with_padding_on_the_left(options, model):
    """The tokens of each row are the best of a forward over the row alone, in which a token sees what is kept."""
    cache = SepLLMCache(model.config, **SMALL)
    found = model.generate(IDS[:, :14], past_key_values=cache, **PROMPT, **options).sequences
    assert cache.get_seq_length() == 23
    for row, start in zip(found, (5, 0), strict=True):
        logits = naive_logits(model, row[start:], SMALL)
        assert torch.equal(logits[-11:-1].argmax(-1), row[14:])


def test_beams_have_the_scores_of_what_is_kept(model):
    output = model.generate(
        IDS[:, :14], past_key_values=SepLLMCache(model.config, **SMALL), num_beams=3, num_return_sequences=2, **PROMPT
    )
    for row, score, start in zip(output.sequences, output.sequences_scores, (5, 5, 0, 0), strict=True):
        log_shares = naive_logits(model, row[start:], SMALL).log_softmax(-1)
        assert_same(log_shares[-11:-1].gather(1, row[14:, None]).mean(), score)


def test_crop_until_a_token_is_dropped(model):
    """Row 0 has padding on the left, so that row 1 drops first."""
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    expected = model(IDS, attention_mask=mask, use_cache=False).logits
    cache = SepLLMCache(model.config, **SMALL)
    model(IDS[:, :11], attention_mask=mask[:, :11], past_key_values=cache)
    cache.crop(-4)
    assert cache.get_seq_length() == 7
    logits = model(IDS[:, 7:12], attention_mask=mask[:, :12], past_key_values=cache).logits
    assert_same(logits, expected[:, 7:12])
    model(IDS[:, 12:14], attention_mask=mask[:, :14], past_key_values=cache)
    before = [each.keys.clone() for each in cache.layers[:-1]]
    with pytest.raises(ValueError, match="crop: the SepLLMCache has dropped some of its 14 tokens"):
        cache.crop(-1)
    assert all(torch.equal(each.keys, keys) for each, keys in zip(cache.layers, before, strict=False))
    cache.crop(0)


def test_a_copy_goes_on_alone(model):
    cache = SepLLMCache(model.config, **SMALL)
    fed(model, cache, IDS[:, :15], [15])
    copied = copy.deepcopy(cache)
    expected = fed(model, cache, IDS[:, 15:], [15])
    assert torch.equal(fed(model, copied, IDS[:, 15:], [15]), expected)


@pytest.mark.parametrize("backend", ["eager", "flex_attention"])
def test_backends_agree(backend, family, tiny_model, uncompiled_flex_attention):
    mask = padding_in_all_places()
    logits = [
        fed(model, SepLLMCache(model.config, **SMALL), IDS, [17, 13], mask)[mask.bool()]
        for model in (tiny_model(family), tiny_model(family, attn_implementation=backend))
    ]
    assert_same(*logits)


def test_what_cannot_be_is_a_clear_error(family, tiny_model):
    model = tiny_model(family)
    for given, message in (
        ({"initial_tokens": -1}, "initial_tokens must be at least 0 tokens, got -1"),
        ({"separators": -1}, "separators must be at least 0 tokens, got -1"),
        ({"neighbors": 0}, "neighbors must be at least 1 tokens, got 0"),
        ({"capacity": 8}, "capacity must be at least 9 tokens, the sum of .*, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            SepLLMCache(model.config, **{**SMALL, **given})
    for fields in ({"segmentation": "tokens"}, {"segmentation": "document"}):
        other = tiny_model(family, **fields)
        with pytest.raises(ValueError, match="SepLLMCache needs segmentation 'separators', the model has"):
            other(IDS, past_key_values=SepLLMCache(other.config))
    for encoding in ("cope", "dape", "dape_v2", "hirope"):
        other = tiny_model(family, inter_encoding=encoding, hybrid_max_period=20.0)
        with pytest.raises(ValueError, match=f"SepLLMCache does not go with inter_encoding '{encoding}'"):
            other(IDS, past_key_values=SepLLMCache(other.config))
    local = tiny_model(family, layer_encodings=["local", "inter"], local_window=4)
    with pytest.raises(ValueError, match="among which the window of local layers could not be counted"):
        local(IDS, past_key_values=SepLLMCache(local.config))
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        model(IDS, attention_mask=torch.ones(2, 1, 30, 30).bool(), past_key_values=SepLLMCache(model.config))
    with pytest.raises(ValueError, match="assisted decoding takes tokens back, which a SepLLMCache cannot"):
        model.generate(IDS[:1], past_key_values=SepLLMCache(model.config), prompt_lookup_num_tokens=3, max_length=40)
    other = copy.deepcopy(model)
    other.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="'flash_attention_2': SepLLMCache hides single keys"):
        other(IDS, past_key_values=SepLLMCache(other.config))
