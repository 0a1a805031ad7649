"""The heads of every BiPE family: those of transformers, with `segment_ids`.

Each `forward` has a signature that names its arguments, because Trainer drops data set columns that it does not name,
and `generate` and torch.export read it too. Constructors stand with the families, which name their parts differently.
"""

import functools
import inspect
from collections.abc import Callable

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

from .compatibility_bipe import CACHE_NAME, takes_cache
from .generation_bipe import BipeGenerationMixin


# In this order: the inputs of every head, of the others those that a head names, and `segment_ids`.
INPUTS = {
    "input_ids": torch.LongTensor | None,
    "attention_mask": torch.Tensor | None,
    "position_ids": torch.LongTensor | None,
    "cache": Cache | None,
    "inputs_embeds": torch.Tensor | None,
}
OTHERS = {
    "labels": torch.LongTensor | None,
    "use_cache": bool | None,
    "logits_to_keep": int | torch.Tensor,
    "start_positions": torch.LongTensor | None,
    "end_positions": torch.LongTensor | None,
}
SEGMENT_IDS = {"segment_ids": torch.LongTensor | None}
DEFAULTS = {"logits_to_keep": 0}


def takes(*others: str) -> Callable[[Callable], Callable]:
    """Gives `forward(self, **kwargs)` the signature of a head: `INPUTS`, `others` of `OTHERS`, `segment_ids`.

    Returns:
        A decorator of such a method.
    """
    types = INPUTS | {name: OTHERS[name] for name in others} | SEGMENT_IDS
    names = tuple(types)

    def decorate(forward: Callable) -> Callable:
        @functools.wraps(forward)
        def named(self, *args, **kwargs):
            if len(args) > len(names):
                raise TypeError(f"forward takes {len(names)} arguments by position, got {len(args)}")
            by_position = dict(zip(names, args, strict=False))
            if "cache" in by_position:
                by_position[CACHE_NAME] = by_position.pop("cache")
            if "cache" in kwargs:
                kwargs[CACHE_NAME] = kwargs.pop("cache")
            return forward(self, **by_position, **kwargs)

        own, *_, rest = inspect.signature(forward).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter(name, kind, default=DEFAULTS.get(name), annotation=kind_of)
            for name, kind_of in types.items()
        ]
        named.__signature__ = inspect.signature(forward).replace(parameters=[own, *parameters, rest])
        return takes_cache(named)

    return decorate


class BipeCausalLMMixin(BipeGenerationMixin):
    """A language modelling head."""

    @takes("labels", "use_cache", "logits_to_keep")
    def forward(self, **kwargs: Unpack[TransformersKwargs]) -> CausalLMOutputWithPast:
        """As the causal language model of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(**kwargs)


class BipeClassificationMixin:
    """A classifier, on the last token that is no padding or on every token."""

    @takes("labels", "use_cache")
    def forward(
        self, **kwargs: Unpack[TransformersKwargs]
    ) -> SequenceClassifierOutputWithPast | TokenClassifierOutput:
        """As the classifier of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(**kwargs)


class BipeQuestionAnsweringMixin:
    """A classifier for the first and the last token of an answer."""

    @takes("start_positions", "end_positions")
    def forward(self, **kwargs: Unpack[TransformersKwargs]) -> QuestionAnsweringModelOutput:
        """As the question answering model of the family; `segment_ids` as in [`BipeModelMixin.forward`]."""
        return super().forward(**kwargs)
