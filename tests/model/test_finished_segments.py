"""A forward of finished segments, as a server makes it, against each of its texts by itself."""

import pytest
import torch
from families import FAMILIES, all_key_heads
from paged import HOLDS
from tiny import LEVELS, TINY

from bipe_hf.model.inter_bipe import INTER_ENCODINGS
from bipe_hf.model.paged_bipe import check_paged, head_columns
from bipe_hf.model.segmentation_bipe import SegmentState, initial_state


OTHERS = {
    "kerple": "bias for each pair",
    "t5": "bias for each pair",
    "fire": "bias for each pair",
    "hirope": "changes finished logits",
    "dca": "changes finished logits",
    "cable_kernel": "changes finished logits",
    "path": "changes finished logits",
    "cope": "changes finished logits",
    "dape": "changes finished logits",
    "dape_v2": "changes finished logits",
    "fox": "state in every layer",
    "fox_pro": "state in every layer",
    "cable": "state in every layer",
    "selective_rope": "state in every layer",
    "tape": "state in every layer",
}


def test_every_encoding_is_held_or_refused():
    assert {fields["inter_encoding"] for fields in HOLDS.values()} | set(OTHERS) == set(INTER_ENCODINGS)


@pytest.fixture(params=HOLDS)
def held(request, family, tiny_model):
    return tiny_model(family, **HOLDS[request.param])


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 60, (1, length), generator=generator) for length in (17, 1, 30)]


def flat(texts, model):
    """The texts behind one another, with their segments and a mask that keeps each to itself."""
    ids = torch.cat(texts, dim=1)
    number = torch.cat([torch.full_like(text, at) for at, text in enumerate(texts)], dim=1)
    starts = torch.cat([torch.arange(text.shape[1])[None] == 0 for text in texts], dim=1)
    before = initial_state(1, num_inner_levels=len(model.config.inner_separator_token_ids)).columns()
    past = SegmentState.from_columns([column.expand_as(ids) for column in before])
    segments = model.base_model.segmenter.flat(ids, starts, past)
    sees = (number[0, :, None] == number[0]).tril()[None, None]
    return ids, segments, torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@torch.no_grad()
def test_a_flat_batch_has_the_logits_of_each_text_by_itself(held, backend, texts):
    ids, segments, mask = flat(texts, held)
    held.set_attn_implementation(backend)
    logits = held(ids, attention_mask=mask, segments=segments, use_cache=False).logits
    held.set_attn_implementation("sdpa")
    alone = torch.cat([held(text).logits for text in texts], dim=1)
    assert torch.allclose(logits, alone, atol=2e-5)


@torch.no_grad()
def test_segments_of_another_text_change_the_logits(held, texts):
    ids, segments, mask = flat(texts, held)
    shifted = segments._replace(
        segment_ids=torch.zeros_like(segments.segment_ids),
        intra_positions=torch.zeros_like(segments.intra_positions),
        token_positions=torch.zeros_like(segments.token_positions),
        inner_indices=tuple(torch.zeros_like(index) for index in segments.inner_indices),
    )
    right, wrong = (held(ids, attention_mask=mask, segments=each).logits for each in (segments, shifted))
    assert (right - wrong).abs().max() > 1e-2


@torch.no_grad()
def test_nothing_is_kept_in_a_cache(held, texts):
    ids, segments, mask = flat(texts, held)
    output = held(ids, attention_mask=mask, segments=segments, use_cache=True)
    assert output.past_key_values is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_keys_are_as_much_wider_as_the_configuration_says(held, dtype, texts):
    if held.config.inter_encoding == "xpos" and dtype == torch.float16:
        return  # which the encoding refuses
    model = type(held)(held.config).to(dtype).eval()
    key = model(texts[0], use_cache=True).past_key_values.layers[0].keys
    head_dim = model.config.hidden_size // model.config.num_attention_heads
    assert key.shape[-1] == head_dim + head_columns(model.config, head_dim, dtype)


@pytest.mark.parametrize("encoding", OTHERS)
def test_what_no_paged_cache_holds_is_refused(encoding, family, tiny_model, texts):
    needed = {"hirope": {"hybrid_max_period": 20.0}, "dca": {"dca_train_length": 4}}.get(encoding, {})
    model = tiny_model(family, inter_encoding=encoding, **all_key_heads(family), **needed)
    ids, segments, mask = flat(texts, model)
    for refused in (
        lambda: model(ids, attention_mask=mask, segments=segments),
        lambda: check_paged(model.config, "generate_batch"),
    ):
        with pytest.raises(ValueError, match=f"inter_encoding='{encoding}' .*{OTHERS[encoding]}.*padded batch"):
            refused()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sepllm_neighbors": 4}, "the mask of sepllm_neighbors"),
        ({"layer_encodings": ["inter", "rope"]}, "layers of several kinds"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "rope_type='dynamic' would turn the keys of a request by how long others are",
        ),
        (
            {
                "hidden_size": 64,  # 16 numbers a head, of which GPT-NeoX turns four
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 64,
                    "short_factor": [1.0] * 2,
                    "long_factor": [2.0] * 2,
                    "partial_rotary_factor": 0.25,
                },
            },
            "rope_type='longrope' would turn the keys of a request by how long others are",
        ),
    ],
)
def test_masks_patterns_and_scalings_of_the_batch_are_refused(fields, message, family):
    with pytest.raises(ValueError, match=f"serve: .*{message}"):
        check_paged(FAMILIES[family].make_config(**TINY | fields), "serve")


def test_segments_that_do_not_fit_are_refused(family, tiny_model, texts):
    model, levels = tiny_model(family), tiny_model(family, **LEVELS)
    ids, segments, _ = flat(texts, model)
    with pytest.raises(ValueError, match=r"segments must be of shape \(1, 17\) with 0 inner levels, got \(1, 48\)"):
        model(ids[:, :17], segments=segments)
    with pytest.raises(ValueError, match=r"shape \(1, 48\) with 2 inner levels, got \(1, 48\) with 0"):
        levels(ids, segments=segments)
    with pytest.raises(ValueError, match="segments and segment_ids were given"):
        model(ids, segments=segments, segment_ids=segments.segment_ids)
