"""What differs between the versions of transformers that this package supports."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields

from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg


NEW_CACHE_NAME, OLD_CACHE_NAME = "cache", "past_key_values"

CACHE_NAME = NEW_CACHE_NAME if NEW_CACHE_NAME in {f.name for f in fields(BaseModelOutputWithPast)} else OLD_CACHE_NAME
"""What arguments and outputs of the installed transformers call the cache: another name from 5.24 on."""


def takes_cache(function: Callable) -> Callable:
    """Gives the argument `cache` of `function` the name that the installed transformers has for it.

    Where that is `cache`, the old name is taken too, with the warning that transformers' own models give.

    Returns:
        The function with that name in its signature.
    """
    if CACHE_NAME == NEW_CACHE_NAME:
        return deprecate_kwarg(OLD_CACHE_NAME, version="5.40.0", new_name=NEW_CACHE_NAME)(function)

    @functools.wraps(function)
    def renamed(*args, **kwargs):
        if OLD_CACHE_NAME in kwargs:
            return function(*args, cache=kwargs.pop(OLD_CACHE_NAME), **kwargs)
        return function(*args, **kwargs)

    # Trainer, torch.export and generate read names from the signature.
    signature = inspect.signature(function)
    renamed.__signature__ = signature.replace(
        parameters=[p.replace(name=CACHE_NAME) if p.name == "cache" else p for p in signature.parameters.values()]
    )
    return renamed
