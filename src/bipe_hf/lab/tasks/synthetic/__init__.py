"""Tasks made by a generator: a small causal language model is trained on one, and what it answers is checked."""

from .accuracy import measure
from .arguments import ARGUMENT_CLASSES, RESERVED_KEYS, GeneratorArguments
from .run import train


__all__ = ["ARGUMENT_CLASSES", "RESERVED_KEYS", "GeneratorArguments", "measure", "train"]
