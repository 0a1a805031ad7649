"""The same comparison on many kinds of text, and the map of where each encoding wins: `bipe-hf kinds`."""

from .plan import read_kinds
from .run import compare_kinds, draw_map, is_drawn


__all__ = ["compare_kinds", "draw_map", "is_drawn", "read_kinds"]
