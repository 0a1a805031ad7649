"""The figures of measured tasks again, from their file of results alone: the models may be gone."""

from pathlib import Path

from ...model.errors_bipe import InputError, InputExistsError
from ..common.figures import pictures, require_matplotlib, save_figure
from ..common.files import user_path
from ..common.results import check_writable, results_format
from .evaluation import FORMAT, TaskEvaluation
from .registry import SHIPPED
from .results import TaskResult
from .shipped import ShippedTask


def is_task_evaluation(file: str | Path) -> bool:
    """Whether `bipe-hf evaluate --tasks` wrote this file; raises as `read_results` does where it holds no JSON."""
    return results_format(file) == FORMAT


def redraw_tasks(file: str | Path, output: str | Path | None = None, *, overwrite: bool = False) -> list[Path]:
    """Draws what `bipe-hf evaluate --tasks` measured of the tasks of this package, as it did itself.

    Args:
        file: results.
        output: folder; None is that of the file.
        overwrite: replace those that are there.

    Returns the paths. Raises `ValueError` for results of other tasks alone, which have no figure, `FileExistsError`,
    and what `TaskEvaluation.load` raises.
    """
    require_matplotlib("plot")
    folder = user_path(file).parent if output is None else user_path(output)
    results = TaskEvaluation.load(file).results
    figures: dict[Path, tuple[ShippedTask, list[TaskResult]]] = {}
    for row in results:
        if row.request in SHIPPED:
            task = SHIPPED[row.request]
            picture = task.picture(folder / Path(file).name, row.name)
            figures.setdefault(picture, (task, []))[1].append(row)
    if not figures:
        measured = ", ".join(dict.fromkeys(row.request for row in results)) or "none"
        raise InputError(f"{file} has results of tasks ({measured}), and only {', '.join(SHIPPED)} have a figure")
    written = [each for picture in figures for each in pictures(picture)]
    for target in written:
        if target.exists() and not overwrite:
            raise InputExistsError(f"output: {target} exists (--overwrite replaces it)")
    check_writable(folder)
    for picture, (task, rows) in figures.items():
        save_figure(task.draw(rows), picture)
    return written
