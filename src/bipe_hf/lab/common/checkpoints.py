"""What an evaluation reads: model folders and the text, each as its own tokenizer divides it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...model.configuration_bipe import replaced_rope_parameters
from ...model.errors_bipe import InputError, InputNotFoundError
from .messages import first_line


@dataclass(frozen=True)
class Training:
    """What `training.json` says of how a model was trained."""

    train_length: int
    data: str
    validation_fraction: float


@dataclass(frozen=True)
class Candidate:
    """A model folder that passed every check that needs no weights, its config with `config_fields` set."""

    folder: Path
    given: str
    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    training: Training | None
    fingerprint: str
    config_fields: dict[str, Any]

    @property
    def subject(self) -> tuple[str, str]:
        """What `Result.subject` will be."""
        return self.given, json.dumps(self.config_fields, sort_keys=True)


def open_candidates(models: Sequence[str | Path], config_fields: dict[str, Any] | None = None) -> list[Candidate]:
    """Every model folder, checked, with `config_fields` set in its config.

    Raises `ValueError` or `FileNotFoundError` for those that cannot be measured.
    """
    folders = [Path(model) for model in models]
    if not folders:
        raise InputError("models: give at least one model folder")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"models: the same folder is given twice in {', '.join(map(str, models))}")
    names = zip(models, short_names(folders), strict=True)
    return [open_candidate(str(model), name, config_fields) for model, name in names]


def open_candidate(given: str, name: str, config_fields: dict[str, Any] | None = None) -> Candidate:
    folder = Path(given)
    if not (folder / "config.json").is_file():
        raise InputNotFoundError(f"model {given}: there is no config.json in this folder")
    # Without these files AutoTokenizer makes up an empty tokenizer for some model types.
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise InputNotFoundError(f"model {given}: there is no tokenizer (tokenizer.json) in this folder")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # instead of a question on the terminal
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(f"model {given}: config or tokenizer cannot be read ({reason})") from error
    fields = dict(config_fields or {})
    if fields:
        config = with_fields(config, fields)
        name = f"{name}, {', '.join(f'{field}={json.dumps(value)}' for field, value in fields.items())}"
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= highest < config.vocab_size:
        raise InputError(
            f"model {given}: vocabulary mismatch, its tokenizer's ids go up to {highest}, "
            f"the model's up to {config.vocab_size - 1}"
        )
    weights = sorted(file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if not weights:
        raise InputNotFoundError(f"model {given}: there are no weights (*.safetensors) in this folder")
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in (*weights, folder / "config.json")]
    stats += [fields] if fields else []
    fingerprint = hashlib.sha256(repr(stats).encode()).hexdigest()
    return Candidate(folder, given, name, config, tokenizer, _training(folder), fingerprint, fields)


def with_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> PreTrainedConfig:
    """A config like `config` but for `fields`. Raises `ValueError` for a field or value that it does not have.

    Given `rope_parameters` keep `rope_theta` and `partial_rotary_factor` unless they say otherwise, as in training.
    """
    known = config.to_dict().keys() | config.attribute_map.keys()
    for name in fields:
        if name not in known:
            raise InputError(f"config fields: a model of type {config.model_type} has no field {name}")
    if isinstance(fields.get("rope_parameters"), dict):
        fields = fields | {"rope_parameters": replaced_rope_parameters(config, fields["rope_parameters"])}
    try:
        return type(config).from_dict(config.to_dict() | fields)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise InputError(f"config fields {fields}: {first_line(error.__cause__ or error)}") from error


def _training(folder: Path) -> Training | None:
    file = folder / "training.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Training(content["train_length"], content["data"], content["config"]["validation_fraction"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not what `bipe-hf pretrain` writes ({error!r})") from error


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def load_model(candidate: Candidate, device: torch.device, dtype: str, attention: str | None) -> PreTrainedModel:
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            candidate.folder,
            config=candidate.config,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(f"model {candidate.given} cannot be loaded ({first_line(error)})") from error
    # transformers makes up what is missing and drops what it does not know: neither is the model that was asked for.
    for kind in ("missing_keys", "unexpected_keys"):
        if report[kind]:
            raise InputError(
                f"model {candidate.given}: its weights do not fit its config, {kind.replace('_', ' ')} "
                f"{', '.join(sorted(report[kind])[:3])} ... (a checkpoint of the BiPE authors needs `bipe-hf convert`)"
            )
    return model.to(device).eval()


def encoding_label(config: PreTrainedConfig) -> str:
    """What the field calls a config's positional encoding; `model_type` for a model that is not of this package."""
    return config.encoding_label if is_bipe(config) else config.model_type


def is_bipe(config: PreTrainedConfig) -> bool:
    return config.model_type.startswith("bipe_")
