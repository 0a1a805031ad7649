"""One comparison after the other, and the map written again after each measurement."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import write_whole
from ..common.figures import pictures, require_matplotlib, save_figure
from ..common.files import user_path
from ..common.results import check_writable
from ..common.tables import require_tabulate
from ..comparison import Comparison, compare
from ..comparison.experiments import EXPERIMENTS
from ..comparison.results import results_file
from .figure import draw_map_figure
from .map import read_map
from .plan import chosen_kinds
from .tables import markdown_map


NAME = "kinds"


def compare_kinds(
    kinds: dict[str, Comparison],
    output: str | Path,
    *,
    only: Sequence[str] | None = None,
    overwrite: bool = False,
    command: str = "bipe_hf.lab.kinds.compare_kinds",
) -> dict[str, str]:
    """Runs the comparison of each kind, or goes on with it, and draws the map of all after each measurement.

    The results of a kind go to `output/<kind>`, its models where `compare` has them. A kind that cannot be compared is
    told and does not stop the others. Several processes may work on different kinds with the same `output`.

    Args:
        kinds: from [`read_kinds`].
        output: folder.
        only: names of kinds, in the order in which they are run; the map still has all.
        overwrite: as of `compare`.
        command: recorded in the results.

    Returns:
        The kinds that could not be compared, or have an entry that failed, each with its reason.

    Raises:
        ValueError, FileExistsError: before anything is trained, for a kind or settings that are not accepted and for
            an `output` with files of somebody else.
        KeyboardInterrupt: what is done is written.
    """
    require_matplotlib("kinds")
    require_tabulate("kinds")
    output = user_path(output)
    chosen = chosen_kinds(kinds, only)
    for comparison in chosen:
        try:
            EXPERIMENTS[comparison.task](comparison).check()
        except InputError as error:
            raise InputError(f"kind {comparison.name}: {error}") from error
    _check_output(kinds, output)
    failed = {}
    for at, comparison in enumerate(chosen):
        print(f"kind {at + 1} of {len(chosen)}: {comparison.name}", file=sys.stderr)
        try:
            results = compare(
                comparison,
                output=output / comparison.name,
                overwrite=overwrite,
                command=command,
                on_result=lambda: _draw_as_far_as_there(kinds, output),
            )
        except (InputError, OSError) as error:  # whatever is wrong with one kind must not lose the others
            failed[comparison.name] = str(error)
            print(f"{comparison.name}: {error}", file=sys.stderr)
        else:
            reasons = [f"{each['entry']}, seed {each['seed']}: {each['reason']}" for each in results.failures]
            if reasons:
                failed[comparison.name] = "; ".join(reasons)
    _draw_as_far_as_there(kinds, output)
    return failed


def draw_map(names: Iterable[str], output: str | Path) -> list[Path]:
    """Writes the tables and the figure of what a folder has of these kinds, each file as a whole.

    Args:
        names: of the kinds.
        output: folder, as of [`compare_kinds`].

    Returns:
        The paths of the files.

    Raises:
        ValueError: there is nothing, or results that cannot be read.
    """
    require_matplotlib("kinds")
    require_tabulate("kinds")
    output = user_path(output)
    found = read_map(output, names)
    if not found.kinds:
        raise InputError(f"output: there are no results of any kind in {output}")
    tables, *figures = map_files(output)
    write_whole(tables, markdown_map(found))
    save_figure(draw_map_figure(found), figures[0])
    return [tables, *figures]


def is_drawn(output: str | Path) -> bool:
    """Whether a folder has a map."""
    return map_files(user_path(output))[0].is_file()


def map_files(output: Path) -> list[Path]:
    """The tables and the figure."""
    return [output / f"{NAME}.md", *pictures(output / f"{NAME}.png")]


def _check_output(kinds: dict[str, Comparison], output: Path) -> None:
    """Refuses a folder that holds a map and no results: it is not known what it belongs to."""
    if not any(results_file(output / name).is_file() for name in kinds):
        for file in map_files(output):
            if file.exists():
                raise InputExistsError(f"output: {file} exists without results of any kind: give another --output")
    check_writable(output)


def _draw_as_far_as_there(kinds: Iterable[str], output: Path) -> None:
    """The map; where another process is just beginning with a kind, it is drawn after the next result."""
    try:
        draw_map(kinds, output)
    except InputError as error:
        print(f"the map is not drawn: {error}", file=sys.stderr)
