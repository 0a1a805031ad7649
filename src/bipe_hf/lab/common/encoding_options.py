"""The fields of the positional encoding as options of a run or a command, made of what the configuration says of them:
a field that is added there is a key of YAML and a flag of `convert` without more."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field
from types import MappingProxyType
from typing import Any, get_args, get_origin

from ...model.configuration_bipe import TOKEN_IDS, own_fields
from ...model.encodings_bipe import ENCODING_NAMES, encoding_fields


def encoding_help(names: Sequence[str]) -> str:
    """What the option `encoding` is, where these names are accepted."""
    return (
        f"positional encoding by its name, which stands for several of the following ({', '.join(names)}); what is"
        " given of them besides wins"
    )


ENCODING_HELP = encoding_help(ENCODING_NAMES)


def encoding_options() -> dict[str, Field]:
    """The fields of the configuration that users set, by name.

    Those that are found in the tokenizer are not among them: for them options name the separators.
    """
    return {name: field for name, field in own_fields().items() if name not in TOKEN_IDS}


def option_type(field: Field) -> type:
    """The type of the option: the first that the field may have."""
    return field.type if get_origin(field.type) is list else (get_args(field.type) or (field.type,))[0]


def flag_type(field: Field) -> dict[str, Any]:
    """What a parser of flags needs to know of it: the type of a value, and whether there may be several."""
    of_option = option_type(field)
    if get_origin(of_option) is list:
        return {"type": get_args(of_option)[0], "nargs": "+"}
    return {"type": of_option}


def option_help(
    field: Field, accepted: Mapping[str, Sequence[str]] = MappingProxyType({}), default: str = "{}"
) -> str:
    """What a field is, the values that it may have, what reads it, and its default.

    Args:
        field: of the configuration.
        accepted: by the names of fields the values that they may have here; what is said of others is left out.
        default: how the default is put.
    """
    own, text = field.metadata["choices"], field.metadata["help"]
    choices = accepted.get(field.name, own)
    refused = "|".join(set(own or ()) - set(choices or ()))
    if refused:
        text = "; ".join(part for part in text.split("; ") if not re.search(rf"\b({refused})\b", part))
    readers = [
        f"{reader} {' or '.join(value for value in values if value in accepted.get(reader, values))}"
        for reader, values in field.metadata["read_by"].items()
    ]
    return (
        (f"{', '.join(readers)}: " if readers else "")
        + text
        + (f"; one of {', '.join(choices)}" if choices else "")
        + ("" if field.default is None else f" (default: {default.format(field.default)})")
    )


def option_fields() -> list[tuple[str, Any, Any]]:
    """The options as fields for `dataclasses.make_dataclass`; None leaves the default to the configuration."""
    named = ("encoding", str | None, dataclasses.field(default=None, metadata={"help": ENCODING_HELP}))
    return [named] + [
        (name, option_type(field) | None, dataclasses.field(default=None, metadata={"help": option_help(field)}))
        for name, field in encoding_options().items()
    ]


def spelt_out(encoding: str, train_length: int, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a positional encoding, with those that are given in place of its own.

    Args:
        encoding: its name.
        train_length: in tokens.
        given: fields by name.

    Raises:
        ValueError: there is no such encoding.
    """
    fields = encoding_fields(encoding, train_length, **given)
    return {name: value for name, value in fields.items() if name in own_fields()}
