"""What a comparison has measured so far: the file that keeps it, and whether it may go on from there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...model.errors_bipe import InputError, InputExistsError
from ..common.results import check_writable, moment, read_results, write_results
from ..common.run_folder import differing_settings
from .entries import Comparison, Entry
from .losses import FILE as LOSSES_FILE
from .losses import UnitLosses
from .plan import parse_comparison


FORMAT = "bipe-hf comparison 1"
FIGURES = ("perplexity", "loss_by_position", "learning_curves", "accuracy")
OUTPUT_FILES = [
    "comparison.json",
    "comparison.md",
    LOSSES_FILE,
    *(f"{figure}.{suffix}" for figure in FIGURES for suffix in ("png", "svg")),
]
# What of a measurement may change from one call to the next: more lengths, and how many are measured at a time.
FREE_MEASURE = {"lengths", "sizes", "batch_tokens", "batch_size"}


@dataclass(frozen=True)
class Row:
    """One entry of one seed measured at one size.

    Args:
        entry: its name.
        seed: of its run.
        size: a length in tokens, or a number of operators.
        value: the perplexity, or the accuracy (0 to 1).
        model_fingerprint: that `Checkpoint.fingerprint` gives.
        measured: all that was found: the fields of `bipe_hf.lab.evaluation.Result`, or of a row of
            `bipe_hf.lab.tasks.synthetic.measure`.
        call: index of the call that measured it in [`ComparisonResults.calls`].
    """

    entry: str
    seed: int
    size: int
    value: float
    model_fingerprint: str
    measured: dict[str, Any]
    call: int


@dataclass
class ComparisonResults:
    """Results with what is needed to repeat them.

    Args:
        calls: `begun`, `command` and `environment` of every call that left a result.
        config: the file of the comparison as it was read.
        text: hashes that tell what was measured and learnt from; empty for generated tasks.
        runs: for each model what its training recorded, without its settings, and its learning curve; in files of
            earlier versions there is none.
        failures: entries and seeds that gave no result, each with its `reason`.
        results: the rows.
    """

    calls: list[dict[str, Any]]
    config: dict[str, Any]
    text: dict[str, Any]
    runs: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    results: list[Row]

    def begin_call(self, command: str, environment: dict[str, str]) -> None:
        """Notes the call that measures what is added from now on, and drops the last one if it left nothing.

        Args:
            command: that was called.
            environment: what `describe_environment` found.
        """
        if self.calls and all(row.call < len(self.calls) - 1 for row in self.results):
            self.calls.pop()
        begun = moment()
        self.calls.append({"begun": begun, "command": command, "environment": environment})

    def save(self, folder: Path, tables: str) -> None:
        """Writes `comparison.json` and `comparison.md`, each replaced as a whole or not at all.

        Args:
            folder: of the comparison.
            tables: text of the second file.
        """
        write_results(results_file(folder), FORMAT, self, lambda: tables)

    def add(self, entry: str, seed: int, size: int, value: float, fingerprint: str, measured: Any) -> None:
        """Keeps a row, in the call that has begun last.

        Args:
            entry: its name.
            seed: of its run.
            size: a length in tokens, or a number of operators.
            value: the perplexity, or the accuracy (0 to 1).
            fingerprint: of the model.
            measured: all that was found, a mapping or a dataclass.
        """
        found = measured if isinstance(measured, dict) else asdict(measured)
        self.results.append(Row(entry, seed, size, value, fingerprint, found, len(self.calls) - 1))

    def add_run(self, entry: str, seed: int, folder: Path, record: dict[str, Any]) -> None:
        """Keeps what a training recorded, in place of an earlier record of the same entry and seed.

        Args:
            entry: its name.
            seed: of its run.
            folder: of the run.
            record: what it wrote.
        """
        kept = {key: value for key, value in record.items() if key not in ("config", "accuracy")}
        run = {"entry": entry, "seed": seed, "folder": str(folder)} | kept
        self.runs = [each for each in self.runs if (each["entry"], each["seed"]) != (entry, seed)] + [run]

    def settle(self, entry: str, seed: int, reason: str | None = None) -> None:
        """Says that an entry of a seed has failed, or that it has not.

        Args:
            entry: its name.
            seed: of its run.
            reason: why it has failed; None where it has not.
        """
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
                raise InputExistsError(f"output: {folder / written} exists ({other_place()})")
    check_writable(folder)
    if overwrite or not file.exists():
        return None
    earlier = read_results(file, FORMAT, ComparisonResults, Row, "compare")
    differences = _differences(earlier.config, comparison, earlier.results)
    if differences:
        raise InputError(f"{file} holds other results: {'; '.join(differences)} ({other_place()})")
    return earlier


def earlier_losses(comparison: Comparison, folder: Path, earlier: ComparisonResults | None) -> UnitLosses | None:
    """The losses of the units beside `earlier` results; None where the comparison asks for none.

    Raises `ValueError` or `FileNotFoundError` where results have none.
    """
    if comparison.measure.unit_tokens is None:
        return None
    if earlier is None or not earlier.results:
        return UnitLosses(comparison.measure.unit_tokens)
    losses = UnitLosses.read(folder)
    losses.check([(row.entry, row.seed, row.size) for row in earlier.results], folder)
    return losses


def other_place() -> str:
    """What to do about results or models that are others than those asked for."""
    return "give another --output or file name, or --overwrite to start again"


def _differences(then: dict[str, Any], comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    try:
        earlier = parse_comparison(comparison.name, then)
    except InputError as error:
        return [f"its config is not what is accepted now ({error})"]
    differences = []
    for row in rows:
        entry = comparison.entries.get(row.entry)
        if entry is None or row.seed not in entry.seeds or row.size not in comparison.measure.sizes:
            differences.append(
                f"it has {row.entry!r}, seed {row.seed}, at {row.size}, which this file does not ask for"
            )
            break
    if earlier.task != comparison.task:
        return [*differences, f"task (there {earlier.task}, now {comparison.task})"]
    differences += differing_settings(*(_fixed(asdict(each.measure)) for each in (earlier, comparison)))
    for name in dict.fromkeys(row.entry for row in rows):
        if name in comparison.entries:
            found = differing_settings(*(_settings(each.entries[name]) for each in (earlier, comparison)))
            differences += [f"{name!r}: {difference}" for difference in found]
    return differences


def _settings(entry: Entry) -> dict[str, Any]:
    own = {"trained_as": entry.trained_as, "evaluate_with": entry.evaluate_with}
    return entry.settings.given() | {key: value for key, value in own.items() if value}


def _fixed(measure: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measure.items() if key not in FREE_MEASURE}
