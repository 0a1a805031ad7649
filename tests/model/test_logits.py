"""CoPE, DAPE, DAPE V2 and FIRE: formulas, limits that are another encoding, blocks of queries."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES
from naive_logits import naive_fire, naive_logits
from transformers import DynamicCache
from two_rows import (
    CACHES,
    IDS,
    WAYS_TO_GENERATE,
    assert_generation_is_recomputation,
    assert_one_graph_and_one_program,
    assert_pieces_are_one_forward,
    assert_whole_documents_are_alone,
)

from bipe_hf.model import logits_bipe
from bipe_hf.model.compatibility_bipe import CACHE_NAME
from bipe_hf.model.cope_bipe import CopeLogits
from bipe_hf.model.dape_bipe import DapeLogits, DapeV2Logits
from bipe_hf.model.inter_terms_bipe import PairIds
from bipe_hf.model.logits_bipe import LogitsBlock, attention_with_logits


VARIANTS = {
    "cope": {"inter_encoding": "cope", "cope_positions": 5},
    "cope, unscaled": {"inter_encoding": "cope", "cope_positions": 5, "cope_term": "unscaled"},
    "cope, values": {"inter_encoding": "cope", "cope_positions": 5, "cope_gates": "values"},
    "cope, own keys": {"inter_encoding": "cope", "cope_positions": 5, "cope_gates": "own_keys"},
    "dape": {"inter_encoding": "dape", "dape_width": 6},
    "dape, alibi": {"inter_encoding": "dape", "dape_bias": "alibi", "dape_width": 6},
    "dape, fire": {"inter_encoding": "dape", "dape_bias": "fire", "dape_width": 6, "fire_length": 32},
    "dape v2": {"inter_encoding": "dape_v2", "dape_width": 6},
    "dape v2, five keys": {"inter_encoding": "dape_v2", "dape_width": 6, "dape_kernel": 5},
}
WITH_OWN_TESTS = {
    "cable with kernel": {"inter_encoding": "cable_kernel"},
    "path with gates": {"inter_encoding": "path", "path_gates": "fox"},
}
CLASSES = {"cope": CopeLogits, "dape": DapeLogits, "dape_v2": DapeV2Logits}


def make_logits(head_dim=4, key_heads=2, **fields):
    """The module of a layer with four heads, and its configuration; all its parameters differ from 0."""
    config = FAMILIES["llama"].make_config(
        hidden_size=16, num_attention_heads=4, intra_encoding="none", separator_token_ids=[0], **fields
    )
    module = CLASSES[config.inter_encoding](config, head_dim, key_heads)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module, config


def causal_block(length, segments=None, **numbers):
    """Of all queries; ids are those of tokens by default."""
    ids = torch.arange(length)[None] if segments is None else torch.tensor(segments)[None]
    is_visible = torch.ones(1, 1, length, length).tril().bool()
    given = {"query": None, "key": None, "value": None, "own_keys": None, "scaling": 1.0, **numbers}
    return LogitsBlock(**given, is_visible=is_visible, query_ids=ids, key_ids=ids)


# Formulas


@pytest.mark.parametrize("segmentation", ["tokens", "separators"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_the_formula(variant, segmentation, monkeypatch):
    """In blocks of queries and all at once; with two heads a key head."""
    module, config = make_logits(**VARIANTS[variant], segmentation=segmentation, alibi_slope_scale=3.0)
    module = module.double()
    length, segments = 9, [0, 0, 1, 1, 1, 2, 4, 4, 5]
    if segmentation == "tokens":
        segments = list(range(length))
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, heads, length, 4) for heads in (4, 2, 2)] + [(1, length, 16), (1, length, 4, 4)]
    *leaves, x, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    own_keys = module.own_keys(x, None, None)
    if own_keys is not None:
        leaves.append(own_keys.detach().double())
    leaves = [each.requires_grad_() for each in leaves]
    parameters = [each for name, each in module.named_parameters() if "key_map" not in name]

    def found(output):
        gradients = torch.autograd.grad((output * upstream).sum(), [*leaves, *parameters])
        return [output.detach(), *gradients]

    query, key, value, *rest = leaves
    as_heads = rest[0][0].unflatten(-1, (2, 4)).transpose(0, 1) if rest else None
    logits = naive_logits(config, module, query[0], key[0], value[0], as_heads, segments, scaling=0.5)
    output = logits.softmax(-1) @ value[0].repeat_interleave(2, dim=0)
    expected = found(output.transpose(0, 1)[None])

    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 4)
    ids = PairIds(torch.tensor([segments]), torch.tensor([segments]))
    mask = torch.ones(1, 1, length, length).tril().bool()
    added = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
    for backend, given in (("eager", added), ("sdpa", mask), ("sdpa", None)):
        output, weights = attention_with_logits(
            module, query, key, value, rest[0] if rest else None, given, ids, scaling=0.5, dropout=0.0, backend=backend
        )
        torch.testing.assert_close(found(output), expected, rtol=1e-6, atol=1e-8)
        if backend == "eager":
            torch.testing.assert_close(weights[0], logits.softmax(-1))
        else:
            assert weights is None


def test_fire_and_its_gradients_are_those_of_the_formula():
    fields = {"inter_encoding": "fire", "fire_length": 3, "dape_width": 6, "separator_token_ids": [0]}
    model = FAMILIES["llama"].make_causal_lm(**fields, hidden_size=16, num_attention_heads=4, num_hidden_layers=1)
    fire = model.double().model.inter_encoding
    assert (fire.c.item(), fire.m.item()) == (pytest.approx(0.1), 1.0)
    segments = [0, 1, 1, 2, 9]  # before and behind the length
    ids = torch.tensor([segments])
    expected = [
        naive_fire(model.config, fire, head, query, query - key, slope=0.0)
        for head in range(4)
        for i, query in enumerate(segments)
        for key in segments[: i + 1]
    ]
    rows, columns = torch.tril_indices(5, 5)
    results = [fire.bias(ids, ids, torch.float64)[0][:, rows, columns].flatten(), torch.stack(expected)]
    torch.testing.assert_close(*results)
    upstream = torch.randn(len(expected), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((each * upstream).sum(), list(fire.parameters())) for each in results]
    torch.testing.assert_close(*gradients)


# Limits


OPEN = 60.0  # a gate whose logit that is has 1


@pytest.mark.parametrize("segmentation", ["tokens", "separators"])
def test_open_gates_of_cope_count_the_distance(segmentation):
    segments = [0, 0, 1, 1, 1, 2, 4, 4, 5]
    module, _ = make_logits(inter_encoding="cope", cope_positions=5, segmentation=segmentation)
    positions = module.positions(torch.full((1, 4, 9, 9), OPEN), causal_block(9, segments))
    place = torch.arange(9)
    far = place[:, None] - place + 1
    if segmentation == "separators":
        far = torch.tensor(segments)[:, None] - torch.tensor(segments)
    assert torch.equal(positions.tril(), far.clamp(max=4).float().tril().expand(1, 4, -1, -1))


def test_gates_of_cope_that_a_query_does_not_see_do_not_count():
    """Packed documents, and padding before, between and behind the tokens of a document."""
    module, _ = make_logits(inter_encoding="cope", cope_positions=9, segmentation="separators")
    segments = torch.tensor([[-1, 0, 0, 0, 1, 2, 2, 2, 0, 1, 1]])
    is_token = torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0]).bool()
    document = torch.tensor([0] * 8 + [1] * 3)
    is_visible = torch.ones(11, 11).tril().bool() & is_token & (document[:, None] == document)
    block = causal_block(11)._replace(is_visible=is_visible[None, None], query_ids=segments, key_ids=segments)
    positions = module.positions(torch.full((1, 4, 11, 11), OPEN), block)[0, 0]
    for i in range(11):
        for j in range(i + 1):
            if is_token[i] and is_visible[i, j]:
                assert positions[i, j] == segments[0, i] - segments[0, j]


def logits_modules(model):
    return [module for name, module in model.named_modules() if name.endswith(".layer_logits")]


@torch.no_grad()
def assert_same_logits(model, other):
    """With the weights of `model`, but for what its layers have of the encoding."""
    other.load_state_dict(
        {name: each for name, each in model.state_dict().items() if "layer_logits" not in name}, strict=False
    )
    torch.testing.assert_close(model(IDS).logits, other(IDS).logits, rtol=0, atol=1e-5)


def fresh(tiny_model, family, **fields):
    """A tiny model of its own."""
    config = tiny_model(family).config.to_diff_dict() | fields
    torch.manual_seed(0)  # behind the tiny model, which may have to be made first
    return FAMILIES[family].make_causal_lm(**config).eval()


def test_cope_starts_as_no_encoding(tiny_model, family):
    model = fresh(tiny_model, family, inter_encoding="cope")
    assert_same_logits(model, fresh(tiny_model, family, inter_encoding="none"))


@pytest.mark.parametrize("bias", ["alibi", "kerple"])
@pytest.mark.parametrize("name", ["dape", "dape_v2"])
@torch.no_grad()
def test_dape_without_its_second_layer_is_its_bias(tiny_model, family, name, bias):
    model = fresh(tiny_model, family, inter_encoding=name, dape_bias=bias)
    other = fresh(tiny_model, family, inter_encoding=bias)
    for module in logits_modules(model):
        for parameter in module.second.parameters():
            parameter.zero_()
        module.bias.load_state_dict(other.base_model.inter_encoding.state_dict())
    assert_same_logits(model, other)


@torch.no_grad()
def test_dape_v2_with_middle_taps_alone_is_dape():
    v2, _ = make_logits(inter_encoding="dape_v2", segmentation="tokens", dape_kernel=5)
    dape, _ = make_logits(inter_encoding="dape", segmentation="tokens")
    for layer, other in ((v2.first, dape.first), (v2.second, dape.second)):
        layer.weight[..., [0, 1, 3, 4]] = 0
        other.weight.copy_(layer.weight[..., 2:3])
        other.bias.copy_(layer.bias)
    dape.bias.load_state_dict(v2.bias.state_dict())
    logits = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    block = causal_block(9)
    torch.testing.assert_close(v2(logits, block).tril(), dape(logits, block).tril())


# Models


QUICK = [("llama", "cope, own keys"), ("gpt_neox", "dape v2")]


@pytest.fixture(
    params=[
        pytest.param((family, variant), marks=() if (family, variant) in QUICK else pytest.mark.slow)
        for family in FAMILIES
        for variant in ("cope", "cope, own keys", "dape, fire", "dape v2", *WITH_OWN_TESTS)
    ],
    ids="-".join,
)
def model(request, tiny_model):
    """With parameters that all differ from 0, and blocks of few queries on `sdpa`."""
    family, variant = request.param
    model = fresh(
        tiny_model, family, **(VARIANTS | WITH_OWN_TESTS)[variant], separator_token_ids=list(range(0, 60, 4))
    )
    generator = torch.Generator().manual_seed(0)
    for module in logits_modules(model):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


def on(backend, model):
    other = deepcopy(model)
    other.set_attn_implementation(backend)
    return other


def some_inputs(model):
    left, right = torch.ones_like(IDS), torch.ones_like(IDS)
    left[0, :7] = right[1, 20:] = 0
    documents = {"position_ids": torch.tensor([[*range(10), *range(20)], [*range(3), *range(26), 0]])}
    return [
        ({}, torch.ones_like(IDS)),
        ({"attention_mask": left}, left),
        ({"attention_mask": right}, right),
        (documents, torch.ones_like(IDS)),
        ({**documents, "attention_mask": right}, right),
    ]


@torch.no_grad()
def test_blocks_of_queries_are_eager_attention(model, monkeypatch):
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    eager = on("eager", model)
    for inputs, mask in some_inputs(model):
        logits = [each(IDS, use_cache=False, **inputs).logits[mask.bool()] for each in (model, eager)]
        torch.testing.assert_close(*logits, rtol=1e-4, atol=2e-5)
    shape = eager(IDS, output_attentions=True).attentions[0].shape
    assert shape == (2, 4, 30, 30)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_caches_in_pieces_are_one_forward(model, kind, monkeypatch):
    """After crops and reordering, with padding on the left."""
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    mask = torch.ones_like(IDS)
    mask[0, :4] = 0
    pieces = ((0, 3), (3, 12), (12, 13), (13, 30))
    assert_pieces_are_one_forward(model, CACHES[kind](model.config), mask, pieces, crop=7 if kind == "dynamic" else 0)


def test_padding_and_packing_are_documents_alone(model):
    assert_whole_documents_are_alone(model)


@pytest.mark.parametrize("options", WAYS_TO_GENERATE, ids=str)
def test_generation_is_recomputation(model, options):
    assert_generation_is_recomputation(model, options)


def test_what_is_saved_loads_to_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_gradients_of_blocks_are_those_of_eager_attention(model, use_reentrant, monkeypatch):
    """Also where whole layers are checkpointed."""
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    eager, gradients = on("eager", model), []
    for each in (model, eager):
        if use_reentrant is not None and each is model:
            each.train()
            each.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
            each.enable_input_require_grads()
        each(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in each.named_parameters()})
    assert all(value.abs().max() > 0 for name, value in gradients[0].items() if "layer_logits" in name)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits_are_near_float32(model, dtype):
    """Weights of that dtype, and a step under autocast, whose positions and logits stay float32."""
    with torch.no_grad():
        exact = model(IDS).logits
        rounded = deepcopy(model).to(dtype)(IDS).logits.float()
    assert (rounded - exact).norm() < 16 * torch.finfo(dtype).eps * exact.norm()
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = model(IDS, labels=IDS, use_cache=False).loss
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    exact, rounded = (torch.cat([each.flatten() for each in found]) for found in gradients)
    assert (rounded - exact).norm() < 48 * torch.finfo(dtype).eps * exact.norm()


@pytest.mark.slow
def test_one_graph_is_compiled_and_one_program_serves_every_length(model):
    assert_one_graph_and_one_program(model)


def test_dropout_drops_weights_and_a_block_drops_the_same_again(monkeypatch):
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 4)
    module, _ = make_logits(inter_encoding="cope", segmentation="tokens")
    value = torch.ones(1, 2, 64, 4, requires_grad=True)
    query = torch.zeros(1, 4, 64, 4, requires_grad=True)
    ids = torch.arange(64)[None]
    given = {
        "own_queries": None,
        "own_keys": None,
        "attention_mask": None,
        "ids": PairIds(ids, ids),
        "scaling": 0.5,
        "backend": "sdpa",
    }
    output, _ = attention_with_logits(module, query, value.detach(), value, dropout=0.5, **given)
    assert output.mean().item() == pytest.approx(1, abs=0.2)
    assert output.std() > 0.1
    output.sum().backward()
    # every value has the gradient of the weights that the forward kept: their sum is that of the outputs
    assert value.grad.sum().item() == pytest.approx(output.sum().item(), rel=1e-4)


def test_memory_is_that_of_a_block(monkeypatch):
    """No tensor of queries x keys is kept for the backward."""
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 16)
    module, _ = make_logits(inter_encoding="dape", segmentation="tokens")
    query, key = (torch.randn(1, heads, 256, 4, requires_grad=True) for heads in (4, 2))
    ids = torch.arange(256)[None]
    sizes = []
    given = {
        "own_queries": None,
        "own_keys": None,
        "attention_mask": None,
        "ids": PairIds(ids, ids),
        "scaling": 0.5,
        "dropout": 0.0,
    }
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.numel()) or kept, lambda kept: kept):
        output, _ = attention_with_logits(module, query, key, key, backend="sdpa", **given)
    assert max(sizes) < 256 * 64
    output.sum().backward()


# Refusals


@pytest.mark.parametrize("backend", ["flash_attention_2", "flash_attention_3", "flex_attention"])
@pytest.mark.parametrize("name", ["cope", "dape", "dape_v2", "cable_kernel", "path"])
def test_a_backend_that_shows_no_logits_is_refused(family, name, backend, tiny_model):
    refusal = pytest.raises(ValueError, match=f"{backend}.*inter_encoding='{name}' changes the logits.*Use 'sdpa'")
    config = fresh(tiny_model, family, inter_encoding=name).config
    with refusal:
        FAMILIES[family].causal_lm._from_config(deepcopy(config), attn_implementation=backend)
    model = FAMILIES[family].causal_lm(deepcopy(config))
    with refusal:
        model.set_attn_implementation(backend)
    model.config._attn_implementation = backend  # which asks nobody
    with refusal:
        model(IDS)


def test_dape_v2_refuses_padding_between_tokens(tiny_model, family):
    model = fresh(tiny_model, family, inter_encoding="dape_v2")
    mask = torch.ones_like(IDS)
    mask[0, 5] = 0
    refusal = pytest.raises(ValueError, match="attention_mask has padding between tokens of a document")
    with refusal:
        model(IDS, attention_mask=mask)
    documents = torch.tensor([[*range(10), *range(20)]] * 2)
    with refusal:
        model(IDS, attention_mask=mask, position_ids=documents)
    cache = DynamicCache(config=model.config)
    model(IDS[:, :6], attention_mask=mask[:, :6], **{CACHE_NAME: cache})  # padding behind a row, so far
    with refusal:
        model(IDS[:, 6:8], attention_mask=mask[:, :8], **{CACHE_NAME: cache})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cope_positions": 1}, "cope_positions must be at least 2, got 1"),
        ({"cope_gates": "queries"}, "cope_gates must be one of keys, values, own_keys, got 'queries'"),
        ({"cope_term": "half"}, "cope_term must be one of scaled, unscaled, got 'half'"),
        ({"dape_bias": "t5"}, "dape_bias must be one of alibi, kerple, fire, got 't5'"),
        ({"dape_width": 0}, "dape_width must be at least 1, got 0"),
        ({"dape_kernel": 4}, "dape_kernel must be odd, as many keys on either side, got 4"),
        ({"fire_length": 0}, "fire_length must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_logits_are_refused(family, fields, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[family].make_config(separator_token_ids=[1], **fields)


@pytest.mark.parametrize("name", ["cope", "dape", "dape_v2", "fire", "cable_kernel", "path"])
def test_the_other_weights_do_not_depend_on_the_encoding(tiny_model, family, name):
    plain = fresh(tiny_model, family, inter_encoding="none").state_dict()
    weights = fresh(tiny_model, family, inter_encoding=name).state_dict()
    assert all(torch.equal(weights[each], expected) for each, expected in plain.items())
    if name.startswith("dape"):
        first = [each for each in weights if each.endswith("layer_logits.first.weight")]
        assert 0 < weights[first[0]].abs().max() <= 8**-0.5
        assert not torch.equal(*(weights[each] for each in first))


@torch.no_grad()
@pytest.mark.parametrize("name", ["cope", "dape", "dape_v2", "cable_kernel"])
def test_fast_pairs_beside_nothing_learnt_are_a_hybrid_without_bias(tiny_model, family, name):
    """Of DAPE with no ALiBi to speak of: what its MLP adds, and each other encoding, is 0."""
    pairs = {"hybrid_max_period": 20.0, "segmentation": "tokens", "intra_encoding": "none"}
    fields = {"dape_bias": "alibi", "alibi_slope_scale": 1e-6, "cable_kind": "weighted"}
    model = fresh(tiny_model, family, inter_encoding=name, added_rotation="fast", **pairs, **fields)
    for module in logits_modules(model):
        for parameter in module.parameters():
            torch.nn.init.zeros_(parameter)
    hybrid = fresh(tiny_model, family, inter_encoding="hybrid", hybrid_alibi_scale=0.0, **pairs)
    hybrid.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(IDS).logits, hybrid(IDS).logits, rtol=1e-4, atol=2e-5)
    still = fresh(tiny_model, family, inter_encoding="none", **pairs)
    still.load_state_dict(model.state_dict(), strict=False)
    assert (model(IDS).logits - still(IDS).logits).abs().max() > 1e-3
