"""Which values the fields of a request may have."""

from collections.abc import Mapping
from typing import Any, NoReturn

from fastapi import HTTPException


LENGTHS = ("max_completion_tokens", "max_tokens")
TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "stream": (bool,),
    "seed": (int,),
    "stop": (str, list),
    "suffix": (str,),
    "tools": (list,),
    "logit_bias": (dict,),
    "chat_template_kwargs": (dict,),
}
"""Of fields whose values are not numbers in a range, or are looked at besides."""
RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-0.99, 2.0),  # 1 is added, which makes a factor
}
# Fields that transformers' handlers pass over, and which of their values ask for what is done anyway.
PASSED_OVER: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],),
    "audio": (),
    "functions": (),
    "function_call": (),
    "reasoning_effort": (),
    "web_search_options": (),
    "generation_config": (),
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


def check_fields(body: Mapping[str, Any], vocab_size: int) -> None:
    """Refuses what the server cannot take, and what it would not do.

    Args:
        body: of the request, without fields that are null.
        vocab_size: tokens of the model.

    Raises:
        HTTPException: the first that is wrong.
    """
    for name, accepted in PASSED_OVER.items():
        if name in body and not any(_is_same(body[name], each) for each in accepted):
            only = f", only {accepted[0]!r}" if accepted else ""
            refuse(f"{name}: {body[name]!r} is not taken here{only}: leave it out")
    for name, kinds in TYPES.items():
        if name in body and type(body[name]) not in kinds:
            refuse(f"{name}: {body[name]!r} has the wrong type")
    for name in LENGTHS:
        if name in body and (type(body[name]) is not int or body[name] < 1):
            refuse(f"{name}: must be a whole number of at least 1, got {body[name]!r}")
    for name, (low, high) in RANGES.items():
        if name in body and (type(body[name]) not in (int, float) or not low <= body[name] <= high):
            refuse(f"{name}: must be a number from {low:g} to {high:g}, got {body[name]!r}")
    if not -(2**63) <= body.get("seed", 0) < 2**64:
        refuse(f"seed: must have 64 bits, got {body['seed']}")
    stops = body.get("stop", "-")
    if not all(isinstance(stop, str) and stop for stop in ([stops] if isinstance(stops, str) else stops)):
        refuse(f"stop: must be a text or a list of texts, none of them empty, got {stops!r}")
    for token, bias in body.get("logit_bias", {}).items():
        if not token.isdecimal() or int(token) >= vocab_size or type(bias) not in (int, float):
            refuse(f"logit_bias: must give numbers to tokens from 0 to {vocab_size - 1}, got {token!r}: {bias!r}")
    if not all(isinstance(tool, dict) for tool in body.get("tools", [])):
        refuse(f"tools: each must be an object, got {body['tools']!r}")


def _is_same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other
