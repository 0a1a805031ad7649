"""FoX (Pro): what it shares with FoX, its state in a cache, packing, backends, training."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_16_bits_are_near_float32,
    assert_a_cache_goes_on,
    assert_documents_are_alone,
    assert_generation_is_recomputation,
    assert_one_graph_and_one_program,
    assert_rows_are_repeated_selected_and_reset,
    gradients_of_a_step,
    padding_in_all_places,
)

from bipe_hf.model.fox_pro_bipe import ProMixing
from bipe_hf.model.index_steps_bipe import IndexSteps


def pro(tiny_model, family, **fields):
    """A tiny model of its own, none of whose parameters is what it starts from."""
    config = tiny_model(family).config.to_diff_dict()
    torch.manual_seed(0)  # behind the tiny model, which may have to be made first
    model = FAMILIES[family].make_causal_lm(**config | {"inter_encoding": "fox_pro"} | fields).eval()
    generator = torch.Generator().manual_seed(0)
    for module in mixings(model):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, mean=0.3, std=0.5, generator=generator)
    return model


def mixings(model):
    return [module for module in model.modules() if isinstance(module, ProMixing)]


@pytest.fixture
def model(tiny_model, family):
    """Over segments, and over tokens with RoPE."""
    fields = {} if family == "llama" else {"segmentation": "tokens", "added_rotation": "rope"}
    return pro(tiny_model, family, **fields)


def test_the_bias_is_that_of_fox(tiny_model, family):
    """Of the first layer, which sees the same: what else Pro has acts on queries, keys, values and the output."""
    model, fox = pro(tiny_model, family), pro(tiny_model, family, inter_encoding="fox")
    fox.load_state_dict({name: each for name, each in model.state_dict().items() if "layer_mixing" not in name})
    found = []
    for each in (model, fox):
        (first, _) = (part for name, part in each.named_modules() if name.endswith(".layer_encoding"))
        first.register_forward_hook(lambda module, given, terms: found.append(terms.columns))
        each(IDS)
    assert torch.equal(found[0].query, found[1].query)
    assert torch.equal(found[0].key, found[1].key)


@torch.no_grad()
def test_closed_shifts_mix_nothing_and_an_open_gate_passes_the_norm(tiny_model):
    mixing = mixings(pro(tiny_model, "llama"))[0]
    for gate in (mixing.key_shift, mixing.value_shift):
        gate.fill_(-100.0)
    mixing.output_gate.fill_(100.0)
    for norm in (mixing.query_norm, mixing.key_norm, mixing.output_norm):
        norm.fill_(1.0)
    x = torch.ones(1, 5, 32)
    query, key, value = (torch.randn(1, heads, 5, 8) for heads in (4, 2, 2))
    mixed = mixing(x, query, key, value, IndexSteps(torch.ones(1, 5, dtype=torch.long)), None, 0)
    torch.testing.assert_close(mixed[2], value)
    for found, given in zip(mixed[:2], (query, key), strict=True):
        torch.testing.assert_close(found, torch.nn.functional.rms_norm(given, (8,), eps=1e-5))
    output = torch.randn(1, 5, 4, 8)
    torch.testing.assert_close(mixing.finish(x, output), torch.nn.functional.rms_norm(output, (8,), eps=1e-6))


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(model, kind):
    """Pieces end in padding and before it: the last token before it is mixed with."""
    assert_a_cache_goes_on(model, kind)


def test_padding_and_packing_are_documents_alone(model):
    """Padding in all places; documents of one token, with padding inside."""
    assert_documents_are_alone(model)


def test_rows_of_a_cache_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


@pytest.mark.slow
@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(model, options):
    assert_generation_is_recomputation(model, options)


@torch.no_grad()
def test_backends_agree(model, uncompiled_flex_attention):
    mask = padding_in_all_places()
    expected = model(IDS, attention_mask=mask, use_cache=False).logits[mask.bool()]
    for backend in ("eager", "flex_attention"):
        other = deepcopy(model)
        other.set_attn_implementation(backend)
        logits = other(IDS, attention_mask=mask, use_cache=False).logits[mask.bool()]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("use_reentrant", [None, False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_parameter_learns_with_checkpointing_too(tiny_model, family, use_reentrant):
    gradients = [gradients_of_a_step(pro(tiny_model, family).train(), each) for each in (None, use_reentrant)]
    assert all(each.abs().max() > 1e-7 for name, each in gradients[0].items() if "layer_mixing" in name)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_are_near_float32(model, dtype):
    """With weights of that dtype, also from a cache, and under autocast."""
    assert_16_bits_are_near_float32(model, dtype)


@pytest.mark.slow
def test_one_graph_is_compiled_and_one_program_serves_every_length(model):
    assert_one_graph_and_one_program(model)


def test_what_is_saved_loads_to_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_the_other_weights_do_not_depend_on_the_encoding(family):
    shape = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    states = []
    for name in ("none", "fox", "fox_pro"):
        torch.manual_seed(0)
        model = FAMILIES[family].make_causal_lm(
            **shape, num_attention_heads=2, separator_token_ids=[5], inter_encoding=name
        )
        states.append((model.state_dict(), torch.get_rng_state()))
    (_, random), *_ = states
    assert all(torch.equal(each, random) for _, each in states)
    for (plain, _), (weights, _) in ((states[0], states[1]), (states[1], states[2])):
        assert all(torch.equal(weights[name], expected) for name, expected in plain.items())
    first, second = mixings(model)
    assert not torch.equal(first.key_shift, second.key_shift)
    assert not torch.equal(first.key_shift, first.value_shift)
    for weights in (first.key_shift, first.value_shift, first.output_gate):
        assert weights.std().item() == pytest.approx(0.02, rel=0.5)
    for norm in (first.query_norm, first.key_norm, first.output_norm):
        assert (norm == 1).all()
