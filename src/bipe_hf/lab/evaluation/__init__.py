"""Perplexity of causal language models against test length, by the protocols that this field reports.

All models read one stream of token ids: the documents of a split in their order, each closed by the tokenizer's
end-of-text token, cut to a multiple of the least common multiple of the lengths (the longest length where the others
divide it), so that every length covers the same text. Windows cut through document boundaries: nothing is packed or
masked. With a stream of `T` tokens and a window of `L`:

- `blocks`: the `T / L` non-overlapping windows; every token but the first of each is scored, `T - T / L` in all.
- `sliding`: windows that start `stride` apart, the last one shifted back to end with the text. The first window
  scores its tokens 1 to `L - 1`, each later one only the tokens that no window before it held: `T - 1` tokens at every
  length, each once, and after the first window each with at least `L - stride` tokens of context.
- `tail`: the windows of `blocks`; the last 256 tokens of each are scored, `256 T / L` in all. Where lengths divide one
  another, the tokens that a longer length scores are among those of the shorter.

Every mean is over tokens, never over windows.
"""

from ..common.checkpoints import encoding_label
from .results import Evaluation, Result, markdown_table, text_table
from .run import evaluate
from .scoring import (
    PositionLosses,
    Windows,
    block_windows,
    make_windows,
    score,
    score_positions,
    segments_per_block,
    sliding_windows,
    tail_windows,
)


__all__ = [
    "Evaluation",
    "PositionLosses",
    "Result",
    "Windows",
    "block_windows",
    "encoding_label",
    "evaluate",
    "make_windows",
    "markdown_table",
    "score",
    "score_positions",
    "segments_per_block",
    "sliding_windows",
    "tail_windows",
    "text_table",
]
