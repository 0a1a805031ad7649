"""The models that are compared, all of one shape, with random weights and random tokens."""

from dataclasses import dataclass

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from bipe_hf import BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM, BipeLlamaConfig, BipeLlamaForCausalLM

from .authors_way import AuthorsLlama


SHAPES = {
    # 12 layers as in the paper (162 M parameters of Llama, 134 M of GPT-NeoX), and a tiny one in which every
    # microsecond of Python shows
    "paper": {
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}

# family: configuration and model of transformers, configuration and model of BiPE
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, BipeLlamaConfig, BipeLlamaForCausalLM),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM, BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM),
}


@dataclass(frozen=True)
class Setting:
    """What all models of a comparison share."""

    family: str
    shape: str
    device: str
    dtype: str
    parts: int = 1
    """One of so many parts of the layers and of the vocabulary: the head keeps its share of the work."""

    @property
    def fields(self) -> dict[str, int]:
        fields = SHAPES[self.shape]
        part = {name: max(1, fields[name] // self.parts) for name in ("num_hidden_layers", "vocab_size")}
        return {**fields, **part, "max_position_embeddings": 16384}


def build(setting: Setting, name: str) -> torch.nn.Module:
    """The model `stock`, `bipe_levels`, or `authors_`, `packed_` or `bipe_` and an inter encoding."""
    config_class, model_class, bipe_config_class, bipe_model_class = FAMILIES[setting.family]
    torch.manual_seed(0)
    maker, _, inter_encoding = name.partition("_")
    if maker == "stock":
        model = model_class(config_class(**setting.fields, attn_implementation="sdpa"))
    else:
        size = setting.fields["vocab_size"]
        has_levels = inter_encoding == "levels"
        config = bipe_config_class(
            **setting.fields,
            attn_implementation="sdpa",
            inter_encoding="rope" if has_levels else inter_encoding,
            separator_token_ids=list(range(0, size, 20)),  # one random token in 20 ends a segment
            # One in 10 ends a part of a segment, one in 5 a part of that.
            inner_separator_token_ids=[list(range(1, size, 10)), list(range(2, size, 5))] if has_levels else [],
        )
        model = AuthorsLlama(config) if maker == "authors" else bipe_model_class(config)
    return model.to(device=setting.device, dtype=getattr(torch, setting.dtype))


def tokens(setting: Setting, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, setting.fields["vocab_size"], (1, length), generator=generator).to(setting.device)


def loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    if isinstance(model, AuthorsLlama):
        return model.loss(ids)
    return model(ids, labels=ids, use_cache=False).loss
