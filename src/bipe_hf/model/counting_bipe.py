"""Which segment every token of a text stands in, found beside a tokenizer at little of its cost.

Lists are counted token by token, arrays as a whole: what a list gains in a short text, an array gains in a batch.
"""

import gc
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from .segmentation_bipe import PADDING_SEGMENT_ID, Segmenter


class _Separators(NamedTuple):
    """The fields of a configuration whose segments end at separators."""

    separator_token_ids: tuple[int, ...]
    inner_separator_token_ids: tuple[tuple[int, ...], ...]
    segmentation: str = "separators"
    fixed_segment_length: int | None = None


class SegmentCounter:
    """Counts with the separators of segments and of each level inside them.

    The segment of a token is an `int`. With inner levels it is the list of its indices at all levels, the segment
    first; equal lists may be one, whose items are not to be changed.
    """

    def __init__(self, separators: tuple[int, ...], inner_separators: tuple[tuple[int, ...], ...]) -> None:
        levels = [separators, *inner_separators]
        self._levels = len(levels)
        self._level_of = {token_id: at for at in reversed(range(len(levels))) for token_id in levels[at]}
        self._is_separator = frozenset(separators).__contains__
        self._any_separator = np.zeros(max(self._level_of, default=-1) + 2, dtype=bool)  # False from the last entry on
        self._any_separator[list(self._level_of)] = True
        self._segmenter = Segmenter(_Separators(separators, inner_separators))

    @property
    def padding(self) -> int | list[int]:
        """What a token of padding has."""
        return PADDING_SEGMENT_ID if self._levels == 1 else [PADDING_SEGMENT_ID] * self._levels

    def of_rows(self, rows: Sequence[Sequence[int]], masks: Sequence[Sequence[int]] | None) -> list[list]:
        """Those of each of several lists of ids. `masks` are 0 at padding, which stands on one side of each row."""
        known: dict = {}
        was_enabled = gc.isenabled()
        gc.disable()  # it looks for garbage again and again while lists come, and finds none
        try:
            if masks is None:
                return [self._of_row(ids, known) for ids in rows]
            return [self._of_padded_row(ids, mask, known) for ids, mask in zip(rows, masks, strict=True)]
        finally:
            if was_enabled:
                gc.enable()

    def _of_padded_row(self, ids: Sequence[int], mask: Sequence[int], known: dict) -> list:
        count = sum(mask)
        if count == len(ids):
            return self._of_row(ids, known)
        padding = [self.padding] * (len(ids) - count)
        if mask[0] == 1:
            return self._of_row(ids[:count], known) + padding
        return padding + self._of_row(ids[len(padding) :], known)

    def _of_row(self, ids: Sequence[int], known: dict) -> list:
        if self._levels == 1:
            return list(accumulate(map(self._is_separator, ids[:-1]), initial=0)) if ids else []
        found, indices, level_of = [], (0,) * self._levels, self._level_of
        current = known.setdefault(indices, list(indices))
        for token_id in ids:
            found.append(current)
            if token_id in level_of:
                level = level_of[token_id]
                indices = (*indices[:level], indices[level] + 1, *(0,) * (self._levels - 1 - level))
                current = known.get(indices)
                if current is None:
                    current = known[indices] = list(indices)
        return found

    def of_array(self, ids: np.ndarray, is_token: np.ndarray | None) -> np.ndarray:
        """Those of ids of shape `(batch, length)`: of that shape, or `(batch, length, levels)` with inner levels.

        Args:
            is_token: bool of the same shape, False at padding; None where there is none.
        """
        if self._levels == 1:
            return self._segmenter.segment_ids(ids, is_token)
        starts_document = np.zeros(ids.shape, dtype=bool)
        starts_document[:, :1] = True
        of_tokens = self.of_stream(
            ids.ravel(), is_token if is_token is None else is_token.ravel(), starts_document.ravel()
        )
        return of_tokens.reshape(*ids.shape, self._levels)

    def of_stream(
        self, ids: np.ndarray, is_token: np.ndarray | None, starts_document: np.ndarray | None
    ) -> np.ndarray:
        """Those of documents in one row of ids, of shape `(length,)` or `(length, levels)`.

        Only the last token of each run that shares its indices is looked at: a run ends with a separator of any level,
        with a document, and where padding starts or ends.
        """
        if len(ids) == 0:
            return np.zeros((0, self._levels) if self._levels > 1 else 0, dtype=np.int64)
        is_last = self._any_separator.take(ids, mode="clip")
        is_last[-1] = True
        if starts_document is not None:
            is_last[:-1] |= starts_document[1:]
        if is_token is not None:
            is_last[:-1] |= is_token[1:] != is_token[:-1]
        (last,) = is_last.nonzero()
        first = np.zeros_like(last)
        first[1:] = last[:-1] + 1
        if starts_document is not None:
            starts_document = starts_document[first]
        if is_token is not None:
            is_token = is_token[last]
        return self._segmenter.segment_ids(ids[last], is_token, starts_document).repeat(last - first + 1, axis=0)
