"""Making BiPE models of other checkpoints: those of the BiPE authors' code, and stock ones of transformers."""

from .authors import AUTHORS_SEPARATOR_TOKEN_IDS, convert_checkpoint
from .report import ConversionReport
from .stock import convert_stock_checkpoint


__all__ = ["AUTHORS_SEPARATOR_TOKEN_IDS", "ConversionReport", "convert_checkpoint", "convert_stock_checkpoint"]
