"""The losses of the units of a text: the file beside `comparison.json` that keeps them.

A unit is a document, or a part of a long one. Differences between entries are paired over units (see `paired`).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...model.errors_bipe import InputError
from ...model.travel_bipe import write_whole
from ..common.files import read_json
from ..evaluation.scoring import LossSums


FORMAT = "bipe-hf losses 1"
FILE = "losses.json"
# Sums of nats are kept to so many decimals.
DECIMALS = 4


@dataclass
class UnitLosses:
    """For each unit of the text, in its order: tokens scored, by length, and nats, by entry, seed and length.

    `tokens` (long, `(units,)`) are the same for all entries, as they depend on the windows alone. `nats` (float64,
    `(units,)`) are sums over these tokens.
    """

    unit_tokens: int
    tokens: dict[int, np.ndarray] = field(default_factory=dict)
    nats: dict[tuple[str, int, int], np.ndarray] = field(default_factory=dict)

    def add(self, entry: str, seed: int, length: int, found: LossSums) -> None:
        """Keeps what was found, in place of what was there."""
        self.tokens[length] = found.counts.numpy()
        self.nats[entry, seed, length] = found.sums.numpy().round(DECIMALS)

    def check(self, keys: Iterable[tuple[str, int, int]], folder: Path) -> None:
        """Raises `ValueError` where there are none of an entry, a seed and a length."""
        for entry, seed, length in keys:
            if (entry, seed, length) not in self.nats:
                raise InputError(
                    f"{folder / FILE} has no losses of {entry!r}, seed {seed}, at {length}, which comparison.json has:"
                    " bring it back, or --overwrite to start again"
                )

    def save(self, folder: Path) -> None:
        """Writes the file, replaced as a whole or not at all: a line for each length and for each measurement."""
        head = {"format": FORMAT, "unit_tokens": self.unit_tokens}
        tokens = [{"length": length, "tokens": counts.tolist()} for length, counts in sorted(self.tokens.items())]
        nats = [
            {"entry": entry, "seed": seed, "length": length, "nats": sums.tolist()}
            for (entry, seed, length), sums in self.nats.items()
        ]
        parts = [f"{json.dumps(head)[:-1]}", f'"tokens": [\n{_lines(tokens)}\n]', f'"nats": [\n{_lines(nats)}\n]}}\n']
        write_whole(folder / FILE, ",\n".join(parts))

    @classmethod
    def read(cls, folder: Path) -> "UnitLosses":
        """What `save` wrote. Raises `FileNotFoundError` or `ValueError` where it is not there or anything else."""
        file = folder / FILE
        content = read_json(file)
        if content.get("format") != FORMAT:
            raise InputError(f'{file} was not written by `bipe-hf compare`: its "format" is not "{FORMAT}"')
        try:
            tokens = {row["length"]: np.array(row["tokens"]) for row in content["tokens"]}
            nats = {(row["entry"], row["seed"], row["length"]): np.array(row["nats"]) for row in content["nats"]}
            losses = cls(content["unit_tokens"], tokens, nats)
        except (TypeError, KeyError) as error:
            raise InputError(f"{file} does not hold what `bipe-hf compare` writes ({error})") from error
        for (entry, seed, length), sums in nats.items():
            if length not in tokens or sums.shape != tokens[length].shape:
                raise InputError(f"{file}: the units of {entry!r}, seed {seed}, at {length} have no tokens")
        return losses


def _lines(rows: list[dict[str, Any]]) -> str:
    return ",\n".join(map(json.dumps, rows))
