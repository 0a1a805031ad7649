"""Numbers of a comparison in results/."""

import json
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bipe_hf.lab.common.tables import mean_and_spread


ROOT = Path(__file__).parents[2]


def percent(share: float, digits: int = 0) -> str:
    """A share as it is written."""
    return f"{100 * share:.{digits}f} %"


@cache
def _content(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / name / "comparison.json").read_text(encoding="utf-8"))


class Comparison:
    """Measured values of a comparison in results/."""

    def __init__(self, name: str) -> None:
        content = _content(name)
        self.rows, self.runs, self.config = content["results"], content["runs"], content["config"]

    def values(self, entry: str, length: int, metric: str = "bits_per_byte") -> list[float]:
        """Those of all seeds of an entry at a length."""
        found = [row["measured"][metric] for row in self.rows if (row["entry"], row["size"]) == (entry, length)]
        if not found:
            raise KeyError(f"no {entry} at {length}")
        return found

    def has(self, entry: str, length: int) -> bool:
        """Whether an entry was measured at a length."""
        return any((row["entry"], row["size"]) == (entry, length) for row in self.rows)

    def rate(self, entry: str) -> float:
        """The learning rate of an entry."""
        return self.config["entries"][entry].get("learning_rate", self.config["settings"]["learning_rate"])

    def mean(self, entry: str, length: int, metric: str = "bits_per_byte") -> float:
        """Mean over seeds."""
        return statistics.mean(self.values(entry, length, metric))

    def cell(self, entry: str, length: int, metric: str = "bits_per_byte", digits: int = 2) -> str:
        """Mean, and the standard deviation over seeds where there are several."""
        return mean_and_spread(self.values(entry, length, metric), digits)

    def cell_or_dash(self, entry: str, length: int, metric: str = "bits_per_byte", digits: int = 2) -> str:
        """The same, or a dash where that was not measured."""
        return self.cell(entry, length, metric, digits) if self.has(entry, length) else "-"

    def best(self, entries: Iterable[str], length: int, metric: str = "bits_per_byte") -> str:
        """Which of these, as far as they were measured at a length, has the lowest mean."""
        return min((entry for entry in entries if self.has(entry, length)), key=lambda e: self.mean(e, length, metric))

    def ratio(self, entry: str, other: str, length: int, metric: str = "perplexity") -> float:
        """An entry's mean over that of another one."""
        return self.mean(entry, length, metric) / self.mean(other, length, metric)

    def less(self, entry: str, other: str, length: int, metric: str = "bits_per_byte", digits: int = 0) -> str:
        """By how many percent an entry is below another one."""
        return percent(1 - self.ratio(entry, other, length, metric), digits)

    def less_at_best(self, entry: str, others: Sequence[str]) -> str:
        """By how many percent the lowest validation loss of an entry is below that of the best other one, seed 1."""
        lowest = {
            run["entry"]: min(run["learning_curve"]["validation"]["losses"]) for run in self.runs if run["seed"] == 1
        }
        return percent(1 - lowest[entry] / min(lowest[other] for other in others))

    def growth(self, entry: str, length: int, longer: int) -> float:
        """The perplexity of an entry at a longer length over that at this one."""
        return self.mean(entry, longer, "perplexity") / self.mean(entry, length, "perplexity")
