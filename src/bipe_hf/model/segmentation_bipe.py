"""Token ids to segment ids to intra positions: the two levels of BiPE, in plain vectorised torch.

A segment is a run of tokens that ends with a separator; the separator belongs to the segment that it ends
(He et al., ICML 2024, arXiv 2401.16421, section 3). Nothing here loops, reads a value on the host or changes shape
with the data, so everything compiles with `torch.compile(fullgraph=True)`.

Three conventions hold in the whole package:

- padding belongs to no segment: its segment id is `PADDING_SEGMENT_ID`, and it does not move any other token's
  position;
- a step of `position_ids` that goes down or stays is the start of a new packed document, whose segments count from 0;
- `SegmentState` is all that the next token needs to know of the past, so a cache keeps that and no token.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from transformers import initialization as init


PADDING_SEGMENT_ID = -1


class SegmentState(NamedTuple):
    """What a token leaves to the next one; each a `torch.LongTensor` of shape `(batch, length)`.

    Before any token the state is `(-1, -1, 1, -1)`: as if a segment -1 had just ended.
    """

    segment_id: torch.Tensor
    """Segment of the last token that is no padding, -1 before the first."""
    intra_position: torch.Tensor
    """Position of that token inside its segment, -1 before the first."""
    ended: torch.Tensor
    """1 where that token ended its segment, else 0."""
    token_position: torch.Tensor
    """Index of that token in its document, -1 before the first."""


class Segments(NamedTuple):
    """The positions of every token and the state after it."""

    segment_ids: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`, `PADDING_SEGMENT_ID` at padding."""
    intra_positions: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`, 0 at padding; not clamped to a table."""
    token_positions: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`: index of the token in its document, 0 at padding."""
    state: SegmentState


class SegmentInputs(NamedTuple):
    """What segments are found from; each of shape `(batch, length)`."""

    input_ids: torch.Tensor
    """`torch.LongTensor`, read where segments end at separators; -1 is none."""
    is_token: torch.Tensor | None = None
    """`torch.BoolTensor`, False at padding, on either side or in between. All tokens by default."""
    starts_document: torch.Tensor | None = None
    """`torch.BoolTensor`, True where a packed document starts (see [`document_starts`])."""
    segment_ids: torch.Tensor | None = None
    """`torch.LongTensor`: given ids, which override the segmentation; negative ones are padding."""


class SegmentationFields(Protocol):
    """The fields of a configuration that say what a segment is."""

    segmentation: str
    separator_token_ids: Sequence[int]
    fixed_segment_length: int | None


class Segmenter(nn.Module):
    """Finds the segments of tokens as the fields of a configuration say; the one of model, tokenizer and data."""

    def __init__(self, fields: SegmentationFields):
        super().__init__()
        self.segmentation = fields.segmentation
        self.separator_token_ids = list(fields.separator_token_ids)
        self.fixed_segment_length = fields.fixed_segment_length
        self.is_separator = nn.Buffer(separator_table(self.separator_token_ids), persistent=False)

    def fill_buffers(self) -> None:
        """Fills the table that no checkpoint holds, after the model was made on the meta device."""
        init.copy_(self.is_separator, separator_table(self.separator_token_ids))

    def forward(self, inputs: SegmentInputs, past: SegmentState | None = None) -> Segments:
        """The segment of every token, its position inside it and its position in the document.

        Args:
            inputs ([`SegmentInputs`])
            past ([`SegmentState`], *optional*):
                State after the tokens that came before, entries of shape `(batch, 1)`. None came by default.
        """
        given = {"is_token": inputs.is_token, "starts_document": inputs.starts_document, "past": past}
        return segment_tokens(self._ends(inputs.input_ids, given), segment_ids=inputs.segment_ids, **given)

    def segment_ids(
        self, input_ids: np.ndarray, is_token: np.ndarray | None = None, starts_document: np.ndarray | None = None
    ) -> np.ndarray:
        """The segments of one row that end at separators, for a tokenizer; arrays of shape `(length,)`, int64 or bool.

        numpy, because tokenizers run in forked processes (`Dataset.map(num_proc=...)`): there torch hangs once its
        parent has used its threads.
        """
        ends_segment = self._is_separator[np.minimum(input_ids, len(self._is_separator) - 1)]
        if is_token is not None:
            ends_segment = ends_segment & is_token
        ended_before = np.cumsum(ends_segment) - ends_segment
        if starts_document is not None:
            ended_before -= np.maximum.accumulate(np.where(starts_document, ended_before, 0))
        return ended_before if is_token is None else np.where(is_token, ended_before, PADDING_SEGMENT_ID)

    @cached_property
    def _is_separator(self) -> np.ndarray:
        """As [`separator_table`]."""
        table = np.zeros(max(self.separator_token_ids, default=-1) + 2, dtype=bool)
        table[np.array(self.separator_token_ids, dtype=np.int64)] = True
        return table

    def _ends(self, input_ids: torch.Tensor, given: dict) -> torch.Tensor:
        """Marks the tokens that end a segment."""
        if self.segmentation == "separators":
            return self.is_separator.to(input_ids.device)[input_ids.clamp(max=len(self.is_separator) - 1)]
        if self.segmentation == "fixed":
            return (count_tokens(input_ids, **given) + 1) % self.fixed_segment_length == 0
        return torch.full_like(input_ids, self.segmentation == "tokens", dtype=torch.bool)


def initial_state(batch_size: int, device: torch.device | str | None = None) -> SegmentState:
    """The state before any token, each entry of shape `(batch_size, 1)`."""
    minus_one = torch.full((batch_size, 1), -1, dtype=torch.long, device=device)
    return SegmentState(minus_one, minus_one, torch.ones_like(minus_one), minus_one)


def separator_table(separator_token_ids: list[int]) -> torch.Tensor:
    """Whether a token id is a separator, as a `torch.BoolTensor` to look it up in.

    It ends one behind the largest separator, and the last entry, False, stands for every id from there on: a
    vocabulary that grows needs no other table.
    """
    table = torch.zeros(max(separator_token_ids, default=-1) + 2, dtype=torch.bool)
    table[separator_token_ids] = True
    return table


def document_starts(position_ids: torch.Tensor, is_token: torch.Tensor | None = None) -> torch.Tensor:
    """Marks the tokens at which a new packed document starts.

    Args:
        position_ids (`torch.LongTensor` of shape `(batch, length)`):
            Position of each token in its document. Where it does not go up, a new document starts.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            False at padding, which starts nothing and is passed over. All tokens by default.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`. A row's first token is not marked: nothing stands before it.
    """
    before_any = position_ids.new_full((position_ids.shape[0], 1), torch.iinfo(position_ids.dtype).min)
    starts = position_ids <= _at_previous_token(position_ids, is_token, before_any)
    return starts if is_token is None else starts & is_token


def segment_tokens(
    ends_segment: torch.Tensor,
    *,
    is_token: torch.Tensor | None = None,
    starts_document: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> Segments:
    """Finds the segment of every token, its position inside it and its position in the document.

    Args:
        ends_segment (`torch.BoolTensor` of shape `(batch, length)`):
            True at separators.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            False at padding, on either side or in between. All tokens by default.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True where a packed document starts (see [`document_starts`]).
        segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Given segment ids. They override the counting of separators; negative ones are padding. A segment is then a
            run of equal ids inside a document.
        past ([`SegmentState`], *optional*):
            State after the tokens that came before, entries of shape `(batch, 1)`. Nothing came before by default.

    Returns:
        [`Segments`]
    """
    if past is None:
        past = initial_state(ends_segment.shape[0], ends_segment.device)
    if segment_ids is not None:
        is_given = segment_ids >= 0
        is_token = is_given if is_token is None else is_token & is_given
    if is_token is not None:
        ends_segment = ends_segment & is_token

    if segment_ids is None and starts_document is None and ends_segment.shape[1] == 1:
        state = _next_state(ends_segment, is_token, past)
        return _without_padding(state, is_token)
    if segment_ids is None:
        ended_before = _exclusive_cumsum(ends_segment) + past.segment_id + past.ended
        if starts_document is not None:
            # The count never falls, so the running maximum is the count at the start of the latest document.
            ended_before = ended_before - torch.where(starts_document, ended_before, 0).cummax(dim=1).values
        segment_ids = ended_before
    segment_ids = _at_latest_token(segment_ids.long(), is_token, past.segment_id)

    starts_segment = segment_ids != _shift(segment_ids, past.segment_id)
    if starts_document is not None:
        starts_segment = starts_segment | starts_document
    index = _token_index(ends_segment, is_token)
    index_in_segment = index + past.intra_position + 1
    intra_positions = index_in_segment - torch.where(starts_segment, index_in_segment, 0).cummax(dim=1).values
    token_positions = count_tokens(ends_segment, is_token=is_token, starts_document=starts_document, past=past)

    ended = _at_latest_token(ends_segment.long(), is_token, past.ended)
    return _without_padding(SegmentState(segment_ids, intra_positions, ended, token_positions), is_token)


def count_tokens(
    like: torch.Tensor,
    *,
    is_token: torch.Tensor | None = None,
    starts_document: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> torch.Tensor:
    """Index of every token in its document, whatever its segment; padding repeats that of the token before it.

    Args:
        like (`torch.Tensor` of shape `(batch, length)`): gives shape and device.
        is_token, starts_document, past: as in [`segment_tokens`].

    Returns:
        `torch.LongTensor` of shape `(batch, length)`
    """
    positions = _token_index(like, is_token)
    if past is not None:
        positions = positions + past.token_position + 1
    if starts_document is None:
        return positions
    return positions - torch.where(starts_document, positions, 0).cummax(dim=1).values


def _next_state(ends_segment: torch.Tensor, is_token: torch.Tensor | None, past: SegmentState) -> SegmentState:
    """The state after one more token: what [`segment_tokens`] finds, in a few operations. Decoding lives on it."""
    following = SegmentState(
        past.segment_id + past.ended,
        (past.intra_position + 1) * (1 - past.ended),
        ends_segment.long(),
        past.token_position + 1,
    )
    if is_token is None:
        return following
    return SegmentState(*(torch.where(is_token, new, old) for new, old in zip(following, past, strict=True)))


def _without_padding(state: SegmentState, is_token: torch.Tensor | None) -> Segments:
    """The positions from the state, which at padding repeats that of the token before."""
    segment_ids, intra_positions, _, token_positions = state
    if is_token is not None:
        segment_ids = torch.where(is_token, segment_ids, PADDING_SEGMENT_ID)
        intra_positions = torch.where(is_token, intra_positions, 0)
        token_positions = torch.where(is_token, token_positions, 0)
    return Segments(segment_ids, intra_positions, token_positions, state)


def positions_in_document(starts_document: torch.Tensor, is_token: torch.Tensor | None = None) -> torch.Tensor:
    """`position_ids` that step by one inside a document and restart at 0 wherever attention must not look back.

    Runs of padding become documents of their own, so that no token attends to them. This is the form in which
    transformers reads packed documents when it makes masks.

    Args:
        starts_document (`torch.BoolTensor` of shape `(batch, length)`)
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*)

    Returns:
        `torch.LongTensor` of shape `(batch, length)`
    """
    if is_token is not None:
        starts_document = starts_document | (is_token != _shift(is_token, is_token[:, :1]))
    index = torch.arange(starts_document.shape[1], device=starts_document.device).expand_as(starts_document)
    return index - torch.where(starts_document, index, 0).cummax(dim=1).values


def _shift(values: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Moves `values` one column to the right; `first`, of shape `(batch, 1)`, comes in from the left."""
    # Cut after the cat: an exported graph could not hold for two columns once `values[:, :-1]` had one.
    return torch.cat([first, values], dim=1)[:, :-1]


def _exclusive_cumsum(values: torch.Tensor) -> torch.Tensor:
    return values.cumsum(dim=1) - values.long()


def _token_index(like: torch.Tensor, is_token: torch.Tensor | None) -> torch.Tensor:
    """Counts tokens from 0, padding passed over (it repeats the index of the token before it)."""
    if is_token is None:
        return torch.arange(like.shape[1], device=like.device).expand(like.shape)
    return is_token.cumsum(dim=1) - 1


def _at_latest_token(values: torch.Tensor, is_token: torch.Tensor | None, before_any: torch.Tensor) -> torch.Tensor:
    """Replaces values at padding by the one at the latest token before it, `before_any` where there is none."""
    if is_token is None:
        return values
    column = torch.arange(1, values.shape[1] + 1, device=values.device)
    latest = torch.where(is_token, column, 0).cummax(dim=1).values
    return torch.cat([before_any, values], dim=1).gather(1, latest)


def _at_previous_token(values: torch.Tensor, is_token: torch.Tensor | None, before_any: torch.Tensor) -> torch.Tensor:
    """The value at the latest token strictly before each column, or `before_any` where there is none."""
    return _shift(_at_latest_token(values, is_token, before_any), before_any)
