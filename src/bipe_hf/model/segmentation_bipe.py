"""Token ids to segment ids to intra positions: the levels of BiPE, in plain vectorised torch.

A segment is a run of tokens that ends with a separator; the separator belongs to the segment that it ends
(He et al., ICML 2024, arXiv 2401.16421, section 3). Nothing here loops over tokens, reads a value on the host or
changes shape with the data, so everything compiles with `torch.compile(fullgraph=True)`.

A segment may be divided again, and its parts too: these are inner levels, coarse to fine, such as the fields of a row
and the words of a field. Each has separators of its own. Where a unit of a level ends, all units inside it end, so a
unit of level l starts where one of level l - 1 starts or behind a separator of level l. Its index counts from 0 inside
its parent. The intra position is the place in the innermost unit, in the segment where there are no inner levels.

Segment ids that are given beside `input_ids` may number the segments in another way, and no more: where segments end
is read from the tokens alone, so that what a tokenizer or a data set says cannot differ from what the model does.

Three conventions hold in the whole package:

- padding belongs to no segment: its segment id is `PADDING_SEGMENT_ID`, and it does not move any other token's
  position;
- a step of `position_ids` that goes down or stays is the start of a new packed document, whose segments count from 0;
- `SegmentState` is all that the next token needs to know of the past, so a cache keeps that and no token.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import is_tracing, logging

from .compatibility_bipe import CACHE_NAME
from .errors_bipe import InputError


logger = logging.get_logger(__name__)

PADDING_SEGMENT_ID = -1


class LevelState(NamedTuple):
    """What a token leaves to the next one at an inner level; each a `torch.LongTensor` of shape `(batch, length)`."""

    index: torch.Tensor
    """Index of that token's unit inside its parent, -1 before any token."""
    ended: torch.Tensor
    """1 where that token is a separator of this level, else 0; those of coarser levels do not count here."""


class SegmentState(NamedTuple):
    """What a token leaves to the next one; each a `torch.LongTensor` of shape `(batch, length)`.

    Before any token the state is `(-1, -1, 1, -1)`, and `(-1, 1)` at each inner level: as if a segment -1 had just
    ended.
    """

    segment_id: torch.Tensor
    """Segment of the last token that is no padding, -1 before the first."""
    intra_position: torch.Tensor
    """Position of that token inside its innermost unit, -1 before the first."""
    ended: torch.Tensor
    """1 where that token ended its segment, else 0."""
    token_position: torch.Tensor
    """Index of that token in its document, -1 before the first."""
    inner: tuple[LevelState, ...] = ()
    """The inner levels, coarse to fine."""

    def columns(self) -> list[torch.Tensor]:
        """All tensors in a row, those of inner levels last; each a `torch.LongTensor` of shape `(batch, length)`."""
        return [*self[:4], *chain.from_iterable(self.inner)]

    @classmethod
    def from_columns(cls, columns: Sequence[torch.Tensor]) -> Self:
        """The state of which these are the `columns`.

        Args:
            columns (sequence of `torch.LongTensor` of shape `(batch, length)`):
                In the order of [`SegmentState.columns`].
        """
        inner = columns[4:]
        return cls(*columns[:4], tuple(LevelState(*inner[at : at + 2]) for at in range(0, len(inner), 2)))

    def segments(self) -> "Segments":
        """The segments of the tokens behind which this is the state, none of them padding."""
        return _without_padding(self, None)

    def last(self) -> Self:
        """The state after the last token, entries of shape `(batch, 1)`."""
        return self.from_columns([column[:, -1:] for column in self.columns()])


class Segments(NamedTuple):
    """The positions of every token and the state after it."""

    segment_ids: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`, `PADDING_SEGMENT_ID` at padding."""
    intra_positions: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`, 0 at padding; not clamped to a table."""
    token_positions: torch.Tensor
    """`torch.LongTensor` of shape `(batch, length)`: index of the token in its document, 0 at padding."""
    state: SegmentState
    """The state after each token."""
    inner_indices: tuple[torch.Tensor, ...] = ()
    """For each inner level, coarse to fine, a `torch.LongTensor` of shape `(batch, length)`: index of the token's unit
    inside its parent, 0 at padding; not clamped to a table."""

    def ids(self) -> torch.Tensor:
        """What a model takes as `segment_ids`, negative at padding.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, with inner levels `(batch, length, levels)`, the segment
            first.
        """
        if not self.inner_indices:
            return self.segment_ids
        is_padding = self.segment_ids < 0
        inner = [index.masked_fill(is_padding, PADDING_SEGMENT_ID) for index in self.inner_indices]
        return torch.stack([self.segment_ids, *inner], dim=-1)


class SegmentInputs(NamedTuple):
    """What segments are found from; each of shape `(batch, length)` where nothing else is said."""

    input_ids: torch.Tensor | None
    """`torch.LongTensor`, read where units end at separators; None where `segment_ids` say what nothing else does."""
    is_token: torch.Tensor | None = None
    """`torch.BoolTensor`, False at padding, on either side or in between. All tokens by default."""
    starts_document: torch.Tensor | None = None
    """`torch.BoolTensor`, True where a packed document starts (see [`document_starts`])."""
    segment_ids: torch.Tensor | None = None
    """`torch.LongTensor`: given ids, negative at padding. With inner levels also of shape `(batch, length, levels)`.
    Beside `input_ids` they number the segments that are found there (see [`renumber`])."""


class SegmentationFields(Protocol):
    """The fields of a configuration that say what a segment is."""

    segmentation: str
    separator_token_ids: Sequence[int]
    fixed_segment_length: int | None
    inner_separator_token_ids: Sequence[Sequence[int]]


class Segmenter(nn.Module):
    """Finds the segments of tokens as the fields of a configuration say; the one of model and data.

    A separator belongs to the segment that it ends (He et al., ICML 2024, arXiv 2401.16421, section 3).

    Args:
        fields: of the configuration.
    """

    def __init__(self, fields: SegmentationFields):
        super().__init__()
        self.segmentation = fields.segmentation
        self.separator_token_ids = list(fields.separator_token_ids)
        self.fixed_segment_length = fields.fixed_segment_length
        self.inner_separator_token_ids = [list(level) for level in fields.inner_separator_token_ids]
        # Numbers, as a state holds them: a step of decoding saves the cast.
        self.is_separator = nn.Buffer(separator_table(self.separator_token_ids).long(), persistent=False)
        self.is_inner_separator = nn.Buffer(self._inner_table().long(), persistent=False)
        self.has_compared = False  # given ids with its own

    @property
    def reads_tokens(self) -> bool:
        """Whether units end at separators, which only `input_ids` can show."""
        return self.segmentation == "separators" or bool(self.inner_separator_token_ids)

    def fill_buffers(self) -> None:
        """Fills the tables that no checkpoint holds, after the model was made on the meta device."""
        init.copy_(self.is_separator, separator_table(self.separator_token_ids))
        init.copy_(self.is_inner_separator, self._inner_table())

    def forward(self, inputs: SegmentInputs, past: SegmentState | None = None) -> Segments:
        """The segment of every token, its position inside it and its position in the document.

        In a row whose given `segment_ids` tell other segments apart than the fields of the configuration, the latter
        hold. The first time that ids are given, a warning says so; later nothing is read on the host, for which an
        accelerator would wait.

        Args:
            inputs ([`SegmentInputs`]): the tokens, and what is known of them.
            past ([`SegmentState`], *optional*):
                State after the tokens that came before, entries of shape `(batch, 1)`. None came by default.

        Raises:
            ValueError: if the state is of a model with another number of levels.
        """
        num_inner = len(self.inner_separator_token_ids)
        if past is not None and len(past.inner) != num_inner:
            raise InputError(
                f"{CACHE_NAME} was filled by a model with {len(past.inner)} levels inside segments, this one has"
                f" {num_inner}. Pass an empty cache, or one that this model has filled."
            )
        input_ids, is_token, starts_document, segment_ids = inputs
        if segment_ids is not None:
            is_given = (segment_ids if segment_ids.ndim == 2 else segment_ids[..., 0]) >= 0
            is_token = is_given if is_token is None else is_token & is_given
        given = {"is_token": is_token, "starts_document": starts_document, "past": past}
        if input_ids is None:
            segment_ids, fits = without_falls(segment_ids, **given)
            self._compare(fits, "go down inside a document: there each run of equal ids counts as one segment more")
            none_ends = torch.zeros_like(is_token)
            inner_ends = (none_ends,) * len(self.inner_separator_token_ids)
            return segment_tokens(none_ends, inner_ends=inner_ends, segment_ids=segment_ids, **given)
        ends = self._ends(input_ids, partial(count_tokens, input_ids, **given))
        segments = segment_tokens(ends, inner_ends=self._inner_ends(input_ids), **given)
        if segment_ids is None:
            return segments
        segments, fits = renumber(segments, segment_ids, **given)
        self._compare(
            fits,
            "do not fit input_ids: there the segments are those that the model finds by its own separators. Leave"
            " segment_ids out of the batch; ids that tell other segments apart are taken with inputs_embeds alone",
        )
        return segments

    def flat(self, input_ids: torch.Tensor, starts_piece: torch.Tensor, past: SegmentState) -> Segments:
        """The segments of a flat batch of pieces, as [`segment_flat`] finds them from these ids.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): token ids.
            starts_piece (`torch.BoolTensor` of shape `(rows, length)`): True at the first token of each piece.
            past ([`SegmentState`]): before each piece, entries of shape `(rows, length)`.
        """
        ends = self._ends(input_ids, partial(count_flat, starts_piece, past))
        return segment_flat(ends, starts_piece, past, inner_ends=self._inner_ends(input_ids))

    def _compare(self, fits: torch.Tensor, otherwise: str) -> None:
        """Warns, once, of rows that do not fit; of shape `(batch, 1)`."""
        if self.has_compared or is_tracing(fits) or fits.is_meta:
            return
        self.has_compared = True
        num_rows = int((~fits).sum())
        if num_rows:
            logger.warning(f"segment_ids of {num_rows} of {len(fits)} rows {otherwise}.")

    def _inner_table(self) -> torch.Tensor:
        """As [`separator_table`], a row for each inner level."""
        longest = max(chain.from_iterable(self.inner_separator_token_ids), default=-1) + 2
        rows = [separator_table(level, longest) for level in self.inner_separator_token_ids]
        return torch.stack(rows) if rows else torch.zeros(0, longest, dtype=torch.bool)

    def _ends(self, input_ids: torch.Tensor, count: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Marks the tokens that end a segment; `count` gives the index of each in its document."""
        if self.segmentation == "separators":
            table = self.is_separator.to(input_ids.device)
            return table[input_ids.clamp(max=table.shape[0] - 1)]
        if self.segmentation == "fixed":
            return (count() + 1) % self.fixed_segment_length == 0
        every_token = torch.ones_like if self.segmentation == "tokens" else torch.zeros_like
        return every_token(input_ids, dtype=torch.bool)

    def _inner_ends(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Marks the separators of each inner level."""
        if not self.inner_separator_token_ids:
            return ()
        table = self.is_inner_separator.to(input_ids.device)
        return table[:, input_ids.clamp(max=table.shape[1] - 1)].unbind(0)


def initial_state(
    batch_size: int, device: torch.device | str | None = None, num_inner_levels: int = 0
) -> SegmentState:
    """The state before any token, each entry of shape `(batch_size, 1)`.

    Args:
        batch_size: rows.
        device: of the entries.
        num_inner_levels: levels inside segments.
    """
    minus_one = torch.full((batch_size, 1), -1, dtype=torch.long, device=device)
    one = torch.ones_like(minus_one)
    return SegmentState(minus_one, minus_one, one, minus_one, (LevelState(minus_one, one),) * num_inner_levels)


def separator_table(separator_token_ids: list[int], length: int | None = None) -> torch.Tensor:
    """Whether a token id is a separator, as a `torch.BoolTensor` of shape `(ids,)` to look it up in.

    It ends one behind the largest separator, and the last entry, False, stands for every id from there on: a
    vocabulary that grows needs no other table.

    Args:
        separator_token_ids: the separators.
        length: a longer table.
    """
    table = torch.zeros(length or max(separator_token_ids, default=-1) + 2, dtype=torch.bool)
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
    limits = torch.finfo if position_ids.is_floating_point() else torch.iinfo
    before_any = position_ids.new_full((position_ids.shape[0], 1), limits(position_ids.dtype).min)
    starts = position_ids <= _at_previous_token(position_ids, is_token, before_any)
    return starts if is_token is None else starts & is_token


def segment_tokens(
    ends_segment: torch.Tensor,
    *,
    inner_ends: tuple[torch.Tensor, ...] = (),
    is_token: torch.Tensor | None = None,
    starts_document: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> Segments:
    """Finds the segment of every token, its units at the inner levels, its place and its position in the document.

    Args:
        ends_segment (`torch.BoolTensor` of shape `(batch, length)`): True at separators.
        inner_ends (tuple of `torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True at the separators of each inner level, coarse to fine. There is no inner level by default.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            False at padding, on either side or in between. All tokens by default.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True where a packed document starts (see [`document_starts`]).
        segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Given segment ids. They override the counting of separators; negative ones are padding. A segment is then a
            run of equal ids inside a document. Of shape `(batch, length, levels)` they override those of the inner
            levels, too.
        past ([`SegmentState`], *optional*):
            State after the tokens that came before, entries of shape `(batch, 1)`. Nothing came before by default.

    Returns:
        [`Segments`] with entries of shape `(batch, length)`.
    """
    if past is None:
        past = initial_state(ends_segment.shape[0], ends_segment.device, len(inner_ends))
    given_indices = None
    if segment_ids is not None and segment_ids.ndim == 3:
        segment_ids, *given_indices = segment_ids.long().unbind(-1)
    if segment_ids is not None:
        is_given = segment_ids >= 0
        is_token = is_given if is_token is None else is_token & is_given
    if is_token is not None:
        ends_segment = ends_segment & is_token

    if segment_ids is None and starts_document is None and ends_segment.shape[1] == 1:
        state = _next_state(ends_segment, inner_ends, is_token, past)
        return _without_padding(state, is_token)
    if segment_ids is None:
        ended_before = _exclusive_cumsum(ends_segment) + past.segment_id + past.ended
        if starts_document is not None:
            ended_before = ended_before - at_latest(ended_before, starts_document)
        segment_ids = ended_before
    segment_ids = _at_latest_token(segment_ids.long(), is_token, past.segment_id)

    starts_segment = segment_ids != _shift(segment_ids, past.segment_id)
    if starts_document is not None:
        starts_segment = starts_segment | starts_document
    starts, inner = starts_segment, []
    for at, (ends, before) in enumerate(zip(inner_ends, past.inner, strict=True)):
        given = None if given_indices is None else given_indices[at]
        starts, level = _inner_level(ends, given, starts, is_token, before)
        inner.append(level)
    index = _token_index(ends_segment, is_token)
    index_in_unit = index + past.intra_position + 1
    intra_positions = index_in_unit - at_latest(index_in_unit, starts)
    token_positions = count_tokens(ends_segment, is_token=is_token, starts_document=starts_document, past=past)

    ended = _at_latest_token(ends_segment.long(), is_token, past.ended)
    state = SegmentState(segment_ids, intra_positions, ended, token_positions, tuple(inner))
    return _without_padding(state, is_token)


def segment_flat(
    ends_segment: torch.Tensor,
    starts_piece: torch.Tensor,
    past: SegmentState,
    *,
    inner_ends: tuple[torch.Tensor, ...] = (),
) -> Segments:
    """As [`segment_tokens`], for a flat batch: pieces of several texts one behind the other, as servers run them.

    A piece is a part of a prompt, a token, or a token with drafts behind it. Each goes on where its own text is.

    Args:
        ends_segment (`torch.BoolTensor` of shape `(rows, length)`): True at separators.
        starts_piece (`torch.BoolTensor` of shape `(rows, length)`):
            True at the first token of each piece; the first token of a row starts one in any case.
        past ([`SegmentState`], entries of shape `(rows, length)`):
            State after the tokens that came before in the text of each piece. It is read where a piece starts; what it
            holds elsewhere means nothing.
        inner_ends (tuple of `torch.BoolTensor` of shape `(rows, length)`, *optional*):
            True at the separators of each inner level, coarse to fine. There is no inner level by default.

    Returns:
        [`Segments`], whose `state` after any token of a piece is the `past` of a piece that goes on behind it.
    """
    found = segment_tokens(ends_segment, inner_ends=inner_ends, starts_document=starts_piece)
    first_column = _first_column(starts_piece)
    begun = [entry.gather(1, first_column) for entry in _next_state(ends_segment, inner_ends, None, past).columns()]
    first = SegmentState.from_columns(begun)  # of each piece, at all its tokens

    # What a piece found by itself counts from its first token; where that token stood goes on top, as long as the unit
    # around it goes on.
    segment_ids, intra_positions, ended, token_positions, inner = found.state
    goes_on = segment_ids == 0
    levels = []
    for level, before in zip(inner, first.inner, strict=True):
        still_first = goes_on & (level.index == 0)
        levels.append(LevelState(level.index + before.index * goes_on, level.ended))
        goes_on = still_first
    state = SegmentState(
        segment_ids + first.segment_id,
        intra_positions + first.intra_position * goes_on,
        ended,
        token_positions + first.token_position,
        tuple(levels),
    )
    return state.segments()


def count_flat(starts_piece: torch.Tensor, past: SegmentState) -> torch.Tensor:
    """The index of every token of a flat batch in its own text (see [`segment_flat`]).

    Args:
        starts_piece (`torch.BoolTensor` of shape `(rows, length)`): True at the first token of each piece.
        past ([`SegmentState`]): before each piece, entries of shape `(rows, length)`.

    Returns:
        `torch.LongTensor` of shape `(rows, length)`.
    """
    first_column = _first_column(starts_piece)
    in_piece = torch.arange(starts_piece.shape[1], device=starts_piece.device) - first_column
    return in_piece + past.token_position.gather(1, first_column) + 1


def _first_column(starts_piece: torch.Tensor) -> torch.Tensor:
    """Where the piece of each token starts."""
    column = torch.arange(starts_piece.shape[1], device=starts_piece.device)
    return at_latest(column.expand_as(starts_piece), starts_piece)


def renumber(
    segments: Segments,
    segment_ids: torch.Tensor,
    *,
    is_token: torch.Tensor,
    starts_document: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> tuple[Segments, torch.Tensor]:
    """Gives segments other numbers, in the rows where these tell the same segments apart.

    They do where they start at 0 in each document, go up from each segment to the next, by any step, and are the same
    inside a segment; indices of inner levels must be those that are found. So a batch can have the indices of a longer
    text, and nothing else can change: not ids of another tokenizer, not columns of texts that were joined and cut,
    which fall back to 0 inside a row or start it at another number.

    Args:
        segments ([`Segments`]): as they were found.
        segment_ids (`torch.LongTensor` of shape `(batch, length)` or `(batch, length, levels)`): negative at padding.
        is_token (`torch.BoolTensor` of shape `(batch, length)`): False at padding, that of `segment_ids` included.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True where a packed document starts.
        past ([`SegmentState`], *optional*): after the tokens that came before, entries of shape `(batch, 1)`.

    Returns:
        The segments, and a `torch.BoolTensor` of shape `(batch, 1)`, False in rows whose numbers stay as they were.
    """
    before = torch.full_like(is_token[:, :1], -1, dtype=torch.long) if past is None else past.segment_id
    given, *inner = segment_ids.long().unbind(-1) if segment_ids.ndim == 3 else (segment_ids.long(),)
    given = _at_latest_token(given, is_token, before)
    found = segments.state.segment_id
    given_before, found_before = _shift(given, before), _shift(found, before)
    starts_at_0 = (given_before >= 0) | (given == 0)
    fits = torch.where(found != found_before, starts_at_0 & (given > given_before), given == given_before)
    if starts_document is not None:
        fits = torch.where(starts_document, given == 0, fits)
    for index, found_index in zip(inner, segments.inner_indices, strict=bool(inner)):
        fits = fits & ((index == found_index) | ~is_token)
    fits = fits.all(dim=1, keepdim=True)
    state = segments.state._replace(segment_id=torch.where(fits, given, found))
    return _without_padding(state, is_token), fits


def without_falls(
    segment_ids: torch.Tensor,
    *,
    is_token: torch.Tensor,
    starts_document: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts the runs of equal ids in the rows whose ids go down inside a document, which those of no text do.

    An index of an inner level goes down where no coarser one changes.

    Args:
        segment_ids (`torch.LongTensor` of shape `(batch, length)` or `(batch, length, levels)`): negative at padding.
        is_token (`torch.BoolTensor` of shape `(batch, length)`): False at padding, that of `segment_ids` included.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True where a packed document starts.
        past ([`SegmentState`], *optional*): after the tokens that came before, entries of shape `(batch, 1)`.

    Returns:
        Ids of the same shape, and a `torch.BoolTensor` of shape `(batch, 1)`, False in rows that were counted.
    """
    levels = segment_ids.long().unbind(-1) if segment_ids.ndim == 3 else (segment_ids.long(),)
    if past is None:
        past = initial_state(len(is_token), is_token.device, len(levels) - 1)
    no_start = torch.zeros_like(is_token)
    changes, starts, falls = no_start if starts_document is None else starts_document, no_start, no_start
    for at, before in enumerate([past.segment_id, *(level.index for level in past.inner[: len(levels) - 1])]):
        level = _at_latest_token(levels[at], is_token, before)
        step = level - _shift(level, before)
        falls = falls | (~changes & (step < 0))
        changes = changes | (step != 0)
        starts = changes if at == 0 else starts
    counted = past.segment_id + _count(starts | falls)
    if starts_document is not None:
        counted = counted - at_latest(counted, starts_document)
    fits = ~falls.any(dim=1, keepdim=True)
    given = levels[0]
    counted = torch.where(fits | (given < 0), given, counted)
    return (counted if segment_ids.ndim == 2 else torch.stack([counted, *levels[1:]], dim=-1)), fits


def _inner_level(
    ends: torch.Tensor,
    given: torch.Tensor | None,
    parent_starts: torch.Tensor,
    is_token: torch.Tensor | None,
    past: LevelState,
) -> tuple[torch.Tensor, LevelState]:
    """Where the units of one inner level start, and its state after each token.

    Args:
        ends: its separators.
        given: its indices, which override them.
        parent_starts: where the units of the next coarser level start.
        is_token: False at padding.
        past: its state before.
    """
    ended = _at_latest_token(ends.long(), is_token, past.ended)
    if given is not None:
        index = _at_latest_token(given, is_token, past.index)
        starts = parent_starts | (index != _shift(index, past.index))
        return starts, LevelState(index, ended)
    starts = parent_starts | _shift(ended, past.ended).bool()
    if is_token is not None:
        starts = starts & is_token
    count = past.index + _count(starts)
    return starts, LevelState(count - at_latest(count, parent_starts), ended)


def count_tokens(
    like: torch.Tensor,
    *,
    is_token: torch.Tensor | None = None,
    starts_document: torch.Tensor | None = None,
    past: SegmentState | None = None,
) -> torch.Tensor:
    """The index of every token in its document, whatever its segment; padding repeats that of the token before it.

    Args:
        like (`torch.Tensor` of shape `(batch, length)`): of any dtype, gives shape and device.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*): False at padding. All tokens by default.
        starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            True where a packed document starts.
        past ([`SegmentState`], *optional*): after the tokens that came before, entries of shape `(batch, 1)`.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`.
    """
    positions = _token_index(like, is_token)
    if past is not None:
        positions = positions + past.token_position + 1
    if starts_document is None:
        return positions
    return positions - at_latest(positions, starts_document)


def _next_state(
    ends_segment: torch.Tensor,
    inner_ends: tuple[torch.Tensor, ...],
    is_token: torch.Tensor | None,
    past: SegmentState,
) -> SegmentState:
    """The state after one more token: what [`segment_tokens`] finds, in a few operations. Decoding lives on it."""
    starts, inner = past.ended, []
    for ends, before in zip(inner_ends, past.inner, strict=True):
        parent_starts, starts = starts, starts | before.ended
        inner.append(LevelState((before.index + starts) * (1 - parent_starts), ends.long()))
    goes_on = 1 - starts
    following = SegmentState(
        past.segment_id + past.ended,
        torch.addcmul(goes_on, past.intra_position, goes_on),
        ends_segment.long(),
        past.token_position + 1,
        tuple(inner),
    )
    if is_token is None:
        return following
    both = zip(following.columns(), past.columns(), strict=True)
    return SegmentState.from_columns([torch.where(is_token, new, old) for new, old in both])


def _without_padding(state: SegmentState, is_token: torch.Tensor | None) -> Segments:
    """The positions from the state, which at padding repeats that of the token before."""
    segment_ids, intra_positions, _, token_positions, inner = state
    inner_indices = tuple(level.index for level in inner)
    if is_token is not None:
        segment_ids = torch.where(is_token, segment_ids, PADDING_SEGMENT_ID)
        intra_positions = intra_positions * is_token
        token_positions = token_positions * is_token
        inner_indices = tuple(index * is_token for index in inner_indices)
    return Segments(segment_ids, intra_positions, token_positions, state, inner_indices)


def positions_in_document(starts_document: torch.Tensor, is_token: torch.Tensor | None = None) -> torch.Tensor:
    """`position_ids` that step by one inside a document and restart at 0 wherever attention must not look back.

    Runs of padding become documents of their own, so that no token attends to them. This is the form in which
    transformers reads packed documents when it makes masks.

    Args:
        starts_document (`torch.BoolTensor` of shape `(batch, length)`): True where a packed document starts.
        is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*): False at padding. All tokens by default.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`.
    """
    if is_token is not None:
        starts_document = starts_document | (is_token != _shift(is_token, is_token[:, :1]))
    index = torch.arange(starts_document.shape[1], device=starts_document.device).expand_as(starts_document)
    return index - at_latest(index, starts_document)


def _shift(values: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Moves `values` one column to the right; `first`, of shape `(batch, 1)`, comes in from the left."""
    # Cut after the cat: an exported graph could not hold for two columns once `values[:, :-1]` had one.
    return torch.cat([first, values], dim=1)[:, :-1]


def _count(is_marked: torch.Tensor) -> torch.Tensor:
    """How many tokens are marked up to each."""
    return is_marked.cumsum(dim=1, dtype=torch.long)  # named, because ONNX sums no booleans


def _exclusive_cumsum(values: torch.Tensor) -> torch.Tensor:
    return _count(values) - values.long()


def _token_index(like: torch.Tensor, is_token: torch.Tensor | None) -> torch.Tensor:
    """Counts tokens from 0, padding passed over (it repeats the index of the token before it)."""
    if is_token is None:
        return torch.arange(like.shape[1], device=like.device).expand(like.shape)
    return _count(is_token) - 1


def at_latest(counts: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
    """The count at the latest marked token up to each token, 0 where there is none.

    Args:
        counts (`torch.LongTensor` of shape `(batch, length)`): they never fall, nor below 0.
        is_marked (`torch.BoolTensor` of shape `(batch, length)`): True at tokens that are marked.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`.
    """
    if not (torch.compiler.is_exporting() or torch.jit.is_tracing()):
        return torch.where(is_marked, counts, 0).cummax(dim=1).values
    # ONNX knows no running maximum. Each marked count goes to its number among them, all others to a last column.
    number = _count(is_marked)
    column = torch.where(is_marked, number, counts.shape[1] + 1)
    return F.pad(torch.zeros_like(counts), (0, 2)).scatter(1, column, counts).gather(1, number)


def _at_latest_token(values: torch.Tensor, is_token: torch.Tensor | None, before_any: torch.Tensor) -> torch.Tensor:
    """Replaces values at padding by the one at the latest token before it, `before_any` where there is none."""
    if is_token is None:
        return values
    column = torch.arange(1, values.shape[1] + 1, device=values.device)
    latest = at_latest(column.expand_as(is_token), is_token)
    return torch.cat([before_any, values], dim=1).gather(1, latest)


def _at_previous_token(values: torch.Tensor, is_token: torch.Tensor | None, before_any: torch.Tensor) -> torch.Tensor:
    """The value at the latest token strictly before each column, or `before_any` where there is none."""
    return _shift(_at_latest_token(values, is_token, before_any), before_any)
