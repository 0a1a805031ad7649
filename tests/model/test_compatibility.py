"""The cache goes by the name that the installed transformers has for it."""

import inspect

import pytest
import torch
from families import FAMILIES, HEADS
from transformers import DynamicCache

from bipe_hf.model.compatibility_bipe import CACHE_NAME


@pytest.mark.parametrize("head", HEADS)
def test_every_head_calls_the_cache_as_the_stock_head_does(family, head):
    stock, ours = (
        inspect.signature(cls.forward).parameters
        for cls in (FAMILIES[family].stock_head(head), FAMILIES[family].head(head))
    )
    assert CACHE_NAME in ours
    assert {"cache", "past_key_values"} & set(stock) <= set(ours)


def test_both_names_for_the_cache_mean_the_same(model):
    ids = torch.arange(12)[None]
    outputs = {}
    for name in ("cache", "past_key_values"):
        cache = DynamicCache(config=model.config)
        model(ids[:, :8], **{name: cache})
        assert cache.get_seq_length() == 8
        outputs[name] = model(ids[:, 8:], **{name: cache}).logits
    assert torch.equal(outputs["cache"], outputs["past_key_values"])
