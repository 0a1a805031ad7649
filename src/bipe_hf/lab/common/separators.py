"""What ends a segment, as users give it and as a model brings it."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...model.encodings_bipe import encoding_levels
from ...model.errors_bipe import InputError
from ...model.separators_bipe import LEVELS
from ...model.tokenization_bipe import BipeTokenizer
from .messages import parsed_json


def parsed_levels(name: str, value: str | list | None) -> list | None:
    """The levels as a list, coarse to fine, each as `BipeTokenizer.from_tokenizer` takes it.

    Args:
        name: of the setting or flag.
        value: one name, names with commas between them, a list in JSON, or a list; each of its items may be JSON.

    Raises:
        ValueError: what begins like JSON is none.
    """
    if isinstance(value, str):
        whole: Any = parsed_json(name, value)
        return whole if isinstance(whole, list) else [level.strip() for level in value.split(",")]
    return None if value is None else [parsed_json(name, level) for level in value]


def check_levels(encoding: str, separators: Any, levels: Sequence | None) -> None:
    """Refuses separators, or a single level, for an encoding that tells the levels inside a segment apart.

    Args:
        encoding: its name.
        separators: as they were given, or None.
        levels: likewise.

    Raises:
        ValueError: what was given is no levels.
    """
    if len(encoding_levels(encoding)) < 2:
        return
    if separators is not None:
        raise InputError(f"separators: encoding {encoding!r} has levels inside segments; give levels instead")
    if levels is not None and len(levels) == 1 and levels[0] not in list(LEVELS):
        raise InputError(
            f"levels: {levels} is one level, but encoding {encoding!r} tells those inside a segment apart: give two or"
            " more, such as [lines, fields] (docs/levels.md)"
        )


def with_separators_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> BipeTokenizer:
    """The tokenizer with the separators of a model.

    One that has them stays as it is: it knows by which names they were chosen, and what these names find may be
    something else in another version. Any other one gets them as token ids.

    Args:
        config: of the model.
        tokenizer: a fast one.
    """
    levels = [sorted(set(level)) for level in (config.separator_token_ids, *config.inner_separator_token_ids)]
    if isinstance(tokenizer, BipeTokenizer):
        own = [tokenizer.separator_token_ids, *tokenizer.inner_separator_token_ids]
        if own == levels:
            return tokenizer
    return BipeTokenizer.from_tokenizer(tokenizer, levels=levels)
