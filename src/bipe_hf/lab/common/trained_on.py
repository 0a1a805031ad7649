"""Which documents a model was trained on: the digest of each in a file of the run folder, whatever they are called."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...model.travel_bipe import write_whole


TRAINED_ON_FILE = "trained_on.npy"


def document_digests(texts: Iterable[str]) -> np.ndarray:
    """The first eight bytes of the SHA-256 of each text in UTF-8: uint64, `(documents,)`."""
    found = b"".join(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8] for text in texts)
    return np.frombuffer(found, "<u8")


def write_trained_on(folder: Path, texts: Iterable[str], initial: Path | None = None) -> None:
    """Writes the digests of the documents that a run learns, and those of its initial model.

    Args:
        folder: of the run.
        texts: of the documents.
        initial: folder of the initial model.
    """
    digests = document_digests(texts)
    earlier = None if initial is None else read_trained_on(initial)
    if earlier is not None:
        digests = np.concatenate([digests, earlier])
    content = io.BytesIO()
    np.save(content, np.unique(digests), allow_pickle=False)
    write_whole(folder / TRAINED_ON_FILE, content.getvalue())


def read_trained_on(folder: Path) -> np.ndarray | None:
    """The digests that [`write_trained_on`] wrote, rising; None where there are none that can be read."""
    try:
        return np.load(folder / TRAINED_ON_FILE, allow_pickle=False)
    except (OSError, ValueError):
        return None
