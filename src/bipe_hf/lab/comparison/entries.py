"""What is compared: entries, what they share, and what they are measured with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...model.errors_bipe import InputError, did_you_mean
from ..common.files import name_of_file
from ..common.settings import RunSettings
from ..evaluation.scoring import STRIDE


@dataclass(frozen=True)
class TextMeasurement:
    """Keys of `measure` of a text: those of `bipe-hf evaluate`.

    `data` None is the text that was trained on, and `validation_fraction` None that of the training. With
    `unit_tokens` the losses of each document are kept, those of a long one for every so many of its tokens.
    """

    lengths: list[int] = field(metadata={"help": "perplexity at these lengths, in tokens"})
    protocol: str = field(
        default="blocks", metadata={"help": "blocks, sliding or tail, as `bipe-hf evaluate` has them"}
    )
    stride: int = field(default=STRIDE, metadata={"help": "tokens that the window of sliding moves by"})
    data: str | None = field(default=None, metadata={"help": "text to measure on; by default that of the training"})
    split: str = field(default="validation", metadata={"help": "train or validation"})
    text_column: str = field(default="text", metadata={"help": "column of data that holds the text"})
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "part of the documents of data held out where it has no splits; by default that of the training"
        },
    )
    max_tokens: int | None = field(
        default=None, metadata={"help": "at most so many tokens of the text, from its beginning; by default all"}
    )
    batch_tokens: int = field(default=8192, metadata={"help": "tokens per batch: speed and memory"})
    unit_tokens: int | None = field(
        default=None,
        metadata={
            "help": "keep the losses of each document, of a long one for every so many tokens: what intervals need"
        },
    )

    @property
    def sizes(self) -> list[int]:
        """What there is a column of."""
        return self.lengths


@dataclass(frozen=True)
class GeneratedMeasurement:
    """Keys of `measure` of a generated task: numbers of operators, and what `lab.tasks.synthetic.measure` takes."""

    sizes: list[int] = field(metadata={"help": "numbers of operators to count right answers at"})
    samples: int = field(default=500, metadata={"help": "questions at each number of operators"})
    seed: int = field(default=0, metadata={"help": "of these questions"})
    batch_size: int = field(default=100, metadata={"help": "questions per batch: speed and memory"})
    unit_tokens: ClassVar[None] = None


Measurement = TextMeasurement | GeneratedMeasurement


@dataclass(frozen=True)
class Entry:
    """A line of the tables.

    Args:
        name: as the tables have it.
        settings: of its training, shared ones included, without seed and folder.
        seeds: one run with each.
        trained_as: name of the entry whose models it has; None where it has a training of its own.
        evaluate_with: config fields that are set for the measurement.
    """

    name: str
    settings: RunSettings
    seeds: list[int]
    trained_as: str | None
    evaluate_with: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name in the names of folders."""
        return name_of_file(self.name.lower())


@dataclass(frozen=True)
class Comparison:
    """A file of `bipe-hf compare`, checked and typed.

    Args:
        name: that of the file.
        task: `text`, or a generated one.
        entries: by name, in the order of the file.
        measure: what the models are measured with.
        reference: name of the entry whose perplexity ratios are to.
        content: as it was read with what it extends, but with the fields of an encoding in place of its name.
    """

    name: str
    task: str
    entries: dict[str, Entry]
    measure: Measurement
    reference: str | None
    content: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its models go."""
        return Path("runs", "compare", self.name)

    def model_of(self, entry: Entry) -> Entry:
        """The entry whose training gives the model of `entry`."""
        return entry if entry.trained_as is None else self.entries[entry.trained_as]

    def model_folder(self, entry: Entry, seed: int) -> Path:
        """Where the model of an entry is.

        Args:
            entry: one of the comparison.
            seed: of its run.
        """
        return self.folder / f"{self.model_of(entry).slug}-seed{seed}"

    def chosen(self, names: Sequence[str] | None) -> list[Entry]:
        """The entries of these names, or all without any. Raises `ValueError` for a name that there is not."""
        for name in names or ():
            if name not in self.entries:
                raise InputError(f"only: there is no entry {name!r}{among(name, self.entries)}")
        return [entry for name, entry in self.entries.items() if not names or name in names]


def among(name: Any, entries: Iterable[str]) -> str:
    """The end of a message about an entry, or another name, that there is not."""
    return did_you_mean(str(name), entries) or f" among {', '.join(entries)}"
