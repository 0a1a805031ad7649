"""`bipe-hf env`: what a bug report needs to say about the machine and what is installed."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version


NAME = "env"
HELP = "show versions, devices and folders, for a bug report"
DESCRIPTION = """\
Show what a bug report needs: versions of this package, Python and the libraries, the devices that torch sees, the
attention backends that run here, and the folder of what comes from the Hub. No model is loaded.

  bipe-hf env
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`: there are none."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(arguments: argparse.Namespace) -> None:
    """Prints one line for each fact."""
    facts = environment()
    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))


def environment() -> dict[str, str]:
    """What there is here, by what it is called."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    versions, missing = _versions()
    return {
        "bipe-hf": version("bipe-hf"),
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "processors": f"{os.cpu_count()}, {torch.get_num_threads()} threads of torch",
        "devices": ", ".join(_devices()),
        "CUDA of torch": torch.version.cuda or "none",
        "attention": ", ".join(_attention_backends()),
        "cache folder": HF_HUB_CACHE,
        **versions,
        "not installed": ", ".join(missing) or "nothing",
    }


def _versions() -> tuple[dict[str, str], list[str]]:
    """Of every library that this package needs or offers an extra for; and which of them are missing."""
    from packaging.requirements import Requirement

    required = {Requirement(line).name for line in requires("bipe-hf") if 'extra == "dev"' not in line}
    versions, missing = {}, []
    for name in sorted(required - {"bipe-hf"}, key=str.lower):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    return versions, missing


def _devices() -> list[str]:
    """The processor and every accelerator, by name where torch knows it."""
    import torch

    if torch.cuda.is_available():
        return ["cpu", *(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))]
    if torch.accelerator.is_available():
        return ["cpu", f"{torch.accelerator.device_count()} x {torch.accelerator.current_accelerator().type}"]
    return ["cpu"]


def _attention_backends() -> list[str]:
    """Those that the models of this package support and this machine can run."""
    from transformers.utils import is_flash_attn_2_available, is_torch_flex_attn_available

    optional = {"flex_attention": is_torch_flex_attn_available(), "flash_attention_2": is_flash_attn_2_available()}
    return ["eager", "sdpa", *(name for name, available in optional.items() if available)]
