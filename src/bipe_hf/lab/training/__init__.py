"""Pretraining: settings in, a run folder with a model out."""

from .arguments import DataArguments, ModelArguments, PretrainSettings
from .model import build_config, build_model, fit_tokenizer, load_tokenizer
from .run import collate_blocks, pretrain


__all__ = [
    "DataArguments",
    "ModelArguments",
    "PretrainSettings",
    "build_config",
    "build_model",
    "collate_blocks",
    "fit_tokenizer",
    "load_tokenizer",
    "pretrain",
]
