"""Tables of text cells."""

from collections.abc import Sequence
from statistics import fmean, stdev

from .extras import require


def require_tabulate(command: str) -> None:
    """Raises `ValueError`, which names `command` and the extra to install, where there is no tabulate."""
    require("tabulate", "lab", command)


def plain_number(value: float) -> str:
    """Two decimals below a thousand, whole numbers below a million, then three significant digits."""
    if value < 1000:
        return f"{value:.2f}"
    return f"{value:.0f}" if value < 1e6 else f"{value:.2e}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The cells in columns of plain text, the first two flush left and the others flush right.

    This is what is printed, so it takes no library that the base install does not bring.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """The mean over seeds, with their standard deviation where there are several; `-` where there is none.

    Args:
        values: one for each seed.
        digits: behind the point; 2 is [`plain_number`].
    """
    if not values:
        return "-"
    show = (lambda value: f"{value:.{digits}f}") if digits != 2 else plain_number
    return show(fmean(values)) if len(values) == 1 else f"{show(fmean(values))} ± {show(stdev(values))}"


def markdown(rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """A Markdown table, which needs tabulate.

    Args:
        rows: cells; the first row is the heading.
        left: so many columns are flush left, the others flush right.
    """
    from tabulate import DataRow, TableFormat, tabulate

    heading, *others = rows
    # Tabulate's own formats pad the cells: then one long cell changes every line of a committed table.
    row = DataRow("| ", " | ", " |")
    rule = "| " + " | ".join(["---"] * left + ["---:"] * (len(heading) - left)) + " |"
    unpadded = TableFormat(None, lambda widths, alignments: rule, None, None, row, row, 0, None)
    return tabulate(others, heading, tablefmt=unpadded, stralign=None, disable_numparse=True)
