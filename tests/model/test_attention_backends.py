"""Every attention backend gives the same result, for every encoding, padding and packing."""

import pytest
import torch
from families import FAMILIES


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "alibi with log scale": {"inter_encoding": "alibi", "log_scale_train_length": 16, "intra_encoding": "sinusoidal"},
    "nope": {"inter_encoding": "none"},
    "fox": {"inter_encoding": "fox", "added_rotation": "rope"},
    "cable": {"inter_encoding": "cable"},
    "local": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 5},
    "levels": {"inter_encoding": "rope", "inner_separator_token_ids": [[4, 5], [6, 7, 8]], "max_inner_index": 2},
}


def model_of(family, encoding, attention, dtype=torch.float32):
    torch.manual_seed(0)
    model = FAMILIES[family].make_causal_lm(
        vocab_size=23,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
        separator_token_ids=[1, 2, 3],
        **ENCODINGS[encoding],
    )
    model = model.to(dtype).eval()
    # Set here, because from_config refuses a backend whose package is not installed; the test brings its kernels.
    model.config._attn_implementation = attention
    return model


def plain_inputs():
    ids = torch.randint(0, 23, (2, 24), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids}, torch.ones_like(ids).bool()


def padded_inputs(left):
    inputs, is_token = plain_inputs()
    is_token[0, :9] = False
    if not left:
        is_token = is_token.flip(1)
    return {**inputs, "attention_mask": is_token.long()}, is_token


def packed_inputs():
    inputs, is_token = plain_inputs()
    rows = [[*range(10), *range(14)], [*range(3), *range(20), 0]]
    return {**inputs, "position_ids": torch.tensor(rows)}, is_token


def packed_and_padded_inputs():
    inputs, is_token = packed_inputs()
    is_token[:, -4:] = False
    return {**inputs, "attention_mask": is_token.long()}, is_token


INPUTS = {
    "plain": plain_inputs,
    "left padding": lambda: padded_inputs(left=True),
    "right padding": lambda: padded_inputs(left=False),
    "packed": packed_inputs,
    "packed and padded": packed_and_padded_inputs,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_backends_equal_eager(family, attention, encoding, inputs, flash_kernels):
    arguments, is_token = INPUTS[inputs]()
    with torch.inference_mode():
        expected = model_of(family, encoding, "eager")(**arguments).logits[is_token]
        actual = model_of(family, encoding, attention)(**arguments).logits[is_token]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_document_lengths_of_a_collator_are_accepted_on_flash_attention(family, flash_kernels):
    """What transformers' padding-free collator passes along with position_ids."""
    ids = plain_inputs()[0]["input_ids"][:1]
    position_ids = torch.tensor([[*range(10), *range(14)]])
    lengths = torch.tensor([0, 10, 24], dtype=torch.int32)
    lengths = {"cu_seq_lens_q": lengths, "cu_seq_lens_k": lengths, "max_length_q": 14, "max_length_k": 14}
    with torch.inference_mode():
        expected = model_of(family, "alibi", "eager")(ids, position_ids=position_ids).logits
        actual = model_of(family, "alibi", "flash_attention_2")(ids, position_ids=position_ids, **lengths).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", ["rope", "alibi", "local"])
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_backends_equal_eager_with_a_cache(family, attention, encoding, flash_kernels):
    arguments, is_token = padded_inputs(left=True)
    ids, mask = arguments["input_ids"], arguments["attention_mask"]
    logits = []
    for implementation in ("eager", attention):
        model = model_of(family, encoding, implementation)
        with torch.inference_mode():
            first = model(ids[:, :15], attention_mask=mask[:, :15], use_cache=True)
            rest = model(ids[:, 15:], attention_mask=mask, past_key_values=first.past_key_values)
        logits.append(torch.cat([first.logits, rest.logits], dim=1)[is_token])
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_flex_attention_equals_eager(family, encoding, inputs, uncompiled_flex_attention):
    arguments, is_token = INPUTS[inputs]()
    with torch.inference_mode():
        expected = model_of(family, encoding, "eager")(**arguments).logits[is_token]
        actual = model_of(family, encoding, "flex_attention")(**arguments).logits[is_token]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_alibi_gives_weights_that_sum_to_one(family):
    model = model_of(family, "alibi", "eager")
    attentions = model(**plain_inputs()[0], output_attentions=True).attentions
    assert len(attentions) == 2
    for weights in attentions:
        assert weights.shape == (2, 4, 24, 24)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 24))
        assert weights.triu(1).abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_16_bit_alibi_is_finite_over_thousands_of_segments(family, attention, dtype):
    """The bias of far segments leaves the range of float16, on both sides of the diagonal."""
    model = model_of(family, "alibi", attention)
    ids = torch.full((1, 4000), 1)
    ids[:, ::3] = 9
    with torch.inference_mode():
        exact = model(ids).logits
        rounded = model.to(dtype)(ids).logits
    assert rounded.isfinite().all()
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("encoding", ["rope", "alibi"])
def test_autocast_stays_near_float32(family, encoding, attention, dtype):
    """Over 1,500 segments, where the bias of the steepest head leaves the range of float16."""
    model = model_of(family, encoding, attention)
    ids = torch.full((1, 1500), 1)
    ids[:, :24] = plain_inputs()[0]["input_ids"][:1]
    with torch.inference_mode():
        exact = model(ids).logits
        with torch.autocast("cpu", dtype):
            rounded = model(ids).logits
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)
