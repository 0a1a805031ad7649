"""Which segment every token of a text stands in, found beside a tokenizer at little of its cost.

Few tokens are counted one by one, many as an array: what a list gains in a short text, an array gains in a batch.
"""

import gc
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

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
        texts = rows if masks is None else list(map(_without_padding, rows, masks))
        was_enabled = gc.isenabled()
        gc.disable()  # it looks for garbage again and again while lists come, and finds none
        try:
            if self._levels == 1:
                found = [
                    list(accumulate(map(self._is_separator, ids[:-1]), initial=0)) if ids else [] for ids in texts
                ]
            elif sum(map(len, texts)) > FEW_TOKENS:
                found = self._of_many_tokens(texts)
            else:
                found = list(map(self._of_few_tokens, texts))
        finally:
            if was_enabled:
                gc.enable()
        if masks is None:
            return found
        return [self._with_padding(each, mask) for each, mask in zip(found, masks, strict=True)]

    def _with_padding(self, found: list, mask: Sequence[int]) -> list:
        padding = [self.padding] * (len(mask) - len(found))
        return found + padding if not padding or mask[0] else padding + found

    def _of_few_tokens(self, ids: Sequence[int]) -> list[list[int]]:
        found, level_of, zeros = [], self._level_of, [0] * self._levels
        add, indices = found.append, zeros
        for token_id in ids:
            add(indices)
            if token_id in level_of:
                level = level_of[token_id]
                indices = [*indices[:level], indices[level] + 1, *zeros[level + 1 :]]
        return found

    def _of_many_tokens(self, texts: Sequence[Sequence[int]]) -> list[list[list[int]]]:
        """All texts as one, in which the tokens of a unit, which share a list, are counted as one token."""
        borders = np.cumsum([0, *map(len, texts)])
        num_tokens = borders[-1]
        ids = np.fromiter(chain.from_iterable(texts), dtype=np.int64, count=num_tokens)
        ended = self._level_table.take(ids, mode="clip")
        starts_text = np.zeros(num_tokens + 1, dtype=bool)
        starts_text[borders] = True
        starts_unit = starts_text[:-1].copy()
        starts_unit[1:] |= ended[:-1] < self._levels
        firsts = np.flatnonzero(starts_unit)
        lasts = np.append(firsts[1:], num_tokens) - 1
        lists, list_of_unit = _lists_of(self._count(ended[lasts], starts_text[firsts]))
        unit_of_token = starts_unit.cumsum(dtype=np.int32) - 1
        found = lists.take(list_of_unit).take(unit_of_token).tolist()
        return [found[begin:end] for begin, end in pairwise(borders.tolist())]

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
        indices = self._count(ended, starts_document)
        if is_token is not None:
            np.copyto(indices, PADDING_SEGMENT_ID, where=~is_token[..., None])
        return indices[..., 0] if self._levels == 1 else indices

    def _count(self, ended: np.ndarray, starts_document: np.ndarray | None) -> np.ndarray:
        """The indices at all levels, of shape `(..., length, levels)`, from the coarsest that ends with each token."""
        indices = np.empty((*ended.shape, self._levels), dtype=np.int64)
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
        return indices


def _lists_of(units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists as objects of an array, and which of them is each row of `units`, of shape `(units, levels)`.

    Texts of a batch have most of their units in common: then every one that there may be is one list.
    """
    sizes = units.max(axis=0) + 1
    if sizes.prod() > len(units):
        lists, list_of_unit = units.tolist(), np.arange(len(units))
    else:
        lists, list_of_unit = (
            np.indices(sizes).reshape(len(sizes), -1).T.tolist(),
            np.ravel_multi_index(units.T, sizes),
        )
    return np.fromiter(lists, dtype=object, count=len(lists)), list_of_unit


def _without_padding(ids: Sequence[int], mask: Sequence[int]) -> Sequence[int]:
    """The tokens of a row, of which one side may be padding, where `mask` is 0."""
    count = sum(mask)
    if count == len(ids):
        return ids
    return ids[:count] if mask[0] else ids[len(ids) - count :]
