"""Where and in what precision a model runs."""

import torch

from ...model.errors_bipe import InputError
from .messages import first_line


DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_device(device: str | None) -> torch.device:
    """The device of that name, or by default an accelerator where there is one.

    Raises `InputError` where it cannot be used.
    """
    if device is None:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA answers with an assertion
        raise InputError(f"device: {device!r} cannot be used here ({first_line(error)})") from error
    return torch.device(device)


def check_dtype(dtype: str) -> None:
    """Raises `InputError` for a name that is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")
