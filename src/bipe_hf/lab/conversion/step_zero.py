"""What the change of encoding costs before any training: a converted model against the stock one, on a text."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...model.errors_bipe import InputNotFoundError
from ...model.tokenization_bipe import BipeTokenizer
from ..common.files import user_path
from ..common.messages import as_input_error
from ..common.session import perplexity
from ..data import read_text_file
from ..data.python_corpus import python_installation, read_python
from ..evaluation.scoring import block_windows, score


DEFAULT_TEXT = "Python's own documentation"
DEFAULT_TOKENS = 1024
# So many characters hold as many tokens as are measured, whatever the tokenizer is (but for one that drops text).
CHARACTERS_PER_TOKEN = 16
TOPICS = 20


class StepZero(NamedTuple):
    """Two losses of the same tokens, in nats each."""

    stock: float
    converted: float
    tokens: int
    """That are scored."""
    text: str
    """What was read."""

    @property
    def cost(self) -> float:
        """Perplexity of the converted model divided by that of the stock one, minus 1."""
        return perplexity(self.converted - self.stock) - 1

    def __str__(self) -> str:
        return (
            f"step 0 costs {self.cost:+.2%}: perplexity {perplexity(self.converted):.4g}, that of the stock model is"
            f" {perplexity(self.stock):.4g} ({self.tokens:,} tokens of {self.text})"
        )


def read_sample(file: str | Path | None) -> str:
    """The text to measure on: that of a file, or by default the documentation that comes with Python, empty where it
    does not.

    Raises:
        ValueError: a file that cannot be read, or is no text.
    """
    if file is not None:
        with as_input_error(f"text: {file} cannot be read", OSError):
            return read_text_file(user_path(file))
    try:
        topics = read_python(**python_installation(), version=0)
    except InputNotFoundError:
        return ""
    return "\n\n".join(document["text"] for document in islice(topics, TOPICS))


def measure_step_zero(
    stock: PreTrainedModel,
    converted: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sample: str,
    file: str | Path | None,
) -> StepZero | None:
    """Measures two models on the first tokens of `sample`, which comes from `file`: as many as the stock model is
    declared for, of the default text at most `DEFAULT_TOKENS`. None where these are fewer than 2.
    """
    most = stock.config.max_position_embeddings
    if file is None:
        most = min(most, DEFAULT_TOKENS)
    plain = tokenizer.without_segments() if isinstance(tokenizer, BipeTokenizer) else tokenizer
    ids = torch.tensor(plain(sample[: most * CHARACTERS_PER_TOKEN])["input_ids"][:most])
    if len(ids) < 2:
        return None
    windows = block_windows(len(ids), len(ids))
    losses = [score(model.eval(), ids, windows) for model in (stock, converted)]
    return StepZero(*losses, windows.tokens_scored, DEFAULT_TEXT if file is None else str(file))
