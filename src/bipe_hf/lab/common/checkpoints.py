"""A model to read: a folder or a name on the Hub, its config and tokenizer, then its weights."""

import dataclasses
import hashlib
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP client, whichever this version of huggingface_hub stands on
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...hub.origin import describe_origin, write_origin
from ...hub.records import read_record
from ...model.configuration_bipe import replaced_rope_parameters
from ...model.errors_bipe import InputError, InputNotFoundError
from .digests import file_digest
from .files import read_json, user_path
from .messages import as_input_error, first_line
from .run_folder import DATA_FILE


# Safetensors are tried first: a repository may hold the same weights as pickles too.
HUB_PARTS = ("*.json", "*.jinja", "*.model", "*.txt", "README.md")
HUB_FILES = (*HUB_PARTS, "model*.safetensors")
HUB_PICKLES = ("pytorch_model*.bin",)
# Each as one file, or in shards that an index names; the first one that is there is what transformers loads.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
FINGERPRINT = "sha256:"
# What config.json says of its history and of the classes that read it, not of what the model computes.
NO_PART_OF_THE_MODEL = {"_name_or_path", "architectures", "auto_map", "transformers_version"}


@dataclass(frozen=True)
class Training:
    """What `training.json` says of how a model was trained."""

    train_length: int
    """In tokens."""
    data: str
    """What was trained on, as it was given."""
    validation_fraction: float
    """Share of the documents that was held out."""
    data_sha256: str | None
    """Of all documents, see `rows_digest`; None of a stream, and where an early version trained."""


@dataclass(frozen=True)
class Checkpoint:
    """A model that passed every check which needs no weights."""

    folder: Path
    """Where its files are: the folder that was given, or that of the snapshot from the Hub."""
    given: str
    """As it is recorded: the folder or the name on the Hub, the latter with `@revision` where one was asked for."""
    name: str
    """A short one, for tables."""
    commit: str | None
    """That the snapshot is of; None for a folder."""
    config: PreTrainedConfig
    """With `config_fields` set."""
    tokenizer: PreTrainedTokenizerBase
    """That of the folder."""
    training: Training | None
    """How it was trained; None where nothing says so."""
    config_fields: dict[str, Any]
    """Those that were set otherwise than they were saved."""

    @cached_property
    def fingerprint(self) -> str:
        """What the model computes by, whatever its folder is called and whenever it was written.

        SHA-256 of the bytes of the weights and of the config: `model_type` and every field of `config_fields` and
        config.json that is not at its default and not one of `NO_PART_OF_THE_MODEL`. The same model saved by another
        version has the same one, as long as the weights' bytes and no default have changed.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self.config)}
        fields = {
            name: value
            for name, value in self.config.to_dict().items()
            if name not in NO_PART_OF_THE_MODEL and value != defaults.get(name)
        }
        content = {
            "weights": [file_digest(file) for file in weight_files(self.folder)],
            "config": fields | {"model_type": self.config.model_type},
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return FINGERPRINT + hashlib.sha256(text.encode()).hexdigest()

    @property
    def subject(self) -> tuple[str, str]:
        """What `Result.subject` will be."""
        return self.given, json.dumps(self.config_fields, sort_keys=True)

    def load(self, device: torch.device, dtype: str, attention: str | None) -> PreTrainedModel:
        """The causal language model, ready to be measured.

        Args:
            device: where it goes.
            dtype: one of `DTYPES`; `auto` is the dtype in which it was saved.
            attention: `attn_implementation`; None takes the model's own.

        Raises:
            InputError: its weights do not fit its config.
        """
        loaded = load_model(
            self.folder, config=self.config, dtype=dtype, attention=attention, what=f"model {self.given}"
        )
        # transformers makes up what is missing and drops what it does not know: neither is what was asked for.
        for kind, names in (("missing", loaded.missing), ("unexpected", loaded.unexpected)):
            if names:
                raise InputError(
                    f"model {self.given}: its weights do not fit its config, {kind} keys {', '.join(names[:3])} ... (a"
                    " checkpoint of the BiPE authors needs `bipe-hf convert`)"
                )
        return loaded.model.to(device).eval()


class LoadedModel(NamedTuple):
    """A model, and the names of weights that are not those of its files."""

    model: PreTrainedModel
    missing: list[str]
    """In the model, but in no file: made up."""
    unexpected: list[str]
    """In a file, but not in the model: dropped."""
    mismatched: list[str]
    """Of another size in the file: made up, too."""


def open_checkpoints(
    sources: Sequence[str | Path], revision: str | None = None, config_fields: dict[str, Any] | None = None
) -> list[Checkpoint]:
    """A list of models, each as [`open_checkpoint`] opens it.

    Args:
        sources: folders and names on the Hub.
        revision: branch, tag or commit of every one.
        config_fields: set in the config of every one.

    Raises:
        InputError: one cannot be measured or is given twice, or there is none.
    """
    if not sources:
        raise InputError("models: give at least one model")
    folders = [checkpoint_folder(source, revision) for source in sources]
    if len(set(folders)) < len(folders):
        raise InputError(f"models: the same one is given twice in {', '.join(map(str, sources))}")
    commits = [None if local_folder(source) else folder.name for source, folder in zip(sources, folders, strict=True)]
    found = list(zip(map(str, sources), folders, commits, strict=True))
    names = short_names([folder if commit is None else Path("/", source) for source, folder, commit in found])
    at = "" if revision is None else f"@{revision}"
    return [
        _open(folder, source + at, name + at, commit, config_fields)
        for (source, folder, commit), name in zip(found, names, strict=True)
    ]


def open_checkpoint(
    source: str | Path, revision: str | None = None, config_fields: dict[str, Any] | None = None
) -> Checkpoint:
    """A model with its tokenizer, checked as far as that needs no weights.

    Args:
        source: folder (`~` is the home), or else a name on the Hub, which is downloaded.
        revision: branch, tag or commit of the repository on the Hub.
        config_fields: set in the config.

    Raises:
        InputError: it is neither, cannot be downloaded, lacks a file, or its config or tokenizer cannot be used.
    """
    return open_checkpoints([source], revision, config_fields)[0]


def checkpoint_folder(source: str | Path, revision: str | None = None, what: str = "model") -> Path:
    """The folder, or that into which the files of the repository were downloaded; no code is.

    Args:
        source: see [`open_checkpoint`].
        revision: see [`open_checkpoint`].
        what: names the argument in messages.

    Raises:
        InputNotFoundError: there is neither such a folder nor, for this user and now, such a repository or revision.
    """
    folder = local_folder(source, revision, what)
    if folder is not None:
        return folder.resolve()
    try:
        folder = _download(source, revision, HUB_FILES)
        if not any(folder.glob("model*.safetensors")):
            _download(source, folder.name, HUB_PICKLES)
    except InputNotFoundError as error:
        raise InputNotFoundError(f"{what} {source}: {error}") from error
    return folder.resolve()


def _download(source: str | Path, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder with the files of these names in the repository. Raises `InputNotFoundError`, which only says why."""
    try:
        validate_repo_id(str(source))
    except HFValidationError as error:
        raise InputNotFoundError("there is no such folder, and it is no name on the Hub (owner/name)") from error
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise InputNotFoundError(
            f"there is no such folder, and it cannot be downloaded from the Hub ({_why(error, source, revision)})"
        ) from error


def initial_source(initial_model: str, revision: str | None) -> str | Path:
    """What `from_pretrained` reads the model from that a training starts with: a folder, or a name on the Hub.

    Args:
        initial_model: folder, or name on the Hub.
        revision: branch, tag or commit of the repository.
    """
    if revision is None:
        return local_folder(initial_model, what="initial_model") or initial_model
    return checkpoint_folder(initial_model, revision, "initial_model")


def keep_origin(folder: Path, initial_model: str, revision: str | None) -> None:
    """Writes what is known of a model beside the one that starts from it, for its card.

    Args:
        folder: of the model that starts.
        initial_model: folder, or name on the Hub.
        revision: branch, tag or commit of the repository.
    """
    source = local_folder(initial_model, what="initial_model") or _download(initial_model, revision, HUB_PARTS)
    write_origin(folder, describe_origin(initial_model, source))


def local_folder(source: str | Path, revision: str | None = None, what: str = "model") -> Path | None:
    """The folder of that name; None where there is none, which leaves the Hub.

    Args:
        source: folder (`~` is the home), or name on the Hub.
        revision: branch, tag or commit of the repository.
        what: names the argument in messages.

    Raises:
        InputError: it is a file, or a folder is given with a `revision`, which only a repository has.
    """
    folder = user_path(source)
    if folder.is_file():
        raise InputError(f"{what} {source}: this is a file, not a folder")
    if not folder.is_dir():
        return None
    if revision is not None:
        raise InputError(f"revision: {revision!r} given, but {what} {source} is a folder, not a name on the Hub")
    return folder


def _why(error: Exception, source: str | Path, revision: str | None) -> str:
    if isinstance(error, GatedRepoError):
        return f"it is gated: ask for access at {constants.ENDPOINT}/{source}, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one: `hf auth login`, or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision}"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"{constants.ENDPOINT} refuses: {error.server_message or first_line(error)}"
    return f"no connection to {constants.ENDPOINT}, and it is not in the cache"


def open_folder(
    folder: str | Path, config_fields: dict[str, Any] | None = None, *, name: str | None = None
) -> Checkpoint:
    """[`open_checkpoint`] of a folder alone: where there is none, the Hub is not asked.

    Args:
        folder: with model and tokenizer.
        config_fields: set in the config.
        name: for tables; None takes that of the folder.

    Raises:
        InputNotFoundError: there is no such folder.
        InputError: it is a file.
    """
    path = local_folder(folder)
    if path is None:
        raise InputNotFoundError(f"model {folder}: there is no such folder")
    path = path.resolve()
    return _open(path, str(folder), name or path.name, None, config_fields)


def _open(folder: Path, given: str, name: str, commit: str | None, config_fields: dict[str, Any] | None) -> Checkpoint:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"model {given}: this is an adapter of PEFT; merge it into its model (merge_and_unload), and save that"
                " and the tokenizer (docs/finetune.md)"
            )
        raise InputNotFoundError(f"model {given}: there is no config.json in this folder")
    # Without these files AutoTokenizer makes up an empty tokenizer for some model types.
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise InputNotFoundError(f"model {given}: there is no tokenizer (tokenizer.json) in this folder")
    with as_input_error(f"model {given}: config or tokenizer cannot be read", ImportError):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # instead of a question on the terminal
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
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
    weight_files(folder, f"model {given}: ")
    return Checkpoint(folder, given, name, commit, config, tokenizer, read_training(folder), fields)


def weight_files(folder: Path, where: str = "") -> list[Path]:
    """The files that transformers reads the weights in `folder` from.

    Args:
        folder: of the model.
        where: stands in front of the message of an error.

    Raises:
        InputError: there are none, or a shard is missing.
    """
    for single, index in WEIGHTS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise InputError(f"{where}{folder / index} holds no weight_map that names the shards")
            shards = [folder / shard for shard in sorted(set(weight_map.values()))]
            for shard in shards:
                if not shard.is_file():
                    raise InputNotFoundError(f"{where}weights file not found: {shard}")
            return shards
    raise InputNotFoundError(
        f"{where}there are no weights in {folder} (model.safetensors, pytorch_model.bin or shards with *.index.json)"
    )


def is_outdated(fingerprint: str) -> bool:
    """Whether a recorded fingerprint is of the kind that told a model by size and time of its files."""
    return not fingerprint.startswith(FINGERPRINT)


def say_if_outdated(output: Path, checkpoint: Checkpoint, fingerprints: Iterable[str]) -> None:
    """Says why results that are there do not count for the model, where they are of an earlier version.

    Args:
        output: file of the results.
        checkpoint: the model.
        fingerprints: that the results have of it.
    """
    if any(map(is_outdated, fingerprints)):
        print(
            f"{output}: the results of {checkpoint.given} tell it by the time of its files, as earlier versions did,"
            " not by its weights: it is measured again",
            file=sys.stderr,
        )


def with_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> PreTrainedConfig:
    """A config like another but for some fields.

    Given `rope_parameters` keep `rope_theta` and `partial_rotary_factor` unless they say otherwise, as in training.

    Args:
        config: not changed.
        fields: new values by name.

    Raises:
        ValueError: a field or value that it does not have, or segments that nothing ends.
    """
    known = config.to_dict().keys() | config.attribute_map.keys()
    for name in fields:
        if name not in known:
            raise InputError(f"config fields: a model of type {config.model_type} has no field {name}")
    if isinstance(fields.get("rope_parameters"), dict):
        fields = fields | {"rope_parameters": replaced_rope_parameters(config, fields["rope_parameters"])}
    try:
        changed = type(config).from_dict(config.to_dict() | fields)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise InputError(f"config fields {fields}: {first_line(error.__cause__ or error)}") from error
    # An empty list that is given is a choice, one that was there is none.
    has_none = ends_segments_at_separators(changed) and not changed.separator_token_ids
    if has_none and "segmentation" in fields and "separator_token_ids" not in fields:
        raise InputError(
            f"config fields {fields}: the model has no separators; give separator_token_ids besides, the ids of the"
            " tokens that end a segment"
        )
    return changed


def read_training(folder: Path) -> Training | None:
    """How the model in `folder` was pretrained; None where no record says so."""
    record = training_record(folder / "training.json")
    if record is None:
        return None
    digest = record.get("data_sha256")
    if digest is None and (folder / DATA_FILE).is_file():
        digest = (folder / DATA_FILE).read_text(encoding="utf-8").strip()
    return Training(record["train_length"], record["data"], record["config"]["validation_fraction"], digest)


def training_record(file: Path) -> dict[str, Any] | None:
    """What [`read_record`] gives, with a warning where the file is of another program."""
    record = read_record(file)
    if record is None and file.is_file():
        warnings.warn(f"{file} is of another program: how this model was trained is not known", stacklevel=4)
    return record


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many parts before it as tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def load_part(auto_class: type, key: str, source: str | Path, revision: str | None = None) -> Any:
    """A config or tokenizer in a folder or on the Hub.

    Args:
        auto_class: its Auto class.
        key: that it was given for, named in messages.
        source: folder, or name on the Hub.
        revision: branch, tag or commit of the repository.

    Raises:
        InputNotFoundError: there is no such folder or repository.
        InputError: it cannot be loaded.
    """
    folder = local_folder(source, revision, key)
    if folder is None:
        try:
            folder = _download(source, revision, HUB_PARTS)
        except InputNotFoundError as error:
            raise InputNotFoundError(f"{key}: {source} cannot be loaded ({error})") from error
    # ImportError: a tokenizer that takes a library of its own, such as sentencepiece.
    with as_input_error(f"{key}: {source} cannot be loaded", ImportError):
        # Without a word on remote code there would be a question on the terminal.
        return auto_class.from_pretrained(folder, trust_remote_code=False)


def load_model(
    source: str | Path,
    *,
    head: type = AutoModelForCausalLM,
    config: PreTrainedConfig | None = None,
    dtype: str | torch.dtype = torch.float32,
    attention: str | None = None,
    what: str = "model",
    other_sizes: bool = False,
) -> LoadedModel:
    """The model in a folder or on the Hub, whatever fits of it; what does not is for the caller to judge.

    Args:
        source: as `from_pretrained` takes it.
        head: an Auto class.
        config: None takes that of the model.
        dtype: float32 to train, since the steps of an optimizer are too small for 16-bit weights.
        attention: `attn_implementation`; None takes the model's own.
        what: names the model in messages.
        other_sizes: accept weights whose size in the file is not that of the model, and make them up.

    Raises:
        InputError: it cannot be loaded, or has weights of other sizes.
    """
    # KeyError: a kind of rotary scaling that there is not; RuntimeError: damaged pickles, a device without memory.
    with as_input_error(f"{what} cannot be loaded", ImportError, KeyError, RuntimeError, SafetensorError):
        model, report = head.from_pretrained(
            local_folder(source) or source,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    mismatched = sorted(name for name, *_ in report["mismatched_keys"])
    if mismatched and not other_sizes:
        raise InputError(
            f"{what} cannot be loaded (its weights have other sizes than its config says: {', '.join(mismatched[:3])})"
        )
    return LoadedModel(model, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), mismatched)


def encoding_label(config: PreTrainedConfig) -> str:
    """What the field calls a config's positional encoding; `model_type` for a model that is not of this package."""
    return config.encoding_label if is_bipe(config) else config.model_type


def described_model(model: PreTrainedModel) -> str:
    """What a training says of its model at the start."""
    encoding = f" with {encoding_label(model.config)}" if is_bipe(model.config) else ""
    return f"{model.config.model_type}{encoding}: {model.num_parameters():,} parameters"


def is_bipe(config: PreTrainedConfig) -> bool:
    """Whether a config is of a model of this package."""
    return config.model_type.startswith("bipe_")


def ends_segments_at_separators(config: PreTrainedConfig) -> bool:
    """Whether a model, of any type, is a BiPE one that reads its segments from the tokens."""
    return "segmentation" in config.to_dict() and config.segmentation == "separators"
