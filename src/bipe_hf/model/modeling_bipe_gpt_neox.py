"""GPT-NeoX with bilevel positional encoding (BiPE; He et al., ICML 2024, arXiv 2401.16421).

Read it beside `transformers.models.gpt_neox.modeling_gpt_neox`. What every family does alike stands in
`modeling_bipe`, `attention_bipe` and `heads_bipe`; here is what makes it a GPT-NeoX.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gpt_neox.modeling_gpt_neox import (
    GPTNeoXAttention,
    GPTNeoXForCausalLM,
    GPTNeoXForQuestionAnswering,
    GPTNeoXForSequenceClassification,
    GPTNeoXForTokenClassification,
    GPTNeoXLayer,
    GPTNeoXMLP,
    GPTNeoXModel,
    GPTNeoXPreTrainedModel,
    GPTNeoXRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .attention_bipe import BipeAttentionMixin, bilevel_attention
from .configuration_bipe import BipeGPTNeoXConfig
from .heads_bipe import BipeCausalLMMixin, BipeClassificationMixin, BipeQuestionAnsweringMixin
from .inter_terms_bipe import InterTerms
from .modeling_bipe import BipeLayerMixin, BipeModelMixin, BipePreTrainedMixin, handed_on, rotary_updates
from .registries_bipe import register_family


class BipeGPTNeoXAttention(BipeAttentionMixin, GPTNeoXAttention):
    """GPT-NeoX's attention with the terms of any inter encoding."""

    @property
    def key_shape(self) -> tuple[int, int]:
        return self.config.num_attention_heads, self.head_size

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: InterTerms,
        attention_mask: torch.Tensor | None = None,
        layer_past: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, ...]:
        hidden_shape = (*hidden_states.shape[:-1], -1, 3 * self.head_size)
        query_key_value = self.query_key_value(hidden_states).view(hidden_shape).transpose(1, 2)
        output, *others = bilevel_attention(
            self,
            *query_key_value.chunk(3, dim=-1),
            position_embeddings,
            attention_mask,
            layer_past,
            hidden_states=hidden_states,
            rotate=apply_rotary_pos_emb,
            eager_attention=eager_attention_forward,
            **kwargs,
        )
        return self.dense(output), *others


class BipeGPTNeoXLayer(BipeLayerMixin, GPTNeoXLayer):
    """GPT-NeoX's layer, whose attention is that of BiPE."""

    def __init__(self, config: BipeGPTNeoXConfig, layer_idx: int):
        # The parent's own constructor would build an attention that is thrown away.
        GradientCheckpointingLayer.__init__(self)
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_dropout = nn.Dropout(config.hidden_dropout)
        self.post_mlp_dropout = nn.Dropout(config.hidden_dropout)
        self.attention = BipeGPTNeoXAttention(config, layer_idx)
        self.mlp = GPTNeoXMLP(config)
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
        output, _, attended = self.attention(self.input_layernorm(hidden_states), **given)
        rotary_state = self.rotary_updates.after_attention(rotary_state, attended)
        attended_states = self.post_attention_dropout(output) + hidden_states
        seen = hidden_states if self.use_parallel_residual else attended_states
        output = self.post_mlp_dropout(self.mlp(self.post_attention_layernorm(seen)))
        return output + attended_states, self.rotary_updates.after_mlp(rotary_state, output)


class BipeGPTNeoXPreTrainedModel(BipePreTrainedMixin, GPTNeoXPreTrainedModel):
    """What all models of the family have."""

    config: BipeGPTNeoXConfig
    config_class = BipeGPTNeoXConfig
    _no_split_modules = ["BipeGPTNeoXLayer"]
    _can_record_outputs = {"hidden_states": BipeGPTNeoXLayer, "attentions": BipeGPTNeoXAttention}


class BipeGPTNeoXModel(BipeModelMixin, BipeGPTNeoXPreTrainedModel, GPTNeoXModel):
    """The decoder without a head.

    Args:
        config ([`BipeGPTNeoXConfig`]): sizes and positional encoding.
    """

    def __init__(self, config: BipeGPTNeoXConfig):
        PreTrainedModel.__init__(self, config)
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        head_dim = config.hidden_size // config.num_attention_heads
        self.init_bilevel_encodings(config, GPTNeoXRotaryEmbedding, head_dim)
        self.emb_dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([BipeGPTNeoXLayer(config, i) for i in range(config.num_hidden_layers)])
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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
        hidden_states = self.emb_dropout(hidden_states)
        for layer in self.layers[: self.config.num_hidden_layers]:  # fewer while early exit drafts
            handed = hidden_states, attention_mask, position_bias, rotary_state
            hidden_states, rotary_state = handed_on(layer(*handed, layer_past=cache, **kwargs))
        return self.final_layer_norm(hidden_states)


# The constructors of the heads build the base model themselves, once.


class BipeGPTNeoXForCausalLM(BipeCausalLMMixin, BipeGPTNeoXPreTrainedModel, GPTNeoXForCausalLM):
    """The decoder with a language modelling head.

    Args:
        config ([`BipeGPTNeoXConfig`]): sizes and positional encoding.
    """

    def __init__(self, config: BipeGPTNeoXConfig):
        PreTrainedModel.__init__(self, config)
        self.gpt_neox = BipeGPTNeoXModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_load_state_dict_pre_hook(_rename_head)
        self.post_init()


class BipeGPTNeoXForSequenceClassification(
    BipeClassificationMixin, BipeGPTNeoXPreTrainedModel, GPTNeoXForSequenceClassification
):
    """The decoder with a classifier on the last token that is no padding.

    Args:
        config ([`BipeGPTNeoXConfig`]): sizes and positional encoding; `num_labels` is the number of classes.
    """

    def __init__(self, config: BipeGPTNeoXConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.gpt_neox = BipeGPTNeoXModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()


class BipeGPTNeoXForTokenClassification(
    BipeClassificationMixin, BipeGPTNeoXPreTrainedModel, GPTNeoXForTokenClassification
):
    """The decoder with a classifier on every token.

    Args:
        config ([`BipeGPTNeoXConfig`]): sizes and positional encoding; `num_labels` is the number of classes.
    """

    def __init__(self, config: BipeGPTNeoXConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.gpt_neox = BipeGPTNeoXModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class BipeGPTNeoXForQuestionAnswering(
    BipeQuestionAnsweringMixin, BipeGPTNeoXPreTrainedModel, GPTNeoXForQuestionAnswering
):
    """The decoder with a classifier for the first and the last token of an answer.

    Args:
        config ([`BipeGPTNeoXConfig`]): sizes and positional encoding.
    """

    def __init__(self, config: BipeGPTNeoXConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.gpt_neox = BipeGPTNeoXModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()


def _rename_head(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *args) -> None:
    """Gives the head of a file the name that it has in the model: Trainer reads files past `from_pretrained`."""
    if f"{prefix}embed_out.weight" in state_dict:
        state_dict[f"{prefix}lm_head.weight"] = state_dict.pop(f"{prefix}embed_out.weight")


# In a file the head of this family is called `embed_out`. transformers renames it for its own class alone. A subclass
# of somebody else's has another name, but this type of model.
for _name in ("BipeGPTNeoXForCausalLM", BipeGPTNeoXConfig.model_type):
    register_checkpoint_conversion_mapping(_name, [WeightRenaming(r"^embed_out\.", "lm_head.")], overwrite=True)


AUTO_CLASSES = {
    "AutoModel": BipeGPTNeoXModel,
    "AutoModelForCausalLM": BipeGPTNeoXForCausalLM,
    "AutoModelForSequenceClassification": BipeGPTNeoXForSequenceClassification,
    "AutoModelForTokenClassification": BipeGPTNeoXForTokenClassification,
    "AutoModelForQuestionAnswering": BipeGPTNeoXForQuestionAnswering,
}
"""The models of the family, by the Auto class that builds each."""

register_family(BipeGPTNeoXConfig, AUTO_CLASSES)
