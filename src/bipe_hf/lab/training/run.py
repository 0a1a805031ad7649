"""The run itself: data, `transformers.Trainer`, and what is written at the end."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ...model.errors_bipe import InputError
from ..common.checkpoints import described_model, is_bipe, keep_origin, load_model, local_folder
from ..common.digests import rows_digest
from ..common.run_folder import PRETRAIN, begin_run, check_data, find_checkpoint
from ..common.session import CurrentIntervals, RunTrainer, finish, perplexity, record, save_and_measure, train
from ..common.trained_on import write_trained_on
from ..data import make_blocks, tokenize_documents
from ..data.index_extension import IndexExtension
from ..data.segments import mean_segment_length
from .arguments import INDEX_EXTENSIONS, MEASURED, DataArguments, PretrainSettings, check_arguments
from .auto import AUTO, choose_encoding, sample
from .model import build_config, build_model, fit_tokenizer, jumps, load_tokenizer, read_documents
from .schedule import EncodingSchedule


def pretrain(settings: PretrainSettings | dict[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
    """Trains a causal language model into `output_dir`, or resumes the interrupted run found there.

    The folder then loads with `AutoModelForCausalLM` and `AutoTokenizer`.

    Args:
        settings: of the run, or a dictionary of fields of `ModelArguments`, `DataArguments` and
            `transformers.TrainingArguments` by name, typed as they are there.
        overwrite: delete the run that `output_dir` holds and train again.

    Returns:
        What `training.json` records: lengths, tokens, seconds, losses (mean nats per token), parameters, settings.

    Raises:
        ValueError: settings that are unknown, do not fit each other, or differ from those of the interrupted run; text
            shorter than one block; a vocabulary that does not fit.
        FileNotFoundError: data, tokenizer or initial model not found.
        FileExistsError: `output_dir` holds a finished run, or something that is no run.
    """
    settings = PretrainSettings.of(settings)
    model_args, data_args, training_args = settings.model, settings.data, settings.training_arguments()
    training_args.include_num_input_tokens_seen = "all"
    check_arguments(model_args, data_args, training_args)
    stored = settings.stored()
    is_main = training_args.process_index == 0
    say = print if is_main else lambda line: None

    folder = Path(training_args.output_dir)
    checkpoint = find_checkpoint(folder, stored, overwrite=overwrite, say=say, processes=training_args.world_size)
    choice, documents = None, None
    if model_args.encoding == AUTO:
        with training_args.main_process_first(desc="looking at the data"):
            documents = read_documents(data_args)
            choice = choose_encoding(sample(documents["train"]), sample(documents["validation"]))
        say(str(choice))
        settings = settings.chosen(choice)
        model_args, data_args = settings.model, settings.data
    config = build_config(model_args, data_args) if checkpoint is None else None
    for name, (initial, first) in jumps(model_args).items() if checkpoint is None else ():
        say(f"{name}: encoding_schedule begins at {first:g}, where initial_model has {initial:g}: step 1 jumps there")
    with training_args.main_process_first(desc="reading the data"):  # the others find its results in the cache
        # The split does not depend on the seed of the training: what one run trains on, no other may be measured on.
        documents = read_documents(data_args) if documents is None else documents
        texts = documents.select_columns("text")
        digest = None if data_args.streaming else rows_digest(texts["train"], texts["validation"])
        if checkpoint is None:
            plain = load_tokenizer(model_args, data_args, documents)
            tokenizer = fit_tokenizer(config, plain, model_args, data_args)
            if data_args.vocab_size is not None and len(plain) < data_args.vocab_size:
                say(
                    f"the data gives a vocabulary of {len(plain)} tokens, fewer than vocab_size {data_args.vocab_size}"
                )
        else:
            check_data(folder, digest)
            plain = tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        # The plain one, which models that differ in their segmentation share, finds the tokens in the cache.
        train_blocks = _blocks(documents, "train", plain, data_args)
        validation_blocks = _blocks(documents, "validation", plain, data_args)
    is_measured = model_args.alibi_slope_scale == MEASURED
    if checkpoint is None and is_measured:
        config.alibi_slope_scale = mean_segment_length(train_blocks, config)
        say(f"alibi_slope_scale {config.alibi_slope_scale:.2f}: the mean length of a segment of the training blocks")
    set_seed(training_args.seed)
    load = partial(load_model, attention=model_args.attn_implementation)
    model = build_model(model_args, config) if checkpoint is None else load(checkpoint).model
    if data_args.max_validation_blocks is not None:
        validation_blocks = _first(validation_blocks, data_args.max_validation_blocks)
    say(_summary(model, train_blocks, data_args, training_args))
    extension = _index_extension(data_args, training_args, model.config)
    callbacks = [CurrentIntervals()] + ([] if extension is None else [extension])
    schedule = model_args.encoding_schedule
    if schedule is not None:
        callbacks.append(EncodingSchedule(model, schedule, model_args.encoding_schedule_steps))
    elif is_bipe(model.config) and model.config.segmentation == "separators" and model.config.token_share > 0:
        say(
            f"token_share stays at {model.config.token_share:g}: rotary pairs turn with the token, as those of the"
            " stock model do; encoding_schedule '{\"token_share\": [1.0, 0.0]}' would lead them to segments"
        )

    trainer = RunTrainer(
        model=model,
        args=training_args,
        train_dataset=train_blocks,
        eval_dataset=validation_blocks,
        data_collator=collate_blocks,
        train_collator=extension,
        processing_class=tokenizer,
        callbacks=callbacks,
        load_model=load,
    )
    if checkpoint is None and is_main:
        begin_run(folder, stored, digest, overwrite=overwrite)
        if model_args.initial_model is not None:
            keep_origin(folder, model_args.initial_model, model_args.revision)
        if not data_args.streaming:
            initial = model_args.initial_model and local_folder(model_args.initial_model, model_args.revision)
            write_trained_on(folder, (row["text"] for row in texts["train"]), initial)
    seconds = train(trainer, checkpoint)
    validation = save_and_measure(trainer)

    result = {
        "train_length": data_args.train_length,
        "data": data_args.data,
        "data_sha256": digest,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "eval_loss": validation["eval_loss"],
    } | record(trainer, checkpoint, seconds, stored)
    if is_measured:
        result["alibi_slope_scale"] = model.config.alibi_slope_scale
    if choice is not None:
        result["chosen"] = dataclasses.asdict(choice)
    finish(trainer, result, PRETRAIN)
    say(f"validation loss {result['eval_loss']:.4f}, perplexity {perplexity(result['eval_loss']):.2f}")
    say(f"saved to {folder}")
    return result


def collate_blocks(blocks: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Stacks blocks into a batch for a causal language model (which shifts the labels itself).

    There is no `attention_mask`: blocks are full, and without a mask the causal kernels run.

    Args:
        blocks: `input_ids` and, where document boundaries are kept, `position_ids` restarting at 0 in each document;
            all of one length.

    Returns:
        `torch.LongTensor`s of shape `(batch, length)`: the columns of the blocks, and `labels`, -100 at the first
        token of each document, which would be predicted from the document before it.
    """
    batch = {name: torch.tensor([block[name] for block in blocks]) for name in blocks[0]}
    labels = batch["input_ids"].clone()
    if "position_ids" in batch:
        labels[batch["position_ids"] == 0] = -100
    return batch | {"labels": labels}


def _blocks(
    documents: DatasetDict | IterableDatasetDict,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    data_args: DataArguments,
) -> Dataset | IterableDataset:
    tokenized = tokenize_documents(documents[split], tokenizer, num_proc=data_args.num_proc)
    try:
        return make_blocks(tokenized, data_args.train_length, document_boundaries=data_args.document_boundaries)
    except InputError as error:
        raise InputError(f"{data_args.data}, {split} split: {error}") from error


def _index_extension(
    data_args: DataArguments, training_args: TrainingArguments, config: PreTrainedConfig
) -> IndexExtension | None:
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    for key, extension_class in INDEX_EXTENSIONS.items():
        if vars(data_args)[key] is not None:
            return extension_class(collate_blocks, config, vars(data_args)[key], seed=seed)
    return None


def _first(blocks: Dataset | IterableDataset, count: int) -> Dataset | IterableDataset:
    return blocks.take(min(count, len(blocks)) if isinstance(blocks, Dataset) else count)


def _summary(
    model: PreTrainedModel,
    blocks: Dataset | IterableDataset,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> str:
    per_step = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    count = f"{len(blocks):,}" if isinstance(blocks, Dataset) else "a stream of"
    return (
        f"{described_model(model)}; {data_args.data}: {count} blocks of"
        f" {data_args.train_length} tokens, {per_step} per step; device {training_args.device}"
    )
