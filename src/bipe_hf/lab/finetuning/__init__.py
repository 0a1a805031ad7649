"""Fine-tuning: a trained model, rows of a table and a task in; a run folder with a model for the task out."""

from .arguments import ARGUMENT_CLASSES, RESERVED_KEYS, RowArguments, TaskArguments
from .run import finetune


__all__ = ["ARGUMENT_CLASSES", "RESERVED_KEYS", "RowArguments", "TaskArguments", "finetune"]
