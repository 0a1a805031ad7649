"""The code that travels with a checkpoint, so that it loads where this package is not installed."""

import hashlib
import re
from pathlib import Path

from transformers import PreTrainedConfig

from .errors_bipe import InputExistsError


FILES = (
    "alibi_bipe.py",
    "attention_bipe.py",
    "cache_bipe.py",
    "compatibility_bipe.py",
    "configuration_bipe.py",
    "encodings_bipe.py",
    "errors_bipe.py",
    "first_values_bipe.py",
    "generation_bipe.py",
    "heads_bipe.py",
    "inter_bipe.py",
    "intra_bipe.py",
    "modeling_bipe.py",
    "modeling_bipe_gpt_neox.py",
    "modeling_bipe_llama.py",
    "push_bipe.py",
    "segmentation_bipe.py",
    "separators_bipe.py",
    "tokenization_bipe.py",
    "travel_bipe.py",
    "version_bipe.py",
    "vocabulary_bipe.py",
)
"""What travels, always as a whole: half of one version and half of another would not be a model."""

# A copy is ours as long as its first line has the hash of the rest.
_MARK = "# Saved by bipe-hf, which replaces this file until somebody edits it. {}\n"
_MARK_PATTERN = re.compile(_MARK.replace(".", r"\.").format(r"([0-9a-f]{16})"))

# Versions 0.1 saved copies without a mark. These are all that have a name of today.
_UNMARKED = {
    "configuration_bipe.py": "0eadcadd1d3adc46 16bc3017be6a8020 1fb4f9dbb973356d 23a00258ece5130a 6197c6bf2e3298ba "
    "69fe3430c35bd8a0 a778086aadb30481 b36e729b72b2eb8c ca8c6162dfb1f760 e61095eb226cee4c",
    "modeling_bipe.py": "2754754a2b973e23 39666d11b5d888f6 51b6e825ab29f729 865475ad196eadfe 8ff73f216fb54ab1 "
    "ab981839f6287506 c7eeeb67ecf419b8",
    "modeling_bipe_gpt_neox.py": "f84f4f1569633647",
    "modeling_bipe_llama.py": "ab8afbf3c6f4f313",
    "tokenization_bipe.py": "6bf2557e92da79ce 8077e54b0be7d1a0 f732498eb9af3ce9",
}


def auto_map(config: PreTrainedConfig) -> dict[str, str | list[str | None]]:
    """Auto class -> where a model of `config` has its own, as `config.json` tells it to `trust_remote_code=True`."""
    # Imported here, since the models import this module. The imports have a second use: transformers' loader of remote
    # code fetches a file of an `auto_map` and what its relative imports lead to. Each such file leads here, and from
    # here to all, so that a configuration or a tokenizer that was loaded alone can be saved with the whole code.
    from .modeling_bipe_gpt_neox import AUTO_CLASSES as GPT_NEOX_CLASSES
    from .modeling_bipe_llama import AUTO_CLASSES as LLAMA_CLASSES
    from .tokenization_bipe import BipeTokenizer

    # The type of the class: what was read from a stock checkpoint has the stock type until it is saved.
    models = {"bipe_gpt_neox": GPT_NEOX_CLASSES, "bipe_llama": LLAMA_CLASSES}[type(config).model_type]
    found = {"AutoConfig": place(type(config))} | {name: place(model) for name, model in models.items()}
    if config.segmentation == "separators":  # other models have a plain tokenizer
        found["AutoTokenizer"] = [None, place(BipeTokenizer)]  # without and with `tokenizers`
    return found


def place(own_class: type) -> str:
    """The file of a class and its name, as an `auto_map` has them."""
    return f"{own_class.__module__.rpartition('.')[2]}.{own_class.__name__}"


def check_code(folder: Path) -> None:
    """Raises `FileExistsError` if a file of `folder` has the name of one that travels and is not ours."""
    for name, text in _code(folder).items():
        copy = folder / name
        if copy.exists() and not (copy.is_file() and _is_ours(copy, text)):
            raise InputExistsError(
                f"save_directory {folder} holds a file {name}, which the code of the model would replace: choose "
                "another folder, or move that file away"
            )


def write_code(folder: Path) -> None:
    """Puts the code into `folder`, which [`check_code`] has found to be free for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _code(folder).items():
        (folder / name).write_text(text, encoding="utf-8")


def _code(folder: Path) -> dict[str, str]:
    """File -> its marked text; nothing where this module runs from `folder` itself."""
    here = Path(__file__).parent
    if here.resolve() == folder.resolve():
        return {}
    return {name: _marked((here / name).read_text(encoding="utf-8")) for name in FILES}


def _marked(text: str) -> str:
    # This module may run from a checkpoint, where every file has its mark, good or broken by an edit: it stays so.
    return text if _MARK_PATTERN.match(text) else _MARK.format(_hash(text)) + text


def _is_ours(copy: Path, ours: str) -> bool:
    text = copy.read_text(encoding="utf-8", errors="replace")
    mark = _MARK_PATTERN.match(text)
    if mark is None:
        return _hash(text) in _UNMARKED.get(copy.name, "").split()
    return text == ours or _hash(text[mark.end() :]) == mark[1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
