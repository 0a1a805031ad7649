"""The run itself: rows, a task, `transformers.Trainer`, and what is written at the end."""

from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedConfig, TrainingArguments, set_seed

from ...model.errors_bipe import InputError, did_you_mean
from ..common.checkpoints import described_model, initial_source, keep_origin, local_folder
from ..common.digests import rows_digest
from ..common.extras import require
from ..common.messages import check_counts
from ..common.run_folder import RunFiles, begin_run, check_data, find_checkpoint
from ..common.session import CurrentIntervals, RunTrainer, finish, record, save_and_measure, train
from ..common.trained_on import write_trained_on
from ..training.arguments import check_training
from .arguments import FinetuneSettings, RowArguments, TaskArguments
from .model import load_config, load_tokenizer, load_with_head
from .task import Task, is_text
from .tasks import TASKS


FILES = RunFiles("finetune.yaml", "finetuning.json")


def finetune(settings: FinetuneSettings | dict[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
    """Trains a model for a task into `output_dir`, or resumes the interrupted run found there.

    The folder then loads with the Auto class of the task and `AutoTokenizer`.

    Args:
        settings: of the run, or a dictionary of fields of `TaskArguments`, `RowArguments` and
            `transformers.TrainingArguments` by name, typed as they are there. With `load_best_model_at_end`,
            `metric_for_best_model` is by default `loss` for the causal tasks and `f1` for the others.
        overwrite: delete the run that `output_dir` holds and train again.

    Returns:
        What `finetuning.json` records: task, metrics of the validation split, best checkpoint, labels, examples,
        steps, seconds, settings.

    Raises:
        ValueError: settings that are unknown, do not fit each other, or differ from those of the interrupted run; rows
            that the task cannot use; a model that does not fit.
        FileNotFoundError: data not found.
        FileExistsError: `output_dir` holds a finished run, or something that is no run.
    """
    settings = FinetuneSettings.of(settings)
    task_args, row_args = settings.task, settings.rows
    task_class = _find_task(task_args.task)
    if settings.training.get("load_best_model_at_end") and "metric_for_best_model" not in settings.training:
        settings = settings.with_training(metric_for_best_model=task_class.best_metric)
    training_args = settings.training_arguments()
    _check_arguments(task_class, task_args, row_args, training_args)
    if training_args.metric_for_best_model is not None and settings.training.get("greater_is_better") is None:
        # Trainer would take f1_loss, of a label named loss, for a loss.
        training_args.greater_is_better = training_args.metric_for_best_model.removeprefix("eval_") != "loss"
    stored = settings.stored()
    is_main = training_args.process_index == 0
    say = print if is_main else lambda line: None

    folder = Path(training_args.output_dir)
    checkpoint = find_checkpoint(
        folder, stored, overwrite=overwrite, say=say, files=FILES, processes=training_args.world_size
    )
    source = checkpoint or initial_source(task_args.initial_model, task_args.revision)
    examples, cuts = {}, {}
    # The others find the rows in the cache, and looked at the folder before the first one writes there.
    with training_args.main_process_first(desc="reading the data"):
        rows = _load_columns(task_class, task_args, row_args)
        digest = rows_digest(rows["train"], rows["validation"])
        if checkpoint is not None:
            check_data(folder, digest)
        task = task_class(task_args, row_args, rows)
        _check_metric(task, training_args)
        config = load_config(source, task)
        tokenizer = load_tokenizer(source, config, task, say)
        max_length = row_args.max_length or _length_of(config)
        for split in ("train", "validation"):
            examples[split], cuts[split] = task.examples(rows[split], split, tokenizer, max_length)
            if cuts[split]:
                say(f"{split}: {cuts[split]:,} of {len(examples[split]):,} examples {task.cut}")
    set_seed(training_args.seed)
    load = partial(load_with_head, config=config, task=task, attn_implementation=task_args.attn_implementation)
    model, new_weights, *_ = load(source)
    if new_weights:
        say(f"new weights, random at first: {', '.join(new_weights)}")
    say(
        f"{task_args.task}: {described_model(model)}; {row_args.data}:"
        f" {len(examples['train']):,} examples to train on, {len(examples['validation']):,} to measure; device"
        f" {training_args.device}"
    )

    callbacks = [CurrentIntervals()]
    if task_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(task_args.early_stopping_patience))
        training_args.restore_callback_states_from_checkpoint = True  # a resumed run has lost no patience
    is_padding_free = row_args.collation == "padding_free"
    training_args.label_names = task.label_names(is_padding_free)
    trainer = RunTrainer(
        model=model,
        args=training_args,
        train_dataset=examples["train"],
        eval_dataset=examples["validation"],
        data_collator=task.collator(tokenizer, is_padding_free),
        processing_class=tokenizer,
        compute_loss_func=task.loss,
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits,
        callbacks=callbacks,
        load_model=load,
    )
    if checkpoint is None and is_main:
        begin_run(folder, stored, digest, overwrite=overwrite, files=FILES)
        keep_origin(folder, task_args.initial_model, task_args.revision)
        texts = rows["train"]["text"] if "text" in task.columns else []
        write_trained_on(folder, filter(is_text, texts), local_folder(source))
    seconds = train(trainer, checkpoint)
    measured = save_and_measure(trainer)
    metrics = {name: measured[f"eval_{name}"] for name in task.metrics}

    best = trainer.state.best_model_checkpoint
    result = {
        "task": task_args.task,
        "data": row_args.data,
        "metrics": metrics,
        "best_checkpoint": Path(best).name if best and training_args.load_best_model_at_end else None,
        "labels": task.labels and task.labels.names,
        "examples": {split: len(part) for split, part in examples.items()},
        "cut_examples": cuts,
        "max_length": max_length,
    } | record(trainer, checkpoint, seconds, stored)
    finish(trainer, result, FILES)
    say(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    say(f"saved to {folder}")
    return result


def _find_task(name: str | None) -> type[Task]:
    if name not in TASKS:
        hint = did_you_mean(name, TASKS) if isinstance(name, str) else ""
        raise InputError(f"task: {name!r} given, one of {', '.join(TASKS)} is needed{hint}")
    return TASKS[name]


def _check_arguments(
    task_class: type[Task], task_args: TaskArguments, row_args: RowArguments, training_args: TrainingArguments
) -> None:
    """Refuses settings that make no sense or contradict each other, before any work."""
    settings = vars(task_args) | vars(row_args)
    for key in ("initial_model", "data"):
        if settings[key] is None:
            raise InputError(f"give {key}")
    check_training(training_args)
    check_counts(settings, ["answer_length", "early_stopping_patience", "stride"])
    if row_args.max_length is not None and row_args.max_length < 2:
        raise InputError(f"max_length: {row_args.max_length} given, at least 2 are needed")
    for key in frozenset.union(*(task.keys for task in TASKS.values())) - task_class.keys:
        if settings[key] is not None:
            readers = ", ".join(name for name, task in TASKS.items() if key in task.keys)
            raise InputError(f"{key}: {task_args.task} does not read it, only {readers}")
    if row_args.collation == "padding_free" and not task_class.is_token_wise:
        offered = ", ".join(name for name, task in TASKS.items() if task.is_token_wise)
        raise InputError(f"collation: padding_free needs a label for each token: {offered}; not {task_args.task}")
    if row_args.collation == "padding_free" and training_args.world_size > 1:
        # accelerate leaves out examples that it repeated by counting rows, and here a row holds many
        raise InputError("collation: padding_free is not measured rightly by several processes, give padded")
    if task_args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise InputError("early_stopping_patience: give load_best_model_at_end and an eval_strategy too")
    for package in task_class.requires:
        require(package, "finetune", f"task: {task_args.task}")


def _check_metric(task: Task, training_args: TrainingArguments) -> None:
    metric = training_args.metric_for_best_model
    if metric is None:
        return
    if metric.removeprefix("eval_") not in task.metrics:
        raise InputError(f"metric_for_best_model: {metric!r} given, this task has {', '.join(task.metrics)}")
    if metric.removeprefix("eval_") == "perplexity":
        raise InputError("metric_for_best_model: give loss, which ranks as perplexity does and is known to be a loss")


def _length_of(config: PreTrainedConfig) -> int:
    try:
        return config.max_position_embeddings
    except AttributeError as error:
        raise InputError(
            f"give max_length: a model of type {config.model_type} does not say how many tokens it takes"
        ) from error


def _load_columns(task_class: type[Task], task_args: TaskArguments, row_args: RowArguments) -> DatasetDict:
    """The columns of the task, by the names that it has for them."""
    rows = task_class.read(task_args, row_args)
    columns = task_class.choose_columns(rows["train"].column_names, row_args.columns or {})
    names = {column: column for column in columns}
    for column, name in (row_args.columns or {}).items():
        if column not in names:
            raise InputError(f"columns: {column!r} is not read by this task, but {', '.join(columns)}")
        names[column] = name
    if len(set(names.values())) < len(names):
        raise InputError(f"columns: the same column is given twice: {names}")
    for split, part in rows.items():
        for column, name in names.items():
            if name not in part.column_names:
                raise InputError(
                    f"{row_args.data}: the {split} split has no column {name!r} for {column}; it has"
                    f" {', '.join(part.column_names)} (choose with columns)"
                )
        part = part.select_columns(list(names.values()))
        rows[split] = part.rename_columns({name: column for column, name in names.items()})
    return rows
