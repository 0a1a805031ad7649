"""The model to start from, its tokenizer, and a head for the task."""

from collections.abc import Callable
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from ...model.errors_bipe import InputError
from ...model.tokenization_bipe import BipeTokenizer
from ..common.checkpoints import LoadedModel, ends_segments_at_separators, load_model, load_part
from ..common.separators import with_separators_of
from .task import Task


HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def load_config(source: str | Path, task: Task) -> PreTrainedConfig:
    """The config of the model in `source` with the labels of the task."""
    config = load_part(AutoConfig, "initial_model", str(source))
    if task.labels is not None:
        config.id2label = dict(enumerate(task.labels.names))
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.problem_type = "single_label_classification"
    return config


def load_tokenizer(
    source: str | Path, config: PreTrainedConfig, task: Task, say: Callable[[str], None]
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model: a `BipeTokenizer` with the levels of the config where segments end at
    separators, else a plain one. Its padding token, or else eos, becomes that of the config, where classifiers look.
    Where there are labels, it cuts long texts at their end, whoever uses the trained model.

    Raises:
        ValueError: nothing to pad with, or more tokens than the model has.
    """
    tokenizer = load_part(AutoTokenizer, "initial_model", str(source))
    if ends_segments_at_separators(config):
        tokenizer = with_separators_of(config, tokenizer)
    elif isinstance(tokenizer, BipeTokenizer):
        tokenizer = tokenizer.without_segments()
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError(f"initial_model: the tokenizer of {source} has neither a pad nor an eos token")
        say(f"the tokenizer of {source} has no padding token: {tokenizer.eos_token!r} pads")
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"initial_model: the tokenizer of {source} has {len(tokenizer)} tokens, but the model only"
            f" {config.vocab_size}"
        )
    config.pad_token_id = tokenizer.pad_token_id
    if task.labels is not None:
        tokenizer.truncation_side = "right"
    return tokenizer


def load_with_head(source: str | Path, config: PreTrainedConfig, task: Task, attn_implementation: str) -> LoadedModel:
    """The model in `source` with the head of the task, in float32; what is missing there are weights of the head.

    Raises:
        ValueError: the model has the head of another task; its weights are damaged, or missing or of another size
            anywhere but in a new head; or the head that is there has other labels than the data.
    """
    there = load_part(AutoConfig, "initial_model", str(source))
    own = task.head.__name__.removeprefix("AutoModel")
    for architecture in there.architectures or []:
        # Heads of several tasks have the same names for their weights: one would pass for the other.
        if architecture.endswith(HEADS) and not architecture.endswith((own, "ForCausalLM")):
            raise InputError(
                f"initial_model: {source} is a {architecture}, the task needs a language model or one with the head"
                f" {own}"
            )
    loaded = load_model(
        source,
        head=task.head,
        config=config,
        attention=attn_implementation,
        what=f"initial_model: {source}",
        other_sizes=True,
    )

    def elsewhere(names: list[str]) -> list[str]:
        is_head_kept = task.head is AutoModelForCausalLM
        return [name for name in names if is_head_kept or name.startswith(f"{loaded.model.base_model_prefix}.")]

    if missing := elsewhere(loaded.missing):
        raise InputError(f"initial_model: {source} has no weights for {', '.join(missing)}")
    if resized := elsewhere(loaded.mismatched):
        raise InputError(f"initial_model: {source} has weights of other sizes than its config: {', '.join(resized)}")
    has_other_labels = task.labels is not None and not loaded.missing and there.id2label != config.id2label
    if loaded.mismatched or has_other_labels:
        raise InputError(
            f"initial_model: the classifier in {source} knows the labels {list(there.id2label.values())}, the data has"
            f" {list(config.id2label.values())}"
        )
    return loaded
