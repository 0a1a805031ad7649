"""A model and the tokenizer beside it: whether both end segments at the same tokens."""

import json
from pathlib import Path

from transformers.utils import logging


logger = logging.get_logger(__name__)


def compare_pair(folder: str | Path) -> None:
    """Warns where the `BipeTokenizer` saved in a folder finds other segments than the BiPE model saved there.

    The model's own hold in any case (see `renumber` of `segmentation_bipe`); what the tokenizer says of a text is then
    not what the model does with it. A name on the Hub is no folder, and is not looked at.
    """
    files = [Path(folder) / name for name in ("config.json", "tokenizer_config.json")]
    if not all(file.is_file() for file in files):
        return
    try:
        config, tokenizer = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    except ValueError:  # a file of somebody else, which is not ours to judge
        return
    if "segmentation" not in config or tokenizer.get("tokenizer_class") != "BipeTokenizer":
        return
    if config["segmentation"] != "separators":
        logger.warning(
            f"{folder}: the tokenizer ends segments at separators, the model has segmentation"
            f" {config['segmentation']!r}. BipeTokenizer.without_segments() gives the tokenizer that belongs to it."
        )
    elif _levels(tokenizer) != _levels(config):
        logger.warning(
            f"{folder}: the tokenizer ends segments at other tokens than the model, whose own hold. What belongs to it"
            " is BipeTokenizer.from_tokenizer(tokenizer, levels=[config.separator_token_ids,"
            " *config.inner_separator_token_ids])."
        )


def _levels(fields: dict) -> list[list[int]]:
    """The separators of each level; version 0.1 had no inner ones."""
    levels = [fields.get("separator_token_ids"), *(fields.get("inner_separator_token_ids") or ())]
    return [sorted(set(level or ())) for level in levels]
