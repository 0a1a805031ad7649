"""The encodings of a model in vLLM: those of `bipe_hf.model`, called with the positions of a step."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from ...model.inter_bipe import INTER_ENCODINGS
from ...model.inter_terms_bipe import InterTerms
from ...model.intra_bipe import add_positions, build_inner_encodings, build_intra_encoding
from ...model.segmentation_bipe import Segments, SegmentState
from .state import BipeModelState


DYNAMIC_DIMENSIONS = {
    "input_ids": {0: "b"},
    "positions": {-1: "b"},
    "intermediate_tensors": {0: "b"},
    "inputs_embeds": {0: "b"},
}
"""Of the arguments of a decoder's forward, those that differ from step to step in a compiled model."""


class BipeModelMixin:
    """A decoder of vLLM with the encodings of BiPE, whose weights have the names of a checkpoint."""

    def init_bilevel_encodings(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int) -> None:
        """Builds the encodings that the configuration names.

        Args:
            config: of the model.
            rotary_class: of the family.
            head_dim: of queries and keys, without columns.
        """
        self.intra_encoding = build_intra_encoding(config)
        self.inner_encodings = build_inner_encodings(config)
        self.inter_encoding = INTER_ENCODINGS[config.inter_encoding](config, rotary_class, head_dim)

    def with_positions(self, hidden_states: torch.Tensor, segments: Segments) -> torch.Tensor:
        """The word embeddings plus the absolute encodings of all levels, in the same shape and dtype.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): word embeddings.
            segments ([`Segments`]): entries of shape `(1, tokens)`.
        """
        return add_positions(hidden_states[None], segments, self.inner_encodings, self.intra_encoding)[0]

    def terms(self, hidden_states: torch.Tensor, segments: Segments) -> InterTerms:
        """What attention needs.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`): read for its dtype and device.
            segments ([`Segments`]): entries of shape `(1, tokens)`.
        """
        return self.inter_encoding(segments, hidden_states[None])


class BipeCausalLMMixin:
    """A language model of vLLM whose decoder is one of BiPE.

    It comes before the classes of vLLM.
    """

    @staticmethod
    def get_model_state_cls() -> type[BipeModelState]:
        """What makes vLLM keep the segments of requests."""
        return BipeModelState


def segments_of(positions: torch.Tensor) -> Segments:
    """The segments that [`BipeModelState.prepare_inputs`] wrote, with entries of shape `(1, tokens)`.

    Args:
        positions (`torch.LongTensor` of shape `(columns, tokens)`): the state after each token.
    """
    return SegmentState.from_columns(positions[:, None].unbind(0)).segments()
