"""Text that a model was not trained on: told by digests, since the same text goes by many names."""

import warnings
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, IterableDataset

from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint
from ..common.digests import rows_digest
from ..common.files import user_path
from ..common.trained_on import document_digests, read_trained_on
from ..data import load_documents


def held_out_fraction(
    checkpoints: Sequence[Checkpoint],
    data: str,
    given: float | None,
    *,
    text_column: str = "text",
    streaming: bool = False,
) -> float:
    """The `validation_fraction` that holds out what training held out, unless another one is given.

    A model was trained on this data where the data has the digest that the run recorded, or its name. A stream has no
    digest, nor have runs of early versions: then a warning says that only names were compared.

    Raises `ValueError` where the models were trained on this data with different fractions and none is given: some
    have seen what others have not.
    """
    trained = [checkpoint for checkpoint in checkpoints if checkpoint.training is not None]
    digests = {
        fraction: None if streaming else _digest(data, text_column, fraction)
        for fraction in dict.fromkeys(checkpoint.training.validation_fraction for checkpoint in trained)
    }
    used, unknown = {}, []
    for checkpoint in trained:
        training = checkpoint.training
        digest = digests[training.validation_fraction]
        if _same_place(training.data, data) or (digest is not None and digest == training.data_sha256):
            used[checkpoint.given] = training.validation_fraction
        elif streaming or training.data_sha256 is None:
            unknown.append(checkpoint.given)
    if given is not None:
        for model, fraction in used.items():
            if fraction != given:
                warnings.warn(
                    f"{model} was trained with validation_fraction {fraction}: it may know this text", stacklevel=3
                )
        return given
    if len(set(used.values())) > 1:
        raise InputError(f"validation_fraction: the models were trained with different ones ({used}): give one")
    for model in unknown:
        warnings.warn(
            f"{model} may know this text: without digests of its training and of {data} only their names were"
            " compared, which differ",
            stacklevel=3,
        )
    return next(iter(used.values()), 0.05)


def warn_of_known_documents(
    checkpoints: Sequence[Checkpoint], documents: Dataset | IterableDataset, counts: Sequence[int], data: str
) -> None:
    """Warns where documents that are held out here were trained on, under whatever name.

    Args:
        checkpoints: to be measured.
        documents: with the column `text`.
        counts: for each model, how many of them, from the first, are read.
        data: names them in the warning.
    """
    for checkpoint, count in zip(checkpoints, counts, strict=True):
        known = read_trained_on(checkpoint.folder)
        seen = 0 if known is None else known_documents(documents, count, known)
        if seen:
            training = checkpoint.training
            remedy = "" if training is None else f" (its validation_fraction was {training.validation_fraction})"
            warnings.warn(
                f"{checkpoint.given} was trained on {seen} of the {count} documents of {data} that are measured"
                f"{remedy}",
                stacklevel=3,
            )


def known_documents(documents: Dataset | IterableDataset, count: int, known: np.ndarray) -> int:
    """How many of the first `count` documents have a digest (see `document_digests`) that is among those `known`."""
    first = documents.select_columns("text").take(count)
    return int(np.isin(document_digests(row["text"] for row in first), known).sum())


def _digest(data: str, text_column: str, fraction: float) -> str | None:
    try:
        texts = load_documents(data, text_column=text_column, validation_fraction=fraction).select_columns("text")
    except InputError:  # cannot be divided so: then no training did
        return None
    return rows_digest(texts["train"], texts["validation"])


def _same_place(one: str, other: str) -> bool:
    return user_path(one).resolve() == user_path(other).resolve()
