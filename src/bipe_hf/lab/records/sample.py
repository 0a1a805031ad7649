"""New rows, drawn from a model of records."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm
from transformers import set_seed

from ...model.errors_bipe import InputError
from ..common.generation import write_at_random
from ..common.messages import check_counts
from .form import Row
from .schema import Schema
from .scoring import RecordModel
from .tokens import encode, latest_ids, row_ids
from .writing import rows_as_text


# Rows that are drawn at once, where each stands alone.
BATCH_ROWS = 128
# Draws of a row until it is given up.
MOST_DRAWS = 10


@dataclass(frozen=True)
class Sample:
    """Rows that were drawn."""

    rows: list[Row]
    """Those that are valid."""
    drawn: int
    """How many were drawn, those that are not valid included."""
    invalid: dict[str, int]
    """How many were no such rows, by what was wrong with them."""
    given_up: int
    """Rows for which `MOST_DRAWS` draws gave none that is valid."""

    @property
    def valid_share(self) -> float:
        """The share of the rows drawn that are valid, from 0 to 1."""
        return len(self.rows) / self.drawn

    def __str__(self) -> str:
        wrong = ", ".join(f"{count} {why}" for why, count in Counter(self.invalid).most_common(5))
        text = f"{len(self.rows)} of {self.drawn} rows drawn are valid ({self.valid_share:.1%})"
        text += f"; the others: {wrong}" if wrong else ""
        if self.given_up:
            text += f"; {self.given_up} not found in {MOST_DRAWS} draws each (train longer, or lower the temperature)"
        return text


def sample_rows(
    used: RecordModel,
    count: int,
    *,
    starts: Sequence[Row] = ({},),
    before: Sequence[Row] = (),
    temperature: float = 1.0,
    seed: int = 0,
    show_progress: bool = False,
) -> Sample:
    """Draws rows field by field, each behind the fields before it.

    What is no valid row is drawn again, and counted.

    Args:
        used: the model.
        count: valid rows to draw, for each of `starts`; messages call it `rows`.
        starts: the first fields of the rows; by default none is given.
        before: rows that come before, where the order of rows means something.
        temperature: above 0; the logits are divided by it.
        seed: of the draws.
        show_progress: whether there is a bar.

    Returns:
        The rows, and how many were drawn for them.

    Raises:
        ValueError: a count or temperature that is not above 0, `before` where each row stands alone, `starts` where it
            does not.
    """
    check_counts({"rows": count}, ["rows"])
    if not temperature > 0:
        raise InputError(f"temperature: {temperature} given, it must be above 0")
    is_ordered = used.schema.order == "file"
    if before and not is_ordered:
        raise InputError("before: each row of this model stands alone")
    if is_ordered and list(starts) != [{}]:
        raise InputError("starts: a row of this model follows those before it, none is begun")
    set_seed(seed)
    with tqdm(total=count * len(starts), desc="rows", disable=not show_progress) as bar:
        if is_ordered:
            return _one_behind_the_other(used, count, list(before), temperature, bar)
        return _each_alone(used, [start for start in starts for _ in range(count)], temperature, bar)


def _each_alone(used: RecordModel, starts: Sequence[Row], temperature: float, bar: tqdm) -> Sample:
    heads = [used.form.start(start) for start in starts]
    prompts = [[used.tokenizer.eos_token_id, *ids] for ids in encode(heads, used.tokenizer)]
    found: dict[int, Row] = {}
    drawn, invalid = 0, Counter()
    for _ in range(MOST_DRAWS):
        missing = [at for at in range(len(starts)) if at not in found]
        for first in range(0, len(missing), BATCH_ROWS):
            batch = missing[first : first + BATCH_ROWS]
            lines = _draw(used, [prompts[at] for at in batch], temperature)
            drawn += len(batch)
            for at, line in zip(batch, lines, strict=True):
                wrong = why_invalid(heads[at] + line, used.schema)
                if wrong is None:
                    found[at] = used.form.parse(heads[at] + line)
                    bar.update()
                else:
                    invalid[wrong] += 1
    return Sample([found[at] for at in sorted(found)], drawn, dict(invalid), len(starts) - len(found))


def _one_behind_the_other(used: RecordModel, count: int, before: list[Row], temperature: float, bar: tqdm) -> Sample:
    past = list(map(row_ids, used.fields(before)))
    rows: list[Row] = []
    drawn, invalid = 0, Counter()
    while len(rows) < count:
        prompt = [used.tokenizer.eos_token_id, *latest_ids(past, used.length // 2)]
        for _ in range(MOST_DRAWS):
            (line,) = _draw(used, [prompt], temperature)
            drawn += 1
            wrong = why_invalid(line, used.schema)
            if wrong is None:
                rows.append(used.form.parse(line))
                past += map(row_ids, used.fields(rows[-1:]))
                bar.update()
                break
            invalid[wrong] += 1
        else:
            break
    return Sample(rows, drawn, dict(invalid), count - len(rows))


def _draw(used: RecordModel, prompts: Sequence[list[int]], temperature: float) -> list[str]:
    """The rest of a line behind each prompt, up to the newline where one comes."""
    ((end,),) = encode(["\n"], used.tokenizer)
    written = write_at_random(
        used.model,
        prompts,
        2 * used.schema.longest,
        pad_token_id=used.tokenizer.pad_token_id,
        eos_token_id=end,
        temperature=temperature,
    )
    lines = [ids[: ids.index(end) + 1] if end in ids else ids for ids in written]
    return [used.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in lines]


def why_invalid(line: str, schema: Schema) -> str | None:
    """What keeps a line from being a row such as those that were learnt, in a few words; None where nothing does.

    A row is valid if it parses, can be written as the files were, has the columns that every row had and no other, and
    if each field holds what its column may hold: a number, one of the values that were seen, any text.

    Args:
        line: in canonical form, with the newline at its end.
        schema: of the records.
    """
    if not line.endswith("\n"):
        return "without an end"
    if "\ufffd" in line:
        return "not UTF-8"
    try:
        row = schema.form.parse(line)
        rows_as_text([row], schema.source, schema.names).encode(schema.source.text_encoding)
    except ValueError:
        return "no row"
    cells = schema.form.cells(row)
    for column in schema.columns:
        if column.name not in cells:
            if not column.optional:
                return f"without {column.name!r}"
        elif not column.accepts(cells[column.name]):
            return f"with another kind of {column.name!r}"
    unknown = sorted(cells.keys() - set(schema.names))
    return f"with an unknown {unknown[0]!r}" if unknown else None
