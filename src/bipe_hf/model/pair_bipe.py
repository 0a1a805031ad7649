"""A model and the tokenizer beside it: whether both end segments at the same tokens."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import cached_file, logging


logger = logging.get_logger(__name__)


HUB = ("cache_dir", "revision", "subfolder")
"""Arguments of `from_pretrained` that say where files are."""


def compare_pair(name: str | Path, loaded: PreTrainedConfig | None = None, /, **given: Any) -> None:
    """Warns where a [`BipeTokenizer`] finds other segments than the BiPE model that is saved beside it.

    The model's own hold in any case (see `renumber` of `segmentation_bipe`); what the tokenizer says of a text is then
    not what the model does with it.

    Args:
        name: a folder, or a name on the Hub, of which the files that were fetched before are looked at.
        loaded: configuration of the model, where it is not the saved one.
        given: arguments of `from_pretrained`, of which those of `HUB` count.
    """
    where = {name: given[name] for name in HUB if name in given}
    config = _read(name, "config.json", where) if loaded is None else loaded.to_dict()
    tokenizer = _read(name, "tokenizer_config.json", where)
    if "segmentation" not in config or "separator_token_ids" not in tokenizer:
        return
    if config["segmentation"] != "separators":
        logger.warning(
            f"{name}: the tokenizer ends segments at separators, the model has segmentation"
            f" {config['segmentation']!r}. BipeTokenizer.without_segments() gives the tokenizer that belongs to it."
        )
    elif _levels(tokenizer) != _levels(config):
        logger.warning(
            f"{name}: the tokenizer ends segments at other tokens than the model, whose own hold. What belongs to it"
            " is BipeTokenizer.from_tokenizer(tokenizer, levels=[config.separator_token_ids,"
            " *config.inner_separator_token_ids])."
        )


def _read(name: str | Path, file: str, where: dict) -> dict:
    """What a file of JSON holds; nothing where there is none or it is not ours to judge."""
    try:
        path = cached_file(name, file, local_files_only=True, _raise_exceptions_for_missing_entries=False, **where)
        held = None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _levels(fields: dict) -> list[list[int]]:
    """The separators of each level; version 0.1 had no inner ones."""
    levels = [fields.get("separator_token_ids"), *(fields.get("inner_separator_token_ids") or ())]
    return [sorted(set(level or ())) for level in levels]
