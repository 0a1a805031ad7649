"""The base model of every BiPE family but for its layers: segments, encodings, mask and history."""

import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, QuantizedCache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.masking_utils import and_masks, create_causal_mask, sliding_window_overlay
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, is_tracing
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .alibi_bipe import AlibiBias, kernel_dtype
from .attention_bipe import mask_for_columns
from .cache_bipe import cached_segment_ids, read_segment_history, states_of_keys, write_segment_history
from .compatibility_bipe import CACHE_NAME, takes_cache
from .configuration_bipe import own_fields, why_no_sepllm
from .encodings_bipe import FINISHED_LOGITS
from .errors_bipe import InputError
from .first_values_bipe import EncodingMap, EncodingTable, PairMap, generator_for
from .index_steps_bipe import index_steps
from .inter_base_bipe import InterEncoding
from .inter_bipe import INTER_ENCODINGS
from .inter_terms_bipe import InterTerms, PairIds
from .intra_bipe import add_positions, build_inner_encodings, build_intra_encoding
from .layer_encoding_bipe import LayerEncoding
from .layer_mixing_bipe import LayerMixing
from .layer_pattern_bipe import LayerInputs, TokenLayers, layer_kind, windowed
from .logits_bipe import LayerLogits, check_backend
from .packing_bipe import find_documents
from .paged_bipe import check_paged, paged_mask, paged_segments
from .pair_bipe import compare_pair
from .push_bipe import PushMixin
from .segmentation_bipe import (
    Segmenter,
    SegmentInputs,
    Segments,
    SegmentState,
    document_starts,
    positions_in_document,
)
from .sepllm_bipe import check_mask_backend, sepllm_mask
from .sepllm_cache_bipe import SepLLMCache
from .tape_bipe import TapeUpdates
from .travel_bipe import check_code


# What inference servers call the attention that they put into a transformers model.
SERVER_ATTENTION = ("vllm", "sglang", "tgi")
# What has first values of its own.
OWN_VALUES = (
    EncodingTable | EncodingMap | PairMap | InterEncoding | LayerEncoding | LayerMixing | LayerLogits | TapeUpdates
)


class BilevelInputs(NamedTuple):
    """What the layers of a model receive; made once per forward by [`BipeModelMixin.bilevel_inputs`]."""

    hidden_states: torch.Tensor
    """Word embeddings plus intra encoding: `torch.FloatTensor` of shape `(batch, length, hidden_size)`."""
    attention_mask: torch.Tensor | None
    """`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, bool or float, in the form that the attention backend
    wants."""
    inter_terms: InterTerms
    """What the inter encoding contributes."""
    layer_kwargs: dict
    """Where documents start, for the backends that take no mask."""
    is_packed: bool
    """Whether a row holds more than one document; not known, and False, in a compiled forward."""
    position_bias: torch.Tensor | None = None
    """`torch.FloatTensor` of shape `(batch, heads, length, past + length)`, for the backends that add one to the
    logits."""
    other_layers: dict[str, LayerInputs] | None = None
    """What layers without the inter encoding receive, by kind; None where there are none."""

    @property
    def position_embeddings(self) -> InterTerms | dict[str, LayerInputs]:
        """What goes to the attention of every layer; the mask of those with the inter encoding goes by position."""
        if self.other_layers is None:
            return self.inter_terms
        return {"inter": LayerInputs(self.inter_terms, None, {})} | self.other_layers


class BipePreTrainedMixin(PushMixin):
    """What every class of a BiPE family does: first values of what BiPE adds, checks when it is saved or loaded.

    It comes before the `PreTrainedModel` of the family.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args, **kwargs
    ) -> None:
        """As transformers does, with the code of the model (see [`BipeConfigMixin.save_pretrained`]).

        Args:
            save_directory: folder, made where it is not there.
            is_main_process: whether this process writes.

        Raises:
            ValueError: if the configuration has other fields of BiPE than the model was built from.
            FileExistsError: if a file of the folder has the name of one of ours and is somebody else's.
        """
        for name, value in self.base_model.built_from.items():
            if getattr(self.config, name) != value:
                raise InputError(
                    f"{name} of the configuration is {getattr(self.config, name)!r}, but the model was built with"
                    f" {value!r}: what is saved would be another model"
                )
        # The configuration checks too, but too late where this is remote code: transformers has copied files by then.
        if self.is_remote_code() and self.should_save_on_this_rank(is_main_process):
            check_code(Path(save_directory))
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if self.should_save_on_this_rank(is_main_process):
            compare_pair(save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args,
        gguf_file: str | None = None,
        **kwargs,
    ):
        """As transformers does; warns where the tokenizer beside the model finds other segments.

        Args:
            pretrained_model_name_or_path: a folder, a name on the Hub, or None where `state_dict` is given.
            gguf_file: refused.

        Raises:
            ValueError: for `gguf_file`, which lacks weights that would be random then.
        """
        if gguf_file is not None:
            raise InputError(
                f"gguf_file={gguf_file!r}: GGUF has no architecture with segments, so what such a file holds is no "
                f"{cls.__name__}. Load a checkpoint in safetensors (docs/does_not_work.md)."
            )
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if pretrained_model_name_or_path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # beside it what `output_loading_info` asks for
            compare_pair(pretrained_model_name_or_path, model.config, **kwargs)
        return loaded

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *args, **kwargs
    ) -> nn.Embedding:
        """As transformers does.

        Args:
            new_num_tokens: size of the vocabulary; None leaves it.
            pad_to_multiple_of: rounds the size up to a multiple of this.

        Raises:
            ValueError: if the new vocabulary lacks a separator of the model; then nothing is changed.
        """
        if new_num_tokens is not None:
            multiple = pad_to_multiple_of or 1
            padded = -(-new_num_tokens // multiple) * multiple
            try:
                self.config.check_vocabulary(padded)
            except InputError as error:
                raise InputError(
                    f"new_num_tokens={new_num_tokens}: {error}. Keep them, or build a model from a copy of the"
                    " configuration with other separators"
                ) from error
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, *args, **kwargs)

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """Whether servers such as vLLM may run the model as it is: never.

        They decode a token without showing the model the text before it.
        """
        return False

    def get_correct_attn_implementation(self, requested_attention: str | None, *args, **kwargs) -> str:
        """As transformers does.

        Raises:
            ValueError: for a server that does not ask [`is_backend_compatible`], and for a backend that the inter
                encoding does not have.
        """
        if requested_attention in SERVER_ATTENTION:
            raise InputError(
                f"attn_implementation={requested_attention!r}: an inference server decodes without the text before a "
                "token, so the segment of the token is unknown. Use `bipe-hf serve`, generate, or vLLM with its "
                "plug-in (docs/serving.md)."
            )
        self.config.check_values()  # they may have been set since it was made
        if INTER_ENCODINGS[self.config.inter_encoding].logits_class is not None:
            check_backend(self.config.inter_encoding, requested_attention)
        if self.config.sepllm_neighbors is not None:
            check_mask_backend("sepllm_neighbors", requested_attention)
        return super().get_correct_attn_implementation(requested_attention, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, OWN_VALUES):
            self._draw_first_values(module)
        else:
            super()._init_weights(module)
        if isinstance(module, AlibiBias | InterEncoding | Segmenter):
            module.fill_buffers()

    def _draw_first_values(self, module: OWN_VALUES) -> None:
        device = next((parameter.device for parameter in module.parameters()), None)
        if device is not None and device.type != "meta":  # which holds no values
            name = next(name for name, each in self.named_modules() if each is module)
            name = name.removeprefix(f"{self.base_model_prefix}.")  # the same with and without a head
            module.draw(generator_for(name, device), self.config.initializer_range or 0.02)  # as transformers has it


class BipeModelMixin:
    """The base model of a family but for its layers: segments, encodings, mask and history.

    It comes before the base model of the family, whose own part is a method
    `run_layers(hidden_states, attention_mask, position_bias, cache, rotary_state, **kwargs)`, from the summed
    embeddings of shape `(batch, length, hidden_size)` to the last normalised hidden states. It hands the first three
    and the rotary state, which is [`handed_on`] from layer to layer, by position (see [`BipeLayerMixin`]) and `kwargs`
    to every layer, and the cache under the name that its layers have for it.
    """

    def init_bilevel_encodings(self, config: PreTrainedConfig, rotary_class: type[nn.Module], head_dim: int) -> None:
        """Builds the encodings that the configuration names.

        Args:
            config: of the model; what it cannot be raises `ValueError`.
            rotary_class: of the family.
            head_dim: of queries and keys.
        """
        config.validate_bipe_fields()  # they may have been set since it was made
        self.built_from = {name: copy(getattr(config, name)) for name in own_fields()}
        self.intra_encoding = build_intra_encoding(config)
        self.inner_encodings = build_inner_encodings(config)
        self.inter_encoding = INTER_ENCODINGS[config.inter_encoding](config, rotary_class, head_dim)
        self.token_layers = TokenLayers(config, rotary_class, head_dim) if config.layer_encodings else None
        self.segmenter = Segmenter(config)

    def post_init(self) -> None:
        """As transformers does; then the fields of BiPE of the configuration are read-only."""
        super().post_init()
        self.config.hold_fields()

    def move_fields(self, **values: float) -> None:
        """Sets fields of the configuration that no weight depends on, for a schedule of continued pretraining.

        These are `token_share` where rotary pairs turn with segments, and `hybrid_alibi_scale` where it is above 0. A
        cache that was made before holds keys of other positions. A compiled model is compiled again.

        Args:
            values: new values by the names of these fields.

        Raises:
            ValueError: for a field that cannot move in this model, or a value that it does not take.
        """
        movable = self.inter_encoding.moving_fields
        for name, value in values.items():
            if name not in movable:
                can = f"only {', '.join(movable)} can" if movable else "no field can"
                raise InputError(f"{name}: it cannot move in this model, {can}")
            if name == "hybrid_alibi_scale" and value == 0:
                raise InputError("hybrid_alibi_scale: it cannot move to 0, where there is no ALiBi at all; take 1e-6")
        self.config.move_fields(values)
        self.built_from.update(values)
        self.inter_encoding.follow(self.config)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.config.hold_fields()  # a copy of a configuration is free, but not that of a copied model

    @takes_cache
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: torch.LongTensor | None = None,
        segments: Segments | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """As the base model of the family, with segments, and with `position_ids` read in another way.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): token ids; or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*):
                Integer or bool, 0 at padding; or a 4-D mask as the attention backend takes it, which says of no token
                that it is padding.
            position_ids (`torch.LongTensor` of shape `(batch or 1, length)`, *optional*):
                A step that does not go up is the start of a new packed document: no token attends to a document before
                its own, and segments count from 0 again. The values are read for nothing else. Packed documents make
                no cache: a next token would attend to all of them.
            cache ([`~transformers.Cache`], *optional*):
                Of transformers, or a [`SepLLMCache`]; it keeps the segments too. Before version 5.24 of transformers
                the argument is called `past_key_values`.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*): word embeddings.
            use_cache (`bool`, *optional*): make a cache where none is given, and return it.
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Segment of each token, negative at padding. Derived from `input_ids`, a 2-D `attention_mask`,
                `position_ids` and the cache by default. Beside `input_ids` they number the segments that are found
                there: ids that go up from 0 and from each of them to the next are taken, whatever their steps, and in
                a row where they do not the model's own hold, with a warning the first time. With `inputs_embeds` alone
                they say what the segments are, where separators would have to be read; they go up inside a document.
                Intra positions always follow from the segments. Negative ids keep padding out of the positions; it is
                `attention_mask` that keeps it out of attention. With inner levels also of shape
                `(batch, length, levels)`: the segment, then for each inner level the index inside its parent.
            segments ([`Segments`], *optional*):
                Finished positions, of a server that keeps what the next token of each request needs to know (see
                [`Segmenter.flat`]). Then nothing is found here or kept in the cache, and `attention_mask` goes to the
                attention backend as it is.
            kwargs: as transformers takes them.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given; if `cu_seq_lens_q` comes
                without `position_ids` or with those of other documents; if `inputs_embeds` comes without `segment_ids`
                of all levels where separators would have to be read; if the cache holds keys but no segment history;
                if documents are packed and a cache is given; if the cache is a quantized one and `inter_encoding` has
                an ALiBi in it or is TAPE; if the attention backend cannot add the bias of `inter_encoding`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("You must specify exactly one of input_ids or inputs_embeds")
        if kwargs.get("cu_seq_lens_q") is not None and position_ids is None:
            raise InputError(
                "cu_seq_lens_q was given without position_ids, from which segments learn where documents start"
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        is_paged = isinstance(cache, PagedAttentionCache)
        if kwargs.get("cu_seq_lens_q") is not None and not is_paged:
            _check_lengths(kwargs["cu_seq_lens_q"], position_ids, attention_mask, inputs_embeds)
        if is_paged:
            segments = paged_segments(
                self.segmenter, input_ids, kwargs["cu_seq_lens_q"], kwargs["logits_processor_args"]
            )
            if self.inter_encoding.has_columns:
                attention_mask = paged_mask(attention_mask, self.config._attn_implementation)
        if segments is not None:
            inputs = self.finished_inputs(inputs_embeds, attention_mask, segments, segment_ids)
        else:
            inputs, segment_state = self.bilevel_inputs(
                input_ids, inputs_embeds, attention_mask, position_ids, cache, segment_ids
            )
            if use_cache and cache is None and not inputs.is_packed:
                cache = DynamicCache(config=self.config)
            if cache is not None:
                write_segment_history(cache, segment_state, self.config.num_hidden_layers)
        del inputs_embeds  # the sum is in `inputs`; long prompts feel one tensor more for the whole forward
        if self.inter_encoding.has_bias:
            inputs = self._with_bias(inputs, segment_state.segment_id, cache)
        if self.inter_encoding.logits_class is not None:
            inputs = self._with_ids(inputs, segment_state.segment_id, cache)

        hidden_states = self.run_layers(
            inputs.hidden_states,
            inputs.attention_mask,
            inputs.position_bias,
            cache,
            inputs.inter_terms.rotary_state,
            position_embeddings=inputs.position_embeddings,
            use_cache=use_cache,
            **{**kwargs, **inputs.layer_kwargs},
        )
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, **{CACHE_NAME: cache})

    def segment(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor | None = None,
        *,
        is_token: torch.Tensor | None = None,
        starts_document: torch.Tensor | None = None,
        segment_ids: torch.LongTensor | None = None,
        past: SegmentState | None = None,
    ) -> Segments:
        """The segments of the given tokens under this model's segmentation (see [`Segmenter`]).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): token ids.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*):
                Read for its shape.
            is_token (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                False at padding. All tokens by default.
            starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                True where a packed document starts.
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): as in [`BipeModelMixin.forward`].
            past ([`SegmentState`], *optional*): after the tokens that came before, entries of shape `(batch, 1)`.

        Raises:
            ValueError: if `segment_ids` is neither given nor can be derived.
        """
        num_inner = len(self.inner_encodings)
        if input_ids is None and segment_ids is None and self.segmenter.segmentation == "separators":
            shape = f"(batch, length, {1 + num_inner})" if num_inner else "(batch, length)"
            raise InputError(
                "inputs_embeds was given without segment_ids, but segmentation='separators' reads separators from "
                f"input_ids. Pass segment_ids of shape {shape}, or input_ids."
            )
        if input_ids is None and num_inner and (segment_ids is None or segment_ids.ndim == 2):
            raise InputError(
                "inputs_embeds was given without the ids of inner levels, whose separators are read from input_ids. "
                f"Pass segment_ids of shape (batch, length, {1 + num_inner}), or input_ids."
            )
        if input_ids is None and not self.segmenter.reads_tokens:
            input_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        return self.segmenter(SegmentInputs(input_ids, is_token, starts_document, segment_ids), past)

    def bilevel_inputs(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None,
        cache: Cache | None,
        segment_ids: torch.LongTensor | None,
    ) -> tuple[BilevelInputs, SegmentState]:
        """Everything that depends on positions, once per forward.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): token ids.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): word embeddings.
            attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*):
                Integer or bool, 0 at padding; or 4-D as the backend takes it, in which case no token is padding unless
                `segment_ids` says so.
            position_ids (`torch.LongTensor` of shape `(batch or 1, length)`, *optional*):
                Read only for where packed documents start.
            cache ([`~transformers.Cache`], *optional*): with the tokens before.
            segment_ids (`torch.LongTensor` of shape `(batch, length)` or `(batch, length, levels)`, *optional*):
                Given ids, negative at padding.

        Returns:
            What the layers receive, and the segment state after each token, for `write_segment_history`.

        Raises:
            ValueError: if `segment_ids`, `attention_mask` or `position_ids` have the wrong shape or dtype, or for one
                of the reasons that [`BipeModelMixin.forward`] lists.
        """
        length = inputs_embeds.shape[1]
        segment_ids = _checked_segment_ids(segment_ids, inputs_embeds, len(self.inner_encodings))
        if self.inter_encoding.logits_class is not None:
            check_backend(self.config.inter_encoding, self.config._attn_implementation)
        if self.config.sepllm_neighbors is not None:
            self._check_sepllm("sepllm_neighbors", input_ids, attention_mask)
        if isinstance(cache, SepLLMCache):
            self._check_sepllm_cache()
            self._check_sepllm("SepLLMCache", input_ids, attention_mask)
        past_length = 0 if cache is None else cache.get_seq_length()
        attention_mask = _checked_mask(attention_mask, past_length, inputs_embeds)
        is_token = _is_token(attention_mask, past_length, length, segment_ids)
        starts_document = _starts_document(position_ids, is_token, inputs_embeds, cache)
        self.check_whole(attention_mask, starts_document)
        given = {"is_token": is_token, "starts_document": starts_document, "past": read_segment_history(cache)}
        segments = self.segment(input_ids, inputs_embeds, segment_ids=segment_ids, **given)
        hidden_states = add_positions(inputs_embeds, segments, self.inner_encodings, self.intra_encoding)
        terms = self.inter_encoding(segments, hidden_states)
        if self.inter_encoding.reads_steps:
            terms = terms._replace(steps=index_steps(segments.state, **given))
        has_angles = self.inter_encoding.updates_class is not None
        if isinstance(cache, QuantizedCache) and (self.inter_encoding.has_columns or has_angles):
            what, where = ("angles", "behind the values") if has_angles else ("columns", "into the keys")
            raise InputError(
                f"a quantized cache rounds the {what} that inter_encoding={self.config.inter_encoding!r} writes"
                f" {where}. Use another cache_implementation."
            )

        sees = self._sees(segments.state, cache)
        mask, layer_kwargs = self._mask(inputs_embeds, attention_mask, cache, starts_document, is_token, sees)
        other_layers = None
        if self.token_layers is not None:
            other_layers = {
                kind: LayerInputs(terms_of_kind, mask, {})
                for kind, terms_of_kind in self.token_layers.terms(segments, hidden_states).items()
            }
            if "local" in other_layers:
                given = inputs_embeds, attention_mask, cache, starts_document, is_token, sees
                if layer_kwargs or "flash" in self.config._attn_implementation:
                    of_local = mask, {"sliding_window": self.config.local_window}
                else:
                    of_local = self._local_mask(mask, *given)
                other_layers["local"] = LayerInputs(other_layers["local"].terms, *of_local)
        mask = self._mask_of_logits(mask)
        is_packed = starts_document is not None and not is_tracing()
        inputs = BilevelInputs(hidden_states, mask, terms, layer_kwargs, is_packed, other_layers=other_layers)
        return inputs, segments.state

    def finished_inputs(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        segments: Segments,
        segment_ids: torch.LongTensor | None,
    ) -> BilevelInputs:
        """As [`bilevel_inputs`], from finished segments and the mask of a server.

        Args:
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): word embeddings.
            attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
                Bool or float, in the form that the attention backend wants.
            segments ([`Segments`]): of these tokens, entries of shape `(batch, length)`.
            segment_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): refused.

        Raises:
            ValueError: if `segment_ids` are given besides, if `segments` are not those of these tokens, or if what the
                inter encoding needs is no matter of positions alone (see [`check_paged`]).
        """
        check_paged(self.config, "segments")
        if segment_ids is not None:
            raise InputError("segments and segment_ids were given: finished segments need no ids, leave one out")
        shape, given = tuple(inputs_embeds.shape[:2]), tuple(segments.segment_ids.shape)
        if given != shape or len(segments.inner_indices) != len(self.inner_encodings):
            raise InputError(
                f"segments must be of shape {shape} with {len(self.inner_encodings)} inner levels, got {given} with"
                f" {len(segments.inner_indices)}"
            )
        hidden_states = add_positions(inputs_embeds, segments, self.inner_encodings, self.intra_encoding)
        terms = self.inter_encoding(segments, hidden_states)
        return BilevelInputs(hidden_states, self._mask_of_logits(attention_mask), terms, {}, is_packed=False)

    def _mask_of_logits(self, mask: torch.Tensor | BlockMask | None) -> torch.Tensor | BlockMask | None:
        """The mask as eager attention adds it to logits with columns, which are float32; as it is for all others."""
        is_16_bit = isinstance(mask, torch.Tensor) and mask.dtype in (torch.float16, torch.bfloat16)
        if self.inter_encoding.has_columns and is_16_bit and self.config._attn_implementation == "eager":
            return mask_for_columns(mask)
        return mask

    def _local_mask(
        self,
        mask: torch.Tensor | BlockMask | None,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | BlockMask | None,
        cache: Cache | None,
        starts_document: torch.Tensor | None,
        is_token: torch.Tensor | None,
        sees: Callable | None,
    ) -> tuple[torch.Tensor | BlockMask | None, dict]:
        """As [`_mask`], whose `mask` the other layers have, within the window of local layers."""
        window = self.config.local_window
        past_length = 0 if cache is None else cache.get_seq_length()
        total_length = past_length + inputs_embeds.shape[1]
        if mask is None and not is_tracing() and isinstance(total_length, int) and total_length <= window:
            return None, {}
        if self.config._attn_implementation == "flex_attention" and not isinstance(attention_mask, BlockMask):
            is_near = sliding_window_overlay(window)
            both = is_near if sees is None else and_masks(is_near, sees)
            return self._mask(inputs_embeds, attention_mask, cache, starts_document, is_token, both)
        if mask is None:  # the backend knows by itself what is causal
            mask = create_causal_mask(self.config, inputs_embeds, attention_mask, cache, allow_is_causal_skip=False)
        return windowed(mask, window, past_length), {}

    def check_whole(self, attention_mask: torch.Tensor | None, starts_document: torch.Tensor | None = None) -> None:
        """Raises `ValueError` for padding between the tokens of a document where one takes columns for its neighbours.

        No traced graph can.

        Args:
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                Integer or bool, 0 at padding. Another form is not looked at.
            starts_document (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                True where a packed document starts.
        """
        has_window = "local" in self.config.layer_encodings
        if not (self.inter_encoding.needs_whole_documents or has_window):
            return
        if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2 or is_tracing(attention_mask):
            return
        is_token = attention_mask.bool()
        starts = torch.zeros_like(is_token) if starts_document is None else starts_document
        if _resumes_document(is_token, starts).any():
            raise InputError(
                "attention_mask has padding between tokens of a document, which "
                + ("a local layer" if has_window else f"inter_encoding={self.config.inter_encoding!r}")
                + " would take for their neighbours. Put padding before or behind them."
            )

    def _with_bias(self, inputs: BilevelInputs, query_ids: torch.Tensor, cache: Cache | None) -> BilevelInputs:
        """Adds the bias of the inter encoding, for the attention backends that take one."""
        backend = self.config._attn_implementation
        if backend not in ("sdpa", "eager", "flex_attention"):
            raise InputError(
                f"inter_encoding={self.config.inter_encoding!r} has a bias for each pair of tokens, which "
                f"attn_implementation={backend!r} cannot add. Use 'sdpa', 'eager' or 'flex_attention' "
                "(docs/methods.md has the backends of each encoding)."
            )
        key_ids = query_ids if cache is None else cached_segment_ids(cache)
        bias = self.inter_encoding.bias(query_ids, key_ids, kernel_dtype(inputs.hidden_states))
        if backend == "eager":  # which knows no bias, but adds its mask
            return inputs._replace(attention_mask=inputs.attention_mask + bias)
        return inputs._replace(position_bias=bias)

    def _with_ids(self, inputs: BilevelInputs, query_ids: torch.Tensor, cache: Cache | None) -> BilevelInputs:
        """Adds what the logits of layers need."""
        key_ids = query_ids if cache is None else cached_segment_ids(cache)
        terms = inputs.inter_terms._replace(ids=PairIds(query_ids, key_ids))
        return inputs._replace(inter_terms=terms)

    def _check_sepllm_cache(self) -> None:
        """Raises `ValueError` for a model without separators, and for one that the cache does not go with. What of
        this holds for `sepllm_neighbors` the configuration has said.
        """
        if self.segmenter.segmentation != "separators":
            raise InputError(
                f"SepLLMCache needs segmentation 'separators', the model has {self.segmenter.segmentation!r}. RoPE"
                " over tokens with separators is inter_encoding='rope', token_share=1.0, intra_encoding='none'"
            )
        if self.config.inter_encoding in FINISHED_LOGITS:
            raise InputError(f"SepLLMCache does not go with {why_no_sepllm(self.config.inter_encoding)}")
        if "local" in self.config.layer_encodings:
            raise InputError("SepLLMCache drops keys, among which the window of local layers could not be counted")

    def _check_sepllm(
        self, name: str, input_ids: torch.LongTensor | None, attention_mask: torch.Tensor | None
    ) -> None:
        """Raises `ValueError` where separators cannot be read, or where the mask cannot be made."""
        check_mask_backend(name, self.config._attn_implementation)
        if torch.jit.is_tracing():
            raise InputError(f"{name}: torch.jit.trace cannot follow how its mask is made. Use torch.export")
        if input_ids is None:
            raise InputError(f"{name} reads separators from input_ids, inputs_embeds was given alone")
        if attention_mask is not None and len(attention_mask.shape) != 2:
            raise InputError(
                f"attention_mask must have the shape (batch, past + length) where {name} makes the mask of each pair,"
                f" got {tuple(attention_mask.shape)}"
            )

    def _sees(self, state: SegmentState, cache: Cache | None) -> Callable | None:
        """Which keys before it a token sees, in the form that transformers takes; None where it sees all."""
        neighbors, rules = self.config.sepllm_neighbors, []
        first = cache.first_column if isinstance(cache, SepLLMCache) else 0
        if neighbors is not None:
            keys = state if cache is None else states_of_keys(cache, state, self.config.num_hidden_layers)
            if is_tracing(keys.ended) or first + keys.ended.shape[1] > neighbors:
                rules.append(sepllm_mask(keys, self.config.sepllm_initial_tokens, neighbors))
        if isinstance(cache, SepLLMCache):
            rules.append(cache.sees(state))
        rules = [rule for rule in rules if rule is not None]
        if not rules:
            return None
        sees = and_masks(*rules)
        return lambda row, head, query, key: sees(row, head, query - first, key - first)

    def _mask(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Cache | None,
        starts_document: torch.Tensor | None,
        is_token: torch.Tensor | None,
        sees: Callable | None,
    ) -> tuple[torch.Tensor | None, dict]:
        """The causal mask in the form of the attention backend, or what is wanted instead of one: by flash attention,
        and on `sdpa` by attention that takes each packed document by itself.
        """
        if starts_document is None:
            # Without a mask blocks of queries could not tell the empty places of a static cache.
            can_skip = self.inter_encoding.logits_class is None or cache is None or not cache.is_compileable
            if isinstance(cache, SepLLMCache):  # whose keys are other columns than those of the mask
                attention_mask = None
            mask = create_causal_mask(
                self.config,
                inputs_embeds,
                attention_mask,
                cache,
                and_mask_function=sees,
                allow_is_causal_skip=can_skip,
            )
            return mask, {}
        if "flash" in self.config._attn_implementation:
            can_check = is_token is not None and not is_tracing()
            if can_check and _resumes_document(is_token, starts_document).any():
                raise InputError(
                    "attention_mask has padding inside a packed document, which flash attention cannot pass over. Put "
                    "padding between documents, or use attn_implementation='sdpa'."
                )
            position_ids = positions_in_document(starts_document, is_token)
            (starts_q, starts_k), (longest_q, longest_k) = prepare_fa_kwargs_from_position_ids(position_ids)
            lengths = {"cu_seq_lens_q": starts_q, "cu_seq_lens_k": starts_k}
            return None, {**lengths, "max_length_q": longest_q, "max_length_k": longest_k}
        if sees is None and self._takes_documents(attention_mask, starts_document):
            is_token = None if attention_mask is None else attention_mask.bool()
            return None, {"documents": find_documents(positions_in_document(starts_document, is_token))}
        if attention_mask is None and sees is None:
            position_ids = positions_in_document(starts_document)
            return create_causal_mask(self.config, inputs_embeds, None, None, position_ids=position_ids), {}
        # transformers looks for documents only where it is given no mask
        document = starts_document.cumsum(dim=1, dtype=torch.long)

        def of_document(row, head, query, key):
            return document[row, query] == document[row, key]

        all_of = of_document if sees is None else and_masks(of_document, sees)
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, None, and_mask_function=all_of)
        return mask, {}

    def _takes_documents(self, attention_mask: torch.Tensor | None, starts_document: torch.Tensor) -> bool:
        """Whether attention can take each packed document by itself: on `sdpa`, outside of a traced graph, where
        nothing is done to the logits of each pair and no padding stands between the tokens of a document.
        """
        per_pair = self.inter_encoding.has_bias or self.inter_encoding.logits_class is not None
        if self.config._attn_implementation != "sdpa" or per_pair or is_tracing():
            return False
        if attention_mask is None:
            return True
        return attention_mask.ndim == 2 and not _resumes_document(attention_mask.bool(), starts_document).any()


class BipeLayerMixin:
    """A layer that takes a bias of the attention logits, or a rotary state.

    It comes before the layer of the family. A learnt bias is made once and shared by all layers. Gradient
    checkpointing with `use_reentrant=True` sees what is handed by position alone: it cuts the graph there, and hands
    back the sum of what the layers send.

    What it does to the state are its [`rotary_updates`]. Then the family's own part is a method
    `forward_with_state(hidden_states, attention_mask, rotary_state, **kwargs)`, to the hidden states and the state
    behind the layer.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        rotary_state: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The hidden states behind the layer, of the same shape, with the rotary state where there is one.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters the layer.
            attention_mask (`torch.Tensor` of shape `(batch or 1, 1, length, keys)`, *optional*):
                Bool or float, in the form that the attention backend wants.
            position_bias (`torch.FloatTensor` of shape `(batch, heads, length, keys)`, *optional*):
                Added to the logits.
            rotary_state (`torch.FloatTensor` of shape `(batch, length, heads, rotary dimensions)`, *optional*):
                In front of the layer (see [`TapeUpdates`]).
            kwargs: for attention.
        """
        if position_bias is not None:
            kwargs["position_bias"] = position_bias
        if self.rotary_updates is not None:
            return self.forward_with_state(hidden_states, attention_mask, rotary_state, **kwargs)
        hidden_states = super().forward(hidden_states, attention_mask, **kwargs)
        return hidden_states if rotary_state is None else (hidden_states, rotary_state)


def rotary_updates(config: PreTrainedConfig, layer_idx: int) -> TapeUpdates | None:
    """What a layer does to the rotary state; None where it leaves the state alone, or there is none.

    Args:
        config: of the model.
        layer_idx: of the layer, from 0.
    """
    updates_class = INTER_ENCODINGS[config.inter_encoding].updates_class
    if updates_class is None or layer_kind(config, layer_idx) != "inter":
        return None
    return updates_class(config)


def handed_on(output: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The hidden states and the rotary state behind a layer, which gives the former alone where there is no state.

    Args:
        output (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, or a tuple with the state): of the layer.
    """
    return output if isinstance(output, tuple) else (output, None)


def _checked_segment_ids(
    segment_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor, num_inner: int
) -> torch.LongTensor | None:
    if segment_ids is None:
        return None
    shape, given = tuple(inputs_embeds.shape[:2]), tuple(segment_ids.shape)
    of_levels = (*shape, 1 + num_inner)
    if given != shape and not (num_inner and given == of_levels):
        other = f" or one for each of its {of_levels[-1]} levels, shape {of_levels}" if num_inner else ""
        raise InputError(f"segment_ids must have one id for each token, shape {shape}{other}, got {given}")
    if segment_ids.is_floating_point() or segment_ids.dtype == torch.bool:
        raise InputError(f"segment_ids must be integers, got {segment_ids.dtype}")
    return segment_ids.to(inputs_embeds.device)


def _checked_mask(
    attention_mask: torch.Tensor | None, past_length: int | torch.Tensor, inputs_embeds: torch.Tensor
) -> torch.Tensor | None:
    """The mask without columns for tokens to come, which a caller may have ready; a 4-D one is left to the backend."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        return attention_mask
    batch_size, length = inputs_embeds.shape[:2]
    if attention_mask.shape[0] != batch_size:
        raise InputError(
            f"attention_mask must have a row for each of {batch_size} sequences, got {attention_mask.shape[0]}"
        )
    total_length = past_length + length
    if not isinstance(total_length, int):  # of a static cache, whose mask has a column for each place
        return attention_mask
    if attention_mask.shape[1] < total_length:
        raise InputError(
            f"attention_mask must cover all {total_length} tokens, the {past_length} cached ones included, got "
            f"{attention_mask.shape[1]}"
        )
    return attention_mask if attention_mask.shape[1] == total_length else attention_mask[:, :total_length]


def _is_token(
    attention_mask: torch.Tensor | None,
    past_length: int | torch.Tensor,
    length: int,
    segment_ids: torch.LongTensor | None,
) -> torch.Tensor | None:
    """Which of the new tokens are no padding, of shape `(batch, length)`; None where nothing says so."""
    is_token = None
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        columns = torch.arange(length, device=attention_mask.device) + past_length
        is_token = attention_mask.index_select(1, columns).bool()
    if segment_ids is not None:
        is_given = (segment_ids if segment_ids.ndim == 2 else segment_ids[..., 0]) >= 0
        is_token = is_given if is_token is None else is_token & is_given
    return is_token


def _starts_document(
    position_ids: torch.LongTensor | None,
    is_token: torch.Tensor | None,
    inputs_embeds: torch.Tensor,
    cache: Cache | None,
) -> torch.Tensor | None:
    """Where packed documents start, of shape `(batch, length)`; None where there is one document in each row."""
    batch_size, length = inputs_embeds.shape[:2]
    if position_ids is None or length == 1:
        return None
    if not is_tracing():  # which takes the numbers that it compares for fixed ones
        shape, given = (batch_size, length), tuple(position_ids.shape)
        if given not in (shape, (1, length), (length,)):
            raise InputError(f"position_ids must have the shape {shape} or {(1, length)}, got {given}")
    starts = document_starts(position_ids.to(inputs_embeds.device).expand(batch_size, -1), is_token)
    if is_tracing():  # no value may be read; without a cache the general mask is right in any case
        return starts if cache is None else None
    if not starts.any():
        return None
    if cache is not None:
        raise InputError(
            f"position_ids restart inside the sequence (packed documents) while {CACHE_NAME} is given: tokens would "
            "attend to the documents before theirs. Pass packed documents without a cache."
        )
    return starts


def _check_lengths(
    cu_seq_lens_q: torch.Tensor,
    position_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    inputs_embeds: torch.Tensor,
) -> None:
    """Raises `ValueError` where documents start elsewhere by lengths than by `position_ids`, by which attention goes.

    No traced graph can. Where tokens are padding, stock models do not read the lengths either.
    """
    if is_tracing():
        return
    if attention_mask is not None:
        is_plain = isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2
        if not is_plain or not attention_mask.all():
            return
    starts = _starts_document(position_ids, None, inputs_embeds, None)
    if starts is None:
        starts = torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
    starts[:, 0] = True
    by_positions = [*starts.flatten().nonzero()[:, 0].tolist(), starts.numel()]
    by_lengths = torch.as_tensor(cu_seq_lens_q).flatten().unique_consecutive().tolist()  # but for empty documents
    if by_lengths != by_positions:
        raise InputError(
            f"cu_seq_lens_q is {_few(by_lengths)}, but by position_ids it is {_few(by_positions)}: let position_ids"
            " restart where a document starts, and only there"
        )


def _few(numbers: list[int]) -> str:
    """The first of them, for a message."""
    return f"[{', '.join(map(str, numbers[:8]))}{', ...' if len(numbers) > 8 else ''}]"


def _resumes_document(is_token: torch.Tensor, starts_document: torch.Tensor) -> torch.Tensor:
    """Tokens after padding that go on with a document."""
    follows_padding = torch.zeros_like(is_token)
    follows_padding[:, 1:] = is_token[:, 1:] & ~is_token[:, :-1]
    return follows_padding & ~starts_document & (is_token.cumsum(dim=1) > 1)
