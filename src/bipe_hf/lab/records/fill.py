"""A missing field of a row, from all its other fields."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ...model.errors_bipe import InputError
from .form import Row
from .schema import MISSING, Column, Schema
from .scoring import RecordModel, token_bits
from .tokens import latest_ids, row_ids


# Rows with a candidate in them that are scored between two updates of the bar.
VARIANTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Filled:
    """Rows with a field filled in."""

    rows: list[Row]
    words: dict[str, int]
    """What stood there in the rows that lacked the field, and in how many."""
    probability: float
    """Mean probability of the values chosen, among the candidates; 1 where none was."""

    @property
    def filled(self) -> int:
        """The number of rows that lacked the field."""
        return sum(self.words.values())

    def __str__(self) -> str:
        text = f"{self.filled} of {len(self.rows)} rows filled"
        if not self.filled:
            return text
        words = ", ".join(f"{count} {word!r}" if word else f"{count} empty" for word, count in self.words.items())
        return f"{text} ({words}); mean probability of the values {self.probability:.2f}"


def fill_rows(
    used: RecordModel,
    rows: Sequence[Row],
    name: str,
    description: str | None = None,
    *,
    missing: Collection[str] = MISSING,
) -> Filled:
    """Fills the field of a column in each row that lacks it, or says nothing in it (`NA`, ...).

    A causal model tells a field from those on its left alone. But by Bayes' rule the probability of a value given all
    other fields is proportional to that of the whole row with the value in it, so each candidate is written into the
    row and the row is scored: fields on the right count as those on the left do, and training needs no other order of
    columns (GReaT, Borisov et al. 2023, arXiv 2210.06280, learns rows in every order to be asked for any field; that
    makes many tasks of one, and leaves the columns without a place). Candidates are the values that the column had in
    training, of a number up to 256 of them. Chosen is the most likely one, of a number the median, which is less far
    off on average. `scripts/records_peer.py` measures what the fields on the right add.

    Args:
        used: the model.
        rows: with the columns that were learnt; the one to fill may be missing.
        name: of the column.
        description: shows a progress bar.
        missing: words that say nothing; a row that lacks the field counts as one with the empty word.

    Returns:
        The rows with the field filled in.

    Raises:
        ValueError: there is no such column, or its texts are free, so that none is a candidate.
    """
    column = check_fillable(used.schema, name)
    is_ordered = used.schema.order == "file"
    at_once = 1 if is_ordered else max(1, VARIANTS_AT_ONCE // len(column.values))
    done, chances = list(rows), []
    words = [used.form.cells(row).get(name, "") for row in rows]
    gaps = [at for at, word in enumerate(words) if word in missing]
    with tqdm(total=len(gaps), desc=description, unit="row", disable=description is None) as bar:
        for first in range(0, len(gaps), at_once):
            batch = gaps[first : first + at_once]
            before = done[: batch[0]] if is_ordered else []
            for at, chance in zip(batch, value_chances(used, [rows[at] for at in batch], column, before), strict=True):
                value, own = _choose(column, chance)
                done[at] = used.form.replaced(_with_place(rows[at], column, used.schema), name, value)
                chances.append(own)
            bar.update(len(batch))
    return Filled(done, dict(Counter(words[at] for at in gaps)), float(np.mean(chances)) if chances else 1.0)


def check_fillable(schema: Schema, name: str) -> Column:
    """The column of that name. Raises `ValueError` where there is none, or where it has no values to choose from."""
    column = schema.column(name)
    if not column.values:
        raise InputError(
            f"column: {name!r} holds free text ({column.distinct} different ones), there is nothing to choose from"
        )
    return column


def value_chances(
    used: RecordModel, rows: Sequence[Row], column: Column, before: Sequence[Row] = (), *, from_left: bool = False
) -> np.ndarray:
    """The probability of each value of a column in each row, given the other fields.

    Args:
        used: the model.
        rows: whatever stands in the column.
        column: with the values, among which the probabilities sum to 1.
        before: rows in front of them, where order means something.
        from_left: given the fields on the left alone, to measure what the others add.

    Returns:
        Of shape `(rows, values)`, float64.
    """
    placed = [_with_place(row, column, used.schema) for row in rows]
    variants = [used.form.replaced(row, column.name, value) for row in placed for value in column.values]
    fields = used.fields(variants)
    ids = list(map(row_ids, fields))
    past = latest_ids([row_ids(each) for each in used.fields(before)], used.length // 2)
    bits = token_bits(used.model, [[used.tokenizer.eos_token_id, *past, *own] for own in ids])
    sums = []
    for row, costs in zip(fields, bits, strict=True):
        costs = costs[len(past) :]
        if from_left:
            costs = costs[: len(row_ids(row[: [field.column for field in row].index(column.name) + 1]))]
        sums.append(costs.sum())
    totals = np.array(sums).reshape(len(rows), len(column.values))
    chances = np.exp2(totals.min(axis=1, keepdims=True) - totals)
    return chances / chances.sum(axis=1, keepdims=True)


def _choose(column: Column, chances: np.ndarray) -> tuple[str, float]:
    """The value to fill in, with its probability."""
    values = list(column.values)
    at = int(np.searchsorted(chances.cumsum(), 0.5)) if column.is_number else int(chances.argmax())
    return values[min(at, len(values) - 1)], float(chances[min(at, len(values) - 1)])


def _with_place(row: Row, column: Column, schema: Schema) -> Row:
    """The row with the column in its place, where it lacks it."""
    if column.name in row:
        return row
    names = schema.names
    ranks = {name: at for at, name in enumerate(names)}
    own = ranks[column.name]
    before = {name: value for name, value in row.items() if ranks.get(name, len(names)) < own}
    return {**before, column.name: None, **row}
