"""Packed documents on `sdpa`: each is attended to by itself, exactly, and in memory that grows with the length."""

import pytest
import torch
from families import FAMILIES, all_key_heads
from hypothesis import given
from hypothesis import strategies as st
from naive_flash import naive_flash_varlen
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from bipe_hf.model import packing_bipe
from bipe_hf.model.packing_bipe import find_documents


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 16.0, "hybrid_alibi_scale": 0.5},
    "fox": {"inter_encoding": "fox"},
    "cable": {"inter_encoding": "cable"},
    "tape": {"inter_encoding": "tape"},
    "local": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 5},
    "levels": {"inter_encoding": "rope", "inner_separator_token_ids": [[4, 5], [6, 7, 8]]},
}
LENGTHS = [3, 20, 1, 9, 15]
"""Of the documents of the two rows, the first three in the first of them."""
PADDING = 4
"""At the start of the first row and at the end of the second."""


def model_of(family, encoding, attention="sdpa", **fields):
    torch.manual_seed(0)
    shape = {"vocab_size": 23, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "initializer_range": 0.2, "separator_token_ids": [1, 2, 3]}
    if encoding == "tape":
        shape |= all_key_heads(family)
    fields = {**shape, **ENCODINGS[encoding], "attn_implementation": attention, **fields}
    return FAMILIES[family].make_causal_lm(**fields).double()


def documents():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 23, (1, length), generator=generator) for length in LENGTHS]


def packed_and_padded():
    """The documents in two rows, which of the tokens are theirs, and where each stands."""
    parts = documents()
    padding = torch.zeros(1, PADDING, dtype=torch.long)
    rows = [[padding, *parts[:3]], [*parts[3:], padding]]
    positions = [torch.cat([torch.arange(part.shape[1]) for part in row]) for row in rows]
    is_token = torch.ones(2, sum(LENGTHS[:3]) + PADDING)
    is_token[0, :PADDING] = is_token[1, -PADDING:] = 0
    ids = torch.cat([torch.cat(row, dim=1) for row in rows])
    return {"input_ids": ids, "position_ids": torch.stack(positions), "attention_mask": is_token.long()}


def loss_of(logits, ids):
    """The sum over the tokens that follow another of their document."""
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packed_and_padded_documents_train_as_each_alone(family, encoding):
    packed, alone = model_of(family, encoding), model_of(family, encoding)
    inputs = packed_and_padded()
    logits = packed(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()].split(LENGTHS)
    sum(loss_of(part, ids[0]) for part, ids in zip(logits, documents(), strict=True)).backward()
    for part, ids in zip(logits, documents(), strict=True):
        own = alone(ids, use_cache=False).logits[0]
        torch.testing.assert_close(part, own, rtol=1e-9, atol=1e-10)
        loss_of(own, ids[0]).backward()
    for (name, ours), theirs in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: name + text
        )


class LargestTensor(TorchDispatchMode):
    """The most numbers in a tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        for each in given if isinstance(given, tuple | list) else (given,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return given


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_tensor_grows_with_the_square_of_the_length(family, encoding):
    """Two documents of twice as many tokens as one: the largest tensor of a training step has twice the numbers."""
    model, largest = model_of(family, encoding, vocab_size=9), []
    for count in (8, 16):
        ids = torch.arange(64 * count)[None] % 7
        positions = torch.arange(64).repeat(count)[None]
        with LargestTensor() as mode:
            model(ids, position_ids=positions, labels=ids, use_cache=False).loss.backward()
        largest.append(mode.numbers)
    assert largest[1] <= 2.1 * largest[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ["rope", "alibi"])
def test_padding_between_the_tokens_of_a_document_is_passed_over(family, encoding):
    """There a document is no run of tokens, and a mask says what is attended to."""
    inputs = packed_and_padded()
    inputs["attention_mask"][0, PADDING + 8] = 0
    is_token = inputs["attention_mask"].bool()
    # In float32: eager softmax is, and in it the least number of float64 is infinite.
    models = (model_of(family, encoding, attention).float() for attention in ("sdpa", "eager"))
    actual, expected = (model(**inputs, use_cache=False).logits[is_token] for model in models)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_flash_kernel_of_torch_takes_all_documents_at_once(family, encoding, monkeypatch):
    """By its contract: it runs on a GPU alone."""
    inputs, calls = packed_and_padded(), []

    def kernel(query, key, value, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert longest_q == longest_k == starts_q.diff().max()
        assert window_size[1] == 0
        assert enable_gqa == (query.shape[1] != key.shape[1])
        calls.append(window_size[0])
        lengths = starts_q, starts_k, longest_q, longest_k
        return naive_flash_varlen(
            query, key, value, *lengths, softmax_scale=scale, causal=True, window_size=window_size
        )

    expected = model_of(family, encoding)(**inputs, use_cache=False).logits
    monkeypatch.setattr(packing_bipe, "can_use_flash_attention", lambda params: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    actual = model_of(family, encoding)(**inputs, use_cache=False).logits
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    assert calls == ([4, -1] if encoding == "local" else [-1, -1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ["rope", "alibi", "fox"])
def test_autocast_gives_the_kernel_16_bits(family, encoding, monkeypatch):
    """Rotation computes in float32 under autocast, which `scaled_dot_product_attention` alone would cast."""
    dtypes = []

    def takes(params):
        dtypes.extend(each.dtype for each in (params.query, params.key, params.value))
        return False

    monkeypatch.setattr(packing_bipe, "can_use_flash_attention", takes)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model_of(family, encoding).float()(**packed_and_padded(), use_cache=False).logits
    assert set(dtypes) == {torch.bfloat16}
    assert logits.isfinite().all()


def test_what_the_kernel_does_not_take_is_not_given_to_it(monkeypatch):
    """It knows no dropout, and head dimensions that are multiples of 8."""
    monkeypatch.setattr(packing_bipe, "can_use_flash_attention", lambda params: True)
    inputs = packed_and_padded()
    assert model_of("gpt_neox", "rope", attention_dropout=0.1)(**inputs, use_cache=False).logits.isfinite().all()
    assert model_of("gpt_neox", "rope", num_attention_heads=8)(**inputs, use_cache=False).logits.isfinite().all()


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_documents_are_found_where_positions_are_0(rows):
    length = max(map(sum, rows))
    rows = [[*row, length - sum(row)] if sum(row) < length else row for row in rows]
    positions = torch.tensor([[at for count in row for at in range(count)] for row in rows])
    starts, lengths = find_documents(positions)
    assert lengths == [count for row in rows for count in row]
    assert starts.tolist() == [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    assert starts.dtype == torch.int32
