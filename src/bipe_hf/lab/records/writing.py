"""Rows written as the files that a model learnt from were."""

import csv
import io
import json
from collections.abc import Sequence
from itertools import chain

from ...model.errors_bipe import InputError
from .form import LINE, Row
from .schema import Source


def rows_as_text(rows: Sequence[Row], source: Source, columns: Sequence[str]) -> str:
    """Rows as a file holds them, with the header where there was one.

    Args:
        rows: with these columns, of JSON lines with any.
        source: how the file was written.
        columns: of a table, in their order.

    Raises:
        ValueError: a field that cannot be told from others without quotes, where the file had none.
    """
    if source.kind == "json":
        return "".join(_json_line(row, source) + source.line_ending for row in rows)
    if source.kind == "log":
        return "".join(row[LINE] + source.line_ending for row in rows)
    quoting = {"quoting": csv.QUOTE_NONE} if source.quote is None else {"quotechar": source.quote}
    own = {"delimiter": source.delimiter, "escapechar": source.escape, "doublequote": source.escape is None}
    lines = []
    for cells in chain([columns] * source.header, ([row[name] for name in columns] for row in rows)):
        text = io.StringIO()
        try:
            # The writer puts quotes around what stands in its own line ending, and a lone carriage return needs them.
            csv.writer(text, lineterminator="\r\n", **own, **quoting).writerow(cells)
        except csv.Error as error:
            raise InputError(f"a field cannot be written without quotes ({error})") from error
        lines.append(text.getvalue().removesuffix("\r\n") + source.line_ending)
    return "".join(lines)


def _json_line(row: Row, source: Source) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode(source.text_encoding)
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
