"""From settings to a config, a tokenizer and a model, for any model class that transformers knows."""

import copy
import dataclasses
import math
from typing import Any

import torch
from datasets import DatasetDict, IterableDatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...model.configuration_bipe import replaced_rope_parameters
from ...model.encodings_bipe import token_fields
from ...model.errors_bipe import InputError
from ...model.tokenization_bipe import BipeTokenizer
from ..common.checkpoints import ends_segments_at_separators, initial_source, is_bipe, load_model, load_part
from ..common.messages import as_input_error
from ..common.separators import with_separators_of
from ..data import cached_tokenizer, load_documents
from ..data.index_extension import check_extendable
from .arguments import DEFAULT_MODEL_TYPE, INDEX_EXTENSIONS, MEASURED, DataArguments, ModelArguments
from .schedule import first_values


# Fields that every name of an encoding stands for, beside others.
OF_EVERY_ENCODING = {"inter_encoding", "intra_encoding", "segmentation"}


def read_documents(data_args: DataArguments) -> DatasetDict | IterableDatasetDict:
    """The documents to train on and to validate with."""
    return load_documents(
        data_args.data,
        text_column=data_args.text_column,
        validation_fraction=data_args.validation_fraction,
        streaming=data_args.streaming,
    )


def build_config(model_args: ModelArguments, data_args: DataArguments) -> PreTrainedConfig:
    """The config of the model to train; `fit_tokenizer` adds what depends on the tokenizer.

    Args:
        model_args: what is trained.
        data_args: what it is trained on.

    Raises:
        ValueError: a field that models of this type do not have, values that their config refuses, or settings for
            segments that the model does not use.
    """
    given = model_args.config_fields()
    if model_args.alibi_slope_scale == MEASURED:
        given["alibi_slope_scale"] = 1.0  # holds the place of what is measured
    if model_args.initial_model is None:
        config_class = CONFIG_MAPPING[model_args.model_type or DEFAULT_MODEL_TYPE]
        given.setdefault("max_position_embeddings", data_args.train_length)
    else:
        initial = _initial_config(model_args)
        config_class = type(initial)
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    unknown = given.keys() - defaults.keys() - config_class.attribute_map.keys()
    if unknown >= OF_EVERY_ENCODING:
        raise InputError(
            f"encoding ({', '.join(sorted(OF_EVERY_ENCODING))}): a model of type {config_class.model_type} has its own"
        )
    for name in sorted(unknown):
        raise InputError(f"{name}: a model of type {config_class.model_type} has no such field")
    if model_args.initial_model is not None:
        _check_table(initial, model_args)
        _check_separators(initial, given, model_args, data_args)
    try:
        if model_args.initial_model is None:
            if given.get("segmentation", defaults.get("segmentation")) == "separators":
                given["separator_token_ids"] = [0]  # holds the place of those that fit_tokenizer finds
            config = config_class(**given)
        else:
            if model_args.rope_parameters is not None:
                given["rope_parameters"] = replaced_rope_parameters(initial, model_args.rope_parameters)
            if is_bipe(initial) and given.get("segmentation") == "separators":
                given.setdefault("separator_token_ids", initial.separator_token_ids)  # fit_tokenizer finds others
            source = initial_source(model_args.initial_model, model_args.revision)
            config = config_class.from_pretrained(source, **given)
    except StrictDataclassError as error:
        raise InputError(f"config of the model: {error.__cause__ or error}") from error
    except KeyError as error:  # of transformers, where a kind of RoPE lacks its numbers
        raise InputError(f"config of the model: {error.args[0]}") from error
    fitted = config
    if ends_segments_at_separators(config) and not config.separator_token_ids:
        fitted = copy.deepcopy(config)
        fitted.separator_token_ids = [0]  # holds the place of those that fit_tokenizer finds
    check_use_of_segments(fitted, model_args, data_args)
    return config


def _initial_config(model_args: ModelArguments) -> PreTrainedConfig:
    source = initial_source(model_args.initial_model, model_args.revision)
    return load_part(AutoConfig, "initial_model", source)


def _check_separators(
    initial: PreTrainedConfig, given: dict[str, Any], model_args: ModelArguments, data_args: DataArguments
) -> None:
    """Refuses to guess what ends segments where the initial model has segments that nothing ends."""
    if (
        is_bipe(initial)
        and initial.segmentation == given.get("segmentation", initial.segmentation) == "separators"
        and not initial.separator_token_ids
        and data_args.separators is None
        and data_args.levels is None
    ):
        raise InputError(
            f"separators: initial_model {model_args.initial_model} has none, each text is one segment to it; say which"
            " end a segment now (separators: sentences), or that none do (separators: [])"
        )


def _check_table(initial: PreTrainedConfig, model_args: ModelArguments) -> None:
    """Refuses a table of intra positions with another number of rows than that of the initial model."""
    rows = model_args.max_segment_length
    if (
        model_args.intra_encoding == "learned"
        and is_bipe(initial)
        and initial.intra_encoding == "learned"
        and rows not in (None, initial.max_segment_length)
    ):
        raise InputError(
            f"encoding (max_segment_length): {rows} rows given, but the learned table of initial_model"
            f" {model_args.initial_model} has {initial.max_segment_length}"
        )


def check_use_of_segments(config: PreTrainedConfig, model_args: ModelArguments, data_args: DataArguments) -> None:
    """Refuses settings for segments that a model with `config` does not use."""
    for key in INDEX_EXTENSIONS:
        if vars(data_args)[key] is not None:
            try:
                check_extendable(config)
            except InputError as error:
                raise InputError(f"{key}: {error}") from error
    if model_args.alibi_slope_scale == MEASURED and (
        config.inter_encoding != "alibi" or config.segmentation != "separators"
    ):
        raise InputError(
            f"alibi_slope_scale: {MEASURED} is for inter_encoding alibi with segmentation separators, not for"
            f" {config.inter_encoding} with {config.segmentation}"
        )


def jumps(model_args: ModelArguments) -> dict[str, tuple[float, float]]:
    """Fields that the first value of `encoding_schedule` changes at once: that of the initial model, and the first."""
    if model_args.initial_model is None or model_args.encoding_schedule is None:
        return {}
    initial = vars(_initial_config(model_args))
    both = {name: (initial[name], value) for name, value in first_values(model_args.encoding_schedule).items()}
    return {name: values for name, values in both.items() if not math.isclose(*values)}


def load_tokenizer(
    model_args: ModelArguments, data_args: DataArguments, documents: DatasetDict | IterableDatasetDict
) -> PreTrainedTokenizerBase:
    """The tokenizer that the settings name, or a BPE trained on the train split.

    Args:
        model_args: what is trained.
        data_args: what it is trained on.
        documents: from [`read_documents`].

    Raises:
        ValueError: the tokenizer has another size than `vocab_size` says.
    """
    source = data_args.tokenizer
    if source is None and model_args.initial_model is not None:
        source = initial_source(model_args.initial_model, model_args.revision)
    if source is None:
        return cached_tokenizer(documents["train"], data_args.vocab_size)
    key = "initial_model" if data_args.tokenizer is None else "tokenizer"
    tokenizer = load_part(AutoTokenizer, key, source)
    if data_args.vocab_size not in (None, len(tokenizer)):
        raise InputError(f"vocab_size: {data_args.vocab_size} given, but the tokenizer {source} has {len(tokenizer)}")
    return tokenizer


def fit_tokenizer(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, model_args: ModelArguments, data_args: DataArguments
) -> PreTrainedTokenizerBase:
    """Sets vocabulary, special tokens and separators in `config`.

    Where segments end at separators, the tokenizer becomes a `BipeTokenizer`. For every other model it is a plain one:
    the `segment_ids` of a `BipeTokenizer` would override the model's own segmentation.

    Args:
        config: of the model; changed.
        tokenizer: from [`load_tokenizer`].
        model_args: what is trained.
        data_args: what it is trained on.

    Returns:
        The tokenizer to save with the model.

    Raises:
        ValueError: more tokens than the initial model has, separators that no part of the model uses, or none where
            settings need them.
    """
    if model_args.initial_model is None:
        for name, value in token_fields(tokenizer).items():
            setattr(config, name, value)
    elif len(tokenizer) > config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model {model_args.initial_model} only"
            f" {config.vocab_size}"
        )
    if ends_segments_at_separators(config):
        chosen = {"separators": data_args.separators, "levels": data_args.levels}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if not chosen and model_args.initial_model is not None and config.separator_token_ids:
            tokenizer = with_separators_of(config, tokenizer)
        else:
            tokenizer = BipeTokenizer.from_tokenizer(tokenizer, **chosen)
        config.separator_token_ids = tokenizer.separator_token_ids
        config.inner_separator_token_ids = tokenizer.inner_separator_token_ids
        config.check_values()
        check_use_of_segments(config, model_args, data_args)  # the list of separators may be empty
        return tokenizer
    for name in ("separators", "levels"):
        if vars(data_args)[name] is not None:
            raise InputError(f"{name}: {vars(data_args)[name]!r} given, but this model does not segment by separators")
    if isinstance(tokenizer, BipeTokenizer):
        return tokenizer.without_segments()
    return tokenizer


def build_model(model_args: ModelArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """A float32 model: random weights, or those of `initial_model`.

    Args:
        model_args: what is trained.
        config: from [`build_config`].
    """
    if model_args.initial_model is not None:
        return load_model(
            initial_source(model_args.initial_model, model_args.revision),
            config=config,
            attention=model_args.attn_implementation,
            what=f"initial_model: {model_args.initial_model}",
        ).model
    with as_input_error("the model cannot be built", ImportError):
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=model_args.attn_implementation, dtype=torch.float32
        )
