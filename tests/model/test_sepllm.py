"""The attention of SepLLM: the authors' masks, limits, caches, padding, packing, backends."""

import json

import pytest
import torch
from families import FAMILIES, pairs
from paths import GOLDEN_RELATIVES
from safetensors.torch import load_file
from tiny import TINY
from transformers import CompileConfig, StaticCache
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_generation_is_recomputation,
    assert_padding_moves_no_token,
    assert_pieces_are_one_forward,
    assert_rows_are_repeated_selected_and_reset,
    padding_in_all_places,
)

from bipe_hf.model.segmentation_bipe import segment_tokens


GOLDEN = load_file(GOLDEN_RELATIVES / "sepllm" / "golden.safetensors")
SETTINGS = json.loads((GOLDEN_RELATIVES / "sepllm" / "config.json").read_text())
SEPLLM = {"sepllm_neighbors": 4, "sepllm_initial_tokens": 2}
ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "fox": {"inter_encoding": "fox"},
    "kerple": {"inter_encoding": "kerple"},
    "local layers": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 7},
    "rope over tokens": {"inter_encoding": "rope", "token_share": 1.0, "intra_encoding": "none"},
}


@pytest.fixture(params=pairs(ENCODINGS))
def model(request, tiny_model):
    family, encoding = request.param
    return tiny_model(family, **ENCODINGS[encoding], **SEPLLM)


@torch.no_grad()
def seen(model, ids, **kwargs):
    """Which keys have a weight above 0 in the first layer, of shape `(batch, length, keys)`."""
    return model(ids, output_attentions=True, **kwargs).attentions[0].gt(0).any(dim=1)


def naive_seen(ids, separators, initial, neighbors):
    """Of one document, pair by pair."""
    length = len(ids)
    sees = [
        [j <= i and (j < initial or ids[j] in separators or i - j < neighbors) for j in range(length)]
        for i in range(length)
    ]
    return torch.tensor(sees)


def test_the_mask_is_that_of_the_authors(family):
    ids, separators = GOLDEN["input_ids"], SETTINGS["separator_token_ids"]
    model = (
        FAMILIES[family]
        .make_causal_lm(
            vocab_size=SETTINGS["vocabulary"],
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            separator_token_ids=separators,
            sepllm_initial_tokens=SETTINGS["initial_tokens"],
            sepllm_neighbors=SETTINGS["neighbours"],
            attn_implementation="eager",
        )
        .eval()
    )
    is_token = ids != SETTINGS["padding_token_id"]
    found = seen(model, ids, attention_mask=is_token.long())
    assert torch.equal(found[is_token], GOLDEN["mask_left_padded"][:, 0][is_token])
    # counted from column 0 it is that of a row without padding, but for the keys
    without = seen(model, ids)
    expected = GOLDEN["mask"][:, 0]
    assert torch.equal((without & is_token[:, None])[is_token], expected[is_token])
    assert not torch.equal(found[is_token], expected[is_token])


def test_segments_are_those_of_the_authors():
    """Theirs count padding."""
    ids = GOLDEN["input_ids"]
    segments = segment_tokens(torch.isin(ids, torch.tensor(SETTINGS["separator_token_ids"])))
    assert torch.equal(segments.intra_positions, GOLDEN["bipe.intra_positions"])
    assert torch.equal(segments.segment_ids, GOLDEN["bipe.segment_ids"])


def test_a_token_sees_first_tokens_separators_and_neighbours(family, tiny_model):
    model = tiny_model(family, attn_implementation="eager", **SEPLLM)
    for row, found in zip(IDS.tolist(), seen(model, IDS), strict=True):
        assert torch.equal(found, naive_seen(row, model.config.separator_token_ids, initial=2, neighbors=4))


@torch.no_grad()
def test_on_plain_rope_it_is_the_stock_model_with_that_mask(family, tiny_model):
    model = tiny_model(family, **ENCODINGS["rope over tokens"], **SEPLLM)
    shape = {name: TINY[name] for name in TINY if hasattr(FAMILIES[family].stock_config(), name)}
    stock = FAMILIES[family].make_stock_causal_lm(**shape).eval()
    stock.load_state_dict(model.state_dict())
    for row in IDS:
        sees = naive_seen(row.tolist(), model.config.separator_token_ids, initial=2, neighbors=4)
        expected = stock(row[None], attention_mask=sees[None, None], use_cache=False).logits
        torch.testing.assert_close(model(row[None], use_cache=False).logits, expected, rtol=1e-4, atol=2e-5)


def test_packed_documents_and_padding_count_for_themselves(family, tiny_model):
    model = tiny_model(family, attn_implementation="eager", **SEPLLM)
    positions = torch.tensor([[*range(17), *range(13)]])
    mask = torch.ones(1, 30, dtype=torch.long)
    mask[0, :3] = mask[0, 20:22] = 0
    separators = model.config.separator_token_ids
    for attention_mask in (None, mask):
        is_token = torch.ones(30).bool() if attention_mask is None else mask[0].bool()
        found = seen(model, IDS[:1], position_ids=positions, attention_mask=attention_mask)[0]
        for document in (torch.arange(30) < 17, torch.arange(30) >= 17):
            inside = document & is_token
            expected = naive_seen(IDS[0, inside].tolist(), separators, initial=2, neighbors=4)
            assert torch.equal(found[inside][:, inside], expected)
            assert not found[inside][:, ~inside].any()


@pytest.mark.parametrize("cache", CACHES)
@torch.no_grad()
def test_as_many_neighbours_as_tokens_is_causal_attention_bit_for_bit(family, cache, tiny_model):
    plain, model = tiny_model(family), tiny_model(family, sepllm_neighbors=40)
    mask = padding_in_all_places()
    for arguments in ({"use_cache": False}, {"attention_mask": mask, "use_cache": False}):
        assert torch.equal(model(IDS, **arguments).logits, plain(IDS, **arguments).logits)
    caches = [CACHES[cache](plain.config) for _ in range(2)]
    for chunk in IDS.split([13, 1, 1, 15], dim=1):
        ours, theirs = (
            each(chunk, past_key_values=own).logits for each, own in zip((model, plain), caches, strict=True)
        )
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_first_values_and_segments_do_not_depend_on_it(family, tiny_model):
    plain, model = tiny_model(family), tiny_model(family, **SEPLLM)
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, other), name
    assert (model(IDS).logits - plain(IDS).logits)[:, -1].abs().max() > 1e-2  # the tests below prove something


@pytest.mark.parametrize("cache", CACHES)
def test_pieces_are_one_forward(cache, model):
    pieces = [(0, 1), (1, 2), (2, 12), (12, 13), (13, 26)]
    crop = 0 if cache == "static" else 5
    assert_pieces_are_one_forward(model, CACHES[cache](model.config), padding_in_all_places(), pieces, crop=crop)


def test_padding_moves_no_token(model):
    assert_padding_moves_no_token(model)


def test_rows_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(options, model):
    assert_generation_is_recomputation(model, options)


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_backends_agree(packed, family, tiny_model, uncompiled_flex_attention):
    positions = torch.tensor([[*range(17), *range(13)]] * 2) if packed else None
    mask = padding_in_all_places()
    logits = {}
    for backend in ("eager", "sdpa", "flex_attention"):
        model = tiny_model(family, attn_implementation=backend, **SEPLLM)
        logits[backend] = model(IDS, attention_mask=mask, position_ids=positions, use_cache=False).logits[mask.bool()]
    for backend in ("sdpa", "flex_attention"):
        torch.testing.assert_close(logits[backend], logits["eager"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_16_bits_stay_near_float32(dtype, family, tiny_model):
    """Within the rounding of two tiny layers; a wrong mask moves logits by more than 1."""
    model = tiny_model(family, **SEPLLM)
    own = FAMILIES[family].causal_lm(model.config).to(dtype).eval()
    own.load_state_dict(model.state_dict())
    expected = model(IDS, use_cache=False).logits
    assert (own(IDS, use_cache=False).logits.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


@torch.no_grad()
def test_a_step_into_a_static_cache_compiles_once(family, tiny_model):
    torch._dynamo.reset()
    model = tiny_model(family, **SEPLLM)
    expected = model(IDS, use_cache=False).logits
    cache = StaticCache(model.config, max_cache_len=34)
    model(IDS[:, :9], past_key_values=cache)
    step = torch.compile(model.__call__, fullgraph=True, backend="aot_eager")
    logits = [step(IDS[:, 9:10], past_key_values=cache).logits]
    with torch._dynamo.config.patch(error_on_recompile=True):
        logits += [step(IDS[:, i : i + 1], past_key_values=cache).logits for i in range(10, 30)]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected[:, 9:], atol=1e-4, rtol=0)
    torch._dynamo.reset()


@pytest.mark.slow
def test_generate_compiles_once(family, tiny_model):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    config._compile_all_devices = True  # transformers compiles on GPUs alone unless told so
    model = tiny_model(family, **SEPLLM)
    mask = torch.ones(2, 14, dtype=torch.long)
    mask[0, :5] = 0
    given = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    expected = model.generate(IDS[:, :14], use_cache=False, **given)
    found = model.generate(IDS[:, :14], cache_implementation="static", compile_config=config, **given)
    assert torch.equal(found, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.slow
@torch.no_grad()
def test_one_exported_program_serves_every_batch_and_length(family, tiny_model):
    model = tiny_model(family, **SEPLLM)
    dims = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=4096)}
    inputs = {"input_ids": IDS[:, :12].clone(), "attention_mask": padding_in_all_places()[:, :12].clone()}
    shapes = {**dict.fromkeys(inputs, dims), "use_cache": None}
    program = torch.export.export(model, (), {**inputs, "use_cache": False}, dynamic_shapes=shapes).module()
    for length in (2, 12, 30):
        mask = padding_in_all_places()[:, :length]
        given = {"input_ids": IDS[:, :length], "attention_mask": mask, "use_cache": False}
        found, expected = (call(**given).logits[mask.bool()] for call in (program, model))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_cannot_be_is_a_clear_error(family, tiny_model):
    make = FAMILIES[family].make_config
    with pytest.raises(ValueError, match="sepllm_neighbors must be None or at least 1 token, got 0"):
        make(separator_token_ids=[1], sepllm_neighbors=0)
    with pytest.raises(ValueError, match="sepllm_initial_tokens must be 0 or more tokens, got -1"):
        make(separator_token_ids=[1], sepllm_initial_tokens=-1)
    for fields in ({"segmentation": "tokens"}, {"segmentation": "fixed", "fixed_segment_length": 4}):
        with pytest.raises(ValueError, match="sepllm_neighbors needs .* got '(tokens|fixed)'"):
            make(sepllm_neighbors=4, **fields)
    for encoding in ("cope", "dape", "dape_v2", "hirope"):
        with pytest.raises(ValueError, match=f"sepllm_neighbors does not go with inter_encoding '{encoding}'"):
            tiny_model(family, inter_encoding=encoding, hybrid_max_period=20.0, **SEPLLM)
    model = tiny_model(family, **SEPLLM)
    with pytest.raises(ValueError, match="'flash_attention_2': sepllm_neighbors hides single keys"):
        model.set_attn_implementation("flash_attention_2")
    embeddings = model.get_input_embeddings()(IDS)
    with pytest.raises(ValueError, match="reads separators from input_ids"):
        model(inputs_embeds=embeddings, segment_ids=torch.zeros_like(IDS))
    with pytest.raises(ValueError, match="attention_mask must have the shape"):
        model(IDS, attention_mask=torch.ones(2, 1, 30, 30).bool())
    with pytest.raises(ValueError, match=r"sepllm_neighbors: torch\.jit\.trace cannot follow"):
        torch.jit.trace(model, example_kwarg_inputs={"input_ids": IDS}, check_trace=False)
