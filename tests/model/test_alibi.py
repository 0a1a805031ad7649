"""ALiBi by bias columns: exact digits, no worse than a materialised bias, linear memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.model.alibi_bipe import DIGITS, AlibiBias, alibi_slopes
from bipe_hf.model.attention_bipe import attach_columns


def encoding(num_heads, head_dim, scale=96.0):
    return AlibiBias(num_heads, head_dim, scale, "alibi_slope_scale")


def test_slopes_follow_press_et_al():
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    sixteen = [2.0 ** (-power / 2) for power in range(1, 17)]
    assert alibi_slopes(16) == pytest.approx(sixteen, rel=1e-15)
    assert alibi_slopes(12) == pytest.approx(alibi_slopes(8) + sixteen[0::2][:4], rel=1e-15)
    assert alibi_slopes(1) == [2.0**-8]


def test_a_power_below_one_brings_slopes_closer_together():
    for power, slopes in ((1.0, [1.0, 0.25, 0.0625, 0.015625]), (0.5, [2.0, 1.0, 0.5, 0.25]), (0.0, [4.0] * 4)):
        assert AlibiBias(4, 32, 4.0, "hybrid_alibi_scale", slope_power=power).slopes == slopes


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(st.integers(0, 2**22 - 1), min_size=2, max_size=6),
    num_heads=st.integers(1, 20),
    head_dim=st.sampled_from([4, 8, 20, 64, 80, 128]),
    scale=st.sampled_from([1.0, 96.0, 3.7]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_columns_multiply_to_the_bias_to_the_last_digit(segments, num_heads, head_dim, scale, dtype):
    """Summed without rounding, the columns give the bias of a slope that has as many bits as its digits."""
    module = encoding(num_heads, head_dim, scale)
    columns = module(torch.tensor([segments]), torch.zeros(1, len(segments), 1, dtype=dtype))
    assert (columns.query.shape[-1] + head_dim) % 8 == 0
    query, key = (
        [[[int(x * 2**200) for x in row] for row in head] for head in side[0].double().tolist()]
        for side in (columns.query, columns.key)
    )
    bits, slope_digits, _ = DIGITS[dtype]
    for head, slope in enumerate(alibi_slopes(num_heads)):
        for i, segment_i in enumerate(segments):
            for j, segment_j in enumerate(segments):
                product = sum(a * b for a, b in zip(query[head][i], key[0][j], strict=True)) / 2**400
                bias = columns.scaling * product
                expected = -scale * slope * (segment_i - segment_j)
                assert bias == pytest.approx(expected, rel=2.0 ** -min(bits * slope_digits, 50), abs=0)


@settings(max_examples=40, deadline=None)
@given(segment=st.integers(0, 2**21 - 41), distance=st.integers(0, 40), num_heads=st.integers(1, 16))
def test_float16_columns_stay_in_range_and_keep_near_segments_exact(segment, distance, num_heads):
    module = encoding(num_heads, 64)
    columns = module(torch.tensor([[segment, segment + distance]]), torch.zeros(1, 2, 1, dtype=torch.float16))
    assert columns.query.isfinite().all()
    assert columns.key.isfinite().all()
    bias = columns.scaling * (columns.query[0, :, 1].double() * columns.key[0, 0, 0].double()).sum(-1)
    expected = -96 * distance * torch.tensor(alibi_slopes(num_heads), dtype=torch.float64)
    torch.testing.assert_close(bias, expected, rtol=1e-5, atol=1e-3)


def test_slopes_beyond_the_range_of_float16_are_refused():
    """12 heads of 128 dimensions at scale 96 fit; twice the scale does not, and would overflow to infinity."""
    hidden_states = torch.zeros(1, 2, 1, dtype=torch.float16)
    segments = torch.tensor([[5000, 5001]])
    assert encoding(12, 128)(segments, hidden_states).query.isfinite().all()
    with pytest.raises(ValueError, match="too large for float16"):
        encoding(12, 128, scale=192.0)(segments, hidden_states)
    assert encoding(12, 128, scale=192.0)(segments, hidden_states.float()).query.isfinite().all()


def attention_and_gradients(dtype, columns_of, segments, slopes, inputs, weights):
    """Output and gradients of causal ALiBi attention for one head, by columns or by a materialised bias."""
    query, key, value = (x.to(dtype).requires_grad_() for x in inputs)
    if columns_of is not None:
        columns = columns_of(segments, query[0])
        q, k, v = attach_columns(columns, query, key, value)
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=columns.scaling)[..., : value.shape[-1]]
    else:
        distance = (segments[:, None, :, None] - segments[:, None, None, :]).double()
        bias = (-slopes[:, None, None] * distance).to(dtype)
        causal = torch.ones(bias.shape[-2:]).tril().bool()
        if dtype == torch.float64:
            logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
            output = logits.masked_fill(~causal, -math.inf).softmax(-1) @ value
        else:
            bias = bias.masked_fill(~causal, torch.finfo(dtype).min)
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    (output * weights.to(dtype)).sum().backward()
    return output.detach(), query.grad, key.grad, value.grad


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_columns_are_as_near_float64_as_a_materialised_bias(dtype, head_dim):
    """4096 tokens, over 400 segments; a steep, a middle and a gentle head of 12, whose slopes are no round numbers."""
    length, heads = 4096, [8, 10, 7]
    generator = torch.Generator().manual_seed(0)
    segments = (torch.rand(1, length, generator=generator) < 0.15).cumsum(-1)
    assert segments.max() > 400
    module = encoding(12, head_dim)
    for head in heads:
        slopes = 96 * torch.tensor(alibi_slopes(12), dtype=torch.float64)[head : head + 1]

        def columns_of(segment_ids, hidden_states, head=head):
            columns = module(segment_ids, hidden_states)
            return columns._replace(query=columns.query[:, head : head + 1])

        *inputs, weights = (torch.randn(1, 1, length, head_dim, generator=generator).to(dtype) for _ in range(4))
        arguments = (segments, slopes, inputs, weights)
        exact = attention_and_gradients(torch.float64, None, *arguments)
        materialised = attention_and_gradients(dtype, None, *arguments)
        ours = attention_and_gradients(dtype, columns_of, *arguments)
        for name, truth, peer, mine in zip(
            ("output", "query", "key", "value"), exact, materialised, ours, strict=True
        ):
            peer_error, error = (peer - truth).abs().max(), (mine - truth).abs().max()
            assert error <= 1.5 * peer_error, f"head {head}, {name}: {error:.2e} against {peer_error:.2e}"


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_operation_makes_a_tensor_that_grows_faster_than_the_length():
    config = BipeLlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        inter_encoding="alibi",
        separator_token_ids=[1],
        attn_implementation="sdpa",
    )
    model = BipeLlamaForCausalLM(config).train()
    largest = []
    for length in (512, 1024):
        ids = torch.randint(0, 20, (1, length))
        with LargestTensor() as seen:
            model(ids, labels=ids, use_cache=False).loss.backward()
        largest.append(seen.elements)
    assert largest[1] == 2 * largest[0]
    assert largest[1] < 1024 * 1024
