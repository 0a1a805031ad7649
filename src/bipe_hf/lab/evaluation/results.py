"""What an evaluation reports: rows, the file that keeps them, and the tables that show them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...hub.records import EVALUATION_FORMAT
from ...model.errors_bipe import InputError
from ..common.checkpoints import Checkpoint, is_outdated
from ..common.results import in_words, read_results, write_results
from ..common.tables import aligned, markdown, plain_number


PROTOCOLS = {
    "blocks": "non-overlapping blocks, every token scored but the first of each",
    "sliding": "sliding window, only tokens new to it scored",
    "tail": "non-overlapping blocks, the last 256 tokens of each scored",
}


@dataclass(frozen=True)
class Result:
    """One model measured by one protocol at one length.

    Perplexities compare only where `text_sha256` is the same.

    Args:
        model: folder or name on the Hub, as it was given.
        name: a short one, for tables.
        encoding: what the field calls its positional encoding.
        train_length: in tokens; None where it is not known.
        protocol: one of `PROTOCOLS`.
        length: tokens in a window.
        stride: tokens by which the window of `sliding` moves; None for the others.
        tokens_scored: in all windows.
        blocks: how many windows there are.
        segments_per_block: mean number of distinct segments in a window; None where the model knows no segments.
        nll: mean negative log-likelihood of the tokens scored, in nats.
        perplexity: `exp(nll)`.
        bits_per_byte: `nll / ln 2 / bytes_per_token`.
        seconds: wall time.
        text_documents: that the text reaches into.
        text_tokens: length of the stream.
        text_sha256: of the token ids of the stream.
        bytes_per_token: UTF-8 bytes divided by tokens over these documents, each counted whole and its end-of-text
            token counted as a token.
        model_fingerprint: that `Checkpoint.fingerprint` gives.
        config_fields: those of the model's config that were set for the measurement.
        commit: of a model from the Hub; None for a folder.
        loss_by_position: what `PositionLosses.bins` gives; empty in files that earlier versions wrote.
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
    commit: str | None = None
    loss_by_position: list[dict[str, int | float]] = field(default_factory=list)

    @property
    def subject(self) -> tuple[str, str]:
        """The model, and the config fields set for it: what tables and pictures have one row or line of."""
        return self.model, json.dumps(self.config_fields, sort_keys=True)

    @property
    def measurement(self) -> tuple[tuple[str, str], str, int | None, int]:
        """The subject, protocol, stride and length: what a file of results holds once."""
        return self.subject, self.protocol, self.stride, self.length


@dataclass
class Evaluation:
    """Results with what is needed to repeat them; `save` and `load` keep it as JSON.

    Args:
        created: when, in ISO 8601.
        command: that measured.
        environment: what `describe_environment` found.
        data: what was read: `source`, `split`, how it was read, and `sha256` of the documents.
        results: one for each model, protocol and length.
    """

    created: str
    command: str
    environment: dict
    data: dict
    results: list[Result]

    def save(self, path: Path) -> None:
        """Writes the JSON file and its tables (suffix `.md`), each replaced as a whole or not at all."""
        write_results(path, EVALUATION_FORMAT, self, lambda: f"{self.summary()}\n\n{markdown_table(self.results)}")

    def summary(self) -> str:
        """One line that says what was read with which command."""
        read = f"{self.data['split']} split of {self.data['source']}"
        return f"`{self.command}`: {read}, measured {self.created} with {in_words(self.environment)}"

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """The evaluation that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds anything else.
        """
        return read_results(path, EVALUATION_FORMAT, cls, Result)


def results_of_model(file: str | Path, model: Checkpoint) -> dict[str, Any]:
    """What `Evaluation.save` wrote into `file`, with the results of this model alone, to lie beside it.

    Raises `ValueError` where there are none of the model as it is now, and otherwise as `Evaluation.load` does.
    """
    content = Evaluation.load(file)
    results = [row for row in content.results if row.model_fingerprint == model.fingerprint]
    if not results:
        old = any(row.model == model.given and is_outdated(row.model_fingerprint) for row in content.results)
        reason = "; it tells this model by the time of its files, as earlier versions did" if old else ""
        raise InputError(
            f"evaluation {file}: no result in it is of {model.given} as it is now (models there: "
            f"{', '.join(sorted({row.model for row in content.results})) or 'none'}){reason}; measure it again"
        )
    return {"format": EVALUATION_FORMAT, **asdict(replace(content, results=results))}


def comparability_note(results: Iterable[Result]) -> str | None:
    """A warning where perplexities do not compare because the token ids scored are not the same, else None."""
    if len({result.text_sha256 for result in results}) <= 1:
        return None
    return (
        "note: not every result scores the same token ids (another tokenizer, or another stretch of the text): "
        "compare bits per byte, not perplexity"
    )


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
    """The perplexity, bits per byte, segments per block and tokens scored of each protocol, as aligned plain text."""
    parts = [f"{title}\n{aligned(rows)}" for title, rows in _tables(results)]
    note = comparability_note(results)
    return "\n\n".join(parts if note is None else [*parts, note])


def markdown_table(results: Sequence[Result]) -> str:
    """The tables of `text_table` as Markdown."""
    parts = [f"{title[0].upper()}{title[1:]}:\n\n{markdown(rows)}" for title, rows in _tables(results)]
    note = comparability_note(results)
    return "\n\n".join(parts if note is None else [*parts, note[0].upper() + note[1:] + "."]) + "\n"
