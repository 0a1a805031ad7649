"""What an evaluation reports: rows, the file that keeps them, and the tables that show them."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..model_card import EVALUATION_FORMAT


PROTOCOLS = {
    "blocks": "non-overlapping blocks, every token scored but the first of each",
    "sliding": "sliding window, only tokens new to it scored",
    "tail": "non-overlapping blocks, the last 256 tokens of each scored",
}


@dataclass(frozen=True)
class Result:
    """One model measured by one protocol at one length.

    `nll` is the mean negative log-likelihood in nats of the `tokens_scored` tokens, `perplexity` its exponential.
    `bits_per_byte` is `nll / ln 2 / bytes_per_token`, where `bytes_per_token` is the ratio of UTF-8 bytes to tokens
    over the documents that the text reaches into, each counted whole and its end-of-text token counted as a token.
    `text_tokens` is the length of the stream, `text_sha256` identifies its token ids: perplexities compare only where
    it is the same. `segments_per_block` is the mean number of distinct segments in a window, None where the model
    knows no segments. `stride` is None but for `sliding`. `blocks` counts windows, `seconds` is wall time.
    `config_fields` are those of the model's config that were set for the measurement, `loss_by_position` is what
    `PositionLosses.bins` gives (empty in files that earlier versions wrote).
    """

    model: str
    name: str
    encoding: str
    train_length: int | None
    protocol: str
    length: int
    stride: int | None
    tokens_scored: int
    blocks: int
    segments_per_block: float | None
    nll: float
    perplexity: float
    bits_per_byte: float
    seconds: float
    text_documents: int
    text_tokens: int
    text_sha256: str
    bytes_per_token: float
    model_fingerprint: str
    config_fields: dict[str, Any] = field(default_factory=dict)
    loss_by_position: list[dict[str, int | float]] = field(default_factory=list)

    @property
    def subject(self) -> tuple[str, str]:
        """The model, and the config fields set for it: what tables and pictures have one row or line of."""
        return self.model, json.dumps(self.config_fields, sort_keys=True)

    @property
    def measurement(self) -> tuple[tuple[str, str], str, int | None, int]:
        """Subject, protocol, stride and length: what a file of results holds once."""
        return self.subject, self.protocol, self.stride, self.length


@dataclass
class Evaluation:
    """Results with what is needed to repeat them; `save` and `load` keep it as JSON."""

    created: str
    command: str
    environment: dict
    data: dict
    results: list[Result]

    def save(self, path: Path) -> None:
        """Write the JSON file and its tables (suffix `.md`), each replaced as a whole or not at all."""
        write_results(path, EVALUATION_FORMAT, self, f"{self.summary()}\n\n{markdown_table(self.results)}")

    def summary(self) -> str:
        """One line that says what was read with which command."""
        return f"`{self.command}`: {self.data['split']} split of {self.data['source']}, measured {self.created}"

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what `save` wrote; raises as `read_results` does."""
        return read_results(path, EVALUATION_FORMAT, cls, Result)


def write_results(path: Path, file_format: str, content: Any, tables: str) -> None:
    """Write a dataclass as JSON and its tables beside it (suffix `.md`), each replaced as a whole or not at all."""
    text = json.dumps({"format": file_format, **asdict(content)}, indent=2, allow_nan=False)
    for file, written in ((path, f"{text}\n"), (path.with_suffix(".md"), tables)):
        partial = file.with_name(file.name + ".partial")
        partial.write_text(written, encoding="utf-8")
        os.replace(partial, file)


def read_results(path: str | Path, file_format: str, kind: type, row: type, command: str = "evaluate") -> Any:
    """The `kind` of dataclass that `write_results` wrote, each entry of its `results` a `row`.

    Raises `FileNotFoundError` without the file and `ValueError` where it holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no results file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != file_format:
        raise ValueError(
            f'{path} was not written by `bipe-hf {command}`, or not for this: its "format" is not "{file_format}"'
        )
    try:
        del content["format"]
        content["results"] = [row(**fields) for fields in content["results"]]
        return kind(**content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} does not hold what `bipe-hf {command}` writes ({error})") from error


def describe_environment(device: torch.device, dtype: str) -> dict[str, str]:
    """Versions and machine, as an evaluation records them."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "bipe-hf")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": dtype,
    }


def check_output(output: Path, overwrite: bool, resume: bool, beside: Sequence[str] = (".md",)) -> None:
    """Raise `ValueError` or `FileExistsError` unless results may be written to this file.

    Args:
        output: `.json` file.
        overwrite: it may be there, and is replaced.
        resume: it may be there, and is completed.
        beside: suffixes of the files that belong to it. Without it, files of their names are somebody else's.
    """
    if output.suffix != ".json":
        raise ValueError(f"output: {output} must end in .json (the tables go beside it, ending in .md)")
    if overwrite and resume:
        raise ValueError("overwrite and resume exclude each other")
    if output.exists() and not overwrite and not resume:
        raise FileExistsError(f"output: {output} exists (--overwrite replaces it, --resume completes it)")
    for file in map(output.with_suffix, beside):
        if file.exists() and not overwrite and not output.exists():
            raise FileExistsError(
                f"output: {file} exists without {output.name}, so it is not known what it belongs to (--overwrite"
                " replaces it)"
            )
    check_writable(output.parent)


def check_writable(folder: Path) -> None:
    """Raise `ValueError` unless `folder` is there, or can be made, and files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"output: nothing can be written in {folder} ({error.strerror})") from error


def comparability_note(results: Iterable[Result]) -> str | None:
    """A warning where perplexities do not compare because the token ids scored are not the same, else None."""
    if len({result.text_sha256 for result in results}) <= 1:
        return None
    return (
        "note: not every result scores the same token ids (another tokenizer, or another stretch of the text): "
        "compare bits per byte, not perplexity"
    )


def plain_number(value: float) -> str:
    """Two decimals below a thousand, whole numbers below a million, then three significant digits."""
    if value < 1000:
        return f"{value:.2f}"
    return f"{value:.0f}" if value < 1e6 else f"{value:.2e}"


QUANTITIES: dict[str, Callable[[Result], str]] = {
    "perplexity": lambda result: plain_number(result.perplexity),
    "bits per byte": lambda result: f"{result.bits_per_byte:.4f}",
    "segments per block": lambda result: _or_dash(result.segments_per_block, "{:.1f}".format),
    "tokens scored": lambda result: str(result.tokens_scored),
}


def _tables(results: Sequence[Result]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows (the first one the heading) of each table: every quantity of every protocol, lengths across."""
    tables = []
    for protocol, stride in dict.fromkeys((result.protocol, result.stride) for result in results):
        chosen = [result for result in results if (result.protocol, result.stride) == (protocol, stride)]
        lengths = sorted({result.length for result in chosen})
        models = dict.fromkeys(
            (result.subject, result.name, result.encoding, result.train_length) for result in chosen
        )
        cells = {(result.subject, result.length): result for result in chosen}
        heading = ["model", "encoding", "train length", *map(str, lengths)]
        for quantity, show in QUANTITIES.items():
            rows = [
                [name, encoding, _or_dash(train_length, str)]
                + [_or_dash(cells.get((subject, length)), show) for length in lengths]
                for subject, name, encoding, train_length in models
            ]
            if all(cell == "-" for row in rows for cell in row[3:]):  # no model here knows segments
                continue
            explained = f"{PROTOCOLS[protocol]}{'' if stride is None else f', stride {stride}'}"
            tables.append((f"{quantity}, protocol {protocol} ({explained})", [heading, *rows]))
    return tables


def _or_dash(value: Any, show: Callable[[Any], str]) -> str:
    return "-" if value is None else show(value)


def text_table(results: Sequence[Result]) -> str:
    """Aligned plain text: for each protocol perplexity, bits per byte, segments per block and tokens scored."""
    parts = [f"{title}\n{aligned(rows)}" for title, rows in _tables(results)]
    note = comparability_note(results)
    return "\n\n".join(parts if note is None else [*parts, note])


def markdown_table(results: Sequence[Result]) -> str:
    """The tables of `text_table` as Markdown."""
    parts = [f"{title[0].upper()}{title[1:]}:\n\n{markdown(rows)}" for title, rows in _tables(results)]
    note = comparability_note(results)
    return "\n\n".join(parts if note is None else [*parts, note[0].upper() + note[1:] + "."]) + "\n"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns of plain text, the first two flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table whose first row is the heading; columns as in `aligned`."""
    heading, *others = rows
    rule = ["---", "---"] + ["---:"] * (len(heading) - 2)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, rule, *others))


def encoding_label(config: PreTrainedConfig) -> str:
    """What the field calls a config's positional encoding; `model_type` for a model that is not of this package."""
    return config.encoding_label if is_bipe(config) else config.model_type


def is_bipe(config: PreTrainedConfig) -> bool:
    return config.model_type.startswith("bipe_")
