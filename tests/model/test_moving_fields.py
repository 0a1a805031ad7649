"""Fields that move while a model is in use: it then is the model that is built with them."""

import pytest
import torch
from families import FAMILIES
from transformers import AutoModelForCausalLM


SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "separator_token_ids": list(range(0, 60, 7)),
    "intra_encoding": "none",
}
HYBRID = {"inter_encoding": "hybrid", "hybrid_max_period": 20.0, "hybrid_slow_pairs": "segments"}
ROPE = {"inter_encoding": "rope"}
IDS = torch.randint(0, 60, (2, 40), generator=torch.Generator().manual_seed(1))

every_family = pytest.mark.parametrize("family", FAMILIES)


def build(family, **fields):
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**SHAPE, **fields).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("fields", "moved"),
    [
        ({**ROPE, "token_share": 1.0}, {"token_share": 0.25}),
        ({**ROPE, "token_share": 1.0}, {"token_share": 0.0}),
        ({**HYBRID, "hybrid_alibi_scale": 1e-5, "token_share": 1.0}, {"token_share": 0.5, "hybrid_alibi_scale": 2.0}),
        ({**HYBRID, "hybrid_alibi_scale": 0.0, "token_share": 0.5}, {"token_share": 0.0}),
    ],
    ids=str,
)
@every_family
def test_a_moved_model_is_the_one_that_is_built_so(family, fields, moved, tmp_path):
    model, expected = build(family, **fields), logits(build(family, **fields | moved))
    assert not torch.equal(logits(model), expected)
    model.base_model.move_fields(**moved)
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {name: getattr(saved.config, name) for name in moved} == moved
    assert torch.equal(logits(saved), expected)


@every_family
def test_with_all_of_the_tokens_it_is_the_stock_model(family):
    """Cached steps and left padding included."""
    stock = (
        FAMILIES[family]
        .make_stock_causal_lm(
            **{name: value for name, value in SHAPE.items() if name not in ("separator_token_ids", "intra_encoding")}
        )
        .eval()
    )
    model = build(family, token_share=1.0)
    model.load_state_dict(stock.state_dict())
    assert torch.equal(logits(model), logits(stock))
    mask = torch.ones_like(IDS)
    mask[0, :9] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=12, min_new_tokens=12),
        stock.generate(**inputs, max_new_tokens=12, min_new_tokens=12),
    )


@pytest.mark.parametrize(
    ("fields", "moved", "message"),
    [
        ({"inter_encoding": "alibi"}, {"token_share": 0.5}, "token_share: it cannot move in this model, no field can"),
        (
            {**HYBRID, "hybrid_alibi_scale": 0.0},
            {"hybrid_alibi_scale": 1.0},
            "hybrid_alibi_scale: it cannot move in this model, only token_share can",
        ),
        ({**HYBRID}, {"hybrid_alibi_scale": 0}, "hybrid_alibi_scale: it cannot move to 0"),
        ({**HYBRID, "hybrid_slow_pairs": "none"}, {"token_share": 0.5}, "only hybrid_alibi_scale can"),
        ({**ROPE}, {"token_share": 2.0}, "token_share must lie between 0 and 1, got 2.0"),
        ({**ROPE}, {"max_segment_length": 4}, "max_segment_length: it cannot move"),
    ],
    ids=str,
)
def test_what_cannot_move_is_refused_and_leaves_the_model_as_it_was(fields, moved, message):
    model = build("llama", **fields)
    before, config = logits(model), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        model.base_model.move_fields(**moved)
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == config
