"""A chat with a model, whose cache goes on from turn to turn."""

from itertools import takewhile
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from ...model.compatibility_bipe import CACHE_NAME
from .generation import chat_prompt


class Chat:
    """What was said so far, and the keys of it.

    Args:
        model: with `generate`.
        tokenizer: with a chat template.
        kwargs: of `generate`, for every answer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **kwargs: Any):
        self.model, self.tokenizer, self.kwargs = model, tokenizer, kwargs
        self.turns: list[dict[str, str]] = []
        self.cached_ids: list[int] = []
        self.cache = DynamicCache(config=model.config)

    @torch.inference_mode()
    def answer(self, text: str) -> str:
        """The answer to what the user says, printed as it is written.

        Ctrl-C ends the answer, which stays as far as it came.

        Raises:
            InputError: the template refuses the turn; the chat is as it was before.
        """
        asked = [*self.turns, {"role": "user", "content": text}]
        ids = chat_prompt(self.tokenizer, asked, "say something else")["input_ids"].to(self.model.device)
        self._keep_beginning(ids[0].tolist())
        streamer = Written(self.tokenizer)
        try:
            written = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                streamer=streamer,
                **{CACHE_NAME: self.cache, **self.kwargs},
            )
            self.cached_ids = written[0, : self.cache.get_seq_length()].tolist()
        except KeyboardInterrupt:
            streamer.end()
            self._forget()  # some layers may have a token more than others
        said = self.tokenizer.decode(streamer.ids, skip_special_tokens=True)
        self.turns = [*asked, {"role": "assistant", "content": said}]
        return said

    def _keep_beginning(self, ids: list[int]) -> None:
        """Takes from the cache what the next turn does not begin with; the last of its tokens is always read."""
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(self.cached_ids, ids[:-1], strict=False))
        surplus = len(self.cached_ids) - sum(1 for _ in alike)
        if surplus and not self.cache.is_croppable:
            self._forget()
        elif surplus:
            self.cache.crop(-surplus)

    def _forget(self) -> None:
        self.cached_ids, self.cache = [], DynamicCache(config=self.model.config)


class Written(TextStreamer):
    """Prints an answer without the prompt, and keeps its token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.ids: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.ids += value.flatten().tolist()
        super().put(value)
