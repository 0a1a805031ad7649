"""When the card of a folder is written: over our own text and transformers' blank form, never over anybody else's."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError
from transformers.utils import logging

from ..model.travel_bipe import write_whole
from .card import IDS_ALONE, MODEL_FILES, TEMPLATE, describe
from .records import RECORD_FILES


logger = logging.get_logger(__name__)

CARD_FILE = "README.md"

# The text of a card is ours as long as the mark has its hash. The metadata may be edited: we keep what we do not set.
_MARK = "<!-- Written by bipe-hf, which renews this text until somebody edits it. {} -->"
_MARK_PATTERN = re.compile(_MARK.replace(".", r"\.").format(r"([0-9a-f]{16})"))
_OUR_METADATA = {"library_name", "model-index", "pipeline_tag", "tags"}
# What a push of transformers fills its blank form with.
_BLANK = (
    "This is the model card of a \U0001f917 transformers model that has been pushed on the Hub. This model card has"
    " been automatically generated."
)


def write_model_card(folder: str | os.PathLike, name: str | None = None, *, with_records: bool = False) -> None:
    """Writes `README.md` from what the folder holds (see [`describe`]).

    Does nothing where there is no BiPE configuration, or where the text of a `README.md` is neither ours nor the blank
    form of transformers. Metadata of a card that is replaced are kept where we do not set them. A card that cannot be
    written is a warning: it must not cost a checkpoint.

    Args:
        folder: with `config.json`.
        name (`str`, *optional*): of the repository; by default the folder's.
        with_records (`bool`, *optional*, defaults to `False`):
            Tell of the records of training and evaluation in the folder too: they speak of the weights that it holds.
    """
    folder = Path(folder)
    try:
        _write(folder, name, with_records)
    except Exception as error:  # `tokenizers` raises bare ones, and other processes may be writing here
        logger.warning(f"{folder / CARD_FILE} was not written: {' '.join(str(error).split())}")


def write_card_of_model(
    folder: str | os.PathLike, repo: str, *, token: bool | str | None, revision: str | None
) -> None:
    """Writes the card of a model that is about to be pushed: `push_to_hub` of a model.

    Args:
        folder: with the model.
        repo: `owner/name` on the Hub.
        token: of the user; None or True takes the one that is kept, False none.
        revision: branch that is pushed to; None is `main`.
    """
    write_card_to_push(folder, repo, write_model_card, token=token, revision=revision)


def write_card_of_tokenizer(
    folder: str | os.PathLike, repo: str, *, token: bool | str | None, revision: str | None
) -> None:
    """Writes the card of a tokenizer that comes to a model.

    A card of ours that shows separators is left, with the results in it.

    Args:
        folder: with the tokenizer.
        repo: `owner/name` on the Hub.
        token: as in [`write_card_of_model`].
        revision: as in [`write_card_of_model`].
    """

    def write(folder: Path, name: str) -> None:
        card = folder / CARD_FILE
        if not (card.is_file() and is_ours(text := _read(card)) and IDS_ALONE not in text):
            write_model_card(folder, name)

    write_card_to_push(folder, repo, write, token=token, revision=revision)


def write_card_to_push(
    folder: str | os.PathLike,
    repo: str,
    write: Callable[[Path, str], None],
    *,
    token: bool | str | None,
    revision: str | None,
) -> None:
    """Writes the card of a folder that is about to be pushed, from the files of the repository too.

    A model and its tokenizer are pushed one after the other, and neither says all of the two. Only the card is written
    to `folder`.

    Args:
        folder: with what is pushed.
        repo: `owner/name` on the Hub.
        write: gets a folder with the files of both, and `repo`, and writes the card there.
        token: as in [`write_card_of_model`].
        revision: as in [`write_card_of_model`].
    """
    folder = Path(folder)
    with TemporaryDirectory() as temporary:
        whole = Path(temporary)
        for file in (*MODEL_FILES, CARD_FILE, *RECORD_FILES):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, whole / file)
            elif file not in RECORD_FILES:  # those may speak of other weights
                with suppress(RemoteEntryNotFoundError, RevisionNotFoundError):
                    shutil.copyfile(hf_hub_download(repo, file, token=token, revision=revision), whole / file)
        card = whole / CARD_FILE
        before = card.read_bytes() if card.is_file() else None
        write(whole, repo)
        if card.is_file() and card.read_bytes() != before:
            shutil.copyfile(card, folder / CARD_FILE)


def _write(folder: Path, name: str | None, with_records: bool) -> None:
    card = folder / CARD_FILE
    kept, tags = {}, []
    if card.exists():
        text = _read(card)
        if not (is_ours(text) or _is_blank(text)):
            return
        kept = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
        tags = kept.get("tags") or []
    described = describe(folder, name, with_records)
    if described is None:
        return
    metadata, content = described
    metadata["tags"] += [tag for tag in tags if tag not in metadata["tags"]]
    told = _OUR_METADATA | (metadata.keys() & {"base_model"})
    metadata |= {key: value for key, value in kept.items() if key not in told}
    written = ModelCard.from_template(ModelCardData(**metadata), template_path=str(TEMPLATE), **content)
    body = written.text.strip()
    write_whole(card, f"---\n{written.data.to_yaml()}\n---\n\n{_MARK.format(_hash(body))}\n\n{body}\n")


def _read(card: Path) -> str:
    return card.read_text(encoding="utf-8", errors="replace")


def is_ours(text: str) -> bool:
    """Whether a card has the text that this module gave it."""
    mark = _MARK_PATTERN.search(text)
    return mark is not None and _hash(text[mark.end() :]) == mark[1]


def _is_blank(text: str) -> bool:
    if _BLANK not in text:
        return False
    blank = ModelCard.from_template(ModelCardData(), model_description=_BLANK)
    return ModelCard(text, ignore_metadata_errors=True).text.split() == blank.text.split()


def _hash(body: str) -> str:
    return hashlib.sha256(body.strip().encode()).hexdigest()[:16]
