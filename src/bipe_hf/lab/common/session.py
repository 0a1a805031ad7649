"""What every run of `transformers.Trainer` here does: train to the end, from wherever it is, and keep a record."""

import dataclasses
import math
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import FullyShardedDataParallelPlugin
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, get_scheduler
from transformers.trainer_utils import has_length
from transformers.utils import is_liger_kernel_available

from ...hub.card_file import write_model_card
from ...model.errors_bipe import InputError
from .checkpoints import LoadedModel
from .messages import as_input_error, install_hint
from .run_folder import RunFiles, finish_run


# More than any schedule needs for its parts.
MANY_STEPS = 10**9


class RunTrainer(Trainer):
    """A Trainer whose folder has the model card of this package, in place of the one that Trainer drafts on a push.

    Args:
        load_model: reads the model in a checkpoint, for `load_best_model_at_end`: Trainer reads the file as it is and
            would miss weights that are saved under other names, as the head of GPT-NeoX is.
        train_collator: makes the batches to train on, where they differ from those of `data_collator`.
    """

    def __init__(
        self,
        *args,
        load_model: Callable[[Path], LoadedModel],
        train_collator: Callable | None = None,
        **kwargs,
    ) -> None:
        with as_input_error("the Trainer does not accept its settings", ImportError, RuntimeError):
            super().__init__(*args, **kwargs)
        self.load_model = load_model
        self.train_collator = train_collator
        self._check_settings()

    def _check_settings(self) -> None:
        """Refuses, before anything is written, what Trainer itself finds out when it trains: libraries that are not
        installed, schedules without their numbers, loaders of no batch."""
        with as_input_error(f"optim: {self.args.optim.value} cannot be used", ImportError):
            self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if self.args.use_liger_kernel and not is_liger_kernel_available():
            raise InputError(f"use_liger_kernel needs liger-kernel, which is not installed; {install_hint('liger')}")
        if self.model.config._attn_implementation == "flex_attention" and self.args.device.type == "cpu":
            raise InputError(
                "attn_implementation: flex_attention is not trained on a CPU, torch has no gradients for it there:"
                " give sdpa"
            )
        any_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        with as_input_error(f"lr_scheduler_type: {self.args.lr_scheduler_type.value} cannot be used", TypeError):
            get_scheduler(
                self.args.lr_scheduler_type,
                any_optimizer,
                num_warmup_steps=0,
                num_training_steps=MANY_STEPS,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
        with torch.random.fork_rng(devices=[]), as_input_error("the Trainer cannot load batches by its settings"):
            train_batches, _ = self.get_train_dataloader(), self.get_eval_dataloader()
        if has_length(train_batches) and len(train_batches) == 0:
            raise InputError(
                f"dataloader_drop_last: the {len(self.train_dataset)} examples to train on are fewer than one batch of"
                f" {self._train_batch_size}, and would all be dropped"
            )

    def get_train_dataloader(self) -> DataLoader:
        measuring = self.data_collator
        self.data_collator = self.train_collator or measuring
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = measuring

    def create_scheduler(self, *args, **kwargs) -> LRScheduler:
        with as_input_error(f"lr_scheduler_type: {self.args.lr_scheduler_type.value} cannot be used", TypeError):
            return super().create_scheduler(*args, **kwargs)

    def get_eval_dataloader(self, *args, **kwargs) -> DataLoader:
        """Every example is measured, whatever `dataloader_drop_last` says of training: where few are held out there
        would be no loss at all."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over processes, where Trainer keeps the names of the model."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _load_best_model(self) -> None:
        if self.is_sharded:
            super()._load_best_model()
        else:
            best = Path(self.args.output_dir, Path(self.state.best_model_checkpoint).name)  # the folder may have moved
            self.model.load_state_dict(self.load_model(best).model.state_dict())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as Trainer does, but not once more for a push of what is saved: it may have been rounded since."""
        if output_dir is not None or not _internal_call:
            super().save_model(output_dir, _internal_call)

    def create_model_card(self, *args, **kwargs) -> None:
        if self.is_world_process_zero():
            write_model_card(self.args.output_dir, self.hub_model_id, with_records=True)


class CurrentIntervals(TrainerCallback):
    """Sets the logging, saving and evaluation intervals of a resumed run to those of now.

    Trainer takes them from the checkpoint, although they may have been changed since.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


def train(trainer: RunTrainer, checkpoint: Path | None) -> float:
    """Trains to the end.

    With `load_best_model_at_end` the model then has the weights of the best checkpoint.

    Args:
        trainer: with model and data.
        checkpoint: where it goes on from; None starts at step 0.

    Returns:
        The seconds that it took.
    """
    state = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    seconds = 0.0
    if trainer.is_fsdp_enabled:
        set_up_sharding(trainer.accelerator.state.fsdp_plugin)
    if state is not None and (state.global_step >= state.max_steps or has_stopped_early(state)):
        trainer.state = state  # interrupted after the last step; Trainer would add another one
        state.is_local_process_zero = trainer.is_local_process_zero()  # the main process wrote the state
        state.is_world_process_zero = trainer.is_world_process_zero()
        if trainer.accelerator.is_fsdp2:  # which shards a model only together with its optimizer
            trainer.model, _ = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
        elif trainer.is_sharded:
            trainer.evaluate()  # which shards the others, and no model is saved before
        if trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None and not trainer.is_sharded:
            trainer._load_best_model()
    else:
        seconds = trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint)).metrics["train_runtime"]
    return seconds


def has_stopped_early(state: TrainerState) -> bool:
    """Whether the run that wrote `state` had no patience left."""
    stopping = state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
    if stopping is None:
        return False
    patience = stopping["args"]["early_stopping_patience"]
    return stopping["attributes"]["early_stopping_patience_counter"] >= patience


def save_and_measure(trainer: RunTrainer) -> dict[str, float]:
    """Saves the model, then measures it.

    In this order: with `bf16_full_eval` or `fp16_full_eval` Trainer rounds the model in place to measure it.

    Returns:
        The metrics, as Trainer gives them; losses in nats per token.
    """
    use_cache = trainer.model.config.use_cache
    trainer.model.config.use_cache = True  # Trainer turned it off, and would save it so
    trainer.save_model()
    trainer.model.config.use_cache = use_cache
    metrics = trainer.evaluate()
    trainer.save_state()
    return metrics


def perplexity(loss: float) -> float:
    """`exp(loss)`, infinite where a run diverged so far that no float holds it."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def set_up_sharding(plugin: FullyShardedDataParallelPlugin) -> None:
    """Keeps losses in float32, where accelerate would have FSDP2 round them to the 16 bits that the model computes in.

    Raises `InputError` for checkpoints that no model loads.
    """
    if plugin.state_dict_type.name != "FULL_STATE_DICT":
        raise InputError(
            f"fsdp_state_dict_type: {plugin.state_dict_type.name} given, but a run resumes from, and ends with, whole"
            " models: FULL_STATE_DICT"
        )
    if plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None)


def record(trainer: Trainer, checkpoint: Path | None, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """What every run writes down, whatever it trained.

    Args:
        trainer: at the end of the run.
        checkpoint: that the run went on from.
        seconds: that it trained.
        settings: of the run, as they are stored.
    """
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "resumed_from": checkpoint.name if checkpoint else None,
        "seconds": seconds,
        "train_loss": losses[-1] if losses else None,
        "parameters": trainer.model.num_parameters(),
        "device": str(trainer.args.device),
        "config": settings,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("bipe-hf", "torch", "transformers", "datasets", "tokenizers")},
    }


def finish(trainer: Trainer, result: dict[str, Any], files: RunFiles) -> None:
    """Writes the result, which marks the run as finished, and a model card that tells of it; pushes both if asked to.

    Args:
        trainer: at the end of the run.
        result: JSON.
        files: of the command that runs.
    """
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        finish_run(folder, result, files=files)
        write_model_card(folder, trainer.hub_model_id, with_records=True)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
