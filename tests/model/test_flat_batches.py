"""Segments of flat batches, as servers run them, against each text by itself."""

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipe_hf.model.segmentation_bipe import Segmenter, SegmentInputs, SegmentState, initial_state


# Ids: 1 ends a segment, 2 a unit of the first inner level, 3 of the second; 4 nothing.
IDS = st.integers(1, 4)
SEGMENTATIONS = [
    {"segmentation": "separators", "separator_token_ids": [1]},
    {"segmentation": "separators", "separator_token_ids": [1], "inner_separator_token_ids": [[2]]},
    {"segmentation": "separators", "separator_token_ids": [1], "inner_separator_token_ids": [[2], [3, 2]]},
    {"segmentation": "fixed", "fixed_segment_length": 3},
    {"segmentation": "tokens"},
    {"segmentation": "document", "inner_separator_token_ids": [[1], [2]]},
]


def segmenter(fields):
    defaults = {"separator_token_ids": [], "fixed_segment_length": None, "inner_separator_token_ids": []}
    return Segmenter(SimpleNamespace(**{**defaults, **fields}))


def numbers(segments):
    """All that a flat batch has to find of each token, of shape `(rows, tokens, numbers)`."""
    found = [segments.segment_ids, segments.intra_positions, segments.token_positions, *segments.inner_indices]
    return torch.stack([*found, *segments.state.columns()], dim=-1)


@st.composite
def schedules(draw):
    """Steps of a server: in each the pieces `(text, start, stop)` of some texts, in any order.

    A later piece may start before the end of the one before it, where drafts were rejected, never behind it. A piece
    at the start of a text is a request that is run again, or another one in the same slot.
    """
    texts = draw(st.lists(st.lists(IDS, min_size=1, max_size=9), min_size=1, max_size=4))
    done = [0] * len(texts)
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        step = []
        for at in draw(st.lists(st.sampled_from(range(len(texts))), min_size=1, unique=True)):
            start = draw(st.integers(0, min(done[at], len(texts[at]) - 1)))
            stop = draw(st.integers(start + 1, len(texts[at])))
            step.append((at, start, stop))
            done[at] = stop
        steps.append(step)
    return texts, steps


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEGMENTATIONS), schedules())
def test_a_flat_batch_finds_what_each_text_has_by_itself(fields, schedule):
    segmenter_of_fields = segmenter(fields)
    num_inner = len(fields.get("inner_separator_token_ids", []))
    texts, steps = schedule
    alone = [numbers(segmenter_of_fields(SegmentInputs(torch.tensor([ids]))))[0] for ids in texts]
    before_any = torch.stack(initial_state(1, num_inner_levels=num_inner).columns(), dim=-1)[0, 0]
    states = [[before_any, *[None] * len(ids)] for ids in texts]  # after so many tokens
    for step in steps:
        ids, starts, past = [], [], []
        for at, start, stop in step:
            ids += texts[at][start:stop]
            starts += [True] + [False] * (stop - start - 1)
            # what stands elsewhere than where a piece starts is read by nobody
            past += [states[at][start]] + [torch.full_like(before_any, -77)] * (stop - start - 1)
        past = SegmentState.from_columns(torch.stack(past)[None].unbind(-1))
        found = segmenter_of_fields.flat(torch.tensor([ids]), torch.tensor([starts]), past)
        expected = torch.cat([alone[at][start:stop] for at, start, stop in step])
        assert torch.equal(numbers(found)[0], expected)
        after = iter(torch.stack(found.state.columns(), dim=-1)[0])
        for at, start, stop in step:
            for index in range(start, stop):
                states[at][index + 1] = next(after)


def test_a_piece_counted_by_hand():
    """Two texts: `a . b |` goes on with `c . d`, and `x` goes on, in the middle of its segment, with `y`."""
    separators = segmenter({"segmentation": "separators", "separator_token_ids": [1]})
    past = SegmentState(
        torch.tensor([[1, 0, 0, 4]]),  # segment of the last token
        torch.tensor([[0, 0, 0, 2]]),  # its place
        torch.tensor([[0, 0, 0, 0]]),
        torch.tensor([[2, 0, 0, 9]]),  # its index in the text
    )
    found = separators.flat(torch.tensor([[4, 1, 4, 4]]), torch.tensor([[True, False, False, True]]), past)
    assert found.segment_ids.tolist() == [[1, 1, 2, 4]]
    assert found.intra_positions.tolist() == [[1, 2, 0, 3]]
    assert found.token_positions.tolist() == [[3, 4, 5, 10]]
    assert found.state.ended.tolist() == [[0, 1, 0, 0]]


def test_a_flat_batch_compiles_whole():
    separators = segmenter(SEGMENTATIONS[2])
    past = initial_state(1, num_inner_levels=2)
    past = SegmentState.from_columns([column.expand(1, 5) for column in past.columns()])
    given_inputs = torch.tensor([[4, 2, 1, 3, 4]]), torch.tensor([[True, False, False, True, False]]), past
    compiled = torch.compile(separators.flat, fullgraph=True, backend="eager")
    assert torch.equal(numbers(compiled(*given_inputs)), numbers(separators.flat(*given_inputs)))
