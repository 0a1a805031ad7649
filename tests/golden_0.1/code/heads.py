"""The heads of every BiPE family: those of transformers, with `segment_ids`.

Each `forward` names its arguments because Trainer drops data set columns that a signature does not name. Constructors
stand with the families, which name their parts differently.
"""

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    CausalLMOutputWithPast,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .compatibility import CACHE_NAME, takes_cache
from .generation import BipeGenerationMixin


class BipeCausalLMMixin(BipeGenerationMixin):
    """A language modelling head."""

    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        segment_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """As the causal language model of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            segment_ids=segment_ids,
            **kwargs,
        )


class BipeClassificationMixin:
    """A classifier, on the last token that is no padding or on every token."""

    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast | TokenClassifierOutput:
        """As the classifier of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            segment_ids=segment_ids,
            **kwargs,
        )


class BipeQuestionAnsweringMixin:
    """A classifier for the first and the last token of an answer."""

    @takes_cache
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """As the question answering model of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE_NAME: cache},
            inputs_embeds=inputs_embeds,
            start_positions=start_positions,
            end_positions=end_positions,
            segment_ids=segment_ids,
            **kwargs,
        )
