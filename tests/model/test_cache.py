"""The segment history in a cache, in both shapes, against a plain list of states."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bipe_hf.model.cache_bipe import SegmentHistoryLayer, StaticSegmentHistoryLayer
from bipe_hf.model.segmentation_bipe import SegmentState


ROOM, ROWS = 12, 3
BEFORE_ANY_TOKEN = torch.tensor([-1, -1, 1, -1, -1, 1])  # the last two of one level inside segments
LAYERS = {0: 2, 3: 5}  # those whose encoding has a state, of so many numbers

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("crop"), st.integers(0, 4)),
        st.tuples(st.just("reorder"), st.permutations(range(ROWS))),
        st.tuples(st.just("repeat"), st.none()),
        st.tuples(st.just("reset"), st.none()),
    ),
    max_size=8,
)


@given(steps, st.booleans())
def test_the_latest_state_is_that_of_the_last_token_left(steps, is_static):
    """That of segments and those of layers: one of these is the state of the segments in other numbers."""
    layer = StaticSegmentHistoryLayer(ROOM) if is_static else SegmentHistoryLayer()
    truth = torch.empty(ROWS, 0, 6, dtype=torch.long)
    for number, (name, argument) in enumerate(steps):
        if name == "append":
            argument = min(argument, ROOM - truth.shape[1])
            if argument == 0:
                continue
            new = torch.arange(ROWS * argument * 6).view(ROWS, argument, 6) + 100 * number
            layer.append(SegmentState.from_columns(new.unbind(-1)))
            for layer_idx, size in LAYERS.items():
                before = layer.latest_of_layer(layer_idx, new_length=argument)
                if truth.shape[1]:
                    assert torch.equal(before, truth[:, -1:, :size] / 8)
                else:
                    assert before is None or not before.any()
                layer.append_of_layer(layer_idx, new[..., :size] / 8)
            truth = torch.cat([truth, new], dim=1)
        elif name == "crop":
            argument = min(argument, truth.shape[1])
            layer.crop(-argument)
            truth = truth[:, : truth.shape[1] - argument]
        elif name == "reorder":
            layer.reorder_cache(torch.tensor(argument))
            truth = truth[torch.tensor(argument)]
        elif name == "repeat":
            layer.batch_repeat_interleave(2)
            layer.batch_select_indices(torch.arange(ROWS) + 1)
            truth = truth.repeat_interleave(2, dim=0)[1 : ROWS + 1]
        else:
            layer.reset()
            truth = truth[:, :0]
        latest = layer.latest()
        assert int(layer.get_seq_length()) == truth.shape[1]
        if truth.shape[1] > 0:
            assert torch.equal(torch.stack(latest.columns(), dim=-1), truth[:, -1:])
            assert torch.equal(layer.segment_ids()[:, : truth.shape[1]], truth[..., 0])
        elif latest is not None:
            assert (torch.stack(latest.columns(), dim=-1) == BEFORE_ANY_TOKEN).all()
