"""One attention layer of a family with given weights, to hold against the numbers of an encoding's authors."""

from typing import Any

import torch
from torch import nn

from bipe_hf import BipeGPTNeoXConfig, BipeGPTNeoXModel, BipeLlamaConfig, BipeLlamaModel

from .golden import UnsupportedError


FAMILIES = {"llama": (BipeLlamaConfig, BipeLlamaModel), "gpt_neox": (BipeGPTNeoXConfig, BipeGPTNeoXModel)}


class OneLayer:
    """A model of one layer, whose attention sees the given hidden states as they are, over tokens unless said.

    Args:
        family: one of `FAMILIES`.
        heads, key_heads, head_dim, hidden: shape of the attention.
        has_bias: whether its projections have one.
        fields: of the configuration.

    Raises:
        UnsupportedError: for grouped keys, or heads that do not make up the hidden size, of GPT-NeoX.
    """

    def __init__(
        self,
        family: str,
        *,
        heads: int,
        key_heads: int,
        head_dim: int,
        hidden: int,
        has_bias: bool = False,
        **fields: Any,
    ):
        if family == "gpt_neox" and (key_heads, heads * head_dim) != (heads, hidden):
            raise UnsupportedError("GPT-NeoX has no grouped keys, and its heads make up the hidden size")
        self.heads, self.head_dim = heads, head_dim
        of_llama = {"num_key_value_heads": key_heads, "head_dim": head_dim}
        own = of_llama if family == "llama" else {"rotary_pct": 1.0}
        config_class, model_class = FAMILIES[family]
        over = {"segmentation": "tokens", "intra_encoding": "none"}
        config = config_class(
            vocab_size=8,
            hidden_size=hidden,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=heads,
            attention_bias=has_bias,
            attn_implementation="eager",
            **own,
            **(over | fields),
        )
        self.model = model_class(config).eval()
        (layer,) = self.model.layers
        layer.input_layernorm = nn.Identity()
        self.attention = layer.self_attn if family == "llama" else layer.attention

    def load(
        self,
        query: list[torch.Tensor],
        key: list[torch.Tensor],
        value: list[torch.Tensor],
        output: list[torch.Tensor],
    ) -> None:
        """Sets the projections, each of a weight, or of a weight and a bias."""
        names = self.attention.state_dict().keys()
        for at, kind in enumerate(("weight", "bias")[: len(query)]):
            values = [each[at] if at < len(each) else torch.zeros(()) for each in (query, key, value, output)]
            if f"q_proj.{kind}" in names:
                given = dict(zip(("q_proj", "k_proj", "v_proj", "o_proj"), values, strict=True))
            else:  # one projection to the queries, keys and values of the first head, of the second, ...
                by_head = torch.stack([each.unflatten(0, (self.heads, self.head_dim)) for each in values[:3]], dim=1)
                given = {"query_key_value": by_head.flatten(0, 2), "dense": values[3]}
            for module, numbers in given.items():
                getattr(self.attention.get_submodule(module), kind).data.copy_(numbers)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The output and the weights for hidden states of shape `(batch, length, hidden)`."""
        seen = []
        hook = self.attention.register_forward_hook(lambda module, given, result: seen.append(result))
        self.model(inputs_embeds=x, attention_mask=mask, use_cache=False)
        hook.remove()
        return seen[0]


@torch.no_grad()
def set_values(module: nn.Module, values: list[torch.Tensor]) -> None:
    """Sets the weight of a map, and its bias where one is given."""
    for parameter, numbers in zip((module.weight, module.bias), values, strict=False):
        parameter.copy_(numbers.reshape(parameter.shape))
