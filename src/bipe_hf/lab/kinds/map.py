"""What the map shows: each kind of text with each encoding at each length, as far as it is measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..common.results import read_results
from ..comparison.losses import UnitLosses
from ..comparison.paired import PairedRatios, Ratio
from ..comparison.results import FORMAT, ComparisonResults, Row, results_file


@dataclass(frozen=True)
class Cell:
    """An entry on one kind of text at one length.

    `perplexity` is `exp` of the mean over seeds of the mean loss; `spread` is the standard deviation of the
    perplexities of the seeds, None with one. `bits_per_byte` is the mean over seeds. `behind` is the perplexity
    divided by the lowest one of its kind and length, which `is_best` has.
    """

    perplexity: float
    spread: float | None
    bits_per_byte: float
    behind: Ratio
    is_best: bool

    @property
    def percent(self) -> float:
        """How far behind the best, in percent."""
        return 100 * (self.behind.value - 1)


@dataclass(frozen=True)
class Kind:
    """A kind of text: its cells by entry and length, what was measured on, and the calls that measured."""

    name: str
    train_length: int
    text: dict[str, Any]
    units: int
    cells: dict[tuple[str, int], Cell]
    calls: list[dict[str, Any]]


@dataclass(frozen=True)
class Map:
    """Kinds in their order, entries in the order of the files, and lengths, rising."""

    kinds: list[Kind]
    entries: list[str]
    lengths: list[int]


def read_map(output: Path, names: Iterable[str]) -> Map:
    """The map of the kinds of these names, as far as `output` has results of them."""
    kinds, entries = [], {}
    for name in names:
        if results_file(output / name).is_file():
            results = read_results(results_file(output / name), FORMAT, ComparisonResults, Row, "compare")
            if results.results:
                kinds.append(make_kind(name, results, UnitLosses.read(output / name)))
                entries |= dict.fromkeys(results.config["entries"])
    measured = {key for kind in kinds for key in kind.cells}
    return Map(
        kinds,
        [entry for entry in entries if any(entry == name for name, _ in measured)],
        sorted({length for _, length in measured}),
    )


def make_kind(name: str, results: ComparisonResults, losses: UnitLosses) -> Kind:
    """The cells of one kind. Raises `ValueError` where results have no losses."""
    losses.check([(row.entry, row.seed, row.size) for row in results.results], Path(name))
    ratios = PairedRatios(losses)
    rows: dict[tuple[str, int], list[Row]] = {}
    for row in results.results:
        rows.setdefault((row.entry, row.size), []).append(row)
    best = {
        length: min((entry for entry, at in rows if at == length), key=lambda entry: ratios.loss(entry, length))
        for length in dict.fromkeys(length for _, length in rows)
    }
    cells = {
        (entry, length): Cell(
            perplexity=exp(ratios.loss(entry, length)),
            spread=stdev(row.value for row in seeds) if len(seeds) > 1 else None,
            bits_per_byte=fmean(row.measured["bits_per_byte"] for row in seeds),
            behind=ratios.ratio(entry, best[length], length),
            is_best=entry == best[length],
        )
        for (entry, length), seeds in rows.items()
    }
    train_length = results.results[0].measured["train_length"]
    return Kind(name, train_length, results.text, ratios.units, cells, results.calls)
