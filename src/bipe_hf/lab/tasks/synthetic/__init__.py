"""Tasks made by a generator: a small causal language model is trained on one, and what it answers is checked."""

from .accuracy import measure
from .arguments import GeneratorArguments, SyntheticSettings
from .run import train


__all__ = ["GeneratorArguments", "SyntheticSettings", "measure", "train"]
