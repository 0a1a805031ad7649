r"""A tokenizer that also says which segment every token stands in.

[`BipeTokenizer`] wraps any fast tokenizer and adds `segment_ids` to what it returns. A segment ends with a separator,
and what a separator is must be decided token by token, since the model sees nothing else. The presets decide by the
text that a token stands for:

- `"sentences"`: the token holds a newline, or a mark that ends a sentence. Dots, exclamation marks, question marks and
  ellipses also stand inside words, numbers and code, so they count only where closing quotes or brackets and then
  white space or the end of the token follow: `.`, `?!`, `...` and `."` do, `.com` and `3.14` do not. The marks of
  other scripts, such as the ideographic full stop or the danda, stand nowhere else and count anywhere in the token.
- `"lines"`: the token holds a newline (line feed, carriage return, next line, line or paragraph separator).
- `"clauses"`: as `"sentences"`, with commas, semicolons, colons, quotes and the tab besides.
- `"authors"`: ids 869 and 13 of the Llama tokenizer, a detached dot and the newline, as in the code that was released
  with the paper (He et al., ICML 2024, arXiv 2401.16421).

What a token cannot tell, no preset knows: the dot of `etc.`, of `1.` or of a method call counts as a full stop, an
apostrophe that is a token of its own as a quote, the semicolon that ends a Greek question as a semicolon. Scripts
without a sentence mark, such as Thai, break at newlines only. A mark that the vocabulary splits over several byte
tokens is ended by none of them, so it is no separator at all: small byte-level vocabularies lose most marks beyond
ASCII in this way. Special tokens are never separators of a preset.
"""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import count, repeat
from typing import Any

from tokenizers import Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerBase, TokenizersBackend
from transformers.utils import logging

from .card_file import complete_model_card, write_card_to_push
from .vocabulary import token_texts


logger = logging.get_logger(__name__)

PADDING_SEGMENT_ID = -1

# The sets below are written for a character class of `re`.
_NEWLINES = r"\n\r\x85\u2028\u2029"
_QUOTES = r"\"'\u2018-\u201f\xab\xbb\u2039\u203a\u300c-\u300f\u301d-\u301f\ufe41-\ufe44\uff02\uff07\uff62\uff63"
_CLOSING_BRACKETS = r")\]}\u3009\u300b\u3011\u3015\u3017\u3019\u301b\uff09\uff3d\uff5d"

# Marks that words, numbers and code contain as well: ASCII, the ellipsis and the other forms of the dot.
_SENTENCE_MARKS_ALSO_INSIDE_WORDS = r".!?\u2026\u2024\ufe52\uff0e"
# The rest of Unicode's Sentence_Terminal property in the Basic Multilingual Plane, with the Greek question mark, the
# Hebrew sof pasuq, the Tibetan shads and the vertical ellipsis.
_SENTENCE_MARKS = (
    r"\u037e\u0589\u05c3\u061d-\u061f\u06d4"  # Greek, Armenian, Hebrew, Arabic, Urdu
    r"\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e"  # Syriac, N'Ko, Samaritan
    r"\u0964\u0965\u0f0d\u0f0e\u104a\u104b\u17d4\u17d5"  # Devanagari and its neighbours, Tibetan, Burmese, Khmer
    r"\u1362\u1367\u1368\u166e\u1735\u1736"  # Ethiopic, Canadian syllabics, Philippine scripts
    r"\u1803\u1809\u1944\u1945\u1aa8-\u1aab"  # Mongolian, Limbu, Tai Tham
    r"\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"  # Balinese, Lepcha, Ol Chiki
    r"\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\u2e60\u2e61"  # double and historical marks
    r"\u3002\ufe12\ufe15\ufe16\ufe19\ufe56\ufe57\uff01\uff1f\uff61"  # Chinese and Japanese, all widths
    r"\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f"  # Lisu, Vai, Bamum, Phags-pa, Saurashtra, Kayah Li
    r"\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb"  # Javanese, Cham, Meetei Mayek
)
_CLAUSE_MARKS_ALSO_INSIDE_WORDS = ",;:" + _QUOTES
_CLAUSE_MARKS = (
    r"\t\u0387\u055d\u060c\u061b\u0703-\u0709\u07f8"  # tab, Greek, Armenian, Arabic, Syriac, N'Ko
    r"\u1363-\u1366\u17d6\u1802\u1804\u1808"  # Ethiopic, Khmer, Mongolian
    r"\u3001\ufe10\ufe11\ufe13\ufe14\ufe50\ufe51\ufe54\ufe55\uff0c\uff1a\uff1b\uff64"  # Chinese and Japanese
    r"\ua4fe\ua60d\ua6f4-\ua6f6"  # Lisu, Vai, Bamum
)


def _pattern(anywhere: str, before_space: str) -> re.Pattern[str]:
    """Matches a text with a character of `anywhere`, or with one of `before_space` that a word cannot go on after."""
    return re.compile(rf"[{anywhere}]|[{before_space}][{_QUOTES}{_CLOSING_BRACKETS}]*(?:\s|\Z)")


_PRESET_PATTERNS = {
    "sentences": _pattern(_NEWLINES + _SENTENCE_MARKS, _SENTENCE_MARKS_ALSO_INSIDE_WORDS),
    "lines": re.compile(rf"[{_NEWLINES}]"),
    "clauses": _pattern(
        _NEWLINES + _SENTENCE_MARKS + _CLAUSE_MARKS,
        _SENTENCE_MARKS_ALSO_INSIDE_WORDS + _CLAUSE_MARKS_ALSO_INSIDE_WORDS,
    ),
}
_AUTHORS_TOKENS = {869: "\u2581.", 13: "<0x0A>"}
_PRESETS = (*_PRESET_PATTERNS, "authors")

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


class BipeTokenizer(TokenizersBackend):
    """A fast tokenizer that returns `segment_ids` beside `input_ids` and `attention_mask`.

    Build one with [`BipeTokenizer.from_tokenizer`]; it saves, loads and pads like any tokenizer, and it encodes and
    decodes exactly as the tokenizer that it wraps. `segment_ids` has the shape and type of `input_ids` and holds the
    number of separators strictly before a token, among those tokens of the final (truncated) sequence that are no
    padding; it is -1 at padding. Special tokens such as bos belong to the segment in which they stand. As with every
    output, `model_input_names` decides whether it is returned.

    Separators are fixed when a tokenizer is wrapped: they are saved with it, never computed again on loading, and
    `add_tokens` does not change them. To have added tokens considered, or to change the segmentation, wrap again.
    """

    _auto_class = "AutoTokenizer"  # the code goes along wherever the tokenizer is saved

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # whose code is not ours to publish: there is `register_for_auto_class`

    def __init__(
        self,
        *args: Any,
        segmentation: str | Sequence[int | str] | None = None,
        separator_token_ids: Iterable[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if segmentation is None or separator_token_ids is None:
            raise ValueError(
                "BipeTokenizer needs `segmentation` and `separator_token_ids`, which only a saved BipeTokenizer has."
                " Wrap another tokenizer: BipeTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(...))."
            )
        self._segmentation = segmentation
        # Sorted, so that equal tokenizers pickle alike: caches of data sets depend on it.
        self._separators = frozenset(sorted(separator_token_ids))
        # What is given to the base class is what `save_pretrained` writes.
        super().__init__(*args, segmentation=segmentation, separator_token_ids=self.separator_token_ids, **kwargs)

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, segmentation: str | Sequence[int | str] = "sentences"
    ) -> "BipeTokenizer":
        """Wraps a copy of a fast tokenizer.

        Args:
            tokenizer ([`TokenizersBackend`], also known as `PreTrainedTokenizerFast`):
                Keeps its vocabulary, special tokens, padding and truncation side, maximum length, chat template and
                input names. Wrapping a [`BipeTokenizer`] again changes its segmentation.
            segmentation (`str` or a list of `int` and `str`, *optional*, defaults to `"sentences"`):
                A preset, `"sentences"`, `"lines"`, `"clauses"` or `"authors"` (see the documentation of this module),
                or the separators themselves. A string in the list is an entry of the vocabulary, or else the text
                that exactly one token stands for. An empty list makes one segment of every sequence.

        Returns:
            [`BipeTokenizer`]

        Raises:
            ValueError: if the tokenizer is not a fast one or encodes with code of its own, or if the segmentation is
                no preset, does not fit the vocabulary or names what is not one token.
        """
        _check_wrappable(cls, tokenizer)
        separator_token_ids = _find_separators(tokenizer, segmentation)
        if not separator_token_ids and isinstance(segmentation, str):
            logger.warning(
                f"segmentation={segmentation!r} finds no separator in this vocabulary: every sequence is one segment."
            )
        return _rebuild(
            tokenizer,
            cls,
            segmentation=segmentation if isinstance(segmentation, str) else list(segmentation),
            separator_token_ids=separator_token_ids,
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
            ValueError: if the folder holds another tokenizer, or if `segmentation` or `separator_token_ids` is given:
                both belong to what was saved.
        """
        for name in ("segmentation", "separator_token_ids"):
            if name in kwargs:
                raise ValueError(
                    f"{name}={kwargs[name]!r} cannot be given when a BipeTokenizer is loaded. Load it as it is, then"
                    " wrap it again: BipeTokenizer.from_tokenizer(tokenizer, segmentation=...)."
                )
        return super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """As transformers does, with the code of this class; the card of a model there then shows the separators."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        complete_model_card(save_directory)
        return files

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, **kwargs):
        options = {"token": kwargs.get("token"), "revision": kwargs.get("revision")}
        write_card_to_push(working_dir, repo_id, complete_model_card, **options)
        return super()._upload_modified_files(working_dir, repo_id, files_timestamps, **kwargs)

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        # A subclass with a constructor would get the vocabulary alone; here the whole saved backend counts.
        return TokenizersBackend.convert_to_native_format(**kwargs)

    @property
    def segmentation(self) -> str | list[int | str]:
        """The preset or the list that the tokenizer was wrapped with."""
        return self._segmentation

    @property
    def separator_token_ids(self) -> list[int]:
        """Sorted ids of the tokens that end a segment: what the config of a model needs."""
        return sorted(self._separators)

    def train_new_from_iterator(self, *args: Any, **kwargs: Any) -> "BipeTokenizer":
        """Trains the same kind of tokenizer on new text and finds the separators of the new vocabulary.

        Raises:
            ValueError: if the segmentation lists token ids, which mean nothing in another vocabulary.
        """
        if any(isinstance(item, int) for item in self._segmentation):
            raise ValueError(
                f"segmentation={self._segmentation!r} lists token ids of this vocabulary, which mean nothing in a new"
                " one. Train a plain tokenizer and wrap that."
            )
        return self.from_tokenizer(super().train_new_from_iterator(*args, **kwargs), self._segmentation)

    def _convert_encoding(self, encoding: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], list[Any]]:
        outputs, encodings = super()._convert_encoding(encoding, *args, **kwargs)
        if "segment_ids" in self.model_input_names:
            outputs["segment_ids"] = [self._segment_ids(each.ids, each.attention_mask) for each in encodings]
        return outputs, encodings

    def _pad(
        self, encoded_inputs: dict[str, Any] | BatchEncoding, *, padding_side: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Pads one example, `segment_ids` included; an example without them gets those that the model would derive."""
        input_ids = encoded_inputs[self.model_input_names[0]]
        if "segment_ids" in self.model_input_names and "segment_ids" not in encoded_inputs:
            encoded_inputs["segment_ids"] = self._segment_ids(
                input_ids, encoded_inputs.get("attention_mask"), encoded_inputs.get("position_ids")
            )
        padded = super()._pad(encoded_inputs, padding_side=padding_side, **kwargs)
        if "segment_ids" in padded:
            padding = [PADDING_SEGMENT_ID] * (len(padded[self.model_input_names[0]]) - len(input_ids))
            if (padding_side or self.padding_side) == "left":
                padded["segment_ids"] = padding + padded["segment_ids"]
            else:
                padded["segment_ids"] = padded["segment_ids"] + padding
        return padded

    def _segment_ids(
        self,
        input_ids: Sequence[int],
        attention_mask: Sequence[int] | None = None,
        position_ids: Sequence[int] | None = None,
    ) -> list[int]:
        """Segment of every token of one sequence; a packed document, where positions do not go up, starts at 0."""
        segment_ids = []
        segment, previous_position = 0, -1
        for token_id, is_token, position in zip(
            input_ids,
            repeat(1) if attention_mask is None else attention_mask,
            count() if position_ids is None else position_ids,
            strict=False,
        ):
            if not is_token:
                segment_ids.append(PADDING_SEGMENT_ID)
                continue
            if position <= previous_position:
                segment = 0
            previous_position = position
            segment_ids.append(segment)
            segment += token_id in self._separators
        return segment_ids


def _check_wrappable(cls: type[BipeTokenizer], tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(tokenizer, TokenizersBackend):
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} is not a fast tokenizer. BipeTokenizer wraps what is built on the"
            " `tokenizers` library: PreTrainedTokenizerFast(tokenizer_object=...) or one of its subclasses."
        )
    own = [
        name
        for name in _CODING_METHODS
        if getattr(type(tokenizer), name) not in (getattr(TokenizersBackend, name), getattr(cls, name))
    ]
    if own:
        raise ValueError(
            f"tokenizer={type(tokenizer).__name__} encodes or decodes with code of its own ({', '.join(own)}), which"
            " BipeTokenizer would lose. If its backend is enough, load it by PreTrainedTokenizerFast.from_pretrained."
        )


def _find_separators(tokenizer: TokenizersBackend, segmentation: str | Sequence[int | str]) -> list[int]:
    """Ids of the separators; raises `ValueError` for what [`BipeTokenizer.from_tokenizer`] does not accept."""
    backend = tokenizer.backend_tokenizer
    if isinstance(segmentation, (list, tuple)):
        return [_find_token(backend, item) for item in segmentation]
    if segmentation == "authors":
        found = {token_id: backend.id_to_token(token_id) for token_id in _AUTHORS_TOKENS}
        if found != _AUTHORS_TOKENS:
            raise ValueError(
                f"segmentation='authors' needs the Llama tokenizer, with tokens {_AUTHORS_TOKENS}; this vocabulary has"
                f" {found}."
            )
        return list(_AUTHORS_TOKENS)
    if not isinstance(segmentation, str) or segmentation not in _PRESET_PATTERNS:
        raise ValueError(
            f"segmentation={segmentation!r} is not accepted; give one of {', '.join(map(repr, _PRESETS))}, or a list"
            " of token ids and strings."
        )
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(tokenizer.all_special_ids)
    return [
        token_id
        for token_id, text in token_texts(backend).items()
        if _PRESET_PATTERNS[segmentation].search(text) and token_id not in special
    ]


def _find_token(backend: Tokenizer, item: int | str) -> int:
    """Id of one entry of an explicit list."""
    if isinstance(item, str):
        token_id = backend.token_to_id(item)
        if token_id is not None:
            return token_id
        token_ids = sorted(token_id for token_id, text in token_texts(backend).items() if text == item)
        if len(token_ids) != 1:
            raise ValueError(
                f"segmentation: {item!r} is not one token of the vocabulary; ids with this text: {token_ids or None}."
            )
        return token_ids[0]
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(f"segmentation: {item!r} is neither an int (a token id) nor a str.")
    if item < 0 or backend.id_to_token(item) is None:
        raise ValueError(
            f"segmentation: token id {item} is out of range; the vocabulary has {backend.get_vocab_size()} tokens."
        )
    return item
