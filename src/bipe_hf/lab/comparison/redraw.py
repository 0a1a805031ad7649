"""The tables and figures of a comparison again, from its file of results alone: its models may be gone."""

from pathlib import Path

from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import write_whole
from ..common.figures import pictures, require_matplotlib
from ..common.files import user_path
from ..common.results import check_writable, read_results, results_format
from ..common.tables import require_tabulate
from .figures import draw_figures, figure_names
from .plan import Comparison, parse_comparison
from .results import FORMAT, ComparisonResults, Row
from .tables import markdown_tables


def is_comparison(file: str | Path) -> bool:
    """Whether `bipe-hf compare` wrote this file of results; raises as `read_results` does where it is none."""
    return results_format(file) == FORMAT


def open_comparison(file: str | Path) -> tuple[ComparisonResults, Comparison]:
    """What `bipe-hf compare` wrote, and the comparison that it is of.

    Raises `FileNotFoundError` or `ValueError` for a file that holds no results or no comparison.
    """
    results = read_results(file, FORMAT, ComparisonResults, Row, "compare")
    if not results.results:
        raise InputError(f"there are no results in {file}")
    try:
        return results, parse_comparison(user_path(file).parent.name, results.config)
    except InputError as error:
        raise InputError(f"{file}: its config is not what is accepted now ({error})") from error


def redraw(file: str | Path, output: str | Path | None = None, *, overwrite: bool = False) -> list[Path]:
    """Writes the tables and figures of a comparison.

    Args:
        file: `comparison.json`.
        output: folder; None is that of the file.
        overwrite: replace those that are there.

    Returns the paths. Raises `FileExistsError`, and what [`open_comparison`] raises.
    """
    require_matplotlib("plot")
    require_tabulate("plot")
    folder = user_path(file).parent if output is None else user_path(output)
    results, comparison = open_comparison(file)
    tables = folder / Path(file).with_suffix(".md").name
    written = [tables] + [
        each for name in figure_names(results, comparison) for each in pictures(folder / f"{name}.png")
    ]
    for target in written:
        if target.exists() and not overwrite:
            raise InputExistsError(f"output: {target} exists (--overwrite replaces it)")
    check_writable(folder)
    write_whole(tables, markdown_tables(results, comparison))
    draw_figures(results, comparison, folder)
    return written
