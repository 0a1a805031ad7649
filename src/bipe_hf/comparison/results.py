"""What a comparison has measured so far: the file that keeps it, and whether it may go on from there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.results import check_writable, read_results, write_results
from ..training.run_folder import differing_settings
from .plan import Comparison


FORMAT = "bipe-hf comparison 1"
FIGURES = ("perplexity", "loss_by_position", "accuracy")
OUTPUT_FILES = [
    "comparison.json",
    "comparison.md",
    *(f"{figure}.{suffix}" for figure in FIGURES for suffix in ("png", "svg")),
]
# What of a measurement may change from one call to the next: more lengths, and how many are measured at a time.
FREE_MEASURE = {"lengths", "sizes", "batch_tokens", "batch_size"}


@dataclass(frozen=True)
class Row:
    """One entry of one seed measured at one size: a length in tokens, or a number of operators.

    `value` is the perplexity, or the accuracy. `measured` is all that was found: the fields of
    `bipe_hf.evaluation.Result`, or of a row of `bipe_hf.synthetic.measure`.
    """

    entry: str
    seed: int
    size: int
    value: float
    model_fingerprint: str
    measured: dict[str, Any]


@dataclass
class ComparisonResults:
    """Results with what is needed to repeat them.

    `config` is the file of the comparison as it was read. `text` tells what was measured and learnt from by hashes
    (empty for generated tasks). `runs` has one entry for each model trained: what its training recorded, without its
    settings. `failures` has the entries and seeds that gave no result, each with its `reason`.
    """

    created: str
    command: str
    environment: dict[str, str]
    config: dict[str, Any]
    text: dict[str, Any]
    runs: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    results: list[Row]

    def save(self, folder: Path, tables: str) -> None:
        """Writes `comparison.json` and `comparison.md`, each replaced as a whole or not at all."""
        write_results(results_file(folder), FORMAT, self, tables)

    def add(self, row: Row) -> None:
        """Keeps a row, in place of an earlier one of the same entry, seed and size."""
        key = (row.entry, row.seed, row.size)
        self.results = [each for each in self.results if (each.entry, each.seed, each.size) != key] + [row]

    def add_run(self, run: dict[str, Any]) -> None:
        """Keeps what a training recorded, in place of an earlier record of the same entry and seed."""
        key = (run["entry"], run["seed"])
        self.runs = [each for each in self.runs if (each["entry"], each["seed"]) != key] + [run]

    def settle(self, entry: str, seed: int, reason: str | None = None) -> None:
        """Says that an entry of a seed has failed for `reason`, or that it has not."""
        self.failures = [each for each in self.failures if (each["entry"], each["seed"]) != (entry, seed)]
        if reason is not None:
            self.failures.append({"entry": entry, "seed": seed, "reason": reason})


def results_file(folder: Path) -> Path:
    """The JSON file of a comparison in `folder`."""
    return folder / "comparison.json"


def earlier_results(comparison: Comparison, folder: Path, overwrite: bool) -> ComparisonResults | None:
    """What `folder` holds of this comparison; None where there is nothing or `overwrite` drops it.

    Raises `ValueError` or `FileExistsError` where it holds anything else, and where the file of the comparison has
    changed in what the results depend on.
    """
    file = results_file(folder)
    if not file.exists() and not overwrite:
        for written in OUTPUT_FILES:
            if (folder / written).exists():
                raise FileExistsError(f"output: {folder / written} exists ({other_place()})")
    check_writable(folder)
    if overwrite or not file.exists():
        return None
    earlier = read_results(file, FORMAT, ComparisonResults, Row, "compare")
    differences = _differences(earlier.config, comparison, earlier.results)
    if differences:
        raise ValueError(f"{file} holds other results: {'; '.join(differences)} ({other_place()})")
    return earlier


def other_place() -> str:
    """What to do about results or models that are others than those asked for."""
    return "give another --output or file name, or --overwrite to start again"


def _differences(then: dict[str, Any], comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    now = comparison.content
    differences = []
    for row in rows:
        entry = comparison.entries.get(row.entry)
        if entry is None or row.seed not in entry.seeds or row.size not in comparison.measure.sizes:
            differences.append(
                f"it has {row.entry!r}, seed {row.seed}, at {row.size}, which this file does not ask for"
            )
            break
    if then["task"] != now["task"]:
        differences.append(f"task (there {then['task']}, now {now['task']})")
    differences += differing_settings(*(_without(each["measure"], FREE_MEASURE) for each in (then, now)))
    for name in dict.fromkeys(row.entry for row in rows):
        if name in now["entries"]:
            found = differing_settings(*(_without(_settings(each, name), {"seeds"}) for each in (then, now)))
            differences += [f"{name!r}: {difference}" for difference in found]
    return differences


def _settings(content: dict[str, Any], name: str) -> dict[str, Any]:
    own = content["entries"][name] or {}
    model = content["entries"].get(own.get("trained_as")) or {}
    return {**content["settings"], **model, **own}


def _without(values: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def as_row(entry: str, seed: int, size: int, value: float, fingerprint: str, measured: Any) -> Row:
    """A row of what was `measured`, a mapping or a dataclass."""
    return Row(entry, seed, size, value, fingerprint, measured if isinstance(measured, dict) else asdict(measured))
