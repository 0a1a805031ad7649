"""Llama with bilevel positional encoding (BiPE; He et al., ICML 2024, arXiv 2401.16421).

Read it beside `transformers.models.llama.modeling_llama`: attention takes [`InterTerms`] in place of rotary angles,
the base model asks [`BipeModelMixin`] for everything that depends on positions, and the heads name `segment_ids`.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
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
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_bipe import BipeLlamaConfig
from .modeling_bipe import BipeGenerationMixin, BipeModelMixin, BipePreTrainedMixin
from .positional import InterTerms, attach_columns, eager_with_columns


class BipeLlamaAttention(LlamaAttention):
    """Llama's attention with the terms of any inter encoding."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: InterTerms,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        terms = position_embeddings
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)

        eager_attention, scaling = eager_attention_forward, self.scaling
        if terms.query_scale is not None:
            query = query * terms.query_scale
        if terms.rotary is not None:
            query, key = apply_rotary_pos_emb(query, key, *terms.rotary)
        if terms.columns is not None:
            query, key, value = attach_columns(terms.columns, query, key, value)
            eager_attention, scaling = eager_with_columns(eager_attention_forward), terms.columns.scaling
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=scaling,
            **kwargs,
        )
        output = output[..., : self.head_dim].reshape(*input_shape, -1)
        return self.o_proj(output), weights


class BipeLlamaDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: BipeLlamaConfig, layer_idx: int):
        # The parent's own constructor would build an attention that is thrown away.
        GradientCheckpointingLayer.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = BipeLlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class BipeLlamaPreTrainedModel(BipePreTrainedMixin, LlamaPreTrainedModel):
    config: BipeLlamaConfig
    config_class = BipeLlamaConfig
    _no_split_modules = ["BipeLlamaDecoderLayer"]
    _can_record_outputs = {"hidden_states": BipeLlamaDecoderLayer, "attentions": BipeLlamaAttention}


class BipeLlamaModel(BipeModelMixin, BipeLlamaPreTrainedModel, LlamaModel):
    """The decoder without a head. See [`BipeLlamaConfig`] for what a configuration chooses."""

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.init_bilevel_encodings(config, LlamaRotaryEmbedding)
        self.layers = nn.ModuleList([BipeLlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """As [`~transformers.LlamaModel`], with one argument more and one read differently.

        Args:
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Segment of each token, negative at padding. Derived from `input_ids`, a 2-D `attention_mask`,
                `position_ids` and the cache by default. Intra positions always follow from the segment ids. Negative
                ids keep padding out of the positions; it is `attention_mask` that keeps it out of attention.
            position_ids (`torch.LongTensor` of shape `(batch or 1, length)`, *optional*):
                A step that does not go up is the start of a new packed document: no token attends to a document before
                its own, and segments count from 0 again. The values are read for nothing else. Packed
                documents make no cache: a next token would attend to all of them.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given; if `inputs_embeds` comes
                without `segment_ids` where separators would have to be read; if the cache holds keys but no segment
                history; if documents are packed and a cache is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if kwargs.get("cu_seq_lens_q") is not None and position_ids is None:
            raise ValueError(
                "cu_seq_lens_q was given without position_ids, from which segments learn where documents start"
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        inputs, segment_state = self.bilevel_inputs(
            input_ids, inputs_embeds, attention_mask, position_ids, past_key_values, segment_ids
        )
        if use_cache and past_key_values is None and not inputs.is_packed:
            past_key_values = DynamicCache(config=self.config)
        self.write_segment_history(past_key_values, segment_state)

        hidden_states = inputs.hidden_states
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=inputs.attention_mask,
                position_embeddings=inputs.inter_terms,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **{**kwargs, **inputs.layer_kwargs},
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


# The heads name `segment_ids` because Trainer drops data set columns that `forward` does not name. Their constructors
# build the base model themselves, once.


class BipeLlamaForCausalLM(BipeGenerationMixin, BipeLlamaPreTrainedModel, LlamaForCausalLM):
    """The decoder with a language modelling head."""

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.model = BipeLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As [`~transformers.LlamaForCausalLM`]; `segment_ids` as in [`BipeLlamaModel`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            segment_ids=segment_ids,
            **kwargs,
        )


class BipeLlamaForSequenceClassification(BipeLlamaPreTrainedModel, LlamaForSequenceClassification):
    """The decoder with a classifier on the last token that is no padding."""

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = BipeLlamaModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """As [`~transformers.LlamaForSequenceClassification`]; `segment_ids` as in [`BipeLlamaModel`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            segment_ids=segment_ids,
            **kwargs,
        )


class BipeLlamaForTokenClassification(BipeLlamaPreTrainedModel, LlamaForTokenClassification):
    """The decoder with a classifier on every token."""

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = BipeLlamaModel(config)
        self.dropout = nn.Dropout(0.1)  # transformers' default for a family without a classifier dropout field
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> TokenClassifierOutput:
        """As [`~transformers.LlamaForTokenClassification`]; `segment_ids` as in [`BipeLlamaModel`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            segment_ids=segment_ids,
            **kwargs,
        )


class BipeLlamaForQuestionAnswering(BipeLlamaPreTrainedModel, LlamaForQuestionAnswering):
    """The decoder with a classifier for the first and the last token of an answer."""

    base_model_prefix = "model"  # Llama's own is "transformer", so its weights would not load from a base model

    def __init__(self, config: BipeLlamaConfig):
        PreTrainedModel.__init__(self, config)
        self.model = BipeLlamaModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> QuestionAnsweringModelOutput:
        """As [`~transformers.LlamaForQuestionAnswering`]; `segment_ids` as in [`BipeLlamaModel`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            start_positions=start_positions,
            end_positions=end_positions,
            segment_ids=segment_ids,
            **kwargs,
        )
