"""The run itself: a tokenizer and a model for the task, `transformers.Trainer`, and the accuracy at the end."""

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    set_seed,
)

from ...common.checkpoints import described_model, ends_segments_at_separators, load_model
from ...common.run_folder import begin_run, find_checkpoint
from ...common.session import CurrentIntervals, RunTrainer, finish, record, save_and_measure
from ...common.session import train as train_to_the_end
from ...training import DataArguments, ModelArguments, build_config, build_model, fit_tokenizer
from .accuracy import FILES, check_positions, measure
from .arguments import SyntheticSettings, check_arguments
from .examples import Examples, TokenizedExamples
from .generator import Generator
from .tasks import find_task
from .tokenizer import make_tokenizer


VALIDATION_EXAMPLES = 1000


def train(settings: SyntheticSettings | dict[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
    """Trains a causal language model on a task into `output_dir`, or resumes the interrupted run found there.

    Every example is new: it is made when it is needed, from `data_seed` (by default `seed`) and its number. The folder
    then loads with `AutoModelForCausalLM` and `AutoTokenizer`.

    Args:
        settings: of the run, or a dictionary of fields of `GeneratorArguments`, `ModelArguments` and
            `transformers.TrainingArguments` by name, typed as they are there.
        overwrite: delete the run that `output_dir` holds and train again.

    Returns:
        What `synthetic.json` records: task, examples and tokens seen, loss on held-out examples (nats per token of the
        answers, mean of the batches), the accuracy at each number of operators (see [`measure`]), steps, seconds,
        settings. Only the first process measures the accuracy.

    Raises:
        ValueError: settings that are unknown, do not fit each other, or differ from those of the interrupted run.
        FileExistsError: `output_dir` holds a finished run, or something that is no run.
    """
    settings = SyntheticSettings.of(settings)
    generator_args, model_args, training_args = settings.generator, settings.model, settings.training_arguments()
    training_args.include_num_input_tokens_seen = "non_padding"
    check_arguments(generator_args, model_args, training_args)
    stored = settings.stored()
    is_main = training_args.process_index == 0
    say = print if is_main else lambda line: None

    task = find_task(generator_args.task)
    folder = Path(training_args.output_dir)
    checkpoint = find_checkpoint(
        folder, stored, overwrite=overwrite, say=say, files=FILES, processes=training_args.world_size
    )
    if checkpoint is None:
        config, tokenizer = _prepare(task, generator_args.max_operators, model_args)
    else:
        config, tokenizer = AutoConfig.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    check_positions("max_operators", generator_args.max_operators, task, config)
    check_positions("test_operators", generator_args.test_operators[-1], task, config)
    set_seed(training_args.seed)
    load = partial(load_model, attention=model_args.attn_implementation)
    model = build_model(model_args, config) if checkpoint is None else load(checkpoint).model
    per_step = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    sizes = range(1, generator_args.max_operators + 1)
    examples = Examples(task, sizes, training_args.max_steps * per_step, held_out=False, seed=seed)
    held_out = Examples(task, sizes, VALIDATION_EXAMPLES, held_out=True, seed=0)
    say(
        f"{generator_args.task}: {described_model(model)}; {len(examples):,}"
        f" examples of 1 to {generator_args.max_operators} operators, {per_step} per step; device"
        f" {training_args.device}"
    )

    trainer = RunTrainer(
        model=model,
        args=training_args,
        train_dataset=TokenizedExamples(examples, tokenizer),
        eval_dataset=TokenizedExamples(held_out, tokenizer),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        callbacks=[CurrentIntervals()],
        load_model=load,
    )
    if checkpoint is None and is_main:
        begin_run(folder, stored, None, overwrite=overwrite, files=FILES)
    seconds = train_to_the_end(trainer, checkpoint)
    validation = save_and_measure(trainer)
    accuracy = []
    if is_main:
        accuracy = measure(
            folder,
            generator_args.test_operators,
            samples=generator_args.test_samples,
            batch_size=training_args.per_device_eval_batch_size,
            device=training_args.device,
        )

    result = {
        "task": generator_args.task,
        "max_operators": generator_args.max_operators,
        "examples_seen": trainer.state.global_step * per_step,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "eval_loss": validation["eval_loss"],
        "accuracy": accuracy,
    } | record(trainer, checkpoint, seconds, stored)
    finish(trainer, result, FILES)
    for row in accuracy:
        say(f"{row['size']} operators: {row['accuracy']:.1%} right, {row['steps_correct']:.1%} of the steps")
    say(f"saved to {folder}")
    return result


def _prepare(
    task: type[Generator], max_operators: int, model_args: ModelArguments
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Config and tokenizer of the model to train."""
    data_args = DataArguments(train_length=task.longest(max_operators))
    config = build_config(model_args, data_args)
    if ends_segments_at_separators(config):
        data_args.separators = list(task.segment_ends)
    return config, fit_tokenizer(config, make_tokenizer(task), model_args, data_args)
