"""What a report reads: the tokenizer, what ends its segments, and the documents."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ...model.configuration_bipe import BipeConfigMixin, BipeLlamaConfig
from ...model.errors_bipe import InputError
from ...model.tokenization_bipe import BipeTokenizer
from ..common.checkpoints import is_bipe, load_part, local_folder
from ..data import load_documents
from ..data.tables import holds_tables


@dataclass(frozen=True)
class TextSegmentation:
    """What decides where segments end: `config` is that of the model, or one made for this tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    config: BipeConfigMixin
    description: str
    """What ends a segment, in words."""


def open_segmentation(
    source: str,
    separators: str | list[int | str] | None = None,
    max_segment_length: int | None = None,
    revision: str | None = None,
) -> TextSegmentation:
    """Loads a tokenizer and what ends its segments.

    Args:
        source: folder or Hub name of a tokenizer or of a model. A BiPE model brings its segmentation, its separators
            and its `max_segment_length`, a saved `BipeTokenizer` its separators.
        separators: a preset or a list, as `BipeTokenizer.from_tokenizer` takes them, instead of what `source` brings.
            None takes that, or `"sentences"` where it brings nothing.
        max_segment_length: rows of the intra table, instead of those of the model. None takes these, or else the
            default of a config.
        revision: branch, tag or commit of `source` on the Hub.

    Raises:
        ValueError: it cannot be loaded or is no fast tokenizer, or the separators do not fit it.
    """
    if max_segment_length is not None and max_segment_length < 1:
        raise InputError(f"max_segment_length: {max_segment_length} is less than 1 token")
    tokenizer = load_part(AutoTokenizer, "tokenizer", source, revision)
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer: {source} is no fast tokenizer, and no other tells where its tokens stand")
    fields = {} if max_segment_length is None else {"max_segment_length": max_segment_length}
    folder = local_folder(source)
    is_model = folder is None or (folder / "config.json").is_file()
    config = load_part(AutoConfig, "tokenizer", source, revision) if is_model else None
    if separators is None and config is not None and is_bipe(config):
        for name, value in fields.items():
            setattr(config, name, value)
        return TextSegmentation(tokenizer, config, _describe(tokenizer, config))
    if separators is not None or not isinstance(tokenizer, BipeTokenizer):
        try:
            tokenizer = BipeTokenizer.from_tokenizer(tokenizer, "sentences" if separators is None else separators)
        except InputError as error:
            raise InputError(f"tokenizer {source}, {error}") from error
    if config is not None and is_bipe(config):
        fields.setdefault("max_segment_length", config.max_segment_length)
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    config = BipeLlamaConfig(vocab_size=vocabulary, separator_token_ids=tokenizer.separator_token_ids, **fields)
    return TextSegmentation(tokenizer, config, _describe(tokenizer, config))


def _describe(tokenizer: PreTrainedTokenizerBase, config: BipeConfigMixin) -> str:
    if config.segmentation == "fixed":
        return f"each {config.fixed_segment_length} tokens"
    if config.segmentation != "separators":
        return config.segmentation
    separators = config.separator_token_ids
    if isinstance(tokenizer, BipeTokenizer) and tokenizer.separator_token_ids == separators:
        separators = tokenizer.separators  # the name or the list that they were chosen by
    if isinstance(separators, str) or len(separators) <= 8:
        return f"separators {separators}"
    return f"{len(separators)} separators"


def read_documents(source: str, text_column: str = "text") -> Dataset:
    """Every document of what `bipe_hf.lab.data.load_documents` reads, with the columns `text` and `name`.

    A text file is one document. Raises as `load_documents` does.
    """
    path = Path(source).expanduser()
    if path.is_file() and not holds_tables(path):
        # `load_documents` would divide it, and needs a blank line to do so.
        try:
            text = path.read_bytes().decode("utf-8-sig")  # line breaks as they are
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
        if not text.strip():
            raise InputError(f"{path} holds no text")
        return Dataset.from_dict({"text": [text], "name": [path.name]})
    documents = load_documents(source, text_column=text_column)
    return concatenate_datasets([documents["train"], documents["validation"]])
