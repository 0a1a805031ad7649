"""FoX and CABLE: limits that are another encoding, and columns as exact as a bias made apart."""

import pytest
import torch
from families import FAMILIES
from torch.nn import functional as F
from two_rows import (
    CACHES,
    IDS,
    assert_a_cache_goes_on,
    assert_padding_moves_no_token,
    assert_rows_are_repeated_selected_and_reset,
    assert_states_do_not_depend_on_pieces,
)

from bipe_hf.model.alibi_bipe import alibi_slopes
from bipe_hf.model.attention_bipe import attach_columns
from bipe_hf.model.running_bias_bipe import leading_bits, parts, running_columns


HEADS = 4  # of the tiny models
HEAD_DIM_OF_KERNELS = 64
ENCODINGS = {"fox": {"inter_encoding": "fox"}, "cable": {"inter_encoding": "cable"}}


def set_map(module, weight, bias):
    module.weight.data.copy_(weight)
    module.bias.data.copy_(bias)


# Limits


def layer_encodings(model):
    return [module for name, module in model.named_modules() if name.endswith(".layer_encoding")]


def with_constant(tiny_model, family, fields, numbers):
    """A tiny model whose maps have zero weights and these biases, one a head."""
    model = FAMILIES[family].make_causal_lm(**tiny_model(family).config.to_diff_dict() | fields).eval()
    for encoding in layer_encodings(model):
        set_map(encoding.map, torch.zeros(()), numbers)
    return model


def assert_same_logits(model, other):
    other.load_state_dict({name: each for name, each in model.state_dict().items() if "layer_encoding" not in name})
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, other(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("over", [{}, {"segmentation": "tokens"}], ids=["segments", "tokens"])
@pytest.mark.parametrize("name", ["fox", "cable"])
def test_a_constant_decrement_is_alibi(tiny_model, family, name, over):
    alibi = tiny_model(family, inter_encoding="alibi", **over)
    slopes = 4.0 * torch.tensor(alibi_slopes(HEADS))
    numbers = slopes if name == "cable" else -torch.expm1(slopes).log()  # log sigmoid of it is minus the slope
    fields = {"inter_encoding": name, "cable_kind": "unweighted", **over}
    assert_same_logits(with_constant(tiny_model, family, fields, numbers), alibi)


@pytest.mark.parametrize("gate", ["fixed", "bias_only"])
def test_gates_without_weights_start_as_alibi(tiny_model, family, gate):
    """Four heads have slopes from 1/4 to 1/256, evenly spaced in their logarithm."""
    fields = {"inter_encoding": "fox", "fox_gate": gate, "fox_min_time": 4.0}
    alibi = FAMILIES[family].make_causal_lm(
        **tiny_model(family).config.to_diff_dict() | {"inter_encoding": "alibi", "alibi_slope_scale": 1.0}
    )
    assert_same_logits(tiny_model(family, **fields), alibi.eval())
    learnt = [name for name, _ in tiny_model(family, **fields).named_parameters() if "layer_encoding" in name]
    assert len(learnt) == {"fixed": 0, "bias_only": 2}[gate]


@pytest.mark.parametrize("name", ["fox", "cable"])
def test_no_decrement_is_no_encoding(tiny_model, family, name):
    numbers = torch.full((HEADS,), 40.0 if name == "fox" else -1.0)
    model = with_constant(tiny_model, family, {"inter_encoding": name}, numbers)
    assert_same_logits(model, tiny_model(family, inter_encoding="none"))


def test_released_cable_is_fox_with_the_sign_of_the_map_turned(tiny_model, family):
    fox = tiny_model(family, inter_encoding="fox")
    cable = tiny_model(family, inter_encoding="cable", cable_kind="released")
    cable.load_state_dict({name: -each if ".map." in name else each for name, each in fox.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(cable(IDS).logits, fox(IDS).logits, rtol=0, atol=1e-5)


# Exactness


def causal_attention(dtype, way, query, key, value, sums, weights):
    """In one of three ways: with columns; with the whole bias, from float64; with that bias and no gradient to it.

    A CPU kernel of less rounding runs where the bias has a gradient: the last way has the kernel of the columns.
    """
    query, key, value = (each.to(dtype) for each in (query, key, value))
    if way == "columns":
        columns = running_columns(sums, weights, query, key)
        query, key, value = attach_columns(columns, query, key, value)
        options = {"is_causal": True, "scale": columns.scaling, "enable_gqa": True}
        return F.scaled_dot_product_attention(query, key, value, **options)[..., :HEAD_DIM_OF_KERNELS]
    sums = sums.transpose(1, 2)
    bias = sums[..., :, None] - sums[..., None, :]
    if weights is not None:
        bias = weights.transpose(1, 2)[..., None] * bias
    if way == "whole bias":
        bias = bias.detach()
    later = torch.ones(bias.shape[-2:]).triu(1).bool()
    bias = bias.to(dtype).masked_fill(later, torch.finfo(dtype).min)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True)


def output_and_gradients(dtype, way, leaves, upstream):
    """Of queries, keys, values, sums and weights; as many as the way has."""
    leaves = [None if each is None else each.detach().clone().requires_grad_() for each in leaves]
    output = causal_attention(dtype, way, *leaves)
    (output * upstream.to(dtype)).sum().backward()
    gradients = [None if each is None else each.grad for each in leaves]
    return dict(
        zip(("output", "query", "key", "value", "sums", "weights"), [output.detach(), *gradients], strict=True)
    )


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("weighted", [False, True], ids=["sums", "weighted sums"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_running_columns_are_as_near_float64_as_a_materialised_bias(dtype, weighted, key_heads):
    """1024 tokens; heads that forget at once, within a sentence, within a page, and hardly at all."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([3.0, 0.7, 0.02, 1e-4], dtype=torch.float64)
    sums = -(torch.rand(1, 1024, 4, generator=generator, dtype=torch.float64) * rates).cumsum(1)
    weights = torch.rand(1, 1024, 4, generator=generator).double() + 0.2 if weighted else None
    shapes = [(1, heads, 1024, HEAD_DIM_OF_KERNELS) for heads in (4, key_heads, key_heads, 4)]
    *inputs, upstream = (torch.randn(shape, generator=generator).to(dtype).double() for shape in shapes)
    leaves = [*inputs, sums, weights]
    truth = output_and_gradients(torch.float64, "whole bias with a gradient", leaves, upstream)
    peer, ours = (output_and_gradients(dtype, way, leaves, upstream) for way in ("whole bias", "columns"))

    def error(found, name):
        return ((found[name] - truth[name]).norm() / truth[name].norm()).item()

    for name in ("output", "query", "key", "value"):
        assert error(ours, name) <= 1.2 * error(peer, name), name
    assert error(ours, "sums") <= 4 * torch.finfo(dtype).eps
    if weighted:  # a gradient that is the sum of many large numbers
        assert error(ours, "weights") <= {torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]


@pytest.mark.parametrize("weighted", [False, True], ids=["sums", "weighted sums"])
def test_neighbouring_keys_differ_exactly_at_8192_tokens(weighted):
    """The sum there is 5.7e3, of which one bfloat16 holds multiples of 32."""
    sums = (-0.69 * torch.arange(8192, dtype=torch.float64)).view(1, -1, 1)[:, -64:]
    weights = torch.full((1, 64, 1), 0.75, dtype=torch.float64) if weighted else None
    place = torch.arange(64, dtype=torch.float64)
    expected = 0.69 * (place[None] - place[:, None]) * (0.75 if weighted else 1.0)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-6), (torch.bfloat16, 1e-3)):
        heads = torch.zeros(1, 1, 64, 64, dtype=dtype)
        columns = running_columns(sums, weights, heads, heads)
        assert columns.query.dtype == columns.key.dtype == dtype
        assert (heads.shape[-1] + columns.query.shape[-1]) % 8 == 0
        # as a kernel does: products in float32, added up from the first on
        wide = torch.promote_types(dtype, torch.float32)
        total = torch.zeros(64, 64, dtype=wide)
        for query, key in zip(columns.query[0, 0].to(wide).T, columns.key[0, 0].to(wide).T, strict=True):
            total += query[:, None] * key
        torch.testing.assert_close(total.double() * columns.scaling, expected, rtol=2e-7, atol=tolerance)


@pytest.mark.parametrize("bits", [8, 11, 12, 24])
def test_leading_bits_are_those_of_a_rounding_by_hand(bits):
    numbers = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    numbers = torch.cat([numbers.float().double(), torch.zeros(1, dtype=torch.float64)])
    _, exponent = torch.frexp(numbers)
    unit = torch.ldexp(torch.ones_like(numbers), exponent - bits)
    error = (leading_bits(numbers, bits) - numbers).abs()
    assert (error <= unit / 2).all()
    assert ((leading_bits(numbers, bits) / unit) % 1 == 0).all()


def test_the_first_part_carries_the_gradient():
    numbers = torch.tensor([1.2345678, -700.1], dtype=torch.float64, requires_grad=True)
    found = parts(numbers, (8, 8, 8))
    assert not any(part.requires_grad for part in found[1:])
    sum(found).backward(torch.tensor([3.0, 5.0], dtype=torch.float64))
    assert numbers.grad.tolist() == [3.0, 5.0]
    torch.testing.assert_close(sum(found).detach(), numbers.detach(), rtol=2**-24, atol=0)


# The state in a cache


@pytest.fixture(params=ENCODINGS)
def model(request, family, tiny_model):
    return tiny_model(family, **ENCODINGS[request.param])


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(model, kind):
    """Pieces end in padding and before it: what the last token would bring is known behind it."""
    assert_a_cache_goes_on(model, kind)


def test_padding_in_all_places_moves_no_token(model):
    assert_padding_moves_no_token(model)


def test_rows_of_a_cache_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


def test_the_sums_of_a_cache_do_not_depend_on_its_pieces(model):
    assert_states_do_not_depend_on_pieces(model)


def test_given_segment_ids_that_jump_count_a_separator_as_often(tiny_model, family):
    """As BiPE-ALiBi does: its bias is that of the index."""
    alibi = tiny_model(family, inter_encoding="alibi")
    slopes = 4.0 * torch.tensor(alibi_slopes(HEADS))
    cable = with_constant(tiny_model, family, {"inter_encoding": "cable", "cable_kind": "unweighted"}, slopes)
    cable.load_state_dict(alibi.state_dict(), strict=False)
    embeddings = cable.get_input_embeddings()(IDS)
    segment_ids = torch.tensor([[5] * 4 + [6] * 8 + [9] * 3 + [15] * 15, [0] * 10 + [1] * 20])
    logits = [each(inputs_embeds=embeddings, segment_ids=segment_ids).logits for each in (alibi, cable)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


def test_the_other_weights_do_not_depend_on_the_encoding(family):
    shape = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    states = []
    for fields in ({"inter_encoding": "none"}, *ENCODINGS.values()):
        torch.manual_seed(0)
        model = FAMILIES[family].make_causal_lm(**shape, num_attention_heads=2, separator_token_ids=[5], **fields)
        states.append((model.state_dict(), torch.get_rng_state()))
        maps = [encoding.map for encoding in layer_encodings(model)]
        for encoding in maps:
            assert encoding.weight.std().item() == pytest.approx(0.02, rel=0.4)
            assert not encoding.bias.any()
        assert not maps or not torch.equal(maps[0].weight, maps[1].weight)
    (plain, state), *others = states
    for weights, random in others:
        assert torch.equal(random, state)
        assert all(torch.equal(weights[name], expected) for name, expected in plain.items())
