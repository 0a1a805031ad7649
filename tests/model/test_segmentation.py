"""Segments and intra positions against loops over single tokens, written from the definition in the paper."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipe_hf.model.segmentation_bipe import (
    PADDING_SEGMENT_ID,
    SegmentState,
    document_starts,
    initial_state,
    positions_in_document,
    segment_tokens,
)


# One letter a token: "w" a word, "." a separator, "W" and "!" the same as first of a packed document, "_" padding.
# Left, right and interleaved padding, separators at the ends and in runs all come up.
LETTERS = "w.W!_"
SEPARATORS = ".!"
DOCUMENT_STARTS = "W!"
property_test = settings(max_examples=200, deadline=None)


def batches(alphabet=LETTERS, max_length=14):
    """Lists of equally long rows of letters."""
    return st.integers(1, max_length).flatmap(
        lambda length: st.lists(st.text(alphabet, min_size=length, max_size=length), min_size=1, max_size=3)
    )


@st.composite
def batches_with_given_ids(draw):
    """A batch and segment ids that anyone might give: not in order, -1 at padding and at some tokens besides."""
    rows = draw(batches())
    ids = st.sampled_from([-1, 0, 0, 1, 1, 2, 7])
    given_ids = [[-1 if letter == "_" and draw(st.booleans()) else draw(ids) for letter in row] for row in rows]
    return rows, given_ids


@st.composite
def cuts(draw, strategy):
    """A batch and the columns at which to cut it, doubled ones left out."""
    batch = draw(strategy)
    rows = batch[0] if isinstance(batch, tuple) else batch
    columns = draw(st.sets(st.integers(1, max(1, len(rows[0]) - 1))))
    return batch, [0, *sorted(column for column in columns if column < len(rows[0])), len(rows[0])]


def marks(rows, letters):
    return torch.tensor([[letter in letters for letter in row] for row in rows])


def arguments(rows, given_ids=None):
    """What `segment_tokens` is called with for rows of letters."""
    starts_document = marks(rows, DOCUMENT_STARTS)
    if given_ids is not None:
        given_ids = torch.tensor(given_ids)
        starts_document &= given_ids >= 0  # a document starts with a token, not with padding
    return {
        "ends_segment": marks(rows, SEPARATORS + "_"),  # a padding token may well be a separator
        "is_token": marks(rows, "w.W!"),
        "starts_document": starts_document,
        "segment_ids": given_ids,
    }


def columns_of(named, start, stop):
    return {name: None if values is None else values[:, start:stop] for name, values in named.items()}


def last_of(state):
    return SegmentState.from_columns([column[:, -1:] for column in state.columns()])


def naive_row(row, given_ids=None):
    """Segment ids, intra positions and token positions of one row, by the definition and one token at a time."""
    segment_ids, intra_positions, token_positions = [PADDING_SEGMENT_ID] * len(row), [0] * len(row), [0] * len(row)
    documents = [[]]
    for column, letter in enumerate(row):
        if letter == "_" or (given_ids is not None and given_ids[column] < 0):
            continue
        if letter in DOCUMENT_STARTS:
            documents.append([])
        documents[-1].append(column)
    for document in documents:
        for t, column in enumerate(document):
            token_positions[column] = t
            if given_ids is None:
                ends = [u for u in range(t) if row[document[u]] in SEPARATORS]
                segment_ids[column] = len(ends)
                intra_positions[column] = t - 1 - max(ends) if ends else t
            else:
                segment_ids[column] = given_ids[column]
                same = 0
                while same < t and given_ids[document[t - same - 1]] == given_ids[column]:
                    same += 1
                intra_positions[column] = same
    return segment_ids, intra_positions, token_positions


def naive(rows, given_ids=None):
    results = [naive_row(row, None if given_ids is None else given_ids[i]) for i, row in enumerate(rows)]
    return [torch.tensor(entries) for entries in zip(*results, strict=True)]


def assert_segments(segments, expected_segment_ids, expected_intra_positions, expected_token_positions=None):
    assert segments.segment_ids.tolist() == expected_segment_ids.tolist()
    assert segments.intra_positions.tolist() == expected_intra_positions.tolist()
    if expected_token_positions is not None:
        assert segments.token_positions.tolist() == expected_token_positions.tolist()


@pytest.mark.parametrize(
    ("row", "segment_ids", "intra_positions"),
    [
        ("www", [0, 0, 0], [0, 1, 2]),
        ("w.w", [0, 0, 1], [0, 1, 0]),
        ("ww.", [0, 0, 0], [0, 1, 2]),
        (".ww", [0, 1, 1], [0, 0, 1]),
        ("..w.", [0, 1, 2, 2], [0, 0, 0, 1]),
        ("ww.w.www", [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 0, 1, 2]),
        ("__w.w", [-1, -1, 0, 0, 1], [0, 0, 0, 1, 0]),
        ("w.w__", [0, 0, 1, -1, -1], [0, 1, 0, 0, 0]),
        ("w_._w", [0, -1, 0, -1, 1], [0, 0, 1, 0, 0]),
        ("____", [-1, -1, -1, -1], [0, 0, 0, 0]),
        ("w.wWw.w", [0, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 2, 0]),
        ("w.!w", [0, 0, 0, 1], [0, 1, 0, 0]),
        ("w!!w", [0, 0, 0, 1], [0, 0, 0, 0]),
        ("w._W.w_", [0, 0, -1, 0, 0, 1, -1], [0, 1, 0, 0, 1, 0, 0]),
    ],
)
def test_segments_counted_by_hand(row, segment_ids, intra_positions):
    segments = segment_tokens(**arguments([row]))
    assert_segments(segments, torch.tensor([segment_ids]), torch.tensor([intra_positions]))


@property_test
@given(batches())
def test_segments_follow_the_definition(rows):
    assert_segments(segment_tokens(**arguments(rows)), *naive(rows))


@property_test
@given(batches("w."))
def test_without_masks_every_token_counts(rows):
    assert_segments(segment_tokens(marks(rows, SEPARATORS)), *naive(rows))


@property_test
@given(batches_with_given_ids())
def test_given_segment_ids_override_separators(batch):
    assert_segments(segment_tokens(**arguments(*batch)), *naive(*batch))


@property_test
@given(batches_with_given_ids())
def test_negative_given_ids_are_padding_without_a_mask(batch):
    rows, given_ids = batch
    rows = [row.replace("_", "w") for row in rows]
    named = arguments(rows, given_ids)
    assert_segments(segment_tokens(**{**named, "is_token": None}), *naive(rows, given_ids))


@property_test
@given(batches())
def test_given_ids_equal_to_the_derived_ones_change_nothing(rows):
    derived = segment_tokens(**arguments(rows))
    repeated = segment_tokens(**arguments(rows, derived.segment_ids.tolist()))
    assert_segments(repeated, derived.segment_ids, derived.intra_positions)
    assert all(map(torch.equal, repeated.state.columns(), derived.state.columns()))


def assert_chunks_equal_the_whole(named, columns):
    whole = segment_tokens(**named)
    state, chunks = None, []
    for start, stop in pairwise(columns):
        chunk = segment_tokens(**columns_of(named, start, stop), past=state)
        for chunk_entry, whole_entry in zip(chunk.state.columns(), whole.state.columns(), strict=True):
            assert torch.equal(chunk_entry, whole_entry[:, start:stop])
        state = last_of(chunk.state)
        chunks.append(chunk)
    assert_segments(
        whole,
        torch.cat([chunk.segment_ids for chunk in chunks], dim=1),
        torch.cat([chunk.intra_positions for chunk in chunks], dim=1),
    )


@property_test
@given(cuts(batches()))
def test_chunks_continue_from_the_state_before_them(cut):
    rows, columns = cut
    assert_chunks_equal_the_whole(arguments(rows), columns)


@property_test
@given(cuts(batches_with_given_ids()))
def test_chunks_of_given_ids_continue_from_the_state_before_them(cut):
    batch, columns = cut
    assert_chunks_equal_the_whole(arguments(*batch), columns)


@property_test
@given(cuts(batches_with_given_ids()))
def test_derived_segments_go_on_from_given_ones(cut):
    """The prompt's ids are given, what comes after is counted on from there, here by hand from the last one given."""
    (rows, given_ids), columns = cut
    rows = [row.replace("W", "w").replace("!", ".") for row in rows]
    split = columns[1]
    named = arguments(rows, given_ids)
    before = segment_tokens(**columns_of(named, 0, split))
    rest = {**columns_of(named, split, len(rows[0])), "segment_ids": None}
    after = segment_tokens(**rest, past=last_of(before.state))
    for i, row in enumerate(rows):
        known = [column for column in range(split) if row[column] != "_" and given_ids[i][column] >= 0]
        segment = -1 if not known else given_ids[i][known[-1]]
        ended = not known or row[known[-1]] in SEPARATORS
        for column in range(split, len(row)):
            if row[column] == "_":
                assert after.segment_ids[i, column - split] == PADDING_SEGMENT_ID
                continue
            segment += ended
            ended = row[column] in SEPARATORS
            assert after.segment_ids[i, column - split] == segment


@property_test
@given(batches("w.W!"), st.data())
def test_padding_moves_no_other_token(rows, data):
    alone = segment_tokens(**arguments(rows))
    order = data.draw(st.lists(st.booleans(), min_size=len(rows[0]), max_size=len(rows[0]) + 8))
    columns = [column for column, is_padding in enumerate(order) if not is_padding][: len(rows[0])]
    kept = len(columns)
    padded_rows = ["".join(row[columns.index(c)] if c in columns else "_" for c in range(len(order))) for row in rows]
    padded = segment_tokens(**arguments(padded_rows))
    assert torch.equal(padded.segment_ids[:, columns], alone.segment_ids[:, :kept])
    assert torch.equal(padded.intra_positions[:, columns], alone.intra_positions[:, :kept])


@pytest.mark.parametrize("given_ids", [None, [[-1, -1, -1], [-1, -1, -1]]])
def test_a_chunk_of_padding_leaves_the_state_as_it_was(given_ids):
    rows = ["w.w", "ww."]
    before = last_of(segment_tokens(**arguments(rows)).state)
    after = segment_tokens(**arguments(["___", "___"], given_ids), past=before).state
    both = zip(after.columns(), before.columns(), strict=True)
    assert all(torch.equal(new, old.expand(-1, 3)) for new, old in both)
    start = segment_tokens(**arguments(["___", "___"], given_ids)).state
    both = zip(start.columns(), initial_state(2).columns(), strict=True)
    assert all(torch.equal(new, old.expand(-1, 3)) for new, old in both)


def test_results_are_long_whatever_integer_type_the_given_ids_have():
    segments = segment_tokens(
        torch.tensor([[False, True, False]]), segment_ids=torch.tensor([[0, 0, -1]], dtype=torch.int32)
    )
    assert {entry.dtype for entry in (segments.segment_ids, segments.intra_positions, *segments.state.columns())} == {
        torch.long
    }


# Documents


@st.composite
def packed_rows(draw):
    """Rows of letters and their `position_ids`: counted from any first value in each document, anything at padding."""
    rows, all_positions = draw(batches("wW_")), []
    for row in rows:
        positions, position = [], draw(st.integers(0, 5)) - 1
        for letter in row:
            if letter == "_":
                positions.append(draw(st.integers(0, 9)))
                continue
            position = draw(st.integers(0, max(position, 0))) if letter == "W" else position + 1
            positions.append(position)
        all_positions.append(positions)
    return rows, all_positions


@property_test
@given(packed_rows())
def test_a_document_starts_where_positions_do_not_go_up(packed):
    rows, positions = packed
    starts = document_starts(torch.tensor(positions), marks(rows, "wW"))
    for i, row in enumerate(rows):
        tokens = [column for column, letter in enumerate(row) if letter != "_"]
        expected = {column for column in tokens[1:] if row[column] == "W"}
        assert {column for column in range(len(row)) if starts[i, column]} == expected


def test_document_starts_without_a_mask():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [5, 6, 8, 8, 9, 3]])
    expected = [[False, False, False, True, False, True], [False, False, False, True, False, True]]
    assert document_starts(positions).tolist() == expected


@property_test
@given(batches("wW_"))
def test_positions_restart_with_each_document_and_each_run_of_padding(rows):
    positions = positions_in_document(marks(rows, "W"), marks(rows, "wW"))
    for i, row in enumerate(rows):
        expected, position = [], -1
        for column, letter in enumerate(row):
            restarts = letter == "W" or (column > 0 and (letter == "_") != (row[column - 1] == "_"))
            position = 0 if restarts else position + 1
            expected.append(position)
        assert positions[i].tolist() == expected


def test_positions_in_document_without_a_mask():
    assert positions_in_document(marks(["wwWwWW"], "W")).tolist() == [[0, 1, 0, 1, 0, 0]]
