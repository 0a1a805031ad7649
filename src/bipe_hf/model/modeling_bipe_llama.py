"""Llama with bilevel positional encoding (BiPE; He et al., ICML 2024, arXiv 2401.16421).

Read it beside `transformers.models.llama.modeling_llama`. What every family does alike stands in `modeling_bipe`,
`attention_bipe` and `heads_bipe`; here is what makes it a Llama.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .attention_bipe import BipeAttentionMixin, bilevel_attention
from .compatibility_bipe import CACHE_NAME, takes_cache
from .configuration_bipe import BipeLlamaConfig
from .heads_bipe import BipeCausalLMMixin, BipeClassificationMixin, BipeQuestionAnsweringMixin
from .inter_terms_bipe import InterTerms
from .modeling_bipe import BipeLayerMixin, BipeModelMixin, BipePreTrainedMixin, handed_on, rotary_updates
from .registries_bipe import register_family


class BipeLlamaAttention(BipeAttentionMixin, LlamaAttention):
    """Llama's attention with the terms of any inter encoding."""

    @property
    def key_shape(self) -> tuple[int, int]:
        return self.config.num_key_value_heads, self.head_dim

    @takes_cache
    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: InterTerms,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, ...]:
        hidden_shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        output, *others = bilevel_attention(
            self,
            self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2),
            self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2),
            self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2),
            position_embeddings,
            attention_mask,
            cache,
            hidden_states=hidden_states,
            rotate=apply_rotary_pos_emb,
            eager_attention=eager_attention_forward,
            **kwargs,
        )
        return self.o_proj(output), *others


class BipeLlamaDecoderLayer(BipeLayerMixin, LlamaDecoderLayer):
    """Llama's layer, whose attention is that of BiPE."""

    def __init__(self, config: BipeLlamaConfig, layer_idx: int):
        # The parent's own constructor would build an attention that is thrown away.
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = BipeLlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_updates = rotary_updates(config, layer_idx)

    def forward_with_state(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, rotary_state: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden states and the rotary state behind the layer, of the same shapes (see [`TapeUpdates`]).

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters the layer.
            attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
                Bool or float, in the form that the attention backend wants.
            rotary_state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`):
                In front of the layer.
            kwargs: for attention.
        """
        given = {"attention_mask": attention_mask, "rotary_state": rotary_state, **kwargs}
        output, _, attended = self.self_attn(self.input_layernorm(hidden_states), **given)
        rotary_state = self.rotary_updates.after_attention(rotary_state, attended)
        hidden_states = hidden_states + output
        output = self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states + output, self.rotary_updates.after_mlp(rotary_state, output)


class BipeLlamaPreTrainedModel(BipePreTrainedMixin, LlamaPreTrainedModel):
    """What all models of the family have."""

    config: BipeLlamaConfig
    config_class = BipeLlamaConfig
    _no_split_modules = ["BipeLlamaDecoderLayer"]
    _can_record_outputs = {"hidden_states": BipeLlamaDecoderLayer, "attentions": BipeLlamaAttention}


class BipeLlamaModel(BipeModelMixin, BipeLlamaPreTrainedModel, LlamaModel):
    """The decoder without a head.

    Args:
        config ([`BipeLlamaConfig`]): sizes and positional encoding.
    """

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.init_bilevel_encodings(config, LlamaRotaryEmbedding, config.head_dim)
        self.layers = nn.ModuleList([BipeLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_bias: torch.Tensor | None,
        cache: Cache | None,
        rotary_state: torch.Tensor | None,
        **kwargs,
    ) -> torch.Tensor:
        """The last hidden states, normalised, of shape `(batch, length, hidden_size)` (see [`BipeModelMixin`]).

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`):
                Word embeddings plus intra encoding.
            attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
                Bool or float, in the form that the attention backend wants.
            position_bias (`torch.FloatTensor` of shape `(batch, heads, length, keys)`, *optional*):
                Added to the logits.
            cache ([`~transformers.Cache`], *optional*): with the segments of the new tokens.
            rotary_state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`, *optional*):
                In front of the first layer (see [`TapeUpdates`]).
            kwargs: for every layer.
        """
        for layer in self.layers[: self.config.num_hidden_layers]:
            handed = hidden_states, attention_mask, position_bias, rotary_state
            hidden_states, rotary_state = handed_on(layer(*handed, **{CACHE_NAME: cache}, **kwargs))
        return self.norm(hidden_states)


# The constructors of the heads build the base model themselves, once.


class BipeLlamaForCausalLM(BipeCausalLMMixin, BipeLlamaPreTrainedModel, LlamaForCausalLM):
    """The decoder with a language modelling head.

    Args:
        config ([`BipeLlamaConfig`]): sizes and positional encoding.
    """

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.model = BipeLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class BipeLlamaForSequenceClassification(
    BipeClassificationMixin, BipeLlamaPreTrainedModel, LlamaForSequenceClassification
):
    """The decoder with a classifier on the last token that is no padding.

    Args:
        config ([`BipeLlamaConfig`]): sizes and positional encoding; `num_labels` is the number of classes.
    """

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = BipeLlamaModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()


class BipeLlamaForTokenClassification(BipeClassificationMixin, BipeLlamaPreTrainedModel, LlamaForTokenClassification):
    """The decoder with a classifier on every token.

    Args:
        config ([`BipeLlamaConfig`]): sizes and positional encoding; `num_labels` is the number of classes.
    """

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = BipeLlamaModel(config)
        self.dropout = nn.Dropout(0.1)  # transformers' default for a family without a classifier dropout field
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class BipeLlamaForQuestionAnswering(BipeQuestionAnsweringMixin, BipeLlamaPreTrainedModel, LlamaForQuestionAnswering):
    """The decoder with a classifier for the first and the last token of an answer.

    Args:
        config ([`BipeLlamaConfig`]): sizes and positional encoding.
    """

    base_model_prefix = "model"  # Llama's own is "transformer", so its weights would not load from a base model

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.model = BipeLlamaModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()


AUTO_CLASSES = {
    "AutoModel": BipeLlamaModel,
    "AutoModelForCausalLM": BipeLlamaForCausalLM,
    "AutoModelForSequenceClassification": BipeLlamaForSequenceClassification,
    "AutoModelForTokenClassification": BipeLlamaForTokenClassification,
    "AutoModelForQuestionAnswering": BipeLlamaForQuestionAnswering,
}
"""The models of the family, by the Auto class that builds each."""

register_family(BipeLlamaConfig, AUTO_CLASSES)
