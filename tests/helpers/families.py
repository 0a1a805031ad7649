"""The model families, so that one test runs on each: `@pytest.mark.parametrize("family", FAMILIES)`."""

from typing import NamedTuple

import pytest
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

import bipe_hf
from bipe_hf import BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM, BipeLlamaConfig, BipeLlamaForCausalLM


class Family(NamedTuple):
    prefix: str
    """What the names of its classes start with."""
    config: type[PreTrainedConfig]
    causal_lm: type
    stock_config: type[PreTrainedConfig]
    stock_causal_lm: type
    own_fields: dict
    """Fields that the other families lack, at values that make their code run: grouped queries, partial rotary."""

    def make_config(self, **fields) -> PreTrainedConfig:
        return self.config(**{**self.own_fields, **fields})

    def make_causal_lm(self, **fields):
        """In training mode."""
        return self.causal_lm(self.make_config(**fields))

    def make_stock_causal_lm(self, **fields):
        """The class of transformers itself, in training mode."""
        return self.stock_causal_lm(self.stock_config(**{**self.own_fields, **fields}))

    def head(self, name: str) -> type:
        """The class of a head, by what its name ends with: `Model`, `ForCausalLM`, ..."""
        return vars(bipe_hf)[self.prefix + name]

    def stock_head(self, name: str) -> type:
        return getattr(transformers, self.prefix.removeprefix("Bipe") + name)


FAMILIES = {
    "llama": Family(
        "BipeLlama", BipeLlamaConfig, BipeLlamaForCausalLM, LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 2}
    ),
    "gpt_neox": Family(
        "BipeGPTNeoX",
        BipeGPTNeoXConfig,
        BipeGPTNeoXForCausalLM,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        {"rotary_pct": 0.25},
    ),
}


def all_key_heads(family: str, num_heads: int = 4) -> dict:
    """Fields of a family without grouped keys."""
    return {"num_key_value_heads": num_heads} if family == "llama" else {}


# What CI runs of families and encodings: each family with a rotary and with another one; the others are slow tests.
QUICK_PAIRS = {("llama", "rope"), ("gpt_neox", "alibi"), ("llama", "levels")}


def pairs(encodings) -> list:
    """Each family with each of these encodings, as parameters of a test."""
    marks = {True: (), False: (pytest.mark.slow,)}
    return [
        pytest.param(
            (family, name), id=f"{family}-{name}", marks=marks[(family, name.removeprefix("bipe_")) in QUICK_PAIRS]
        )
        for family in FAMILIES
        for name in encodings
    ]


HEADS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def family_of(model) -> str:
    return model.config.model_type.removeprefix("bipe_")
