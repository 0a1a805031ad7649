"""BiPE-GPT-NeoX in vLLM, which has no GPT-NeoX of its own any more: the layers in vLLM's parts."""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb
from vllm.compilation.decorators import support_torch_compile
from vllm.config import CacheConfig, VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.sequence import IntermediateTensors

from ...model.configuration_bipe import BipeGPTNeoXConfig
from ...model.inter_terms_bipe import InterTerms
from .attention import BipeAttention
from .encodings import DYNAMIC_DIMENSIONS, BipeCausalLMMixin, BipeModelMixin, segments_of


class BipeGPTNeoXAttention(nn.Module):
    """Attention with the terms of an inter encoding.

    Args:
        config: of the model.
        cache_config: as vLLM's own.
        quant_config: as vLLM's own.
        prefix: name of the module in the model.
    """

    def __init__(
        self,
        config: BipeGPTNeoXConfig,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ):
        super().__init__()
        head_dim = config.hidden_size // config.num_attention_heads
        own_heads = config.num_attention_heads // get_tensor_model_parallel_world_size()
        self.query_key_value = QKVParallelLinear(
            config.hidden_size,
            head_dim,
            config.num_attention_heads,
            bias=config.attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.query_key_value",
        )
        self.dense = RowParallelLinear(
            config.hidden_size,
            config.hidden_size,
            bias=config.attention_bias,
            quant_config=quant_config,
            prefix=f"{prefix}.dense",
        )
        self.attn = BipeAttention(
            config,
            own_heads,
            own_heads,
            head_dim,
            apply_rotary_pos_emb,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, hidden_states: torch.Tensor, terms: InterTerms) -> torch.Tensor:
        """The output of attention, of the shape of what enters.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): what enters, after the norm.
            terms ([`InterTerms`]): of all heads.
        """
        query_key_value, _ = self.query_key_value(hidden_states)
        output, _ = self.dense(self.attn(*query_key_value.chunk(3, dim=-1), terms))
        return output


class BipeGPTNeoXMLP(nn.Module):
    """The MLP of a layer.

    Args:
        config: of the model.
        quant_config: as vLLM's own.
        prefix: name of the module in the model.
    """

    def __init__(self, config: BipeGPTNeoXConfig, quant_config: QuantizationConfig | None, prefix: str):
        super().__init__()
        self.dense_h_to_4h = ColumnParallelLinear(
            config.hidden_size, config.intermediate_size, quant_config=quant_config, prefix=f"{prefix}.dense_h_to_4h"
        )
        self.dense_4h_to_h = RowParallelLinear(
            config.intermediate_size, config.hidden_size, quant_config=quant_config, prefix=f"{prefix}.dense_4h_to_h"
        )
        self.act = get_act_fn(config.hidden_act)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The output of the MLP, of the shape of what enters.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): what enters, after the norm.
        """
        hidden_states, _ = self.dense_h_to_4h(hidden_states)
        output, _ = self.dense_4h_to_h(self.act(hidden_states))
        return output


class BipeGPTNeoXLayer(nn.Module):
    """Attention and MLP with their residuals.

    Args:
        config: of the model.
        cache_config: as vLLM's own.
        quant_config: as vLLM's own.
        prefix: name of the module in the model.
    """

    def __init__(
        self,
        config: BipeGPTNeoXConfig,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ):
        super().__init__()
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = BipeGPTNeoXAttention(config, cache_config, quant_config, f"{prefix}.attention")
        self.mlp = BipeGPTNeoXMLP(config, quant_config, f"{prefix}.mlp")

    def forward(self, hidden_states: torch.Tensor, terms: InterTerms) -> torch.Tensor:
        """The hidden states behind the layer, of the same shape.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): in front of the layer.
            terms ([`InterTerms`]): of all heads.
        """
        attended = self.attention(self.input_layernorm(hidden_states), terms) + hidden_states
        seen = hidden_states if self.use_parallel_residual else attended
        return self.mlp(self.post_attention_layernorm(seen)) + attended


@support_torch_compile(dynamic_arg_dims=DYNAMIC_DIMENSIONS)
class BipeGPTNeoXModel(BipeModelMixin, nn.Module):
    """The decoder without a head.

    Args:
        vllm_config: as vLLM makes it.
        prefix: name of the module in the model.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        config, quant_config = vllm_config.model_config.hf_config, vllm_config.quant_config
        self.embed_in = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_hidden_layers,
            lambda prefix: BipeGPTNeoXLayer(config, vllm_config.cache_config, quant_config, prefix),
            prefix=f"{prefix}.layers",
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        head_dim = config.hidden_size // config.num_attention_heads
        self.init_bilevel_encodings(config, GPTNeoXRotaryEmbedding, head_dim)
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states"], config.hidden_size
        )

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """The hidden states behind the layers of this pipeline rank, of the last one normalised.

        Args:
            input_ids (`torch.IntTensor` of shape `(tokens,)`, *optional*): a flat batch; None behind the first rank.
            positions (`torch.LongTensor` of shape `(columns, tokens)`): as [`BipeModelState`] makes them.
            intermediate_tensors: hidden states of the rank before; None on the first.
            inputs_embeds (`torch.FloatTensor` of shape `(tokens, hidden_size)`, *optional*):
                Refused by [`BipeChecks`].

        Returns:
            `torch.FloatTensor` of shape `(tokens, hidden_size)`, or `IntermediateTensors` for the next rank.
        """
        segments = segments_of(positions)
        if get_pp_group().is_first_rank:
            hidden_states = self.with_positions(self.embed_in(input_ids), segments)
        else:
            hidden_states = intermediate_tensors["hidden_states"]
        terms = self.terms(hidden_states, segments)
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            hidden_states = layer(hidden_states, terms)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": hidden_states})
        return self.final_layer_norm(hidden_states)


class BipeGPTNeoXForCausalLM(BipeCausalLMMixin, nn.Module, SupportsPP):
    """The decoder with a language modelling head.

    Args:
        vllm_config: as vLLM makes it.
        prefix: name of the module in the model.
    """

    # In a file the head of this family is called `embed_out`.
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"embed_out.": "lm_head."})

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.gpt_neox = BipeGPTNeoXModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "gpt_neox"))
        self.lm_head = ParallelLMHead(
            self.config.vocab_size,
            self.config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if self.config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.gpt_neox.embed_in)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        self.make_empty_intermediate_tensors = self.gpt_neox.make_empty_intermediate_tensors

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The word embeddings, of shape `(tokens, hidden_size)`.

        Args:
            input_ids (`torch.IntTensor` of shape `(tokens,)`): a flat batch.
        """
        return self.gpt_neox.embed_in(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """The hidden states of the decoder (see [`BipeGPTNeoXModel.forward`]).

        Args:
            input_ids (`torch.IntTensor` of shape `(tokens,)`, *optional*): a flat batch; None behind the first rank.
            positions (`torch.LongTensor` of shape `(columns, tokens)`): as [`BipeModelState`] makes them.
            intermediate_tensors: hidden states of the rank before; None on the first.
            inputs_embeds (`torch.FloatTensor` of shape `(tokens, hidden_size)`, *optional*):
                Refused by [`BipeChecks`].

        Returns:
            `torch.FloatTensor` of shape `(tokens, hidden_size)`, or `IntermediateTensors` for the next rank.
        """
        return self.gpt_neox(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """The logits, of shape `(tokens, vocab_size)`; None on ranks that gather none.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): of the decoder.
        """
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the weights of a checkpoint.

        Args:
            weights (pairs of `str` and `torch.FloatTensor` of shape `(...)`): names and tensors of the files.

        Returns:
            The names of the parameters that were loaded.
        """
        heads = self.config.num_attention_heads
        by_part = ((name, _by_part(x, heads) if "query_key_value" in name else x) for name, x in weights)
        return AutoWeightsLoader(self).load_weights(by_part, mapper=self.hf_to_vllm_mapper)


def _by_part(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """All queries, all keys, all values, as vLLM has them; a file has all three head by head. Also of a bias."""
    return weight.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
