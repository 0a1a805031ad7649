"""Continuous batching of transformers (`generate_batch`, its server) with the segments of every request.

A forward of it is a flat batch: pieces of several requests one behind the other, and nothing in it says what stood
before a piece. The host knows: it has all tokens of a request but the one that the step before this one has yet to
give, and that one is never before a piece. So the host finds the [`SegmentState`] in front of each piece and hands it
to the model in more rows of the arguments of logits processors, which reach a forward. [`paged_segments`] reads them.
"""

from collections.abc import Sequence
from copy import copy, deepcopy

import torch
from transformers import PreTrainedConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
from transformers.generation.continuous_batching.utils import find_head_dim

from .paged_bipe import head_columns
from .segmentation_bipe import Segmenter, SegmentState, initial_state


class BipeBatchingManager(ContinuousBatchingManager):
    """The manager of a BiPE model: every request brings its segments, and pages are as wide as its keys.

    Args:
        manager ([`~transformers.ContinuousBatchingManager`]): as transformers made it, not started yet.
    """

    def __init__(self, manager: ContinuousBatchingManager):
        vars(self).update(vars(manager))
        self.logit_processor = SegmentArguments(manager.logit_processor, Segmenter(self.model.config))

    def _generation_loop_body(self, batch_processor: ContinuousBatchProcessor, bootstrapping: bool) -> bool:
        # Requests that lose their keys keep new ones out until an active one ends. transformers forgets that an active
        # one may be cancelled, and would then wait for ever.
        if not batch_processor.scheduler.active_requests:
            batch_processor.scheduler.block_new_requests = False
        return super()._generation_loop_body(batch_processor, bootstrapping)

    def _create_batch_processor(self) -> ContinuousBatchProcessor:
        model = self.model
        self.model = copy(model)  # the same modules, seen with another configuration
        self.model.config = _config_of_pages(model.config, model.dtype)
        try:
            return super()._create_batch_processor()
        finally:
            self.model = model


class SegmentArguments(ContinuousBatchingLogitsProcessorList):
    """The arguments of logits processors, and behind them one row for each column of a [`SegmentState`].

    Args:
        processors (`ContinuousBatchingLogitsProcessorList`): as transformers made them.
        segmenter ([`Segmenter`]): on the host.
    """

    def __init__(self, processors: ContinuousBatchingLogitsProcessorList, segmenter: Segmenter):
        vars(self).update(vars(processors))
        self.segmenter = segmenter
        before_any = initial_state(1, num_inner_levels=len(segmenter.inner_separator_token_ids))
        self.before_any = [int(column) for column in before_any.columns()]
        self.tensors_required += len(self.before_any)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        super().fill_defaults(int32_tensor)
        int32_tensor[-len(self.before_any) :] = int32_tensor.new_tensor(self.before_any)[:, None]

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        super().prepare_tensor_args(requests_in_batch, arg_storage)
        columns = torch.tensor(self._states_before(requests_in_batch), dtype=arg_storage.dtype).T
        arg_storage[-len(self.before_any) :, : len(requests_in_batch)] = columns.to(arg_storage.device)
        return arg_storage

    def _states_before(self, requests: Sequence[FutureRequestState]) -> list[list[int]]:
        """The columns of the state in front of the piece of each request.

        What was found for the last piece stays on the request, so that a copy of it goes on from there, and one that
        starts again, without it, from its first token.
        """
        states, missing = [], {}
        # an offset already counts the tokens of the piece
        before_pieces = [request.state.position_offset - request.query_length for request in requests]
        for at, (request, num_past) in enumerate(zip(requests, before_pieces, strict=True)):
            num_known, known = vars(request.state).get("segments_before", (0, self.before_any))
            if num_known > num_past:  # its last token was taken back
                num_known, known = 0, self.before_any
            if num_known < num_past:
                missing[at] = _tokens(request.state, num_known, num_past)
            states.append(known)
        if missing:
            found = self._states_after(list(missing.values()), [states[at] for at in missing])
            for at, state in zip(missing, found, strict=True):
                states[at] = state
        for request, num_past, state in zip(requests, before_pieces, states, strict=True):
            request.state.segments_before = (num_past, state)
        return states

    def _states_after(self, pieces: list[list[int]], before: list[list[int]]) -> list[list[int]]:
        """The columns of the state after each of these pieces of text, from those before."""
        lengths = torch.tensor([len(piece) for piece in pieces])
        ids = torch.tensor([[token for piece in pieces for token in piece]])
        stops = lengths.cumsum(0)
        starts = torch.zeros_like(ids, dtype=torch.bool)
        starts[0, stops - lengths] = True
        past = torch.tensor(before).repeat_interleave(lengths, dim=0)
        segments = self.segmenter.flat(ids, starts, SegmentState.from_columns(past[None].unbind(-1)))
        return torch.stack(segments.state.columns(), dim=-1)[0, stops - 1].tolist()


def _tokens(state: RequestState, start: int, stop: int) -> list[int]:
    """Tokens of a request, by their index in prompt and answer."""
    num_initial = len(state.initial_tokens)
    answer = state.generated_tokens[max(start - num_initial, 0) : max(stop - num_initial, 0)]
    tokens = state.initial_tokens[start:stop] + answer
    if len(tokens) != stop - start:
        raise RuntimeError(f"request {state.request_id} goes on behind tokens that the host does not know yet")
    return tokens


def _config_of_pages(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedConfig:
    """A copy whose `head_dim` is that of the keys, columns included."""
    head_dim = find_head_dim(config)
    config = deepcopy(config)
    config.head_dim = head_dim + head_columns(config, head_dim, dtype)
    return config
