"""What every import shares but for the weights: the report, the output folder and the configuration."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN

from ...hub.card_file import write_model_card
from ...hub.origin import write_origin
from ...model.errors_bipe import InputError, InputExistsError
from ...model.travel_bipe import check_code
from .step_zero import StepZero


# What `save_pretrained` of any model or tokenizer may have left in a folder
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.json",
)


@dataclass
class ConversionReport:
    """What became of every key of a checkpoint; `str()` gives the text that the command prints."""

    source: Path
    """The checkpoint."""
    output: Path
    """The folder that was written."""
    encoding: str
    """Name of the positional encoding."""
    parameters: int
    """How many numbers the model has."""
    used: dict[str, str] = field(default_factory=dict)
    """Key in the checkpoint: what it became."""
    created: dict[str, str] = field(default_factory=dict)
    """Key in the model that no key in the checkpoint became: what it holds."""
    notes: list[str] = field(default_factory=list)
    """What else is to be known, a line each."""
    step_zero: StepZero | None = None
    """What the change of encoding costs before any training; None where it was not measured."""

    def __str__(self) -> str:
        return self.text()

    def text(self, *, verbose: bool = False) -> str:
        """What the command prints: keys that are not what they were in the checkpoint, and the number of the others.

        With `verbose` it has all keys.
        """
        fates = self.used | self.created
        shown = {key: fate for key, fate in sorted(fates.items()) if verbose or fate != key}
        width = max(map(len, shown), default=0)
        lines = [f"{key:<{width}}  {fate}" for key, fate in shown.items()]
        if len(shown) < len(fates):
            lines.append(f"{len(fates) - len(shown)} weights are taken over as they are, under their names")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"{self.source} -> {self.output}: {self.encoding}, {self.parameters:,} parameters")
        return "\n".join(lines)


def check_output(output: Path, checkpoint: Path, overwrite: bool) -> None:
    """Refuses a folder that must not be written to.

    Raises:
        ValueError: if it is the checkpoint, whose weights are still read when the model is saved.
        FileExistsError: if it is not empty, unless `overwrite`.
    """
    if output.exists() and checkpoint.exists() and output.samefile(checkpoint):
        raise InputError(f"output folder is the checkpoint itself: {output}. Give another one.")
    if output.exists() and any(output.iterdir()) and not overwrite:
        raise InputExistsError(
            f"output folder is not empty: {output} (--overwrite replaces the model and tokenizer that it holds)"
        )


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, origin: dict[str, Any], output: Path
) -> None:
    """Writes model and tokenizer in place of those that `output` held: no shard or vocabulary of theirs stays.

    `origin` is what [`describe_origin`] says of the checkpoint.
    """
    check_code(output)
    for pattern in MODEL_FILES:
        for path in output.glob(pattern):
            path.unlink()
    model.save_pretrained(output)
    if tokenizer is not None:
        tokenizer.save_pretrained(output)
    converted = f"converted to {model.config.encoding_label}"
    write_origin(output, origin | {"history": [*origin["history"], converted]})
    write_model_card(output)


def make_config(config_class: type[PreTrainedConfig], fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration with these fields, which come from a `config.json`; raises `ValueError` if it can be none."""
    try:
        config = config_class.from_dict(fields)
    except (StrictDataclassError, AttributeError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"config.json cannot be a model's: {error.__cause__ or error}") from error
    if config.hidden_act not in ACT2FN:
        raise InputError(f"hidden_act in config.json is not known to transformers: {config.hidden_act!r}")
    return config
