"""The code that travels with a checkpoint, so that it loads where this package is not installed."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedConfig

from .errors_bipe import InputExistsError


FILES = (
    "alibi_bipe.py",
    "attention_bipe.py",
    "batching_bipe.py",
    "cable_bipe.py",
    "cable_kernel_bipe.py",
    "cache_bipe.py",
    "compatibility_bipe.py",
    "configuration_bipe.py",
    "cope_bipe.py",
    "counting_bipe.py",
    "dape_bipe.py",
    "dca_bipe.py",
    "edit_bipe.py",
    "encodings_bipe.py",
    "errors_bipe.py",
    "first_values_bipe.py",
    "fox_bipe.py",
    "fox_pro_bipe.py",
    "generation_bipe.py",
    "heads_bipe.py",
    "hirope_bipe.py",
    "index_steps_bipe.py",
    "inter_base_bipe.py",
    "inter_bias_bipe.py",
    "inter_bipe.py",
    "inter_terms_bipe.py",
    "intra_bipe.py",
    "last_inputs_bipe.py",
    "layer_encoding_bipe.py",
    "layer_mixing_bipe.py",
    "layer_pattern_bipe.py",
    "liger_bipe.py",
    "logits_bipe.py",
    "marks_bipe.py",
    "modeling_bipe.py",
    "modeling_bipe_gpt_neox.py",
    "modeling_bipe_llama.py",
    "packing_bipe.py",
    "paged_bipe.py",
    "pair_bipe.py",
    "path_bipe.py",
    "push_bipe.py",
    "registries_bipe.py",
    "rotary_pairs_bipe.py",
    "running_bias_bipe.py",
    "segmentation_bipe.py",
    "selective_rope_bipe.py",
    "separators_bipe.py",
    "sepllm_bipe.py",
    "sepllm_cache_bipe.py",
    "split_marks_bipe.py",
    "tape_bipe.py",
    "tokenization_bipe.py",
    "travel_bipe.py",
    "version_bipe.py",
    "vocabulary_bipe.py",
)
"""What travels, always as a whole: half of one version and half of another would not be a model."""

# A copy is ours as long as its first line has the hash of the rest.
_MARK = "# Saved by bipe-hf, which replaces this file until somebody edits it. {}\n"
_MARK_PATTERN = re.compile(_MARK.replace(".", r"\.").format(r"([0-9a-f]{16})"))

# Version 0.1 saved copies without a mark: these, under names of today,
_UNMARKED = {
    "configuration_bipe.py": "0eadcadd1d3adc46 16bc3017be6a8020 1fb4f9dbb973356d 23a00258ece5130a 6197c6bf2e3298ba "
    "69fe3430c35bd8a0 a778086aadb30481 b36e729b72b2eb8c ca8c6162dfb1f760 e61095eb226cee4c",
    "modeling_bipe.py": "2754754a2b973e23 39666d11b5d888f6 51b6e825ab29f729 865475ad196eadfe 8ff73f216fb54ab1 "
    "ab981839f6287506 c7eeeb67ecf419b8",
    "modeling_bipe_gpt_neox.py": "f84f4f1569633647",
    "modeling_bipe_llama.py": "ab8afbf3c6f4f313",
    "tokenization_bipe.py": "6bf2557e92da79ce 8077e54b0be7d1a0 f732498eb9af3ce9",
}
# and under names that nothing imports any more.
_GONE = {
    "alibi.py": "3deb62e498d836e7 8a83387a5a81dce1 d12545c1a29f8f54",
    "attention.py": "7f7d34ab653c8526 83a485afcb53bd29 a6df806121403c07 dc20d6a7af624c96",
    "cache.py": "37284f61b7940825 6b645141d6027b6e 6c12e9c4dc690507 86c521502ce34358 b3d61640c8fecd13 "
    "b4f1cfa046af0d2f d16c3b7d0e6b40ec",
    "card_file.py": "592d5f79f824f051",
    "compatibility.py": "55449b94f441d129",
    "generation.py": "1f0ef091aea2f2a7 498766aa4c9bfb45 ceeb0751952eb0ac d04fc928c26e3d27",
    "heads.py": "6025cbbaad332543 61239473878d19f5 bdfa020ae5d04656",
    "model_card.py": "21eddbfd0dc79024 5f201c232cb93bf1 6872602387702f7b 8d5201a9001d2e12 a1b256d36c48a788 "
    "cdfb90dc697ef02b d1c77ab8b16665fd dd7063a88f8ef1a6 e9b8964d70f326ac eecbdcc44af12c4d",
    "positional.py": "020ff3b4c5851b26 2505463336de6af5 389a3d7d43fa4e49 5e41f3a16d5e36e1 5ecf3e01e4a8c5d9 "
    "611ad1f1b9168f1e 7bf45497fd552ea1 a6f24337da0a354a ce01e0bcd3c36af6 d902d0416f77c87a "
    "f154f59f48e8bac2 f58d3688e6dbbf03",
    "segmentation.py": "0b94634c419553e8 1529cea6ca2e168b 28fa738fc6f0c20f 90eaff6db6219d03 c788f20dfaa56f84",
    "version.py": "a57214e211d2acbc",
    "vocabulary.py": "9265fa1e6a24c19c",
}


def auto_map(config: PreTrainedConfig) -> dict[str, str | list[str | None]]:
    """Where a model of `config` has its own class, by Auto class, as `config.json` tells it to
    `trust_remote_code=True`.
    """
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
        if copy.exists() and not (copy.is_file() and (_is_ours(copy, text) or copy.stat().st_size == 0)):
            raise InputExistsError(
                f"save_directory {folder} holds a file {name}, which the code of the model would replace: choose "
                "another folder, or move that file away"
            )


def write_code(folder: Path) -> None:
    """Puts the code into `folder`, which [`check_code`] has found to be free, and takes away what only 0.1 had.

    Several processes may save here at a time: each file is there as a whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _code(folder).items():
        copy = folder / name
        if not (copy.is_file() and copy.read_text(encoding="utf-8", errors="replace") == text):
            write_whole(copy, text)
    for name, hashes in _GONE.items():
        old = folder / name
        if old.is_file() and _hash(old.read_text(encoding="utf-8", errors="replace")) in hashes.split():
            old.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`: it becomes that one at the end, as a whole, or is removed.

    So nothing is half written, whenever the process is killed, however full the disk is and whoever else writes it.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file as a whole or not at all (see [`whole_file`]).

    Args:
        path: of the file.
        content: text, written as UTF-8, or bytes.
    """
    with whole_file(path) as partial:
        if isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            partial.write_text(content, encoding="utf-8")


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
