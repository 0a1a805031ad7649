"""What every test may ask for: tiny models, no Hub, a cache of its own."""

import ast
from functools import cache

import datasets
import pytest
import torch
import transformers.integrations.flex_attention as flex_integration
import transformers.masking_utils as masking_utils
from families import FAMILIES, family_of, pairs
from huggingface_hub import constants
from tiny import LEVELS, TINY
from transformers.utils import logging


@pytest.fixture(autouse=True, scope="session")
def no_hub():
    """No test asks the Hub, here or in a process that it starts: without a network a client tries for minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def own_datasets_cache(tmp_path_factory):
    """Nothing that `datasets` cached for another test module is found here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def no_progress_bars():
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


@cache
def _cached_model(family, fields):
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**{**TINY, **ast.literal_eval(fields)}).eval()


def _tiny_model(family="llama", **fields):
    return _cached_model(family, repr(dict(sorted(fields.items()))))


@pytest.fixture(scope="session")
def tiny_model():
    """A function from a family and configuration fields to a model in eval mode, the same one for the same fields."""
    return _tiny_model


@pytest.fixture(scope="session")
def tiny_relative():
    """A function from a tiny model to the one of its family, inter encoding and levels that has the given fields."""

    def relative(model, **fields):
        divides = fields.get("segmentation") != "tokens" and fields.get("intra_encoding") != "none"
        levels = LEVELS if model.config.inner_separator_token_ids and divides else {}
        return _tiny_model(family_of(model), **{"inter_encoding": model.config.inter_encoding, **levels, **fields})

    return relative


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=pairs(["rope", "alibi", "levels"]))
def model(request, tiny_model):
    """A tiny model of each family with each inter encoding, and with levels inside segments."""
    family, encoding = request.param
    encodings = {"levels": {"inter_encoding": "rope", **LEVELS}}
    return tiny_model(family, **encodings.get(encoding, {"inter_encoding": encoding}))


@pytest.fixture
def uncompiled_flex_attention(monkeypatch):
    """transformers compiles flex attention, which wants a C++ toolchain; what it computes is the same without."""
    monkeypatch.setattr(
        flex_integration, "WrappedFlexAttention", lambda training: lambda: flex_integration.flex_attention
    )
    create_block_mask = masking_utils.create_block_mask

    def uncompiled(*args, _compile, **kwargs):
        return create_block_mask(*args, **kwargs)

    monkeypatch.setattr(masking_utils, "create_block_mask", uncompiled)
