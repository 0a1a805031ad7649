"""The run itself: records read, a tokenizer and a model made for them, `transformers.Trainer`, and what they cost."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EarlyStoppingCallback,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    set_seed,
)

from ...model.errors_bipe import InputError
from ..common.checkpoints import described_model, ends_segments_at_separators, load_model
from ..common.run_folder import RunFiles, begin_run, check_data, find_checkpoint
from ..common.session import CurrentIntervals, RunTrainer, finish, record, save_and_measure
from ..common.session import train as train_to_the_end
from ..training import DataArguments, ModelArguments, build_config, build_model, fit_tokenizer
from .arguments import RecordArguments, RecordSettings, check_arguments
from .form import Form, Row
from .reading import Records, read_records
from .schema import Schema, check_form_levels, describe_columns, form_of
from .scoring import SCHEMA_FILE, RecordModel, by_column
from .tokens import encode_rows, fit_record_tokenizer, row_ids, windows


FILES = RunFiles("records.yaml", SCHEMA_FILE)
# Of an optimizer step.
FEWEST_EXAMPLES, MOST_EXAMPLES = 8, 64


class Split(NamedTuple):
    """Rows to train on and rows to measure on, those of each file."""

    train: list[list[Row]]
    validation: list[list[Row]]


def train_records(
    paths: Sequence[str | Path], settings: RecordSettings | dict[str, Any], *, overwrite: bool = False
) -> dict[str, Any]:
    """Trains a causal language model on records into `output_dir`, or resumes the interrupted run found there.

    The folder then loads with `AutoModelForCausalLM` and `AutoTokenizer`, and with [`open_records`], which reads
    `records.json`.

    Args:
        paths: files and folders, as [`read_records`] takes them.
        settings: of the run, or a dictionary of fields of `RecordArguments`, `ModelArguments` and
            `transformers.TrainingArguments` by name, typed as they are there.
        overwrite: delete the run that `output_dir` holds and train again.

    Returns:
        What `records.json` records: the schema, rows and tokens, the bits of a held-out row and of each of its fields
        (means), loss (nats per token), steps, seconds, settings.

    Raises:
        ValueError: records that cannot be read (see [`read_records`]), settings that are unknown, do not fit each
            other, or differ from those of the interrupted run.
        FileExistsError: `output_dir` holds a finished run, or something that is no run.
    """
    settings = RecordSettings.of(settings)
    record_args, model_args, training_args = settings.records, settings.model, settings.training_arguments()
    training_args.include_num_input_tokens_seen = "non_padding"
    check_arguments(record_args, model_args, training_args)
    stored = {"files": list(map(str, paths))} | settings.stored()
    say = print if training_args.process_index == 0 else lambda line: None

    folder = Path(training_args.output_dir)
    checkpoint = find_checkpoint(
        folder, stored, overwrite=overwrite, say=say, files=FILES, processes=training_args.world_size
    )
    records = read_records(paths, record_args.given)
    for note in records.notes:
        say(note)
    order = record_args.order or ("file" if records.source.kind == "log" else "any")
    form = form_of(records.source.kind, records.columns)
    levels = record_args.levels or list(form.levels)
    check_form_levels(records.source.kind, form, levels)
    if len(levels) < len(form.levels):
        say(f"levels {', '.join(map(str, levels))} alone: the model will not tell {list(form.levels)[-1]} apart")
    say(_what_is_learnt(records, order, levels))
    digest = _digest(records, form)
    split = _split(records, order, record_args.validation_fraction)

    if checkpoint is None:
        config, tokenizer = _prepare(form, split, levels, record_args, model_args, say)
    else:
        check_data(folder, digest)
        config, tokenizer = AutoConfig.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    train_rows, validation_rows = (
        [list(map(row_ids, encode_rows(rows, form, tokenizer))) for rows in part] for part in split
    )
    longest = max(len(row) for rows in train_rows for row in rows)
    length = record_args.train_length
    cut = sum(len(row) > length for rows in train_rows for row in rows)
    if cut:
        say(f"{cut:,} row(s) are longer than train_length, {length} tokens: what lies beyond is not learnt")
    examples = _examples(train_rows, order, length, tokenizer.eos_token_id)
    held_out = _examples(validation_rows, order, length, tokenizer.eos_token_id)

    if "per_device_train_batch_size" not in settings.training:
        training_args.per_device_train_batch_size = _examples_per_step(examples, record_args.tokens_per_step)
    set_seed(training_args.seed)
    load = partial(load_model, attention=model_args.attn_implementation)
    model = build_model(model_args, config) if checkpoint is None else load(checkpoint).model
    rows = {name: sum(map(len, part)) for name, part in split._asdict().items()}
    say(
        f"{described_model(model)}, {len(tokenizer)} tokens;"
        f" {rows['train']:,} rows to train on in {len(examples):,} examples, {training_args.train_batch_size} a step,"
        f" {rows['validation']:,} to measure; device {training_args.device}"
    )
    callbacks = [CurrentIntervals()]
    if record_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(record_args.early_stopping_patience))
        training_args.restore_callback_states_from_checkpoint = True  # a resumed run has lost no patience
    trainer = RunTrainer(
        model=model,
        args=training_args,
        train_dataset=examples,
        eval_dataset=held_out,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        callbacks=callbacks,
        load_model=load,
    )
    if checkpoint is None and training_args.process_index == 0:
        begin_run(folder, stored, digest, overwrite=overwrite, files=FILES)
    seconds = train_to_the_end(trainer, checkpoint)
    validation = save_and_measure(trainer)

    described = describe_columns(records.columns, [form.cells(row) for rows in split.train for row in rows])
    schema = Schema(records.source, order, levels, described, longest)
    used = RecordModel(trainer.model.eval(), tokenizer, schema, length)
    bits = []
    for own in split.validation:
        fields = used.fields(own)
        bits += map(by_column, fields, used.bits(fields))
    result = schema.to_dict() | {
        "train_length": length,
        "rows": rows,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "eval_loss": validation["eval_loss"],
        "bits_per_row": float(np.mean([sum(row.values()) for row in bits])),
        "bits_per_field": {name: sum(row.get(name, 0.0) for row in bits) / len(bits) for name in records.columns},
    }
    result |= record(trainer, checkpoint, seconds, stored)
    finish(trainer, result, FILES)
    say(f"a held-out row takes {result['bits_per_row']:.2f} bits, {len(bits):,} measured")
    say(f"saved to {folder}")
    return result


def _what_is_learnt(records: Records, order: str, levels: Sequence[str]) -> str:
    size = f"{len(records.rows):,} rows, {len(records.columns)} column(s)"
    alone = "each row is learnt alone" if order == "any" else "a row sees those before it"
    return f"{size}; levels {', '.join(map(str, levels))}; {alone} (else: levels, order)"


def _digest(records: Records, form: Form) -> str:
    """SHA-256 of all rows as they are learnt."""
    digest = hashlib.sha256()
    for row in records.rows:
        digest.update(form.line(row).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _split(records: Records, order: str, fraction: float) -> Split:
    """Rows held out: by chance where order means nothing, the same ones each time; else the last ones of each file."""
    count = len(records.rows)
    if count < 2:
        raise InputError(
            f"{', '.join(records.files)}: 1 row; to train on some and measure others, at least 2 are needed"
        )
    if order == "any":
        held_out = min(max(round(fraction * count), 1), count - 1)
        chosen = np.random.default_rng(0).permutation(count)
        parts = (sorted(chosen[held_out:]), sorted(chosen[:held_out]))
        return Split(*([[records.rows[at] for at in part]] for part in parts))
    cuts = [len(rows) - min(round(fraction * len(rows)), len(rows) - 1) for rows in records.files.values()]
    if cuts == [len(rows) for rows in records.files.values()]:
        cuts[-1] -= 1
    both = list(zip(records.files.values(), cuts, strict=True))
    train = [rows[:cut] for rows, cut in both]
    return Split([rows for rows in train if rows], [rows[cut:] for rows, cut in both if rows[cut:]])


def _examples(
    files: Sequence[Sequence[list[int]]], order: str, length: int, eos_token_id: int
) -> list[dict[str, list]]:
    """What a causal language model is trained on: a row, or rows side by side, behind the end-of-text token.

    Windows overlap by half, so that a row is learnt at more than one place.
    """
    examples = []
    for rows in files:
        sizes = list(map(len, rows))
        seen = [(at, at, at + 1) for at in range(len(rows))] if order == "any" else windows(sizes, length, length // 2)
        for first, _, stop in seen:
            ids = [each for row in rows[first:stop] for each in row][:length]
            examples.append({"input_ids": [eos_token_id, *ids], "labels": [-100, *ids]})
    return examples


def _examples_per_step(examples: Sequence[dict[str, list]], tokens: int) -> int:
    """How many have about so many tokens together, within limits: fewer learn badly, more gain nothing."""
    mean = sum(len(example["input_ids"]) for example in examples) / len(examples)
    return min(max(round(tokens / mean), FEWEST_EXAMPLES), MOST_EXAMPLES)


def _prepare(
    form: Form,
    split: Split,
    levels: Sequence[str],
    record_args: RecordArguments,
    model_args: ModelArguments,
    say: Callable[[str], None],
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Config and tokenizer of the model to train."""
    lines = [form.line(row) for rows in split.train for row in rows]
    plain = fit_record_tokenizer(lines, form, record_args.vocab_size)
    if len(plain) < record_args.vocab_size:
        say(f"the rows give a vocabulary of {len(plain)} tokens, fewer than vocab_size {record_args.vocab_size}")
    data_args = DataArguments(train_length=record_args.train_length)
    config = build_config(model_args, data_args)
    if ends_segments_at_separators(config):
        if model_args.max_inner_index is None:  # a key and a value of JSON are two units
            fields = max(len(form.cells(row)) for rows in split.train for row in rows)
            config.max_inner_index = max(config.max_inner_index, 2 * fields)
        data_args.levels = [form.levels.get(level, level) if isinstance(level, str) else level for level in levels]
    return config, fit_tokenizer(config, plain, model_args, data_args)
