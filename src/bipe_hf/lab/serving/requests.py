"""What a request may ask for: transformers' handlers, which answer a malformed one with an internal error, behind
checks that say what is wrong."""

from typing import Any, NoReturn

from fastapi import HTTPException, Response
from jinja2 import TemplateError
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import BaseHandler


LENGTHS = ("max_completion_tokens", "max_tokens")
# Of what is not checked by its value.
TYPES = {
    "model": str,
    "stream": bool,
    "seed": int,
    "stop": str | list,
    "suffix": str,
    "tools": list,
    "logit_bias": dict,
    "frequency_penalty": int | float,
    "chat_template_kwargs": dict,
}


def refuse(message: str, status: int = 400) -> NoReturn:
    """Answers the request that is being handled with an error.

    Args:
        message: one line.
        status: of HTTP.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(status_code=status, detail=message)


class Checks(BaseHandler):
    """What the handlers of texts and of chats have in common.

    It comes before one of transformers.
    """

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        if body.get("generation_config") is not None:
            refuse("generation_config: not taken here, set temperature, top_p, max_tokens and so on")
        for name, kind in TYPES.items():
            if body.get(name) is not None and not isinstance(body[name], kind):
                refuse(f"{name}: {body[name]!r} has the wrong type")
        for name in LENGTHS:
            if body.get(name) is not None and (type(body[name]) is not int or body[name] < 1):
                refuse(f"{name}: must be a whole number of at least 1, got {body[name]!r}")
        for name, low, high in (("temperature", 0.0, 2.0), ("top_p", 0.0, 1.0)):
            value = body.get(name)
            if value is not None and (type(value) not in (int, float) or not low <= value <= high):
                refuse(f"{name}: must be a number from {low:g} to {high:g}, got {value!r}")

    def _build_generation_config(
        self, body: dict[str, Any], model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        """As transformers does; a temperature draws, and where no length is given, none is set."""
        config = super()._build_generation_config(body, model_generation_config, use_cb=use_cb)
        if body.get("temperature") is not None:
            config.do_sample = body["temperature"] > 0
        if all(body.get(name) is None for name in LENGTHS):
            config.max_new_tokens = None
        return config


class Chats(Checks, ChatCompletionHandler):
    """The handler of `/v1/chat/completions`."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Response:
        try:
            return await super().handle_request(body, request_id)
        except TemplateError as error:
            refuse(f"messages: the chat template refuses them ({error})")

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
            content = message.get("content")
            parts = content if isinstance(content, list) else []
            is_text = content is None or isinstance(content, str | list)
            if not is_text or not all(isinstance(part, dict) and _is_text(part) for part in parts):
                refuse("messages: content must be text, or a list of parts with a type and a text")


class Texts(Checks, CompletionHandler):
    """The handler of `/v1/completions`."""

    def _validate_request(self, body: dict[str, Any]) -> None:
        super()._validate_request(body)
        if not isinstance(body.get("prompt"), str) or not body["prompt"]:
            refuse("prompt: a text of at least one character is needed")


class NotServed:
    """Stands where transformers' server has handlers of other kinds of requests."""

    async def handle_request(self, *args) -> Response:
        """The answer to any request: status 404."""
        refuse("this server answers /v1/chat/completions and /v1/completions", status=404)


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("type"), str) and isinstance(part.get("text"), str)
