"""What an evaluation reads: model folders and the text, each as its own tokenizer divides it."""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..configuration_bipe import replaced_rope_parameters
from ..data import tokenize_documents


DTYPES = ("auto", "float32", "bfloat16", "float16")


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


@dataclass(frozen=True)
class Text:
    """The stream of token ids (long, `(tokens,)`) and what `Result` says of it."""

    ids: Tensor
    documents: int
    bytes_per_token: float
    sha256: str


def check_device(device: str | None) -> torch.device:
    """The device of that name, or by default an accelerator where there is one."""
    if device is None:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA answers with an assertion
        raise ValueError(f"device: {device!r} cannot be used here ({first_line(error)})") from error
    return torch.device(device)


def check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def open_candidates(models: Sequence[str | Path], config_fields: dict[str, Any] | None = None) -> list[Candidate]:
    """Every model folder, checked, with `config_fields` set in its config.

    Raises `ValueError` or `FileNotFoundError` for those that cannot be measured.
    """
    folders = [Path(model) for model in models]
    if not folders:
        raise ValueError("models: give at least one model folder")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"models: the same folder is given twice in {', '.join(map(str, models))}")
    names = zip(models, short_names(folders), strict=True)
    return [open_candidate(str(model), name, config_fields) for model, name in names]


def open_candidate(given: str, name: str, config_fields: dict[str, Any] | None = None) -> Candidate:
    folder = Path(given)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model {given}: there is no config.json in this folder")
    # Without these files AutoTokenizer makes up an empty tokenizer for some model types.
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise FileNotFoundError(f"model {given}: there is no tokenizer (tokenizer.json) in this folder")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # instead of a question on the terminal
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"model {given}: config or tokenizer cannot be read ({reason})") from error
    fields = dict(config_fields or {})
    if fields:
        config = with_fields(config, fields)
        name = f"{name}, {', '.join(f'{field}={json.dumps(value)}' for field, value in fields.items())}"
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= highest < config.vocab_size:
        raise ValueError(
            f"model {given}: vocabulary mismatch, its tokenizer's ids go up to {highest}, "
            f"the model's up to {config.vocab_size - 1}"
        )
    weights = sorted(file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if not weights:
        raise FileNotFoundError(f"model {given}: there are no weights (*.safetensors) in this folder")
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
            raise ValueError(f"config fields: a model of type {config.model_type} has no field {name}")
    if isinstance(fields.get("rope_parameters"), dict):
        fields = fields | {"rope_parameters": replaced_rope_parameters(config, fields["rope_parameters"])}
    try:
        return type(config).from_dict(config.to_dict() | fields)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"config fields {fields}: {first_line(error.__cause__ or error)}") from error


def _training(folder: Path) -> Training | None:
    file = folder / "training.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Training(content["train_length"], content["data"], content["config"]["validation_fraction"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what `bipe-hf pretrain` writes ({error!r})") from error


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def held_out_fraction(candidates: Sequence[Candidate], data: str, given: float | None) -> float:
    """The `validation_fraction` that holds out what training held out, unless another one is given.

    Raises `ValueError` where the models were trained on this data with different fractions and none is given: some
    have seen what others have not.
    """
    used = {
        candidate.given: candidate.training.validation_fraction
        for candidate in candidates
        if candidate.training is not None and Path(candidate.training.data).resolve() == Path(data).resolve()
    }
    if given is None:
        if len(set(used.values())) > 1:
            raise ValueError(f"validation_fraction: the models were trained with different ones ({used}): give one")
        return next(iter(used.values()), 0.05)
    for model, fraction in used.items():
        if fraction != given:
            warnings.warn(
                f"{model} was trained with validation_fraction {fraction}: it may know this text", stacklevel=3
            )
    return given


def read_text(
    documents: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, multiple: int, max_tokens: int | None
) -> Text:
    """The stream of token ids; its length is a multiple of `multiple`."""
    limit = math.inf if max_tokens is None else max_tokens // multiple * multiple
    ids, ends, num_bytes = [], [0], [0]
    for document in tokenize_documents(documents, tokenizer):
        ids.append(torch.tensor(document["input_ids"], dtype=torch.long))
        ends.append(ends[-1] + len(document["input_ids"]))
        num_bytes.append(num_bytes[-1] + document["num_bytes"])
        if ends[-1] >= limit:
            break
    tokens = min(limit, ends[-1] // multiple * multiple)
    if tokens == 0:
        raise ValueError(
            f"the text has {ends[-1]} tokens, too few for one block of {multiple} "
            "(the longest length, or the least common multiple where not all lengths divide it)"
        )
    reached = next(at for at, end in enumerate(ends) if end >= tokens)
    stream = torch.cat(ids)[:tokens]
    sha256 = hashlib.sha256(stream.numpy().tobytes()).hexdigest()
    return Text(stream, reached, num_bytes[reached] / ends[reached], sha256)


def read_texts(
    documents: Dataset | IterableDataset,
    candidates: Sequence[Candidate],
    multiple: int,
    max_tokens: int | None,
    source: str,
) -> list[Text]:
    """Each candidate's text; the documents are tokenized once for all candidates with the same tokenizer."""
    texts = {}
    for candidate in candidates:
        key = tokenizer_key(candidate.tokenizer)
        if key not in texts:
            try:
                texts[key] = read_text(documents, candidate.tokenizer, multiple, max_tokens)
            except ValueError as error:
                raise ValueError(f"{source}, tokenizer of {candidate.given}: {error}") from error
    return [texts[tokenizer_key(candidate.tokenizer)] for candidate in candidates]


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers that give the same ids; of a slow one, equal only to itself."""
    if not tokenizer.is_fast:
        return str(id(tokenizer))
    return tokenizer.backend_tokenizer.to_str() + str(tokenizer.eos_token)


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
        raise ValueError(f"model {candidate.given} cannot be loaded ({first_line(error)})") from error
    # transformers makes up what is missing and drops what it does not know: neither is the model that was asked for.
    for kind in ("missing_keys", "unexpected_keys"):
        if report[kind]:
            raise ValueError(
                f"model {candidate.given}: its weights do not fit its config, {kind.replace('_', ' ')} "
                f"{', '.join(sorted(report[kind])[:3])} ... (a checkpoint of the BiPE authors needs `bipe-hf convert`)"
            )
    return model.to(device).eval()
