"""A tokenizer that also says which segment every token stands in.

[`BipeTokenizer`] wraps any fast tokenizer and adds `segment_ids` to what it returns. A segment ends with a separator;
`separators_bipe` says which tokens are.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, TokenizersBackend
from transformers.utils import logging

from .counting_bipe import SegmentCounter
from .errors_bipe import InputError
from .pair_bipe import compare_pair
from .push_bipe import PushMixin
from .separators_bipe import Level, find_levels, find_separators
from .travel_bipe import check_code, write_code


logger = logging.get_logger(__name__)

# What else than the backend decides how text is encoded, padded and decoded.
_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "split_special_tokens",
    "add_prefix_space",
    "chat_template",
    "response_template",
    "chat_control_tokens",
)
# Of these a saved tokenizer consists.
_FIXED = ("separators", "separator_token_ids", "inner_separators", "inner_separator_token_ids")
_NOT_GIVEN: Any = object()
# Methods that turn text into ids or ids into text. A class with its own is more than its backend.
_CODING_METHODS = ("__call__", "_encode_plus", "_convert_encoding", "pad", "_pad", "decode", "_decode")


def _rebuild(tokenizer: TokenizersBackend, target: type[TokenizersBackend], **fields: Any) -> TokenizersBackend:
    """A tokenizer of class `target` that encodes and decodes as `tokenizer` does."""
    special_tokens = tokenizer.special_tokens_map
    settings = {name: vars(tokenizer)[name] for name in _SETTINGS if name in vars(tokenizer)}
    model_specific = {k: v for k, v in special_tokens.items() if k not in target.SPECIAL_TOKENS_ATTRIBUTES}
    if model_specific:
        settings["model_specific_special_tokens"] = model_specific
    rebuilt = target(tokenizer_object=tokenizer.backend_tokenizer, **settings, **fields)
    # Not given to the constructor: there a special token that is an ordinary entry of the vocabulary would become an
    # added one, which changes how text is split, and a name would be looked up on the Hub.
    for name, token in special_tokens.items():
        setattr(rebuilt, name, token)
    rebuilt.extra_special_tokens = tokenizer.extra_special_tokens
    rebuilt.name_or_path = tokenizer.name_or_path
    # The public setters would rebuild the post-processor, which came with the backend.
    rebuilt._add_bos_token = tokenizer.add_bos_token
    rebuilt._add_eos_token = tokenizer.add_eos_token
    return rebuilt


class BipeTokenizer(PushMixin, TokenizersBackend):
    """A fast tokenizer that returns `segment_ids` beside `input_ids` and `attention_mask`.

    Build one with [`BipeTokenizer.from_tokenizer`]; it saves, loads and pads like any tokenizer, and it encodes and
    decodes exactly as the tokenizer that it wraps. `segment_ids` has the shape and type of `input_ids` and holds the
    number of separators strictly before a token, among those tokens of the final (truncated) sequence that are no
    padding; it is -1 at padding. With inner levels there is such a number for each level of each token, the segment
    first: one dimension more, and those of inner levels count inside their parents. Without tensors, equal ones may be
    one list, whose items are not to be changed. Special tokens such as bos belong to the segment in which they stand.
    As with every output, `model_input_names` decides whether it is returned.

    Separators are fixed when a tokenizer is wrapped: they are saved with it, never computed again on loading, and
    `add_tokens` does not change them. To have added tokens considered, or to change the separators, wrap again.

    The constructor is for [`BipeTokenizer.from_pretrained`], with what was saved.

    Args:
        args: as transformers takes them.
        separators: the preset or the list that the tokenizer was wrapped with.
        separator_token_ids: ids of the tokens that end a segment.
        segmentation: the name that version 0.1 had for `separators`.
        inner_separators: the preset or the list of each inner level, coarse to fine.
        inner_separator_token_ids: ids of the tokens that end a unit of each inner level.
        kwargs: as transformers takes them.

    Raises:
        ValueError: if `separators` or `separator_token_ids` are missing, or if both names of the first are given.
    """

    _auto_map = {"AutoTokenizer": ("tokenization_bipe.BipeTokenizer", None)}  # the code goes along
    _counts: SegmentCounter | None = None  # made when it is needed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._auto_map = None  # whose code is not ours to publish: there is `register_for_auto_class`

    def __init__(
        self,
        *args: Any,
        separators: str | Sequence[int | str] = _NOT_GIVEN,
        separator_token_ids: Iterable[int] | None = None,
        segmentation: str | Sequence[int | str] = _NOT_GIVEN,
        inner_separators: Iterable[str | Sequence[int | str]] = (),
        inner_separator_token_ids: Iterable[Iterable[int]] = (),
        **kwargs: Any,
    ) -> None:
        separators = _one_of(separators, segmentation, None)  # version 0.1 saved them as `segmentation`
        if separators is None or separator_token_ids is None:
            raise InputError(
                "BipeTokenizer needs `separators` and `separator_token_ids`, which only a saved BipeTokenizer has."
                " Wrap another tokenizer: BipeTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(...))."
            )
        self._separators = separators
        # Sorted, so that equal tokenizers pickle alike: caches of data sets depend on it.
        self._separator_token_ids = _sorted(separator_token_ids)
        self._inner_separators = tuple(inner_separators)
        self._inner_separator_token_ids = tuple(map(_sorted, inner_separator_token_ids))
        if self._inner_separators:
            kwargs["inner_separators"] = list(self._inner_separators)
            kwargs["inner_separator_token_ids"] = self.inner_separator_token_ids
        # What is given to the base class is what `save_pretrained` writes.
        super().__init__(*args, separators=separators, separator_token_ids=self.separator_token_ids, **kwargs)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        separators: str | Sequence[int | str] = _NOT_GIVEN,
        *,
        levels: Sequence[str | Sequence[int | str]] = _NOT_GIVEN,
        segmentation: str | Sequence[int | str] = _NOT_GIVEN,
    ) -> "BipeTokenizer":
        """Wraps a copy of a fast tokenizer.

        `BipeTokenizer.from_tokenizer(tokenizer, levels=["lines", "fields"])`

        Args:
            tokenizer ([`TokenizersBackend`], also known as `PreTrainedTokenizerFast`):
                Keeps its vocabulary, special tokens, padding and truncation side, maximum length, chat template and
                input names. Wrapping a [`BipeTokenizer`] again changes its separators.
            separators (`str` or a list of `int` and `str`, *optional*, defaults to `"sentences"`):
                A preset, such as `"sentences"`, `"lines"`, `"clauses"` or `"authors"` (see `separators_bipe`), or a
                list of presets, ids and strings, such as `["sentences", "<|im_end|>"]`. A string in the list is a
                preset, or else an entry of the vocabulary, or else the text that exactly one token stands for; the id
                names a token that is called as a preset is. `"-turns"` in the list takes away what `"turns"` finds,
                which is among the separators of the other presets. An empty list makes one segment of every sequence.
            levels (list or `str`, *optional*):
                The separators of segments and of each level inside them, coarse to fine, each as `separators` takes
                them; or `"json"`, which stands for two. A separator of a level ends the units of all finer ones, too.
            segmentation: the name that version 0.1 had for `separators`.

        Returns:
            [`BipeTokenizer`]

        Raises:
            ValueError: if the tokenizer is not a fast one or encodes with code of its own, if the separators are no
                preset, do not fit the vocabulary or name what is not one token, if an inner level finds no separator,
                or none that no coarser level has, or if `levels` and `separators` are given together.

        Warns where a preset finds nothing in the vocabulary, and where the vocabulary splits what ends the sentences
        of a language into bytes that other characters have as well.
        """
        _check_wrappable(cls, tokenizer)
        if levels is not _NOT_GIVEN and (separators, segmentation) != (_NOT_GIVEN, _NOT_GIVEN):
            raise InputError("levels and separators: the first of the levels are the separators; give levels alone")
        if levels is _NOT_GIVEN:
            segments, inner = find_separators(tokenizer, _one_of(separators, segmentation, "sentences")), []
        else:
            segments, *inner = find_levels(tokenizer, levels)
        _warn(segments, inner)
        return _rebuild(
            tokenizer,
            cls,
            separators=segments.separators,
            separator_token_ids=segments.token_ids,
            inner_separators=[level.separators for level in inner],
            inner_separator_token_ids=[level.token_ids for level in inner],
            model_input_names=list(dict.fromkeys([*tokenizer.model_input_names, "segment_ids"])),
        )

    def without_segments(self) -> TokenizersBackend:
        """The same tokenizer without segments, for models that do not end segments at separators."""
        names = [name for name in self.model_input_names if name != "segment_ids"]
        return _rebuild(self, TokenizersBackend, model_input_names=names)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: Any, **kwargs: Any
    ) -> "BipeTokenizer":
        """Loads a saved [`BipeTokenizer`] with the separators that it was saved with.

        Raises:
            ValueError: if the folder holds another tokenizer, or if separators are given, which belong to what was
                saved.
        """
        for name in (*_FIXED, "levels", "segmentation"):
            if name in kwargs:
                raise InputError(
                    f"{name}={kwargs[name]!r} cannot be given when a BipeTokenizer is loaded. Load it as it is, then"
                    " wrap it again: BipeTokenizer.from_tokenizer(tokenizer, separators=...)."
                )
        loaded = super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)
        compare_pair(pretrained_model_name_or_path, **kwargs)
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As transformers does, with the code of this class; not with that of a class derived from it.

        Raises:
            FileExistsError: if a file of the folder has the name of one of ours and is somebody else's.
        """
        if type(self) is BipeTokenizer:
            check_code(Path(save_directory))
            write_code(Path(save_directory))
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        compare_pair(save_directory)
        return saved

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        # A subclass with a constructor would get the vocabulary alone; here the whole saved backend counts.
        return TokenizersBackend.convert_to_native_format(**kwargs)

    @property
    def separators(self) -> str | list[int | str]:
        """The preset or the list that the tokenizer was wrapped with."""
        return self._separators

    @property
    def levels(self) -> list[str | list[int | str]]:
        """The presets or lists that the tokenizer was wrapped with, of segments and of each level inside them."""
        return [self._separators, *self._inner_separators]

    @property
    def segmentation(self) -> str | list[int | str]:
        """The separators by the name that version 0.1 had for them."""
        return self.separators

    @property
    def separator_token_ids(self) -> list[int]:
        """The sorted ids of the tokens that end a segment: what the config of a model needs."""
        return list(self._separator_token_ids)

    @property
    def inner_separator_token_ids(self) -> list[list[int]]:
        """The sorted ids of the tokens that end a unit of each inner level, coarse to fine."""
        return [list(level) for level in self._inner_separator_token_ids]

    def train_new_from_iterator(self, *args: Any, **kwargs: Any) -> "BipeTokenizer":
        """Trains the same kind of tokenizer on new text and finds the separators of the new vocabulary.

        Raises:
            ValueError: if the separators are token ids, which mean nothing in another vocabulary.
        """
        for separators in self.levels:
            if any(isinstance(item, int) for item in separators):
                raise InputError(
                    f"separators={separators!r} lists token ids of this vocabulary, which mean nothing in a new"
                    " one. Train a plain tokenizer and wrap that."
                )
        trained = super().train_new_from_iterator(*args, **kwargs)
        if self._inner_separators:
            return self.from_tokenizer(trained, levels=self.levels)
        return self.from_tokenizer(trained, self._separators)

    @property
    def _counter(self) -> SegmentCounter:
        if self._counts is None:
            self._counts = SegmentCounter(self._separator_token_ids, self._inner_separator_token_ids)
        return self._counts

    def __getstate__(self) -> dict[str, Any]:
        # Caches of data sets go by how a tokenizer pickles, which is the same before and after its use.
        return {name: value for name, value in vars(self).items() if name != "_counts"}

    def _encode_plus(self, *args: Any, return_tensors: Any = None, **kwargs: Any) -> BatchEncoding:
        batch = super()._encode_plus(*args, return_tensors=return_tensors, **kwargs)
        if "segment_ids" not in self.model_input_names or "segment_ids" in batch:
            return batch
        input_ids = batch[self.model_input_names[0]]
        is_padded = self.backend_tokenizer.padding is not None
        if return_tensors is None:
            is_one = not (len(input_ids) > 0 and isinstance(input_ids[0], list))
            masks = None
            if is_padded and "attention_mask" in batch:
                masks = [batch["attention_mask"]] if is_one else batch["attention_mask"]
            elif is_padded:
                masks = [each.attention_mask for each in batch.encodings]
            segment_ids = self._counter.of_rows([input_ids] if is_one else input_ids, masks)
            batch["segment_ids"] = segment_ids[0] if is_one else segment_ids
            return batch
        is_token = None
        if is_padded:
            mask = batch.get("attention_mask")
            is_token = np.asarray([each.attention_mask for each in batch.encodings] if mask is None else mask) != 0
        segment_ids = self._counter.of_batch(np.asarray(input_ids), is_token)
        if isinstance(input_ids, torch.Tensor):
            batch["segment_ids"] = torch.from_numpy(segment_ids)
        elif isinstance(input_ids, np.ndarray):
            batch["segment_ids"] = segment_ids
        else:
            batch.update(BatchEncoding({"segment_ids": segment_ids.tolist()}, tensor_type=return_tensors))
        return batch

    def pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Pads as any tokenizer.

        Of examples of which only some have `segment_ids`, the others get those that the model would derive.
        """
        if isinstance(encoded_inputs, list | tuple) and len({"segment_ids" in each for each in encoded_inputs}) > 1:
            encoded_inputs = [self._with_segments(dict(each)) for each in encoded_inputs]
        return super().pad(encoded_inputs, *args, **kwargs)

    def _with_segments(self, example: dict[str, Any]) -> dict[str, Any]:
        if "segment_ids" not in example:
            input_ids = example[self.model_input_names[0]]
            mask = example.get("attention_mask")
            example["segment_ids"] = self._segment_ids(input_ids, mask, example.get("position_ids"))
        return example

    def _pad(
        self, encoded_inputs: dict[str, Any] | BatchEncoding, *, padding_side: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pads one example, `segment_ids` included; an example without them gets those that the model would derive."""
        input_ids = encoded_inputs[self.model_input_names[0]]
        if "segment_ids" in self.model_input_names:
            encoded_inputs = self._with_segments(encoded_inputs)
        padded = super()._pad(encoded_inputs, padding_side=padding_side, **kwargs)
        if "segment_ids" in padded:
            padding = [self._counter.padding] * (len(padded[self.model_input_names[0]]) - len(input_ids))
            if (padding_side or self.padding_side) == "left":
                padded["segment_ids"] = padding + padded["segment_ids"]
            else:
                padded["segment_ids"] = padded["segment_ids"] + padding
        return padded

    def _segment_ids(
        self, input_ids: Sequence[int], mask: Sequence[int] | None, position_ids: Sequence[int] | None
    ) -> list[int] | list[list[int]]:
        """Segment of every token of a sequence, with inner levels all its indices.

        `mask` is 0 at padding. `position_ids` start further documents where they do not go up.
        """
        if position_ids is None and (mask is None or 0 not in mask):
            return self._counter.of_rows([input_ids], None)[0]
        is_token = None if mask is None else np.asarray(mask) != 0
        starts_document = None
        if position_ids is not None:
            starts_document = np.zeros(len(input_ids), dtype=bool)
            tokens = slice(None) if is_token is None else is_token
            positions = np.asarray(position_ids, dtype=np.int64)[tokens]
            starts_document[np.arange(len(input_ids))[tokens][1:]] = positions[1:] <= positions[:-1]
        return self._counter.of_array(np.asarray(input_ids, dtype=np.int64), is_token, starts_document).tolist()


def _sorted(token_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(token_ids)))


def _warn(segments: Level, inner: Sequence[Level]) -> None:
    """Says what a vocabulary lacks; an inner level that ends no unit, or none inside a coarser one, is refused."""
    coarser = set(segments.token_ids)
    for level in inner:
        if level.is_empty:
            raise InputError(
                f"levels: {level.separators!r} finds no separator in this vocabulary, so it is no level"
                " (docs/levels.md has what each preset looks for)"
            )
        if coarser.issuperset(level.token_ids):
            raise InputError(
                f"levels: {level.separators!r} ends nothing that no coarser level ends, so it is no level inside:"
                " give levels coarse to fine"
            )
        coarser.update(level.token_ids)
    for preset in segments.without_any:
        logger.warning(
            f"separators={preset!r} finds no separator in this vocabulary: segments end at the end of a turn or"
            " document alone, if at all."
        )
    lost = dict.fromkeys(language for level in (segments, *inner) for language in level.lost)
    if lost:
        logger.warning(
            f"separators: this vocabulary splits what ends sentences in {', '.join(lost)} into bytes that other"
            " characters have as well, so that it ends nothing: these languages break at newlines and other marks"
            " alone."
        )


def _one_of(separators: Any, segmentation: Any, default: str | None) -> Any:
    """The separators, which version 0.1 called `segmentation`."""
    if _NOT_GIVEN not in (separators, segmentation):
        raise InputError(
            f"separators={separators!r} and segmentation={segmentation!r} are two names of one argument: give the"
            " first alone"
        )
    return next((each for each in (separators, segmentation) if each is not _NOT_GIVEN), default)


def _check_wrappable(cls: type[BipeTokenizer], tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(tokenizer, TokenizersBackend):
        raise InputError(
            f"tokenizer={type(tokenizer).__name__} is not a fast tokenizer. BipeTokenizer wraps what is built on the"
            " `tokenizers` library: PreTrainedTokenizerFast(tokenizer_object=...) or one of its subclasses."
        )
    own = [
        name
        for name in _CODING_METHODS
        if getattr(type(tokenizer), name) not in (getattr(TokenizersBackend, name), getattr(cls, name))
    ]
    if own:
        raise InputError(
            f"tokenizer={type(tokenizer).__name__} encodes or decodes with code of its own ({', '.join(own)}), which"
            " BipeTokenizer would lose. If its backend is enough, load it by PreTrainedTokenizerFast.from_pretrained."
        )
