"""What a report reads: the tokenizer, what ends its segments, and the documents."""

from dataclasses import dataclass

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ...model.configuration_bipe import BipeConfigMixin, BipeLlamaConfig
from ...model.errors_bipe import InputError
from ...model.separators_bipe import PRESETS
from ...model.tokenization_bipe import BipeTokenizer
from ..common.checkpoints import is_bipe, load_part, local_folder


# What a unit is called that ends at the separators of a preset.
_UNITS = {preset: preset.removesuffix("s") for preset in PRESETS if preset != "authors"}


@dataclass(frozen=True)
class Level:
    """Segments, or the units of a level inside them."""

    unit: str
    """What one of them is called: `"segment"`, or after the preset that ends it, such as `"field"`."""
    separators: str | list[int | str] | None
    """The preset, or a list of token ids and strings; None for segments that end at no separator."""
    token_ids: list[int]
    """The separators."""


@dataclass(frozen=True)
class TextSegmentation:
    """What decides where segments end."""

    tokenizer: PreTrainedTokenizerBase
    """A fast one."""
    config: BipeConfigMixin
    """That of the model, or one made for this tokenizer."""
    description: str
    """What ends a segment, and a unit of each level inside it, in words."""
    levels: list[Level]
    """Coarse to fine, the segments first; empty where neither the source has inner levels nor levels were given."""


def open_segmentation(
    source: str,
    separators: str | list[int | str] | None = None,
    max_segment_length: int | None = None,
    revision: str | None = None,
    levels: list[str | list[int | str]] | None = None,
) -> TextSegmentation:
    """Loads a tokenizer and what ends its segments.

    Args:
        source: folder or Hub name of a tokenizer or of a model. A BiPE model brings its segmentation, its separators,
            those of its inner levels, its `max_segment_length` and its `max_inner_index`, a saved `BipeTokenizer` its
            separators and those of its inner levels.
        separators: a preset or a list, as `BipeTokenizer.from_tokenizer` takes them, instead of what `source` brings.
            None takes that, or `"sentences"` where it brings nothing.
        max_segment_length: rows of the intra table, instead of those of the model. None takes these, or else the
            default of a config.
        revision: branch, tag or commit of `source` on the Hub.
        levels: instead of `separators`, those of segments and of each level inside them, coarse to fine, as
            `BipeTokenizer.from_tokenizer` takes them.

    Returns:
        The tokenizer, and where its segments end.

    Raises:
        ValueError: it cannot be loaded or is no fast tokenizer, or the separators do not fit it.
    """
    if separators is not None and levels is not None:
        raise InputError("separators and levels: the first of the levels are the separators; give levels alone")
    if max_segment_length is not None and max_segment_length < 1:
        raise InputError(f"max_segment_length: {max_segment_length} is less than 1 token")
    tokenizer = load_part(AutoTokenizer, "tokenizer", source, revision)
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer: {source} is no fast tokenizer, and no other tells where its tokens stand")
    fields = {} if max_segment_length is None else {"max_segment_length": max_segment_length}
    folder = local_folder(source)
    is_model = folder is None or (folder / "config.json").is_file()
    config = load_part(AutoConfig, "tokenizer", source, revision) if is_model else None
    is_given = separators is not None or levels is not None
    if not is_given and config is not None and is_bipe(config):
        for name, value in fields.items():
            setattr(config, name, value)
        return _with_levels(tokenizer, config)
    if is_given or not isinstance(tokenizer, BipeTokenizer):
        chosen = {"separators": "sentences" if separators is None else separators}
        try:
            tokenizer = BipeTokenizer.from_tokenizer(tokenizer, **(chosen if levels is None else {"levels": levels}))
        except InputError as error:
            raise InputError(f"tokenizer {source}, {error}") from error
    if config is not None and is_bipe(config):
        fields = {"max_segment_length": config.max_segment_length, "max_inner_index": config.max_inner_index} | fields
    config = BipeLlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        separator_token_ids=tokenizer.separator_token_ids,
        inner_separator_token_ids=tokenizer.inner_separator_token_ids,
        **fields,
    )
    return _with_levels(tokenizer, config, are_wanted=levels is not None)


def _with_levels(
    tokenizer: PreTrainedTokenizerBase, config: BipeConfigMixin, are_wanted: bool = False
) -> TextSegmentation:
    segments, *inner = _levels(tokenizer, config)
    if inner or are_wanted:
        names = ", ".join(_name(level, config) for level in (segments, *inner))
        return TextSegmentation(tokenizer, config, f"levels {names}", [segments, *inner])
    name = _name(segments, config)
    is_named = segments.separators is not None and _is_short(segments.separators)
    return TextSegmentation(tokenizer, config, f"separators {name}" if is_named else name, [])


def _levels(tokenizer: PreTrainedTokenizerBase, config: BipeConfigMixin) -> list[Level]:
    """Segments and each level inside them, by the names or lists that their separators were chosen by, where the
    tokenizer knows them.
    """
    levels = [config.separator_token_ids, *config.inner_separator_token_ids]
    chosen: list[str | list[int | str] | None] = list(levels)
    if isinstance(tokenizer, BipeTokenizer):
        of_tokenizer = [tokenizer.separator_token_ids, *tokenizer.inner_separator_token_ids]
        for at, (own, name) in enumerate(zip(of_tokenizer, tokenizer.levels, strict=True)):
            if [sorted(set(level)) for level in levels[at : at + 1]] == [own]:
                chosen[at] = name
    if config.segmentation != "separators":
        chosen[0] = None
    units = ["segment", *(_unit(separators, at) for at, separators in enumerate(chosen[1:], start=1))]
    return [Level(*level) for level in zip(units, chosen, levels, strict=True)]


def _unit(separators: str | list[int | str], at: int) -> str:
    return _UNITS[separators] if isinstance(separators, str) and separators in _UNITS else f"level-{at} unit"


def _name(level: Level, config: BipeConfigMixin) -> str:
    """What ends a unit of a level, in words."""
    if level.separators is None:
        return f"each {config.fixed_segment_length} tokens" if config.segmentation == "fixed" else config.segmentation
    return str(level.separators) if _is_short(level.separators) else f"{len(level.separators)} separators"


def _is_short(separators: str | list[int | str]) -> bool:
    return isinstance(separators, str) or len(separators) <= 8
