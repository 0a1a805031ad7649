"""Documents for training and for validation."""

import hashlib
from collections.abc import Iterable

from datasets import Dataset, IterableDataset

from ...model.errors_bipe import InputError


def split_by_document(
    source: str, documents: Dataset | IterableDataset, fraction: float, seed: int
) -> dict[str, Dataset | IterableDataset]:
    """Splits `"train"` and `"validation"` (about `fraction` of the documents) by each document's `name`.

    Each name and `seed` give a number in [0, 1), the same whatever other documents there are; a document belongs to
    the validation split if its number is below `fraction`. Should one split come out empty, the document with the
    lowest (highest) number is moved there.

    Raises:
        ValueError: fewer than two documents in `source`.
    """
    bound = _bound(source, (row["name"] for row in documents.select_columns("name")), fraction, seed)
    splits = {}
    for split in ("train", "validation"):
        arguments = {
            "input_columns": "name",
            "batched": True,
            "fn_kwargs": {"bound": bound, "seed": seed, "validation": split == "validation"},
        }
        if isinstance(documents, Dataset):
            arguments["desc"] = f"Selecting {split} documents"
        splits[split] = documents.filter(_is_in_split, **arguments)
    return splits


def _is_in_split(names: list[str], bound: float, seed: int, validation: bool) -> list[bool]:
    return [(_draw(name, seed) < bound) == validation for name in names]


def _draw(name: str, seed: int) -> float:
    """A number in [0, 1) that only depends on the arguments, uniform over names."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=6).digest(), "big") / 2**48


def _bound(source: str, names: Iterable[str], fraction: float, seed: int) -> float:
    """The draw below which documents go to validation: `fraction`, unless that leaves one split empty.

    Stops at the first names that show that both splits have a document, so that a stream is not read to its end.
    """
    draws = set()
    below = above = False
    for name in names:
        draw = _draw(name, seed)
        draws.add(draw)
        below |= draw < fraction
        above |= draw >= fraction
        if below and above:
            return fraction
    if len(draws) < 2:
        raise InputError(f"{source} holds {len(draws)} document(s); a training and a validation split need at least 2")
    return sorted(draws)[1 if above else -1]
