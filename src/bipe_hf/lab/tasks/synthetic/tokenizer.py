"""The tokenizer of a task: each number and each sign is one token."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...data.tokenize import END_OF_TEXT, PADDING
from .generator import EQUALS, MODULUS, Generator


def make_tokenizer(task: type[Generator]) -> PreTrainedTokenizerFast:
    """A tokenizer that splits at spaces. It refuses what is no token of the task: there is no token for the unknown.

    `<|endoftext|>` (id 0) is its `eos_token`, `<|pad|>` (id 1) its `pad_token`.
    """
    signs = dict.fromkeys([*task.operations, task.step_separator, EQUALS])
    tokens = [END_OF_TEXT, PADDING, *map(str, range(MODULUS)), *signs]
    backend = Tokenizer(models.WordLevel({token: token_id for token_id, token in enumerate(tokens)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=PADDING)
