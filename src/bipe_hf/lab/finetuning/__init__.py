"""Fine-tuning: a trained model, rows of a table and a task in; a run folder with a model for the task out."""

from .arguments import FinetuneSettings, RowArguments, TaskArguments
from .run import finetune


__all__ = ["FinetuneSettings", "RowArguments", "TaskArguments", "finetune"]
