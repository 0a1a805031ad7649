"""Tables of text cells."""

from collections.abc import Sequence


def plain_number(value: float) -> str:
    """Two decimals below a thousand, whole numbers below a million, then three significant digits."""
    if value < 1000:
        return f"{value:.2f}"
    return f"{value:.0f}" if value < 1e6 else f"{value:.2e}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns of plain text, the first two flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table whose first row is the heading; columns as in `aligned`."""
    heading, *others = rows
    rule = ["---", "---"] + ["---:"] * (len(heading) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, rule, *others))
