"""Given segment ids number the segments of a model, and can change nothing else.

Truths: loops over single tokens, and the same model with `input_ids` alone.
"""

from itertools import pairwise

import pytest
import torch
from families import FAMILIES, all_key_heads
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import READS_A_VALUE, Operations
from tiny import LEVELS, TINY
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
from word_tokenizer import EOS, make_word_tokenizer, random_words

from bipe_hf import BipeTokenizer
from bipe_hf.model.configuration_bipe import INTER_ENCODINGS
from bipe_hf.model.segmentation_bipe import Segmenter, SegmentInputs


SEPARATOR, INNER, WORD, PADDING = 1, 2, 3, 0
property_test = settings(max_examples=200, deadline=None)


class Fields:
    """Of a configuration with segments and one level inside them."""

    segmentation = "separators"
    separator_token_ids = [SEPARATOR]
    fixed_segment_length = None
    inner_separator_token_ids = [[INNER]]


@st.composite
def rows_and_ids(draw):
    """A row of tokens, where documents start in it, and ids for both levels: found, renumbered, or made up."""
    length = draw(st.integers(1, 12))
    row = draw(st.lists(st.sampled_from([WORD, WORD, SEPARATOR, INNER, PADDING]), min_size=length, max_size=length))
    starts = [column > 0 and row[column] != PADDING and draw(st.integers(0, 5)) == 0 for column in range(length)]
    ids = naive_row(row, starts)
    kind = draw(st.sampled_from(["found", "renumbered", "one_changed", "made_up"]))
    if kind == "renumbered":
        steps = draw(st.lists(st.integers(1, 4), min_size=length + 1, max_size=length + 1))
        first = draw(st.sampled_from([0, 0, 0, 2]))
        ids = [[first + sum(steps[:segment]), inner] if segment >= 0 else [-1, -1] for segment, inner in ids]
    tokens = [column for column in range(length) if row[column] != PADDING]
    if kind == "one_changed" and tokens:
        ids[draw(st.sampled_from(tokens))][draw(st.integers(0, 1))] += 1
    if kind == "made_up":
        ids = [[-1, -1] if token == PADDING else [draw(st.integers(0, 3)), draw(st.integers(0, 2))] for token in row]
    return row, starts, ids


def naive_row(row, starts):
    """Segment and unit inside it of each token, by the definition; -1 at padding."""
    found, segment, unit, before = [], 0, 0, None
    for token, starts_document in zip(row, starts, strict=True):
        if token == PADDING:
            found.append([-1, -1])
            continue
        if before == SEPARATOR:
            segment, unit = segment + 1, 0
        elif before == INNER:
            unit += 1
        if starts_document:
            segment, unit = 0, 0
        found.append([segment, unit])
        before = token
    return found


def renumbers(ids, found, starts):
    """Whether ids tell the segments of a row apart that are there."""
    tokens = [column for column in range(len(ids)) if found[column][0] >= 0]
    if any(ids[column][0] != 0 for column in tokens if column == tokens[0] or starts[column]):
        return False
    for before, column in pairwise(tokens):
        step = ids[column][0] - ids[before][0]
        new_segment = found[column][0] != found[before][0]
        if not starts[column] and not (step > 0 if new_segment else step == 0):
            return False
    return all(ids[column][1] == found[column][1] for column in tokens)


def segment(row, starts, ids):
    """What the segmenter finds, and what it is called with."""
    tokens = torch.tensor([row])
    inputs = SegmentInputs(tokens, tokens != PADDING, torch.tensor([starts]) if any(starts) else None, ids)
    return Segmenter(Fields)(inputs), inputs


@property_test
@given(rows_and_ids())
def test_ids_hold_in_the_rows_whose_segments_they_tell_apart(case):
    row, starts, ids = case
    found = naive_row(row, starts)
    alone, _ = segment(row, starts, None)
    segments, _ = segment(row, starts, torch.tensor([ids]))
    assert alone.ids().tolist() == [found]
    assert segments.ids().tolist() == [ids if renumbers(ids, found, starts) else found]
    assert torch.equal(segments.intra_positions, alone.intra_positions)
    assert torch.equal(segments.token_positions, alone.token_positions)
    without_inner, _ = segment(row, starts, torch.tensor([ids])[..., 0])
    fits = renumbers([[each, inner] for (each, _), (_, inner) in zip(ids, found, strict=True)], found, starts)
    assert without_inner.segment_ids.tolist() == [[each[0] for each in (ids if fits else found)]]


@property_test
@given(rows_and_ids(), st.data())
def test_chunks_of_ids_that_hold_continue_from_the_state_before_them(case, data):
    row, starts, ids = case
    if any(starts) or not renumbers(ids, naive_row(row, starts), starts):
        return
    whole, inputs = segment(row, starts, torch.tensor([ids]))
    borders = sorted(data.draw(st.sets(st.integers(1, len(row)))) | {0, len(row)})
    past, found = None, []
    for begin, end in pairwise(borders):
        cut = SegmentInputs(*(None if each is None else each[:, begin:end] for each in inputs))
        chunk = Segmenter(Fields)(cut, past)
        past = chunk.state.last()
        found.append(chunk.ids())
    assert torch.equal(torch.cat(found, dim=1), whole.ids())


@property_test
@given(rows_and_ids())
def test_ids_of_embeddings_are_counted_on_where_they_go_down(case):
    """There they alone say what a segment is. One that follows a fall is a new one, whatever its number."""
    row, _, ids = case
    tokens = torch.tensor([row])
    segments = Segmenter(Fields)(SegmentInputs(None, tokens != PADDING, None, torch.tensor([ids])))
    columns = [column for column in range(len(row)) if row[column] != PADDING]
    goes_down = any(ids[b] < ids[a] for a, b in pairwise(columns))
    expected, segment = [list(each) for each in ids], -1
    for at, column in enumerate(columns):
        before = ids[columns[at - 1]] if at else [-1, -1]
        segment += ids[column][0] != before[0] or ids[column] < before
        if goes_down:
            expected[column][0] = segment
    assert segments.ids().tolist() == [expected]


# Models


def make_model(family, **fields):
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**{**TINY, **fields}).eval()


def joined_columns(tokenizer, length=24):
    """Blocks cut out of the joined columns of short texts: the recipe of most data sets for pretraining."""
    columns = tokenizer([random_words(at, seed=at) for at in range(5, 15)])
    joined = {name: torch.tensor([each for row in rows for each in row]) for name, rows in columns.items()}
    rows = len(joined["input_ids"]) // length
    return {name: each[: rows * length].unflatten(0, (rows, length)) for name, each in joined.items()}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("levels", [{}, LEVELS], ids=["", "levels"])
@pytest.mark.parametrize("inter_encoding", INTER_ENCODINGS)
@torch.no_grad()
def test_joined_columns_of_a_tokenizer_change_nothing(family, inter_encoding, levels):
    fields = {"hybrid_max_period": 16, "dca_train_length": 8, "log_scale_train_length": 9}
    if inter_encoding == "tape":
        fields |= all_key_heads(family)
    model = make_model(family, inter_encoding=inter_encoding, **fields, **levels)
    config = model.config
    tokenizer = BipeTokenizer.from_tokenizer(
        make_word_tokenizer(), levels=[config.separator_token_ids, *config.inner_separator_token_ids]
    )
    blocks = joined_columns(tokenizer)
    falls = blocks["segment_ids"].reshape(*blocks["input_ids"].shape, -1)[..., 0].diff(dim=1) < 0
    assert falls.any()
    later = {name: each[:, 9:] for name, each in blocks.items()}  # which start in the middle of a text
    for batch in (blocks, later):
        assert torch.equal(model(**batch).logits, model(batch["input_ids"]).logits)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"segmentation": "tokens"},
        {"segmentation": "document"},
        {"segmentation": "fixed", "fixed_segment_length": 5},
        {"separator_token_ids": []},
        LEVELS,
    ],
    ids=lambda fields: "_".join(map(str, fields.values()))[:12],
)
@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
@torch.no_grad()
def test_a_tokenizer_of_another_model_changes_nothing(family, inter_encoding, fields):
    model = make_model(family, inter_encoding=inter_encoding, **fields)
    texts = [random_words(20, seed=1), random_words(12, seed=2)]
    tokenizer = make_word_tokenizer()
    tokenizer.pad_token = "<end>"
    for levels in ([[2, 8, 30]], [[2, 8, 30], [4, 9]]):
        other = BipeTokenizer.from_tokenizer(tokenizer, levels=levels)
        batch = other(texts, padding=True, return_tensors="pt")
        if len(levels) > 1 and not model.config.inner_separator_token_ids:
            with pytest.raises(ValueError, match="segment_ids must have one id for each token"):
                model(**batch)
            continue
        if len(levels) > 1:
            batch["segment_ids"] = torch.cat([batch["segment_ids"], batch["segment_ids"][..., :1]], dim=-1)
        alone = {name: batch[name] for name in ("input_ids", "attention_mask")}
        assert torch.equal(model(**batch).logits, model(**alone).logits)


@torch.no_grad()
def test_columns_of_packed_documents_hold_where_position_ids_say_so(family):
    """Ids that fall back to 0 with a document are those of a text, and may have other numbers there."""
    model = make_model(family, inter_encoding="alibi")
    ids = torch.tensor([[5, 3, 9, 7, 4, 8, 5, 3, 9, 12]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]])
    found = torch.tensor([[0, 0, 1, 1, 2, 0, 0, 0, 1, 1]])
    alone = model(ids, position_ids=positions).logits
    assert torch.equal(model(ids, position_ids=positions, segment_ids=found).logits, alone)
    other = model(ids, position_ids=positions, segment_ids=3 * found).logits
    assert (other - alone).abs().max() > 1e-2
    one_document = model(ids, segment_ids=found).logits  # which then go down for no reason
    assert torch.equal(one_document, model(ids).logits)


def test_a_plain_trainer_on_joined_columns_learns_what_it_learns_without(family, tmp_path):
    tokenizer = make_word_tokenizer()
    tokenizer.pad_token = "<end>"
    blocks = {name: each.tolist() for name, each in joined_columns(tokenizer).items()}
    losses = []
    for names in (("input_ids",), tuple(blocks)):
        rows = [dict(zip(names, row, strict=True)) for row in zip(*(blocks[name] for name in names), strict=True)]
        trainer = Trainer(
            make_model(family, eos_token_id=EOS),
            TrainingArguments(tmp_path, max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, seed=1),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        losses.append(trainer.train().training_loss)
    assert losses[0] == losses[1]


@torch.no_grad()
def test_one_warning_and_from_then_on_no_value_is_read(family, caplog):
    """On an accelerator a read waits for all that was queued before."""
    model = make_model(family)
    ids = torch.tensor([[5, 3, 9, 7], [5, 4, 9, 8]])
    wrong = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
    for step in range(3):
        with Operations() as reads:
            model(ids, segment_ids=wrong, use_cache=False)
        assert (reads.counts[READS_A_VALUE] > 0) == (step == 0)
    assert [record.message for record in caplog.records] == [
        "segment_ids of 1 of 2 rows do not fit input_ids: there the segments are those that the model finds by its own"
        " separators. Leave segment_ids out of the batch; ids that tell other segments apart are taken with"
        " inputs_embeds alone."
    ]


@torch.no_grad()
def test_ids_that_fit_and_a_decoding_step_give_no_warning(family, caplog):
    model = make_model(family)
    ids = torch.tensor([[5, 3, 9, 7]])
    model.generate(ids, segment_ids=torch.tensor([[0, 0, 4, 4]]), max_new_tokens=4, do_sample=False)
    assert "segment_ids" not in caplog.text


@torch.no_grad()
def test_compiled_ids_are_treated_as_eager_ones(family):
    model = make_model(family)
    torch._dynamo.reset()
    compiled = torch.compile(model.__call__, fullgraph=True, backend="aot_eager")
    ids = torch.tensor([[5, 3, 9, 7, 4, 8]])
    for given_ids in ([[0, 0, 3, 3, 4, 4]], [[0, 1, 2, 0, 1, 2]]):
        given_ids = torch.tensor(given_ids)
        expected = model(ids, segment_ids=given_ids, use_cache=False).logits
        torch.testing.assert_close(compiled(ids, segment_ids=given_ids, use_cache=False).logits, expected)
