"""The segments of running requests, which decide where the tokens of a step stand."""

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState

from ...model.segmentation_bipe import Segmenter, SegmentInputs, SegmentState, initial_state


def ring_width(num_speculative_tokens: int) -> int:
    """How many tokens back a slot knows its states.

    The next step of a request starts behind any token of the last one: drafts may be rejected. The double of it and
    one more leave room for a step that was prepared before the last one was judged.
    """
    return 2 + 2 * num_speculative_tokens


class BipeModelState(DefaultModelState):
    """The state after the last tokens of every request, and the positions of the tokens of a step.

    vLLM keeps each running request in a slot. A slot has a ring of states here, the state after token t in column
    `t % width`, so memory does not grow with the context. A step reads the state before each of its pieces, finds the
    segments of all its tokens and writes the states after the last of them. All of it happens on the device, in the
    order of the steps; nothing is read on the host.
    """

    supports_prompt_embeds = False

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: EncoderCache | None, device: torch.device
    ):
        super().__init__(vllm_config, model, encoder_cache, device)
        config = self.model_config.hf_config
        self.segmenter = Segmenter(config).to(device)
        self.host_segmenter = Segmenter(config)
        self.before = _stacked(initial_state(1, device, len(config.inner_separator_token_ids)))[0]
        num_columns = len(self.before)
        self.width = ring_width(vllm_config.num_speculative_tokens)
        self.nobody = self.max_num_reqs  # a slot more, for what nobody will read
        self.ring = torch.zeros(self.max_num_reqs + 1, self.width, num_columns, dtype=torch.long, device=device)
        # One place for as long as the model runs: a captured graph reads it there. It is a column wider than any step,
        # since a model that was compiled with all of it would take its stride for the number of tokens of every step.
        self.positions = torch.zeros(num_columns, self.max_num_tokens + 1, dtype=torch.long, device=device)

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """Gives a request a slot: a new one, with a part of its prompt in the cache, or one that was preempted."""
        super().add_request(req_index, new_req_data)
        num_computed = new_req_data.num_computed_tokens
        if num_computed == 0:
            return
        computed = torch.tensor([new_req_data.prefill_token_ids[:num_computed]])
        state = self.host_segmenter(SegmentInputs(computed)).state.last()
        self.ring[req_index, (num_computed - 1) % self.width] = _stacked(state)[0].to(self.device)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """Finds the positions of all tokens of a step: they stand in for the token positions of vLLM.

        Returns:
            Under `positions` a `torch.LongTensor` of shape `(columns, tokens)`: the state after each token, from which
            its positions follow (see [`SegmentState.segments`]).
        """
        num_tokens, num_requests = input_batch.num_tokens, input_batch.num_reqs
        index = torch.arange(num_tokens, device=self.device)
        tokens = input_batch.positions[:num_tokens]
        bounds = input_batch.query_start_loc[: num_requests + 1].long()
        starts_piece = torch.zeros(num_tokens, dtype=torch.bool, device=self.device)
        starts_piece[bounds[:-1]] = True
        request = starts_piece.cumsum(0) - 1
        slots = input_batch.idx_mapping[:num_requests].long()[request]

        past = self.ring[slots, (tokens - 1) % self.width]
        past = torch.where((tokens == 0)[:, None], self.before, past)
        past = SegmentState.from_columns(past.T[:, None].unbind(0))
        ids = input_batch.input_ids[:num_tokens].long()
        states = _stacked(self.segmenter.flat(ids[None], starts_piece[None], past).state)

        # Of two tokens that share a column the later one counts, and those of a dummy step count nowhere.
        is_kept = (index >= bounds[1:][request] - self.width) & ~input_batch.is_padding[:num_tokens]
        self.ring[torch.where(is_kept, slots, self.nobody), tokens % self.width] = states
        self.positions[:, :num_tokens] = states.T
        return {"positions": self.positions[:, : input_batch.num_tokens_after_padding]}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Inputs with which vLLM captures a graph."""
        return {"positions": self.positions[:, :num_tokens]}


def _stacked(state: SegmentState) -> torch.Tensor:
    """The columns of a state whose entries have the shape `(1, length)`: `(length, columns)`."""
    return torch.stack(state.columns(), dim=-1)[0]
