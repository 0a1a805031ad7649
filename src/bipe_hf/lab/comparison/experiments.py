"""What entries are trained and measured on: a text, or a generated task."""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ...model.errors_bipe import InputError
from .. import training
from ..common.checkpoints import open_folder, with_fields
from ..common.devices import check_device
from ..common.digests import rows_digest
from ..common.mappings import read_mapping
from ..common.messages import check_counts
from ..common.run_folder import DATA_FILE, PRETRAIN, RunFiles
from ..common.settings import RunSettings
from ..common.trained_on import document_digests
from ..data import load_documents
from ..data.segments import segment_batch
from ..evaluation.held_out import known_documents
from ..evaluation.run import check_arguments as check_measurement
from ..evaluation.run import measure_model
from ..evaluation.scoring import LossSums
from ..evaluation.text import read_text, tokenizer_key
from ..tasks import synthetic
from ..tasks.synthetic.accuracy import FILES
from ..tasks.synthetic.arguments import check_arguments as check_task_arguments
from ..tasks.synthetic.arguments import check_sizes
from ..training.arguments import DataArguments, ModelArguments, PretrainSettings
from ..training.arguments import check_arguments as check_training_arguments
from ..training.model import build_config, fit_tokenizer, load_tokenizer, read_documents
from .entries import Comparison, Entry, GeneratedMeasurement, Measurement, TextMeasurement


# Fields of the model that are no positional encoding: all entries share them.
_SHARED_MODEL_FIELDS = {
    "model_type",
    "initial_model",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
}


class Measured(NamedTuple):
    """One result: the size, what tables and figures show of it, all that was found, and the losses of each unit."""

    size: int
    value: float
    found: Any
    units: LossSums | None = None


class Experiment:
    """How one task is trained and measured. One object serves one comparison."""

    measurement: ClassVar[type]
    settings: ClassVar[type[RunSettings]]
    """Of the training of an entry."""
    own_entry_keys: ClassVar[set[str]]
    """Settings beyond the model's in which entries may differ."""
    files: ClassVar[RunFiles]
    has_reference: ClassVar[bool] = False
    """Whether there is a table of ratios to one entry."""

    def __init__(self, comparison: Comparison):
        self.comparison = comparison
        self.measure = comparison.measure

    @classmethod
    def entry_keys(cls) -> set[str]:
        """Settings in which entries may differ."""
        of_model = {field.name for field in dataclasses.fields(ModelArguments)}
        return (of_model - _SHARED_MODEL_FIELDS) | cls.own_entry_keys

    @classmethod
    def fixed_settings(cls, task: str) -> dict[str, Any]:
        """Settings that follow from the task."""
        return {}

    @classmethod
    def read_measure(cls, content: dict[str, Any]) -> Measurement:
        """The mapping `measure`, checked as far as can be done without data."""
        return read_mapping("measure", cls.measurement, content)

    def device(self, entry: Entry) -> torch.device:
        """Where an entry is measured: where it was trained."""
        return check_device("cpu" if entry.settings.training.get("use_cpu") else None)

    def check(self) -> None:
        """Refuses what cannot be trained or measured, as far as can be said without data."""
        raise NotImplementedError

    def prepare(self) -> dict[str, Any]:
        """Reads the data and says by hashes what it is."""
        raise NotImplementedError

    def check_model(self, folder: Path) -> None:
        """Refuses a trained model that does not belong to the data."""

    def run(self, settings: RunSettings, overwrite: bool) -> dict[str, Any]:
        """Trains into `output_dir`, or goes on there, and returns the record."""
        raise NotImplementedError

    def results(self, entry: Entry, folder: Path, sizes: list[int]) -> Iterator[Measured]:
        """Measures the model in `folder`, one result after the other."""
        raise NotImplementedError


class TextExperiment(Experiment):
    """Language modelling: `bipe-hf pretrain`, and perplexity by length."""

    measurement = TextMeasurement
    settings = PretrainSettings
    own_entry_keys = {
        *("separators", "levels", "train_length", "per_device_train_batch_size", "index_stretch", "index_skip"),
        "learning_rate",  # the best one may be another for another encoding
    }
    files = PRETRAIN
    has_reference = True

    @classmethod
    def read_measure(cls, content):
        measure = super().read_measure(content)
        check_measurement(
            measure.lengths,
            measure.split,
            [measure.protocol],
            measure.stride,
            measure.max_tokens,
            measure.batch_tokens,
        )
        check_counts(vars(measure), ["unit_tokens"])
        if measure.data is None:
            for key in ("text_column", "validation_fraction"):
                if key in content:
                    raise InputError(f"measure, {key}: without data in measure, that of settings holds")
        return measure

    def check(self):
        tokens = {}
        for entry in self.comparison.entries.values():
            try:
                model_args, data_args = entry.settings.model, entry.settings.data
                training_args = entry.settings.training_arguments()
                check_training_arguments(model_args, data_args, training_args)
                config = build_config(model_args, data_args)
                if entry.evaluate_with:
                    _check_weights(config, with_fields(config, entry.evaluate_with))
            except InputError as error:
                raise InputError(f"entry {entry.name!r}: {error}") from error
            if data_args.train_length not in self.measure.lengths:
                raise InputError(
                    f"measure, lengths: {data_args.train_length} is missing, the train length of {entry.name!r}"
                )
            blocks = training_args.train_batch_size * training_args.gradient_accumulation_steps
            tokens[entry.name] = blocks * data_args.train_length
        first = next(iter(tokens))
        for name, count in tokens.items():
            if count != tokens[first]:
                raise InputError(
                    f"entries {first!r} and {name!r} differ in the tokens of a step ({tokens[first]} and {count}): set"
                    " per_device_train_batch_size where train_length is set"
                )

    def prepare(self):
        measure = self.measure
        entry = next(iter(self.comparison.entries.values()))
        model_args, data_args = entry.settings.model, entry.settings.data
        documents = read_documents(data_args)
        texts = documents.select_columns("text")
        self.data_sha256 = None if data_args.streaming else rows_digest(texts["train"], texts["validation"])
        self.tokenizer = load_tokenizer(model_args, data_args, documents)
        if measure.data is not None:
            fraction = measure.validation_fraction
            documents = load_documents(
                measure.data,
                text_column=measure.text_column,
                validation_fraction=data_args.validation_fraction if fraction is None else fraction,
            )
        source = f"{measure.split} split of {measure.data or data_args.data}"
        try:
            self.text = read_text(
                documents[measure.split], self.tokenizer, math.lcm(*measure.lengths), measure.max_tokens
            )
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        if measure.data is not None and measure.split == "validation" and not data_args.streaming:
            known = document_digests(row["text"] for row in texts["train"])
            seen = known_documents(documents["validation"], self.text.documents, known)
            if seen:
                warnings.warn(
                    f"measure, data: the models are trained on {seen} of the {self.text.documents} documents of"
                    f" {measure.data} that are measured",
                    stacklevel=2,
                )
        for entry in self.comparison.entries.values():
            self._check_segments(entry)
        return {
            "source": source,
            "documents": self.text.documents,
            "tokens": len(self.text.ids),
            "text_sha256": self.text.sha256,
            "tokenizer_sha256": hashlib.sha256(tokenizer_key(self.tokenizer).encode()).hexdigest(),
            "training_text_sha256": self.data_sha256,
        }

    def _check_segments(self, entry: Entry) -> None:
        """Refuses lengths that the mean segment of the text does not fit in."""
        model_args, data_args = entry.settings.model, entry.settings.data
        config = build_config(model_args, data_args)
        try:
            fit_tokenizer(config, self.tokenizer, model_args, data_args)
        except InputError as error:
            raise InputError(f"entry {entry.name!r}: {error}") from error
        segmentation = config.to_dict().get("segmentation")
        if segmentation == "separators":
            segments = segment_batch({"input_ids": self.text.ids[None]}, config)
            tokens = len(self.text.ids) / (1 + int(segments.segment_ids[0, -1]))
        elif segmentation == "fixed":
            tokens = config.fixed_segment_length
        else:
            return
        if min(self.measure.lengths) < tokens:
            raise InputError(
                f"measure, lengths: {min(self.measure.lengths)} tokens hold less than one segment of {entry.name!r},"
                f" which has {tokens:.1f} in the mean of the text"
            )

    def check_model(self, folder):
        stored = folder / DATA_FILE
        if self.data_sha256 is not None and stored.is_file() and stored.read_text().strip() != self.data_sha256:
            raise InputError("it was trained on other text")
        if (folder / self.files.result).is_file():
            found = open_folder(folder).tokenizer
            if tokenizer_key(found) != tokenizer_key(self.tokenizer):
                raise InputError("it has another tokenizer")

    def run(self, settings, overwrite):
        return training.pretrain(settings, overwrite=overwrite)

    def results(self, entry, folder, sizes):
        candidate = open_folder(folder, entry.evaluate_with, name=entry.name)
        stride = self.measure.stride if self.measure.protocol == "sliding" else None
        measured = measure_model(
            candidate,
            self.text,
            [(self.measure.protocol, stride, length) for length in sizes],
            device=self.device(entry),
            attn_implementation=entry.settings.given().get("attn_implementation"),
            batch_tokens=self.measure.batch_tokens,
            unit_tokens=self.measure.unit_tokens,
        )
        for result, units in measured:
            yield Measured(result.length, result.perplexity, result, units)


class GeneratedExperiment(Experiment):
    """A generated task: `bipe-hf synthetic`, and accuracy by the number of operators."""

    measurement = GeneratedMeasurement
    settings = synthetic.SyntheticSettings
    own_entry_keys = set()
    files = FILES

    @classmethod
    def fixed_settings(cls, task):
        # Training measures the least that it can: compare measures by itself.
        return {"task": task, "test_operators": [1], "test_samples": 1}

    @classmethod
    def read_measure(cls, content):
        measure = super().read_measure(content)
        check_sizes("measure, sizes", measure.sizes)
        check_counts(vars(measure), ["samples", "batch_size"])
        return measure

    def check(self):
        for entry in self.comparison.entries.values():
            if entry.evaluate_with:
                raise InputError(f"entry {entry.name!r}: evaluate_with is for the task text only")
            settings = entry.settings
            try:
                check_task_arguments(settings.generator, settings.model, settings.training_arguments())
                build_config(settings.model, DataArguments(train_length=64))  # of no account for what is checked
            except InputError as error:
                raise InputError(f"entry {entry.name!r}: {error}") from error

    def prepare(self):
        return {}

    def run(self, settings, overwrite):
        return synthetic.train(settings, overwrite=overwrite)

    def results(self, entry, folder, sizes):
        for size in sizes:
            (row,) = synthetic.measure(
                folder,
                [size],
                samples=self.measure.samples,
                seed=self.measure.seed,
                batch_size=self.measure.batch_size,
                device=self.device(entry),
            )
            yield Measured(size, row["accuracy"], row)


def _check_weights(trained: PreTrainedConfig, measured: PreTrainedConfig) -> None:
    """Refuses a config that the weights of another do not fit."""
    shapes = []
    for config in (trained, measured):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shapes.append({name: weights.shape for name, weights in model.state_dict().items()})
    there, here = shapes
    for name in there.keys() | here.keys():
        if there.get(name) != here.get(name):
            raise InputError(f"evaluate_with: the weights that are trained do not fit it ({name})")


EXPERIMENTS: dict[str, type[Experiment]] = {
    "text": TextExperiment,
    "arithmetic": GeneratedExperiment,
    "chain": GeneratedExperiment,
}
