"""The loss of an example with a prompt and an answer."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from bipe_hf.lab.finetuning.collation import padded_labels


def assert_loss_is_that_of_the_answer(model, tokenizer, example, before, after):
    """`before` and `after` are the token ids of prompt and answer."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + after])).logits[0]
        expected = cross_entropy(logits[len(before) - 1 : -1], torch.tensor(after))
        loss = model(**padded_labels(tokenizer)([example])).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
