"""Pretraining: settings in, a run folder with a model out."""

from ..common.messages import did_you_mean
from .arguments import ARGUMENT_CLASSES, RESERVED_KEYS, DataArguments, ModelArguments
from .model import build_config, build_model, fit_tokenizer, load_tokenizer
from .run import collate_blocks, pretrain


__all__ = [
    "ARGUMENT_CLASSES",
    "RESERVED_KEYS",
    "DataArguments",
    "ModelArguments",
    "build_config",
    "build_model",
    "collate_blocks",
    "did_you_mean",
    "fit_tokenizer",
    "load_tokenizer",
    "pretrain",
]
