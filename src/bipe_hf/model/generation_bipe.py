"""`generate` with segments, for every BiPE language model."""

import torch
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.masking_utils import create_masks_for_generate

from .batching_bipe import BipeBatchingManager
from .cache_bipe import read_segment_history
from .compatibility_bipe import CACHE_NAME, takes_cache
from .edit_bipe import edit_cache
from .errors_bipe import InputError
from .paged_bipe import check_paged
from .segmentation_bipe import SegmentState, initial_state
from .sepllm_cache_bipe import SepLLMCache


class BipeGenerationMixin:
    """`generate` with segments.

    It comes before the causal language model of the family.
    """

    edit_cache = edit_cache

    @takes_cache
    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        segment_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> dict:
        """The inputs of one step, with `segment_ids` where the model cannot derive them from the others.

        Given ids cover the prompt: each step takes its own part of them, and tokens after the prompt go on from there.
        With a compiled cache `generate` turns the 2-D mask into a 4-D one, which no longer says what is padding, so
        the segments of a prompt are found before that.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, past + length)`): prompt and answer so far.
            next_sequence_length (`int`, *optional*): tokens of the step.
            cache ([`~transformers.Cache`], *optional*): as in [`BipeModelMixin.forward`].
            attention_mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`, *optional*): of the prompt.
            is_first_iteration (`bool`, *optional*): whether the step is the prompt.
            segment_ids (`torch.LongTensor` of shape `(batch, prompt)` or `(batch, prompt, levels)`, *optional*):
                Of the prompt.
            kwargs: as transformers takes them.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            **{CACHE_NAME: cache},
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        is_padded = attention_mask is not None and attention_mask.ndim == 2
        mask_is_hidden = is_padded and cache is not None and cache.is_compileable
        if mask_is_hidden:
            self.get_decoder().check_whole(attention_mask)
        if next_sequence_length == 1 and not is_first_iteration:
            return inputs  # a generated token: it lies behind the prompt and is never padding
        tokens = _tokens_of(inputs)
        length = tokens.shape[1]
        if segment_ids is not None:
            past_length = 0 if cache is None else int(cache.get_seq_length())
            segment_ids = segment_ids[:, past_length : past_length + length].to(tokens.device)
            if segment_ids.shape[1] == 0:  # the step lies behind the prompt
                segment_ids = None
        if segment_ids is not None or mask_is_hidden:
            is_token = attention_mask[:, -length:].to(tokens.device).bool() if is_padded else None
            past = read_segment_history(cache)
            inputs["segment_ids"] = self._continue_segment_ids(inputs, segment_ids, is_token, past)
        return inputs

    def _continue_segment_ids(
        self,
        inputs: dict,
        segment_ids: torch.LongTensor | None,
        is_token: torch.Tensor | None,
        past: SegmentState | None,
    ) -> torch.LongTensor:
        """Segment ids of a step whose first columns may be given; the other columns are derived from there on."""
        ids, embeds, decoder = inputs["input_ids"], inputs.get("inputs_embeds"), self.get_decoder()
        parts = []
        num_given = 0 if segment_ids is None else segment_ids.shape[1]
        for columns in (slice(num_given), slice(num_given, _tokens_of(inputs).shape[1])):
            if columns.stop == (columns.start or 0):
                continue
            segments = decoder.segment(
                None if ids is None else ids[:, columns],
                None if embeds is None else embeds[:, columns],
                is_token=None if is_token is None else is_token[:, columns],
                segment_ids=segment_ids if columns.start is None else None,
                past=past,
            )
            past = segments.state.last()
            parts.append(segments.ids())
        return torch.cat(parts, dim=1)

    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, *args, **kwargs):
        """As [`~transformers.GenerationMixin.generate`]; `segment_ids` of the prompt are carried on behind it.

        Args:
            inputs (`torch.LongTensor` of shape `(batch, prompt)`, *optional*): token ids of the prompts.
            generation_config ([`~transformers.GenerationConfig`], *optional*): as in transformers.

        Raises:
            ValueError: if `segment_ids` or `attention_mask` do not cover the prompt, cached tokens included; if the
                model has no layer at which `assistant_early_exit` could leave it; or for
                `cache_implementation="paged"`, which takes padding for text.
        """
        if kwargs.get("cache_implementation") == "paged":
            raise InputError(
                "cache_implementation='paged' takes padding for text. Call generate_batch, with the token ids of each"
                " prompt"
            )
        if generation_config is None or not generation_config.is_assistant:  # whose prompt grows from call to call
            self._check_prompt(inputs, kwargs)
        num_layers = self.config.num_hidden_layers
        try:
            return super().generate(inputs, generation_config, *args, **kwargs)
        finally:
            self.config.num_hidden_layers = num_layers  # an early exit that is interrupted leaves another one

    def _check_prompt(self, inputs: torch.Tensor | None, kwargs: dict) -> None:
        """Cuts the columns for tokens to come from `attention_mask`; `ValueError` where lengths do not fit."""
        given = (kwargs.get(name) for name in ("inputs_embeds", "input_ids"))
        prompt = next((tensor for tensor in given if tensor is not None), inputs)
        mask, segment_ids, cache = (kwargs.get(name) for name in ("attention_mask", "segment_ids", CACHE_NAME))
        if prompt is None or prompt.ndim < 2:
            return
        length = prompt.shape[1]
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            if mask.shape[1] < length:
                raise InputError(
                    f"attention_mask must cover all {length} tokens of the prompt, the cached ones included, got "
                    f"{mask.shape[1]}"
                )
            if cache is not None:
                length = mask.shape[1]  # the prompt may be the new tokens alone
            elif mask.shape[1] > length:
                kwargs["attention_mask"] = mask[:, :length]
        if segment_ids is not None and segment_ids.shape[1] != length:
            raise InputError(
                f"segment_ids must cover all {length} tokens of the prompt, the cached ones included, "
                f"got {segment_ids.shape[1]}"
            )

    def _get_candidate_generator(
        self, generation_config: GenerationConfig, *args, model_kwargs: dict, **kwargs
    ) -> CandidateGenerator:
        """As transformers does; a model that drafts finds its own segments, or knows none."""
        if isinstance(model_kwargs.get(CACHE_NAME), SepLLMCache):
            raise InputError(
                "assisted decoding takes tokens back, which a SepLLMCache cannot: use a DynamicCache (docs/caches.md)"
            )
        early_exit = generation_config.assistant_early_exit
        if early_exit is None:
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "segment_ids"}
        elif not 1 <= early_exit <= self.config.num_hidden_layers:
            raise InputError(
                f"assistant_early_exit must lie between 1 and {self.config.num_hidden_layers}, the layers of the"
                f" model, got {early_exit}"
            )
        return super()._get_candidate_generator(generation_config, *args, model_kwargs=model_kwargs, **kwargs)

    def init_continuous_batching(self, *args, **kwargs) -> ContinuousBatchingManager:
        """As transformers does, with the segments of every request.

        Raises:
            ValueError: if the attention of the configuration is one that no paged cache holds (see [`check_paged`]),
                or leaves the range of the dtype of the model.
        """
        check_paged(self.config, "continuous batching (generate_batch)")
        self._encode_one_token()
        manager = super().init_continuous_batching(*args, **kwargs)
        return manager if isinstance(manager, BipeBatchingManager) else BipeBatchingManager(manager)

    @torch.no_grad()
    def _encode_one_token(self) -> None:
        """Lets the inter encoding refuse a dtype here, and not in a step in which many requests wait for it."""
        decoder = self.get_decoder()
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        before = initial_state(1, self.device, len(self.config.inner_separator_token_ids))
        segments = decoder.segmenter.flat(token, token == 0, before)
        states = torch.zeros(1, 1, self.config.hidden_size, dtype=self.dtype, device=self.device)
        decoder.inter_encoding(segments, states)

    def generate_batch(self, inputs: list[list[int]], *args, **kwargs) -> dict[str, GenerationOutput]:
        """As transformers does: the answers are those of [`generate`] to each prompt by itself.

        Raises:
            ValueError: if the attention of the configuration is one that no paged cache holds, or for an argument
                that says of prompts what their token ids do not.
        """
        for name in ("segment_ids", "inputs_embeds", "attention_mask", "position_ids"):
            if kwargs.get(name) is not None:
                raise InputError(
                    f"{name}: generate_batch takes token ids alone, a list for each prompt, without padding. Use"
                    " generate with a padded batch"
                )
        return super().generate_batch(inputs, *args, **kwargs)

    @staticmethod
    @takes_cache
    def create_masks_for_generate(
        config: PreTrainedConfig,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cache: Cache | None = None,
        **kwargs,
    ):
        """As transformers does; the mask of SepLLM is left to the forward, which sees where separators are.

        It gets the 2-D mask, with a column for each place of the cache, so that a compiled step finds one shape.

        Args:
            config: of the model.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden_size)`):
                Read for shape, dtype and device.
            attention_mask (`torch.LongTensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
            cache ([`~transformers.Cache`], *optional*): of fixed size where SepLLM's mask is wanted.
            kwargs: as transformers takes them.
        """
        if config.sepllm_neighbors is None:
            return create_masks_for_generate(config, inputs_embeds, attention_mask, cache, **kwargs)
        if attention_mask is None:
            return None
        return F.pad(attention_mask, (0, cache.get_max_length() - attention_mask.shape[1]))

    def _get_static_cache_init_shape(self) -> tuple | None:
        # Bias columns widen the keys, and angles of the layers the values: the cache takes its shape from the first.
        encoding = self.get_decoder().inter_encoding
        widens = encoding.has_columns or encoding.updates_class is not None
        return None if widens else super()._get_static_cache_init_shape()


def _tokens_of(inputs: dict) -> torch.Tensor:
    """The ids or embeddings of a step, whose first two dimensions are `(batch, length)`."""
    return inputs["input_ids"] if inputs["input_ids"] is not None else inputs["inputs_embeds"]
