"""Special cases that must equal the stock model of the family, and the encodings that make the baselines."""

import pytest
import torch
from families import FAMILIES
from same_step import SHAPE, assert_same_step, batch

from bipe_hf.model.compatibility_bipe import CACHE_NAME


PLAIN_ROPE = {"inter_encoding": "rope", "intra_encoding": "none", "segmentation": "tokens"}
ROPE_TYPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def pair(family, attention="sdpa", dtype=torch.float32, **fields):
    """A stock model and a BiPE model of the same shape with the same weights."""
    torch.manual_seed(0)
    fields = {**SHAPE, "attn_implementation": attention, **fields}
    stock = FAMILIES[family].make_stock_causal_lm(**fields).to(dtype)
    ours = FAMILIES[family].make_causal_lm(**fields, **PLAIN_ROPE).to(dtype)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rope_type", ROPE_TYPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_with_rope_equal_the_stock_model_exactly(family, attention, rope_type):
    assert_same_step(*pair(family, attention, rope_parameters=dict(ROPE_TYPES[rope_type])))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "fields",
    [
        {"rotary_pct": 0.5},
        {"rotary_pct": 1.0},
        {"use_parallel_residual": False},
        {"attention_bias": False},
        {"hidden_dropout": 0.3, "attention_dropout": 0.2},
    ],
    ids=str,
)
def test_tokens_with_rope_equal_every_kind_of_gpt_neox(fields, attention):
    """Dropout included: it falls on the same numbers where the random numbers are drawn in the same order."""
    stock, ours = pair("gpt_neox", attention, **fields)
    assert_same_step(stock.train(), ours.train())


LABELS = {
    "ForSequenceClassification": {"labels": torch.tensor([0, 2, 1])},
    "ForTokenClassification": {"labels": batch() % 3},
    "ForQuestionAnswering": {"start_positions": torch.tensor([0, 3, 9]), "end_positions": torch.tensor([4, 3, 40])},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", LABELS)
def test_heads_equal_those_of_the_stock_model(family, head):
    torch.manual_seed(0)
    fields = {**SHAPE, **FAMILIES[family].own_fields, "num_labels": 3, "pad_token_id": 0}
    stock = FAMILIES[family].stock_head(head)(FAMILIES[family].stock_config(**fields)).eval()
    ours = FAMILIES[family].head(head)(FAMILIES[family].config(**fields, **PLAIN_ROPE)).eval()
    # The question answering Llama of transformers alone has another name for the base model.
    ours.load_state_dict({name.replace("transformer.", "model."): value for name, value in stock.state_dict().items()})
    expected, actual = stock(batch(), **LABELS[head]), ours(batch(), **LABELS[head])
    for key in expected.keys() - {CACHE_NAME}:
        assert torch.equal(actual[key], expected[key]), key


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_with_rope_equal_the_stock_model_on_flex_attention(family, uncompiled_flex_attention):
    stock, ours = pair(family, "flex_attention", num_attention_heads=4)
    ids = batch(16, 1)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(ids).logits, stock.eval()(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_with_rope_equal_the_stock_model_under_padding(family, side):
    stock, ours = pair(family)
    ids = batch()
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    if side == "right":
        mask = mask.flip(1)
    # A stock model counts padding in its positions unless told otherwise; relative positions are the same either way.
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    expected = stock(ids, attention_mask=mask, position_ids=position_ids).logits
    actual = ours(ids, attention_mask=mask).logits
    assert torch.equal(actual[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_with_rope_equal_the_stock_model_on_packed_documents(family, attention):
    """On `sdpa` the stock model has a mask where ours attends to each document by itself, without one."""
    stock, ours = pair(family, attention, dtype=torch.float32 if attention == "eager" else torch.float64)
    stock.config.use_cache = False  # a stock model looks for documents only where it makes no cache
    ids = batch(12)
    position_ids = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 1]).expand(3, -1)
    actual, expected = (model(ids, position_ids=position_ids).logits for model in (ours, stock))
    if attention == "eager":
        assert torch.equal(actual, expected)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": False},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": True, "top_k": 5},
        {"do_sample": False, "prompt_lookup_num_tokens": 2},
    ],
    ids=["greedy", "uncached", "beams", "sampling", "prompt lookup"],
)
def test_tokens_with_rope_generate_what_the_stock_model_generates(family, arguments):
    stock, ours = pair(family)
    ids = batch(9, 1)
    outputs = []
    for model in (stock, ours):
        torch.manual_seed(5)
        outputs.append(model.eval().generate(ids, max_new_tokens=20, pad_token_id=0, eos_token_id=None, **arguments))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_embeddings_and_bfloat16_equal_the_stock_model(family):
    stock, ours = pair(family, dtype=torch.bfloat16, tie_word_embeddings=True)
    assert ours.lm_head.weight is ours.get_input_embeddings().weight
    ids = batch()
    assert torch.equal(ours(ids).logits, stock(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_keeps_loss_and_gradients(family):
    for inter_encoding in ("rope", "alibi"):
        torch.manual_seed(0)
        fields = {**SHAPE, "inter_encoding": inter_encoding, "separator_token_ids": [3, 4, 5]}
        model = FAMILIES[family].make_causal_lm(**fields).train()
        ids = batch()
        plain = model(ids, labels=ids, use_cache=False).loss
        plain.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        model.gradient_checkpointing_enable()
        checkpointed = model(ids, labels=ids, use_cache=False).loss
        checkpointed.backward()
        assert torch.equal(checkpointed, plain)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_nope_sees_no_order_beyond_causality(family):
    """The last token of a NoPE model of one layer may not tell its past apart from a shuffled past."""
    nope = {"inter_encoding": "none", "intra_encoding": "none", "segmentation": "document"}
    model = FAMILIES[family].make_causal_lm(**{**SHAPE, "num_hidden_layers": 1}, **nope).eval()
    ids = batch(10, 1)
    shuffled = torch.cat([ids[:, torch.tensor([4, 2, 8, 0, 6, 1, 7, 3, 5])], ids[:, -1:]], dim=1)
    torch.testing.assert_close(model(shuffled).logits[:, -1], model(ids).logits[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("intra_encoding", ["learned", "sinusoidal"])
def test_document_segmentation_is_a_plain_absolute_encoding(family, intra_encoding):
    absolute = {"inter_encoding": "none", "segmentation": "document", "max_segment_length": 16}
    fields = {**SHAPE, **absolute, "intra_encoding": intra_encoding, "separator_token_ids": [3]}
    model = FAMILIES[family].make_causal_lm(**fields).eval()
    ids = batch(24, 2)
    positions = torch.arange(24).clamp(max=15)  # later ones share the last row
    if intra_encoding == "learned":
        table = model.base_model.intra_encoding.weight
    else:
        rates = 10000.0 ** (-torch.arange(0, 96, 2, dtype=torch.float64) / 96)
        angles = torch.arange(16, dtype=torch.float64)[:, None] * rates
        table = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    expected = model.get_input_embeddings()(ids) + table[positions]
    hidden_states = model.base_model(ids, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(hidden_states, expected)


def test_odd_hidden_sizes_get_a_sinusoidal_encoding():
    model = FAMILIES["llama"].make_causal_lm(
        vocab_size=11,
        hidden_size=9,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=3,
        inter_encoding="none",
        intra_encoding="sinusoidal",
        segmentation="document",
    )
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
