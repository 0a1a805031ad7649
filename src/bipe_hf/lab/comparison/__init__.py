"""Entries that differ in their positional encoding alone, trained, measured, side by side: `bipe-hf compare`."""

from .entries import Comparison, Entry
from .plan import read_comparison
from .results import ComparisonResults, Row
from .run import compare
from .tables import markdown_tables


__all__ = ["Comparison", "ComparisonResults", "Entry", "Row", "compare", "markdown_tables", "read_comparison"]
