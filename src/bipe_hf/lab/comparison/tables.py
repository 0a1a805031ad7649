"""The tables of a comparison, in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from ..common.results import in_words
from ..common.tables import markdown, mean_and_spread
from ..evaluation.results import PROTOCOLS
from .entries import Comparison, Entry
from .results import ComparisonResults, Row


# Perplexity that is higher by less than this share is no worse: other tokens start a block at each length.
NO_WORSE = 0.005


def markdown_tables(results: ComparisonResults, comparison: Comparison) -> str:
    """All tables of a comparison with what they mean, as Markdown.

    Rows are entries in the order of the file, columns are sizes. Values are the mean over seeds, with `±` the standard
    deviation (`n - 1`) where there are two seeds or more.

    Args:
        results: of the comparison.
        comparison: its file.
    """
    rows = Rows(results, comparison)
    calls = [f"`{call['command']}`, {call['begun']}, with {in_words(call['environment'])}  " for call in results.calls]
    parts = ["\n".join(calls).rstrip()]
    parts += _text_tables(results, comparison, rows) if comparison.task == "text" else _task_tables(comparison, rows)
    parts.append(_training_table(results, comparison))
    if results.failures:
        reasons = [f"- {each['entry']}, seed {each['seed']}: {each['reason']}" for each in results.failures]
        parts.append("Without a result:\n\n" + "\n".join(reasons))
    return "\n\n".join(parts) + "\n"


class Rows:
    """Results by entry and size, as far as there are any."""

    def __init__(self, results: ComparisonResults, comparison: Comparison):
        self.comparison = comparison
        self.cells: dict[tuple[str, int], list[Row]] = {}
        for row in sorted(results.results, key=lambda row: row.seed):
            self.cells.setdefault((row.entry, row.size), []).append(row)
        self.entries = [
            entry for entry in comparison.entries.values() if any(name == entry.name for name, _ in self.cells)
        ]
        self.sizes = sorted({size for _, size in self.cells})

    def values(self, entry: Entry, size: int, value: Callable[[Row], Any] = lambda row: row.value) -> list[Any]:
        """One value for each seed that has been measured."""
        return [value(row) for row in self.cells.get((entry.name, size), [])]

    def mean(self, entry: Entry, size: int) -> float | None:
        """The mean over seeds."""
        values = self.values(entry, size)
        return fmean(values) if values else None

    def first(self, entry: Entry) -> dict[str, Any]:
        """What was found at any size, for what does not depend on it."""
        return next(rows[0] for (name, _), rows in self.cells.items() if name == entry.name).measured


def effective_length(means: Sequence[tuple[int, float | None]], train_length: int) -> int | None:
    """The longest length up to which, from the train length on, no perplexity is worse than at the train length.

    Args:
        means: lengths, rising, with the mean perplexity at each, None where it is not known.
        train_length: one of them.

    Returns:
        None where the perplexity at the train length is not known.
    """
    at_train_length = dict(means).get(train_length)
    if at_train_length is None:
        return None
    longest = train_length
    for length, mean in means:
        if length > train_length:
            if mean is None or mean > at_train_length * (1 + NO_WORSE):
                break
            longest = length
    return longest


def _text_tables(results: ComparisonResults, comparison: Comparison, rows: Rows) -> list[str]:
    measure = comparison.measure
    protocol = f"{measure.protocol} ({PROTOCOLS[measure.protocol]}"
    protocol += f", stride {measure.stride})" if measure.protocol == "sliding" else ")"
    parts = [
        f"{results.text['tokens']:,} tokens of {results.text['documents']:,} documents, {results.text['source']};"
        f" protocol {protocol}. Mean over seeds ± standard deviation."
    ]
    if not rows.entries:
        return [*parts, "Nothing is measured yet."]
    parts.append("Perplexity:\n\n" + _by_size(rows, lambda entry, size: mean_and_spread(rows.values(entry, size))))
    parts.append(
        "Bits per byte:\n\n"
        + _by_size(rows, lambda entry, size: mean_and_spread(_found(rows, entry, size, "bits_per_byte"), 4))
    )
    reference = comparison.entries.get(comparison.reference)
    if reference is not None:
        base_length = reference.settings.data.train_length
        base = rows.mean(reference, base_length)
        if base is not None:
            parts.append(
                f"Perplexity divided by that of {reference.name} at its train length ({base_length}):\n\n"
                + _by_size(
                    rows, lambda entry, size: _number(rows.mean(entry, size), lambda mean: f"{mean / base:.3f}")
                )
            )
    parts.append(_effective_lengths(rows))
    parts.append(
        "Segments per block:\n\n"
        + _by_size(rows, lambda entry, size: _mean(_found(rows, entry, size, "segments_per_block"), "{:.1f}"))
    )
    tokens = [f"{_any(rows, size)['tokens_scored']:,} at {size}" for size in rows.sizes]
    parts.append(f"Tokens scored: {', '.join(tokens)}.")
    return parts


def _effective_lengths(rows: Rows) -> str:
    table = [["entry", "encoding", "train length", "effective length"]]
    for entry in rows.entries:
        found = rows.first(entry)
        means = [(size, rows.mean(entry, size)) for size in rows.sizes]
        length = effective_length(means, found["train_length"])
        at_least = "≥ " if length == rows.sizes[-1] else ""
        shown = "-" if length is None else f"{at_least}{length}"
        table.append([entry.name, found["encoding"], str(found["train_length"]), shown])
    return (
        "Effective length, the longest one measured up to which the mean perplexity is at no length more than"
        f" {NO_WORSE:.1%} above that at the train length:\n\n{markdown(table)}"
    )


def _task_tables(comparison: Comparison, rows: Rows) -> list[str]:
    measure = comparison.measure
    parts = [
        f"Task {comparison.task}; {measure.samples} questions at each number of operators, answered greedily. Mean"
        " over seeds ± standard deviation."
    ]
    if not rows.entries:
        return [*parts, "Nothing is measured yet."]
    for title, field in (("Right answers", "accuracy"), ("Right steps", "steps_correct")):
        cells = _by_size(
            rows,
            lambda entry, size, field=field: mean_and_spread(
                [100 * value for value in _found(rows, entry, size, field)], 1
            ),
        )
        parts.append(f"{title} in percent, by the number of operators:\n\n{cells}")
    return parts


def _training_table(results: ComparisonResults, comparison: Comparison) -> str:
    loss = "validation loss at the train length" if comparison.task == "text" else "validation loss"
    table = [["entry", "seeds", "parameters", "tokens seen", loss, "seconds"]]
    for entry in comparison.entries.values():
        runs = [run for run in results.runs if run["entry"] == entry.name]
        if runs:
            seeds = ", ".join(str(run["seed"]) for run in runs)
            losses = mean_and_spread([run["eval_loss"] for run in runs], 4)
            counts = [f"{runs[0][key]:,}" for key in ("parameters", "tokens_seen")]
            table.append([entry.name, seeds, *counts, losses, _mean([run["seconds"] for run in runs], "{:.0f}")])
    if len(table) == 1:
        return "Nothing is trained yet."
    environments = dict.fromkeys(in_words(run["versions"] | {"device": run["device"]}) for run in results.runs)
    return f"Trained with {'; '.join(environments)}:\n\n{markdown(table)}"


def _by_size(rows: Rows, cell: Callable[[Entry, int], str]) -> str:
    first = [rows.first(entry) for entry in rows.entries]
    described = ["encoding"] if all("encoding" in found for found in first) else []
    table = [["entry", *described, "seeds", *map(str, rows.sizes)]]
    for entry, found in zip(rows.entries, first, strict=True):
        seeds = str(max(len(rows.values(entry, size)) for size in rows.sizes))
        table.append(
            [entry.name, *(found[key] for key in described), seeds, *(cell(entry, size) for size in rows.sizes)]
        )
    return markdown(table)


def _found(rows: Rows, entry: Entry, size: int, field: str) -> list[float]:
    return rows.values(entry, size, lambda row: row.measured[field])


def _any(rows: Rows, size: int) -> dict[str, Any]:
    return next(cells[0] for (_, at), cells in rows.cells.items() if at == size).measured


def _mean(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(fmean(known)) if known else "-"


def _number(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)
