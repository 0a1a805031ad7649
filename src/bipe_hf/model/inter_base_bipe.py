"""What every inter encoding is: a relative encoding over segment ids, applied in attention."""

import math

import torch
from torch import nn
from transformers import PreTrainedConfig

from .inter_terms_bipe import InterTerms
from .layer_encoding_bipe import LayerEncoding
from .layer_mixing_bipe import LayerMixing
from .logits_bipe import LayerLogits
from .segmentation_bipe import Segments
from .tape_bipe import TapeUpdates


class InterEncoding(nn.Module):
    """Base of all inter encodings, and NoPE itself: attention sees no position.

    Args:
        config: of the model.
        rotary_class: of the family; built with the configuration where something turns.
        head_dim: of queries and keys.
    """

    has_columns = False
    """Whether `forward` gives bias columns, so that keys and values are longer than `head_dim`."""
    has_bias = False
    """Whether there is a method `bias`: one that is no product of columns (see [`BiasInterEncoding`])."""
    layer_class: type[LayerEncoding] | None = None
    """What every attention layer has a module of, where its hidden states take part (see [`LayerEncoding`])."""
    mixing_class: type[LayerMixing] | None = None
    """What every attention layer has a module of, where the encoding changes more than positions (see
    [`LayerMixing`])."""
    logits_class: type[LayerLogits] | None = None
    """What every attention layer has a module of, where the encoding changes finished logits (see [`LayerLogits`])."""
    updates_class: type[TapeUpdates] | None = None
    """What every layer has a module of, where layers hand on a state of the tokens beside hidden states."""
    needs_whole_documents = False
    """Whether padding may stand beside a document only, not between its tokens."""
    moving_fields: tuple[str, ...] = ()
    """Fields of the configuration that may change while a model is in use, since no weight depends on them."""

    def __init__(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int):
        super().__init__()
        self.rotary_emb: nn.Module | None = None  # of the family, where something turns
        self.log_scale_train_length = config.log_scale_train_length
        self.logn_train_length = config.logn_train_length

    @classmethod
    def num_columns(cls, config: PreTrainedConfig, head_dim: int, dtype: torch.dtype) -> int:
        """How many bias columns positions put in front of each head.

        Those that a layer learns ([`LayerEncoding`]) are not among them.

        Args:
            config: of the model.
            head_dim: of queries and keys, without columns.
            dtype: in which attention computes.
        """
        return 0

    @property
    def reads_steps(self) -> bool:
        """Whether what its layers have reads how the segment index goes on (see [`IndexSteps`])."""
        return self.layer_class is not None or (self.logits_class is not None and self.logits_class.reads_steps)

    def fill_buffers(self) -> None:
        """Fills the module's own buffers, which no checkpoint holds, after the model was made on the meta device."""

    def follow(self, config: PreTrainedConfig) -> None:
        """Takes over the `moving_fields` of the configuration, which has just changed."""

    def draw(self, generator: torch.Generator, std: float) -> None:
        """Draws the first values of its own parameters.

        It draws through `transformers.initialization`, which keeps what was loaded.

        Args:
            generator: of the module.
            std: standard deviation of the other weights.
        """

    def forward(self, segments: Segments, hidden_states: torch.Tensor) -> InterTerms:
        """The terms that attention needs, made of positions.

        Args:
            segments ([`Segments`]): positions of each token, entries of shape `(batch, length)`.
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): read for its dtype and device.
        """
        return InterTerms(query_scale=self.query_scale(segments, hidden_states.dtype))

    def turn(
        self, new: Segments, old: Segments, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """cos and sin of the angles by which cached keys turn where segments and tokens change.

        Args:
            new ([`Segments`]): where the tokens of the keys are.
            old ([`Segments`]): where they were, at the same places inside their segments.
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): read for its dtype and device.

        Returns:
            Each of shape `(batch, length, rotary dimensions)`; None where positions turn no key.
        """
        none = torch.zeros_like(new.segment_ids)
        change = new._replace(
            segment_ids=new.segment_ids - old.segment_ids,
            token_positions=new.token_positions - old.token_positions,
            intra_positions=none,
            inner_indices=(none,) * len(new.inner_indices),
        )
        rotary = self(change, hidden_states).rotary
        if rotary is None:
            return None
        # without the factor that a scaling puts on both, which a cached key has already
        return tuple(each / self.rotary_emb.attention_scaling for each in rotary)

    def query_scale(self, segments: Segments, dtype: torch.dtype) -> torch.Tensor | None:
        """The factors that grow with the logarithm of a position, multiplied; None where all are off.

        `log_scale_train_length` gives the `log_scale` of the authors' code, `logn_train_length` the factor of Chiang
        and Cholak (ACL 2022, section 5.3).

        Args:
            segments ([`Segments`]): positions of each token, entries of shape `(batch, length)`.
            dtype: of the result, whose shape is `(batch, 1, length, 1)`.
        """
        scale = None
        if self.log_scale_train_length is not None:
            # the authors' log_scale
            scale = torch.log1p(segments.segment_ids.clamp(min=0).float()) / math.log(self.log_scale_train_length)
        if self.logn_train_length is not None:
            # Chiang and Cholak (ACL 2022, section 5.3): the softmax of n keys needs logits that grow like log n
            logn = torch.log1p(segments.token_positions.float()) / math.log(self.logn_train_length)
            scale = logn.clamp(min=1.0) if scale is None else scale * logn.clamp(min=1.0)
        return None if scale is None else scale[:, None, :, None].to(dtype)
