"""How a server writes answers: one after the other, or all at once with continuous batching."""

import asyncio
import json
from collections.abc import Callable
from itertools import count
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cli.serving.utils import (
    BaseGenerateManager,
    CBGenerateManager,
    CBStreamer,
    CBWorkerDeadError,
    DirectStreamer,
    GenerateManager,
    GenerationState,
    _StreamError,
)
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.continuous_batching.utils import drain_queue

from .fields import refuse


DEFAULT_NEW_TOKENS = 1024
"""Of a request that says no length, as transformers has it."""
# What continuous batching does for all requests alike: the field, what it is where nothing is said, and what of a
# request sets it.
SHARED = (
    ("do_sample", False, "temperature, top_p"),
    ("repetition_penalty", 1.0, "frequency_penalty"),
    ("sequence_bias", None, "logit_bias"),
    ("stop_strings", None, "stop"),
)
SHARED_BY_DRAWS = (("temperature", 1.0, "temperature"), ("top_p", 1.0, "top_p"))


class Answers(GenerationState):
    """What writes the answers of a server: one manager for all requests.

    Args:
        manager: of this module.
        is_batched: whether it is [`Together`].
    """

    def __init__(self, manager: BaseGenerateManager, is_batched: bool):
        super().__init__(continuous_batching=is_batched)
        self.manager = manager

    def get_manager(self, model_id: str, use_cb: bool = False) -> BaseGenerateManager:
        return self.manager

    def is_cb_alive(self) -> bool:
        return not isinstance(self.manager, Together) or self.manager.is_alive()

    def shutdown(self) -> None:
        self.manager.stop()


class OneByOne(GenerateManager):
    """Requests wait for each other; each is what `generate` writes."""

    def generate_streaming(
        self, model, processor, inputs: dict[str, Any], gen_config: GenerationConfig, *args, **kwargs
    ) -> tuple[asyncio.Queue, DirectStreamer]:
        inputs = self._checked(inputs, gen_config)
        queue, streamer = super().generate_streaming(model, processor, inputs, gen_config, *args, **kwargs)
        return Pieces(queue), streamer

    async def generate_non_streaming(
        self, model, processor, inputs: dict[str, Any], gen_config: GenerationConfig, *args, **kwargs
    ) -> tuple[str, int, Any]:
        inputs = self._checked(inputs, gen_config)
        return await super().generate_non_streaming(model, processor, inputs, gen_config, *args, **kwargs)

    @staticmethod
    def _checked(inputs: dict[str, Any], gen_config: GenerationConfig) -> dict[str, Any]:
        """What every causal model takes."""
        if inputs["input_ids"].shape[1] == 0:
            refuse("the prompt has no token")
        if gen_config.max_new_tokens is None:
            gen_config.max_new_tokens = DEFAULT_NEW_TOKENS
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}


class Pieces:
    """The queue of an answer that is read as it is written, whose errors can stand in JSON.

    Args:
        queue: what the model writes.
    """

    def __init__(self, queue: asyncio.Queue):
        self.queue = queue

    async def get(self) -> Any:
        """The next piece, once it is there."""
        return _in_json(await self.queue.get())

    def get_nowait(self) -> Any:
        """The next piece.

        Raises:
            asyncio.QueueEmpty: it is not there yet.
        """
        return _in_json(self.queue.get_nowait())


def _in_json(piece: Any) -> Any:
    """transformers puts the message of an error between quotes as it is."""
    return _StreamError(json.dumps(piece.msg)[1:-1]) if isinstance(piece, _StreamError) else piece


class Together(CBGenerateManager):
    """All requests at once, in one batch that they join and leave.

    Args:
        model: of a family that has continuous batching.
        config: of continuous batching.

    Raises:
        ValueError: for a BiPE model whose attention no paged cache holds.
    """

    def __init__(self, model: PreTrainedModel, config: ContinuousBatchingConfig):
        super().__init__(config)
        self.shared = model.generation_config
        self._cb = model.init_continuous_batching(self.shared, config)
        self._cb.warmup()  # makes the cache
        self.max_tokens = infer_max_single_request_tokens(self._cb.batch_processor.cache)
        self._cb.start()
        self._numbers = count()

    def generate_streaming(
        self,
        model: PreTrainedModel,
        processor: PreTrainedTokenizerBase,
        inputs: dict[str, Any],
        gen_config: GenerationConfig,
        request_id: str,
        response_parser: Any = None,
    ) -> tuple[Pieces, CBStreamer]:
        """As transformers does, but it knows who waits for an answer before the answer may come."""
        request_id = self._accepted(inputs["input_ids"], gen_config, request_id)
        queue = asyncio.Queue()
        loop = asyncio.get_running_loop()
        streamer = Stream(self._cb, request_id, processor._tokenizer, loop, queue, response_parser)

        def deliver(output: GenerationOutput) -> None:
            streamer.put(output)
            if output.error is not None:
                queue.put_nowait(_StreamError(output.error))
            if output.is_finished():
                streamer.end()

        self._add(inputs["input_ids"], gen_config, request_id, deliver, streaming=True)
        return Pieces(queue), streamer

    async def generate_non_streaming(
        self,
        model: PreTrainedModel,
        processor: PreTrainedTokenizerBase,
        inputs: dict[str, Any],
        gen_config: GenerationConfig,
        request_id: str,
    ) -> tuple[str, int, list[int]]:
        request_id = self._accepted(inputs["input_ids"], gen_config, request_id)
        answer = asyncio.get_running_loop().create_future()

        def deliver(output: GenerationOutput) -> None:
            if not answer.done():
                answer.set_result(output)

        self._add(inputs["input_ids"], gen_config, request_id, deliver, streaming=False)
        output = await answer
        if output.error is not None:
            self._check_alive(request_id)  # otherwise the server answers with its message
            refuse(output.error, status=500)
        written = output.generated_tokens
        return processor.decode(written, skip_special_tokens=True), len(inputs["input_ids"]), written

    def _add(
        self,
        input_ids: list[int],
        gen_config: GenerationConfig,
        request_id: str,
        deliver: Callable[[GenerationOutput], None],
        streaming: bool,
    ) -> None:
        """Gives the batch a request; `deliver` gets what is written, in the loop of events."""
        self._cb.register_result_handler(request_id, deliver)
        added = self._cb.add_request(
            input_ids,
            request_id=request_id,
            streaming=streaming,
            max_new_tokens=gen_config.max_new_tokens,
            eos_token_id=gen_config.eos_token_id,
        )
        if added is None:  # it takes no more, and nothing would ever come
            forget(self._cb, request_id)
            raise CBWorkerDeadError(f"the batch ends and takes no further request: {request_id}")

    def _accepted(self, input_ids: list[int], gen_config: GenerationConfig, request_id: str) -> str:
        """Refuses what the batch cannot do, which would end it for all; sets the length where none was given.

        Returns:
            The id of the request in the batch: clients may give the same to several, or give one again.
        """
        self._check_alive(request_id)
        num_prompt = len(input_ids)
        if num_prompt == 0:
            refuse("the prompt has no token")
        if num_prompt >= self.max_tokens:
            refuse(f"the prompt has {num_prompt} tokens, but with its answer a request can have {self.max_tokens}")
        if gen_config.max_new_tokens is None:
            gen_config.max_new_tokens = min(DEFAULT_NEW_TOKENS, self.max_tokens - num_prompt)
        if num_prompt + gen_config.max_new_tokens > self.max_tokens:
            refuse(
                f"the prompt has {num_prompt} tokens and the answer may have {gen_config.max_new_tokens}, but together"
                f" a request can have {self.max_tokens}"
            )
        for name, default, asked_by in (*SHARED, *(SHARED_BY_DRAWS if self.shared.do_sample else ())):
            asked, shared = (getattr(config, name) for config in (gen_config, self.shared))
            shared = default if shared is None else shared
            if (default if asked is None else asked) != shared:
                refuse(
                    f"{asked_by}: with continuous batching all answers are written as the generation config of the"
                    f" model says ({name}={shared}): leave it out, or start the server without continuous batching"
                )
        drain_queue(self._cb.output_router.output_queue)  # what came for those who have left
        return f"{request_id}#{next(self._numbers)}"

    def stop(self) -> None:
        self._cb.stop(timeout=5, hard_stop=True)


class Stream(CBStreamer):
    """An answer that somebody reads as it is written."""

    def cancel(self) -> None:
        """As transformers does, and forgets who waited, since a cancelled request has no end that would."""
        super().cancel()
        forget(self._cb, self._request_id)


def forget(batch: ContinuousBatchingManager, request_id: str) -> None:
    """Drops who waited for the answer to a request.

    Args:
        batch: that it was, or would have been, in.
        request_id: in this batch.
    """
    with batch.output_router._lock:
        batch.output_router.result_handlers.pop(request_id, None)
