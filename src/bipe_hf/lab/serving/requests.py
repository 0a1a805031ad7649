"""What a request may ask for: transformers' handlers, which answer a malformed one with an internal error and do not
do all that they take, behind checks that say what is wrong."""

from typing import Any

from fastapi import Response
from jinja2 import TemplateError
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import BaseHandler, Modality

from .fields import LENGTHS, check_fields, refuse


TEMPLATE_ARGUMENTS = {
    *("conversation", "tools", "add_generation_prompt", "return_tensors", "return_dict", "tokenize"),
    "load_audio_from_video",
}
"""What transformers' handler passes with a chat template itself."""


class Checks(BaseHandler):
    """What the handlers of texts and of chats have in common.

    It comes before one of transformers.
    """

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Response:
        """As transformers does, but a field that is null is one that is left out.

        Args:
            body: what the client sent.
            request_id: what the answer is called.
        """
        return await super().handle_request(_without_nulls(body), request_id)

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        check_fields(body, self.model_manager.model.config.vocab_size)

    def _build_generation_config(
        self, body: dict[str, Any], model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        """As transformers does; a temperature and a top_p below 1 draw, and where no length is given, none is set.

        A seed is refused where other requests draw from the same numbers.
        """
        if use_cb and model_generation_config.do_sample and "seed" in body:
            refuse("seed: with continuous batching all answers draw from the same numbers: leave it out")
        config = super()._build_generation_config(body, model_generation_config, use_cb=use_cb)
        if "temperature" in body:
            config.do_sample = body["temperature"] > 0
        elif body.get("top_p", 1) < 1:
            config.do_sample = True
        if not any(name in body for name in LENGTHS):
            config.max_new_tokens = None
        return config


class Chats(Checks, ChatCompletionHandler):
    """The handler of `/v1/chat/completions`."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Response:
        """As transformers does, but what is null in the request or in a message is left out."""
        messages = body.get("messages")
        if isinstance(messages, list):
            body = body | {"messages": [_without_nulls(each) if isinstance(each, dict) else each for each in messages]}
        return await super().handle_request(body, request_id)

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        if self.model_manager.tokenizer.chat_template is None:
            refuse("the tokenizer of this model has no chat template: use /v1/completions")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            refuse("messages: a list of at least one message is needed")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                refuse("messages: each must be an object with a role")
            content = message.get("content", "")
            parts = content if isinstance(content, list) else []
            is_text = isinstance(content, str | list)
            if not is_text or not all(isinstance(part, dict) and _is_text(part) for part in parts):
                refuse("messages: content must be text, or a list of parts with a type and a text")
        self._check_template(body)

    def _check_template(self, body: dict[str, Any]) -> None:
        """Refuses what cannot be laid out as a chat, before anything of an answer is begun."""
        arguments = body.get("chat_template_kwargs", {})
        taken = sorted(TEMPLATE_ARGUMENTS & arguments.keys())
        if taken:
            refuse(f"chat_template_kwargs: {', '.join(taken)}: the server sets it itself")
        try:
            messages = self.get_processor_inputs_from_messages(body["messages"], Modality.LLM)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            refuse(f"messages: tool_calls must be a list of functions with a name and arguments ({error!r})")
        try:
            self.model_manager.tokenizer.apply_chat_template(
                messages, tools=body.get("tools"), add_generation_prompt=True, tokenize=False, **arguments
            )
        except (TemplateError, AttributeError, KeyError, TypeError, ValueError) as error:
            refuse(f"messages: the chat template refuses them ({error})")


class Texts(Checks, CompletionHandler):
    """The handler of `/v1/completions`."""

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        if not isinstance(body.get("prompt"), str) or not body["prompt"]:
            refuse("prompt: a text of at least one character is needed")
        if "logit_bias" in body:
            refuse("logit_bias: taken by /v1/chat/completions alone")


class NotServed:
    """Stands where transformers' server has handlers of other kinds of requests."""

    async def handle_request(self, *args) -> Response:
        """The answer to any request: status 404."""
        refuse("this server answers /v1/chat/completions and /v1/completions", status=404)


def _without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    """A field that is null is one that is left out."""
    return {name: value for name, value in given.items() if value is not None}


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("type"), str) and isinstance(part.get("text"), str)
