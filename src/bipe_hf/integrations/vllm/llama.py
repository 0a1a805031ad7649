"""BiPE-Llama in vLLM: vLLM's Llama with the encodings of BiPE."""

from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CacheConfig, VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaModel
from vllm.sequence import IntermediateTensors

from ...model.configuration_bipe import BipeLlamaConfig
from ...model.inter_terms_bipe import InterTerms
from .attention import BipeAttention
from .encodings import DYNAMIC_DIMENSIONS, BipeCausalLMMixin, BipeModelMixin, segments_of


class BipeLlamaAttention(nn.Module):
    """Attention as in vLLM's `LlamaAttention`, with the terms of an inter encoding as positions.

    Args:
        config: of the model.
        hidden_size: as vLLM's own.
        num_heads: of all ranks.
        num_kv_heads: of all ranks.
        bias: of the projections to queries, keys and values.
        bias_o_proj: of the projection of the output.
        cache_config: as vLLM's own.
        quant_config: as vLLM's own.
        prefix: name of the module in the model.
        others: what vLLM hands over besides, which is not read.
    """

    def __init__(
        self,
        *,
        config: BipeLlamaConfig,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        bias: bool,
        bias_o_proj: bool,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
        **others: Any,
    ):
        super().__init__()
        num_ranks = get_tensor_model_parallel_world_size()
        own_heads, own_kv_heads = num_heads // num_ranks, max(1, num_kv_heads // num_ranks)
        self.sizes = [heads * config.head_dim for heads in (own_heads, own_kv_heads, own_kv_heads)]
        self.qkv_proj = QKVParallelLinear(
            hidden_size,
            config.head_dim,
            num_heads,
            num_kv_heads,
            bias=bias,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            num_heads * config.head_dim,
            hidden_size,
            bias=bias_o_proj,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.attn = BipeAttention(
            config,
            own_heads,
            own_kv_heads,
            config.head_dim,
            apply_rotary_pos_emb,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: InterTerms, hidden_states: torch.Tensor) -> torch.Tensor:
        """The output of attention, of the shape of what enters.

        Args:
            positions ([`InterTerms`]): of all heads.
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): what enters, after the norm.
        """
        qkv, _ = self.qkv_proj(hidden_states)
        output, _ = self.o_proj(self.attn(*qkv.split(self.sizes, dim=-1), positions))
        return output


class BipeLlamaDecoderLayer(LlamaDecoderLayer):
    """vLLM's layer, whose attention is that of BiPE."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config, prefix, attn_layer_type=BipeLlamaAttention)


@support_torch_compile(dynamic_arg_dims=DYNAMIC_DIMENSIONS)
class BipeLlamaModel(BipeModelMixin, LlamaModel):
    """The decoder without a head."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", layer_type: type = BipeLlamaDecoderLayer):
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=layer_type)
        self.init_bilevel_encodings(self.config, LlamaRotaryEmbedding, self.config.head_dim)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors | tuple[torch.Tensor, list[torch.Tensor]]:
        """As vLLM's, with `positions` of shape `(columns, tokens)` (see [`BipeModelState`])."""
        segments = segments_of(positions)
        if get_pp_group().is_first_rank:
            hidden_states = inputs_embeds = self.with_positions(self.embed_input_ids(input_ids), segments)
        else:
            hidden_states = intermediate_tensors["hidden_states"]
        # The layers hand on to attention whatever stands for positions.
        return super().forward(None, self.terms(hidden_states, segments), intermediate_tensors, inputs_embeds)


class BipeLlamaForCausalLM(BipeCausalLMMixin, LlamaForCausalLM):
    """The decoder with a language modelling head."""

    def _init_model(self, vllm_config: VllmConfig, prefix: str = "", layer_type: type = BipeLlamaDecoderLayer):
        return BipeLlamaModel(vllm_config=vllm_config, prefix=prefix)
