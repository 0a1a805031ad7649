"""One attention layer of a family with given weights, to hold against the numbers of an encoding's authors."""

import json

import torch
from families import FAMILIES
from paths import GOLDEN_RELATIVES
from safetensors.torch import load_file


HEADS, HEAD_DIM, HIDDEN = 4, 8, 32  # of the authors' layers


def golden(name):
    """The tensors of a folder, and an assertion that holds numbers against them within its tolerance."""
    tolerance = json.loads((GOLDEN_RELATIVES / name / "config.json").read_text())["tolerance"]
    tensors = load_file(GOLDEN_RELATIVES / name / "golden.safetensors")

    def assert_agrees(got, expected):
        assert (got - expected).abs().max() <= tolerance * max(1, expected.abs().max())

    return tensors, assert_agrees


class OneLayer:
    """The attention layer of a family, which sees the given hidden states, with given weights."""

    def __init__(self, family, *, has_bias, **fields):
        shape = {"num_key_value_heads": HEADS} if family == "llama" else {}
        self.model = FAMILIES[family].make_causal_lm(
            vocab_size=8,
            hidden_size=HIDDEN,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            attention_bias=has_bias,
            segmentation="tokens",
            intra_encoding="none",
            attn_implementation="eager",
            **{**shape, **fields},
        )
        self.model = self.model.base_model.eval()
        (layer,) = self.model.layers
        layer.input_layernorm = torch.nn.Identity()
        self.attention = layer.self_attn if family == "llama" else layer.attention

    def load(self, query, key, value, output):
        """Each a weight, or a weight and a bias."""
        names = self.attention.state_dict().keys()
        for kind, *values in zip(("weight", "bias"), query, key, value, output, strict=False):
            if f"q_proj.{kind}" in names:
                given = dict(zip(("q_proj", "k_proj", "v_proj", "o_proj"), values, strict=True))
            else:  # one projection to the queries, keys and values of the first head, of the second, ...
                heads = torch.stack([each.unflatten(0, (HEADS, HEAD_DIM)) for each in values[:3]], dim=1)
                given = {"query_key_value": heads.flatten(0, 2), "dense": values[3]}
            for module, numbers in given.items():
                getattr(self.attention.get_submodule(module), kind).data.copy_(numbers)

    @torch.no_grad()
    def __call__(self, x, mask=None):
        """The output and the weights."""
        seen = []
        hook = self.attention.register_forward_hook(lambda module, given, result: seen.append(result))
        self.model(inputs_embeds=x, attention_mask=mask, use_cache=False)
        hook.remove()
        return seen[0]
