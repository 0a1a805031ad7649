"""TAPE: RoPE at first, its layers against a formula, the angles of documents in caches and packs, training."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, all_key_heads
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_16_bits_are_near_float32,
    assert_a_cache_goes_on,
    assert_documents_are_alone,
    assert_generation_is_recomputation,
    assert_one_graph_and_one_program,
    assert_pieces_are_one_forward,
    assert_rows_are_repeated_selected_and_reset,
    gradients_of_a_step,
    padding_in_all_places,
)

from bipe_hf.model.compatibility_bipe import CACHE_NAME
from bipe_hf.model.sepllm_cache_bipe import SepLLMCache
from bipe_hf.model.tape_bipe import TapeUpdates, angles_of


def untrained(tiny_model, family, **fields):
    """A tiny model of its own."""
    config = tiny_model(family).config.to_diff_dict() | all_key_heads(family)
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**config | {"inter_encoding": "tape"} | fields).eval()


def tape(tiny_model, family, **fields):
    """The same, none of whose updates is what it starts from: they turn pairs by a third of a turn and more."""
    model = untrained(tiny_model, family, **fields)
    generator = torch.Generator().manual_seed(0)
    for module in updates(model):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def updates(model):
    return [module for module in model.modules() if isinstance(module, TapeUpdates)]


@pytest.fixture
def model(tiny_model, family):
    """Over segments, and over tokens."""
    return tape(tiny_model, family, **({} if family == "llama" else {"segmentation": "tokens"}))


@pytest.mark.parametrize("segmentation", ["separators", "tokens"])
@torch.no_grad()
def test_it_starts_as_rope(tiny_model, family, segmentation):
    logits = [
        untrained(tiny_model, family, inter_encoding=name, segmentation=segmentation)(IDS).logits
        for name in ("rope", "tape")
    ]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=2e-6)
    trained = tape(tiny_model, family, segmentation=segmentation)(IDS).logits
    assert (trained - logits[0])[:, 4:].abs().amax(-1).min() > 1e-3  # no test of the updates is one of RoPE


@pytest.mark.parametrize("is_parallel", [True, False], ids=["parallel", "one after the other"])
@torch.no_grad()
def test_layers_of_gpt_neox_follow_the_formula(tiny_model, is_parallel):
    """In float64, a half of whose heads turns. Those of Llama have the authors' numbers."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    fields = {"use_parallel_residual": is_parallel, "rope_parameters": rope, "tape_channels": 3}
    model = tape(tiny_model, "gpt_neox", segmentation="tokens", intra_encoding="none", **fields).double()
    layers, length, heads = model.gpt_neox.layers, IDS.shape[1], 4
    for layer in layers:
        layer.register_forward_hook(lambda module, arguments, handed: found.append(handed))
    found = []
    hidden = model.gpt_neox.embed_in(IDS)
    model(IDS)

    speeds = 10000.0 ** (-2 * torch.arange(2) / 4).double()  # two pairs of a head of 8 turn
    angles = torch.arange(length)[:, None] * speeds
    state = torch.polar(torch.ones_like(angles), angles).expand(2, heads, -1, -1)
    causal = torch.ones(length, length).tril().bool()
    for layer, (hidden_found, state_found) in zip(layers, found, strict=True):
        own = layer.rotary_updates
        mixed = layer.attention.query_key_value(layer.input_layernorm(hidden))
        query, key, value = mixed.unflatten(-1, (heads, 24)).transpose(1, 2).split(8, dim=-1)
        turned = [torch.complex(each[..., :2], each[..., 2:4]) * state for each in (query, key)]
        logits = (turned[0] @ turned[1].conj().transpose(2, 3)).real + query[..., 4:] @ key[..., 4:].transpose(2, 3)
        weights = (logits * 8**-0.5).masked_fill(~causal, -torch.inf).softmax(-1)
        output = layer.attention.dense((weights @ value).transpose(1, 2).flatten(2))
        averaged = weights.to(state.dtype) @ state
        state = torch.stack([state[:, h] + own.attended[h].sum() * averaged[:, h] for h in range(heads)], dim=1)
        seen = hidden if is_parallel else hidden + output
        added = layer.mlp(layer.post_attention_layernorm(seen))
        gates = torch.nn.functional.silu(added @ own.gate.T).to(state.dtype)
        channels = torch.einsum("pg,bgld->bpld", own.up.to(state.dtype), state)
        state = state + torch.einsum("hp,blp,bpld->bhld", own.down.to(state.dtype), gates, channels)
        hidden = hidden + output + added
        near = {"rtol": 1e-5, "atol": 1e-6}  # the first angles are made in float32
        torch.testing.assert_close(hidden_found, hidden, **near)
        cos, sin = angles_of(state_found)
        for numbers, expected in ((cos, state.real), (sin, state.imag)):
            torch.testing.assert_close(numbers, torch.cat([expected, expected], dim=-1), **near)


@torch.no_grad()
def test_a_shift_of_all_angles_changes_nothing(tiny_model, family):
    model = tape(tiny_model, family, segmentation="tokens").double()
    embeddings = model.get_input_embeddings()(IDS)
    places = torch.arange(IDS.shape[1]).expand(2, -1)
    shifted, near = (model(inputs_embeds=embeddings, segment_ids=places + shift).logits for shift in (1000, 0))
    torch.testing.assert_close(shifted, near, rtol=1e-4, atol=1e-5)  # angles of both were made in float32
    torch.testing.assert_close(near, model(IDS).logits)
    wider = model(inputs_embeds=embeddings, segment_ids=2 * places).logits
    assert (wider - near).abs().max() > 0.01


@torch.no_grad()
def test_recorded_hidden_states_are_hidden_states_alone(model):
    outputs = model(IDS, output_hidden_states=True)
    assert [each.shape for each in outputs.hidden_states] == [(2, 30, 32)] * 3
    model.set_attn_implementation("eager")
    weights = model(IDS, output_attentions=True).attentions
    assert [each.shape for each in weights] == [(2, 4, 30, 30)] * 2


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(model, kind):
    """In float64: what layers hand on grows the rounding of float32 to the tolerance, on some processors beyond it."""
    assert_a_cache_goes_on(model.double(), kind)


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
def test_layers_of_other_kinds_hand_the_state_on(tiny_model, family):
    """Those of RoPE over tokens are as they are; caches in pieces as above."""
    model = tape(tiny_model, family, layer_encodings=["inter", "none", "rope", "inter"], num_hidden_layers=4)
    assert len(updates(model)) == 2
    handed = []
    for layer in model.base_model.layers:
        layer.register_forward_hook(lambda module, arguments, output: handed.append((arguments[3], output[1])))
    assert_pieces_are_one_forward(model, CACHES["dynamic"](model.config), padding_in_all_places(), ((0, 11), (11, 30)))
    for first in range(0, len(handed), 4):
        changes = [given is not after for given, after in handed[first : first + 4]]
        assert changes == [True, False, False, True]


@torch.no_grad()
def test_attention_that_drops_keys_keeps_their_angles_out(tiny_model, family):
    """With room for all the cache of SepLLM is a full one; with little a token sees the same however tokens come."""
    model = tape(tiny_model, family)
    roomy = SepLLMCache(model.config, initial_tokens=2, separators=3, neighbors=4, capacity=100)
    logits = [model(each, **{CACHE_NAME: roomy}).logits for each in IDS.split([7, 23], dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(IDS).logits, rtol=1e-4, atol=2e-5)
    found = []
    for sizes in ([1] * 30, [13, 17]):
        cache = SepLLMCache(model.config, initial_tokens=2, separators=3, neighbors=4, capacity=12)
        found.append(torch.cat([model(each, **{CACHE_NAME: cache}).logits for each in IDS.split(sizes, dim=1)], dim=1))
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)
    model = tape(tiny_model, family, sepllm_neighbors=4)
    assert_pieces_are_one_forward(model, CACHES["dynamic"](model.config), padding_in_all_places(), ((0, 11), (11, 30)))


@torch.no_grad()
def test_backends_agree(model, uncompiled_flex_attention, flash_kernels):
    """Padded, and packed; two of 8 dimensions turn in GPT-NeoX, which is no size of a flash kernel."""
    mask, positions = padding_in_all_places(), torch.arange(30) % 13
    batches = ({"attention_mask": mask}, {"position_ids": positions.expand(2, -1)})
    expected = [model(IDS, **given, use_cache=False).logits[mask.bool()] for given in batches]
    for backend in ("eager", "flex_attention", "flash_attention_2"):
        other = deepcopy(model)
        other.config._attn_implementation = backend  # no package of flash attention is asked for
        for given, logits in zip(batches, expected, strict=True):
            found = other(IDS, **given, use_cache=False).logits[mask.bool()]
            torch.testing.assert_close(found, logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_every_parameter_learns_with_checkpointing_too(tiny_model, family, use_reentrant):
    gradients = []
    for each in (None, use_reentrant):
        model = tape(tiny_model, family, num_hidden_layers=3).train()
        last = f"layers.{model.config.num_hidden_layers - 1}.rotary_updates"  # whose state nothing reads
        found = gradients_of_a_step(model, each)
        gradients.append({name: gradient for name, gradient in found.items() if last not in name})
    assert all(each.abs().max() > 1e-7 for name, each in gradients[0].items() if "rotary_updates" in name)
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


def test_the_other_weights_do_not_depend_on_the_encoding(tiny_model, family):
    models = []
    for name in ("none", "tape"):
        models.append(untrained(tiny_model, family, inter_encoding=name, initializer_range=0.02, hidden_size=64))
        models[-1].random = torch.get_rng_state()
    plain, model = models
    assert torch.equal(plain.random, model.random)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], expected) for name, expected in plain.state_dict().items())
    first, second = updates(model)
    assert not torch.equal(first.gate, second.gate)
    for each in (first, second):
        for parameter, shape in ((each.attended, (4, 4)), (each.up, (16, 4))):
            assert torch.equal(parameter, torch.zeros(shape))
        for parameter in (each.gate, each.down):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.3)


def test_what_cannot_be_is_a_clear_error(tiny_model, family):
    if family == "llama":
        with pytest.raises(ValueError, match="num_key_value_heads must be num_attention_heads, 4, got 2"):
            untrained(tiny_model, family, num_key_value_heads=2)
    with pytest.raises(ValueError, match="tape_channels must be None or at least 1, got 0"):
        untrained(tiny_model, family, tape_channels=0)
    model = untrained(tiny_model, family)
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}, "use_cache": True}
    with pytest.raises(ValueError, match="a quantized cache rounds the angles that inter_encoding='tape' writes"):
        model.generate(IDS, **options, max_new_tokens=2)
