"""Which segment every token of a text stands in, found beside a tokenizer at little of its cost.

Lists and few tokens are counted token by token, arrays as a whole: what a list gains in a short text, an array gains
in a batch.
"""

import gc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from .segmentation_bipe import PADDING_SEGMENT_ID


FEW_TOKENS = 64  # up to so many are counted one by one sooner than as an array


class SegmentCounter:
    """Counts with the separators of segments and of each level inside them.

    The segment of a token is an `int`. With inner levels it is the list of its indices at all levels, the segment
    first; equal lists may be one, whose items are not to be changed.

    Args:
        separators: token ids that end a segment.
        inner_separators: token ids that end a unit of each inner level, coarse to fine.
    """

    def __init__(self, separators: tuple[int, ...], inner_separators: tuple[tuple[int, ...], ...]) -> None:
        levels = [separators, *inner_separators]
        self._levels = len(levels)
        self._level_of = {token_id: at for at in reversed(range(len(levels))) for token_id in levels[at]}
        self._is_separator = frozenset(separators).__contains__
        # The number of levels stands for no separator, in the last entry for all ids from there on.
        self._level_table = np.full(max(self._level_of, default=-1) + 2, self._levels, dtype=np.int8)
        self._level_table[list(self._level_of)] = list(self._level_of.values())

    @property
    def padding(self) -> int | list[int]:
        """What a token of padding has."""
        return PADDING_SEGMENT_ID if self._levels == 1 else [PADDING_SEGMENT_ID] * self._levels

    def of_rows(self, rows: Sequence[Sequence[int]], masks: Sequence[Sequence[int]] | None) -> list[list]:
        """The segments of each of several lists of ids.

        Args:
            rows: token ids of each text.
            masks: for each text a list of its length, 0 at padding, which stands on one side; None where nothing is
                padding.
        """
        if self._levels == 1:
            of_row = self._segments
        else:
            of_row = self._levels_of_text if len(rows) == 1 else partial(self._levels_of_one_of_many, known={})
        was_enabled = gc.isenabled()
        gc.disable()  # it looks for garbage again and again while lists come, and finds none
        try:
            if masks is None:
                return [of_row(ids) for ids in rows]
            return [self._of_padded_row(ids, mask, of_row) for ids, mask in zip(rows, masks, strict=True)]
        finally:
            if was_enabled:
                gc.enable()

    def _of_padded_row(self, ids: Sequence[int], mask: Sequence[int], of_row: Callable[[Sequence[int]], list]) -> list:
        count = sum(mask)
        if count == len(ids):
            return of_row(ids)
        padding = [self.padding] * (len(ids) - count)
        if mask[0] == 1:
            return of_row(ids[:count]) + padding
        return padding + of_row(ids[len(padding) :])

    def _segments(self, ids: Sequence[int]) -> list[int]:
        return list(accumulate(map(self._is_separator, ids[:-1]), initial=0)) if ids else []

    def _levels_of_text(self, ids: Sequence[int]) -> list[list[int]]:
        found, level_of, zeros = [], self._level_of, [0] * self._levels
        add, indices = found.append, zeros
        for token_id in ids:
            add(indices)
            if token_id in level_of:
                level = level_of[token_id]
                indices = [*indices[:level], indices[level] + 1, *zeros[level + 1 :]]
        return found

    def _levels_of_one_of_many(self, ids: Sequence[int], known: dict) -> list[list[int]]:
        """As [`_levels_of_text`]; texts share what is `known`, since most of their units are those of others."""
        # A unit is [the list that its tokens share, the next unit of the innermost level]; `known` has the first of
        # these in each unit of the level outside it.
        found, level_of = [], self._level_of
        add, innermost, zeros = found.append, self._levels - 1, (0,) * self._levels
        unit = known.setdefault(zeros, [list(zeros), None])
        indices = unit[0]
        for token_id in ids:
            add(indices)
            if token_id in level_of:
                level = level_of[token_id]
                if level == innermost:
                    if unit[1] is None:
                        unit[1] = [[*indices[:-1], indices[-1] + 1], None]
                    unit = unit[1]
                else:
                    first = (*indices[:level], indices[level] + 1, *zeros[level + 1 :])
                    if first not in known:
                        known[first] = [list(first), None]
                    unit = known[first]
                indices = unit[0]
        return found

    def of_batch(self, ids: np.ndarray, is_token: np.ndarray | None) -> np.ndarray:
        """As [`of_array`], for padding on one side of each row.

        Args:
            ids: integers of shape `(batch, length)`.
            is_token: bool of the same shape, False at padding; None where there is none.
        """
        if not 0 < ids.size <= FEW_TOKENS:
            return self.of_array(ids, is_token)
        return np.array(self.of_rows(ids.tolist(), None if is_token is None else is_token.tolist()), dtype=np.int64)

    def of_array(
        self, ids: np.ndarray, is_token: np.ndarray | None = None, starts_document: np.ndarray | None = None
    ) -> np.ndarray:
        """The segments of the tokens of an array.

        It is numpy, because tokenizers run in forked processes (`Dataset.map(num_proc=...)`): there torch hangs once
        its parent has used its threads.

        Args:
            ids: integers of shape `(..., length)`.
            is_token: bool of the same shape, False at padding; None where there is none.
            starts_document: bool of the same shape, True where another document starts; None where one is all.

        Returns:
            int64 array of shape `(..., length)`, with inner levels `(..., length, levels)`.
        """
        ended = self._level_table.take(ids, mode="clip")  # the coarsest level of which a unit ends with the token
        if is_token is not None:
            np.copyto(ended, self._levels, where=~is_token)
        indices = np.empty((*ids.shape, self._levels), dtype=np.int64)
        for level in range(self._levels):
            ends = ended == level
            index = ends.cumsum(axis=-1, dtype=np.int64)
            index -= ends
            restarts = starts_document
            if level > 0:  # with the units of all coarser levels
                restarts = np.zeros_like(ends) if starts_document is None else starts_document.copy()
                restarts[..., 1:] |= ended[..., :-1] < level
            if restarts is not None:
                index -= np.maximum.accumulate(index * restarts, axis=-1)
            indices[..., level] = index
        if is_token is not None:
            np.copyto(indices, PADDING_SEGMENT_ID, where=~is_token[..., None])
        return indices[..., 0] if self._levels == 1 else indices
