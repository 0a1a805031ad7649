"""Reading a checkpoint folder, and building a model of what was read."""

import functools
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...model.errors_bipe import InputError
from ..common.checkpoints import weight_files


UNQUANTIZED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, by name. Pickles are read as weights only."""
    return {key: value for file in weight_files(folder) for key, value in _read_tensors(file).items()}


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(f"{path} holds more than weights, or is corrupt; nothing in it was run") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} is corrupt or no weights file: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError(f"{path} must hold tensors by name and nothing else")
    return weights


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint folder; None where there is no `tokenizer.json`."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # instead of a question on the terminal
    except Exception as error:  # the tokenizers library raises nothing more special, and transformers whatever it hits
        raise InputError(f"the tokenizer in {folder} cannot be loaded: {error!r}") from error


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Raises `ValueError` if the tokenizer has tokens that the model has no embedding for."""
    if len(tokenizer) > config.vocab_size:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model only {config.vocab_size}")


def expected_weights(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The weights of a model by name, without values."""
    try:
        with torch.device("meta"):
            return model_class(config).state_dict()
    except (AssertionError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"config.json cannot be a model's: {error!r}") from error


def unknown_key(key: str, value: torch.Tensor) -> InputError:
    """What is raised for a key of a checkpoint that cannot be used; nothing is dropped silently."""
    return InputError(f"unknown key {key!r} of shape {tuple(value.shape)}: nothing in the model takes it")


def check_weights(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], config: PreTrainedConfig, checkpoint: Path
) -> None:
    """Refuses weights that are not those of the model.

    Args:
        weights: by their names in the model; each name is one of `expected`.
        expected: see [`expected_weights`].
        config: with `tie_word_embeddings` the head may be missing, as it is the word embedding.
        checkpoint: for the messages.

    Raises:
        ValueError: if a weight is missing, has another shape or is quantized.
    """
    missing = sorted(set(expected) - set(weights) - ({"lm_head.weight"} if config.tie_word_embeddings else set()))
    if missing:
        raise InputError(f"{checkpoint} lacks the keys {', '.join(missing)}")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise InputError(
                f"{key} has the shape {tuple(value.shape)}, but config.json asks for {tuple(expected[key].shape)}"
            )
        if value.dtype not in UNQUANTIZED:
            raise InputError(
                f"{key} has the dtype {value.dtype}: only weights that are not quantized can be converted"
            )


def build_model(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, weights: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """A model with exactly these weights, which [`check_weights`] has seen, by their names in a file.

    Nothing is initialised or copied.
    """
    return model_class.from_pretrained(None, config=config, state_dict=weights, dtype=common_dtype(weights))


def common_dtype(weights: dict[str, torch.Tensor]) -> torch.dtype:
    """The smallest dtype that holds all weights exactly."""
    return functools.reduce(torch.promote_types, {value.dtype for value in weights.values()})
