"""What stock models take gives the same logits here, or one line that says why not; afterwards the model is as before.

The oracle is the stock model: with every token a segment and no intra encoding, BiPE-RoPE is its RoPE.
"""

import pytest
import torch
from families import FAMILIES
from tiny import TINY
from transformers import StaticCache


SHAPE = {name: TINY[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
SHAPE |= {"num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
IDS = torch.randint(1, 60, (2, 8), generator=torch.Generator().manual_seed(1))
ONES, COLUMN = torch.ones(2, 8, dtype=torch.long), torch.arange(8)[None]
LEFT = ONES.clone()
LEFT[1, :3] = 0
CAUSAL = torch.ones(8, 8).tril().bool()[None, None]
ADDED = torch.zeros(1, 1, 8, 8).masked_fill(~CAUSAL, torch.finfo(torch.float32).min)
TO_COME = torch.ones(2, 4, dtype=torch.long)
SAME = {
    "left_padding": {"attention_mask": LEFT},
    "spare_columns_of_ones": {"attention_mask": torch.cat([LEFT, TO_COME], dim=1)},
    "spare_columns_of_zeros": {"attention_mask": torch.cat([LEFT, 0 * TO_COME], dim=1)},
    "boolean": {"attention_mask": LEFT.bool()},
    "float": {"attention_mask": LEFT.float()},
    "4d_boolean": {"attention_mask": CAUSAL & LEFT[:, None, None].bool()},
    "4d_added": {"attention_mask": ADDED.expand(2, -1, -1, -1)},
    "4d_of_one_row": {"attention_mask": ADDED},
    "positions_of_one_row": {"position_ids": COLUMN},
    "positions_of_all_rows": {"position_ids": COLUMN.expand(2, -1)},
    "positions_int32": {"position_ids": COLUMN.int()},
    "positions_float": {"position_ids": COLUMN.float()},
    "positions_from_7_on": {"position_ids": COLUMN + 7},
    "positions_beside_padding": {"attention_mask": LEFT, "position_ids": (LEFT.cumsum(1) - 1).clamp(min=0)},
    "no_cache": {"use_cache": False},
    "hidden_states": {"output_hidden_states": True},
}
REFUSED = {
    "attention_mask must cover all 8 tokens": {"attention_mask": ONES[:, :5]},
    "attention_mask must have a row for each of 2 sequences, got 1": {"attention_mask": LEFT[1:]},
    r"position_ids must have the shape \(2, 8\) or \(1, 8\), got \(1, 5\)": {"position_ids": COLUMN[:, :5]},
    r"position_ids must have the shape .* got \(3, 8\)": {"position_ids": COLUMN.expand(3, -1)},
    r"position_ids must have the shape .* got \(3, 2, 8\)": {"position_ids": COLUMN.expand(3, 2, -1)},
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request):
    """A stock model and ours with the same weights."""
    family = FAMILIES[request.param]
    torch.manual_seed(0)
    stock = family.make_stock_causal_lm(**SHAPE, initializer_range=0.3).eval()
    ours = family.make_causal_lm(**SHAPE, segmentation="tokens", intra_encoding="none").eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SAME)
def test_logits_are_those_of_the_stock_model(pair, name, attention):
    for model in pair:
        model.set_attn_implementation(attention)
    stock, ours = pair
    is_token = (LEFT if "4d_boolean" in name or "attention_mask" in SAME[name] else ONES).bool()
    expected, logits = (model(IDS, **SAME[name]).logits for model in (stock, ours))
    torch.testing.assert_close(logits[is_token], expected[is_token], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(IDS).logits, stock(IDS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_mask_with_columns_to_spare_goes_on_in_cached_steps(pair, cache):
    spare = torch.cat([LEFT, TO_COME], dim=1)
    for model in pair:
        model.set_attn_implementation("sdpa")
    logits = []
    for model in pair:
        kept = StaticCache(model.config, max_cache_len=12) if cache == "static" else None
        first = model(IDS[:, :6], attention_mask=spare, past_key_values=kept, use_cache=True)
        logits.append(model(IDS[:, 6:], attention_mask=spare, past_key_values=first.past_key_values).logits)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("spare", [TO_COME, 0 * TO_COME])
def test_generation_passes_over_columns_to_spare(pair, spare):
    stock, ours = pair
    how = {"max_new_tokens": 6, "do_sample": False}
    expected = stock.generate(IDS, attention_mask=LEFT, **how).tolist()
    assert ours.generate(IDS, attention_mask=torch.cat([LEFT, spare], dim=1), **how).tolist() == expected


@pytest.mark.parametrize("message", REFUSED)
def test_inputs_of_the_wrong_length_are_refused(pair, message):
    stock, ours = pair
    with pytest.raises(ValueError, match=message):
        ours(IDS, **REFUSED[message])
    torch.testing.assert_close(ours(IDS).logits, stock(IDS).logits, atol=1e-5, rtol=0)


def test_a_mask_that_is_shorter_than_the_prompt_is_refused(pair):
    with pytest.raises(ValueError, match="attention_mask must cover all 8 tokens of the prompt, .* got 5"):
        pair[1].generate(IDS, attention_mask=ONES[:, :5])


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_of_any_encoding_need_what_tokens_would_say(family):
    model = FAMILIES[family].make_causal_lm(**TINY).eval()
    embeddings = model.get_input_embeddings()(IDS)
    with pytest.raises(ValueError, match="inputs_embeds was given without segment_ids"):
        model(inputs_embeds=embeddings)
    segment_ids = model.get_decoder().segment(IDS).ids()
    assert torch.equal(model(inputs_embeds=embeddings, segment_ids=segment_ids).logits, model(IDS).logits)
