"""Tokens a second and peak memory beside the stock model, at the shape of the paper, in bfloat16."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from benchmarking.measurements import (
    DOCUMENTS,
    TOKENS_OF_DOCUMENT,
    NotMeasurableError,
    Work,
    compare_memory,
    compare_times,
    decoding_steps,
    forward_peak,
    packed_loss,
    prefill,
    rows_loss,
    times_in_turn,
    training_peak,
    training_step,
    warm_up,
)
from benchmarking.models import FAMILIES, SHAPES, Setting, build
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM

from .record import Machine, Row


LIMITS = {
    "training": {"bipe_rope": 1.02, "bipe_alibi": 1.08, "bipe_fox": 1.08},
    "prefill": {"bipe_rope": 1.02},
    "decoding": {"bipe_rope": 1.02, "bipe_alibi": 1.12, "bipe_fox": 1.12},
    "memory of training": {"bipe_rope": 1.02},
    "memory of a forward": {"bipe_rope": 1.02},
}
"""What a ratio to the stock model may be, in time and memory."""

PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 operations a second, by the first of these that the name of the device holds, as its maker says."""

FIRST_LENGTHS = (1024, 8192)
"""Which come before the slow checks."""

AGAINST = {"bipe_rope": "stock", "bipe_alibi": "stock", "bipe_fox": "stock"}


@dataclass(frozen=True)
class Size:
    lengths: tuple[int, ...]
    budget: float
    """Seconds for all rounds of a row."""


def size(machine: Machine) -> Size:
    return Size((32, 64), 0.0) if machine.is_dry else Size((1024, 4096, 8192, 16384, 32768), 15.0)


def setting(machine: Machine, family: str) -> Setting:
    if machine.is_dry:
        return Setting(family, "tiny", "cpu", "float32")
    return Setting(family, "paper", machine.device, "bfloat16")


def share_of_peak(machine: Machine, fields: dict[str, int], parameters: int, tokens_a_second: float, length: int):
    """What part of the chip's peak a training step uses, by the operations that it cannot do without.

    Six for each parameter and token, and those of causal attention (Chowdhery et al. 2022, arXiv 2204.02311, appendix
    B, halved).

    Args:
        parameters: of the model, without the table of word embeddings.
    """
    peak = next((peak for part, peak in PEAKS.items() if part in machine.environment["device"]), None)
    if peak is None:
        return None
    attention = 6 * fields["num_hidden_layers"] * fields["hidden_size"] * length
    return tokens_a_second * (6 * parameters + attention) / peak


@lru_cache(maxsize=1)
def models_of(own: Setting) -> dict[str, torch.nn.Module]:
    """The stock model and ours; to build them takes longer than to time them."""
    return {name: build(own, name) for name in ("stock", *AGAINST)}


def times(machine: Machine, family: str, length: int, kind: str, work: Callable[..., Work], tokens: int) -> dict:
    """The median ratio to the stock model and tokens a second of each."""
    own = setting(machine, family)
    models = models_of(own)
    works = {name: work(model, own, length) for name, model in models.items()}
    warm_up(works)
    records = compare_times(times_in_turn(works, machine.device, size(machine).budget), AGAINST)
    for name, record in records.items():
        record["tokens a second"] = tokens / record["seconds"]
        if kind == "training":
            embeddings = models[name].get_input_embeddings().weight.numel()
            parameters = sum(each.numel() for each in models[name].parameters()) - embeddings
            record["share of the chip's peak"] = share_of_peak(
                machine, own.fields, parameters, record["tokens a second"], length
            )
    return with_limits(machine, records, kind)


def memory(machine: Machine, family: str, length: int, kind: str, peak: Callable[..., int]) -> dict:
    """Peak bytes of each beyond its weights."""
    if machine.is_dry:
        raise NotMeasurableError("the peak of one process is that of all that it did before, on a CPU")
    own = setting(machine, family)
    peaks = {}
    for name in ("stock", *AGAINST):
        peaks[name] = peak(build(own, name), own, length)
        torch.cuda.empty_cache()
    return with_limits(machine, compare_memory(peaks, AGAINST), kind)


def with_limits(machine: Machine, records: dict[str, dict], kind: str) -> dict:
    """The record of a row; at the sizes of a dry run a ratio says nothing, so nothing can be over."""
    limits = {} if machine.is_dry else LIMITS[kind]
    over = {name: limit for name, limit in limits.items() if records[name]["ratio"] > limit}
    return {"models": records, "limits": limits, "ok": not over}


def packing(machine: Machine, encoding: str) -> dict:
    """A packed step of 16 documents beside the same documents in 16 rows; of stock Llama with flash-attn beside it."""
    own = setting(machine, "llama")
    if machine.is_dry:
        raise NotMeasurableError("16 documents of 1024 tokens take minutes on a CPU")
    length = DOCUMENTS * TOKENS_OF_DOCUMENT
    works = {
        "rows apart": training_step(build(own, encoding), own, length, rows_loss),
        "packed": training_step(build(own, encoding), own, length, packed_loss),
    }
    against = {"packed": "rows apart"}
    if is_flash_attn_2_available():
        stock = LlamaForCausalLM(LlamaConfig(**own.fields, attn_implementation="flash_attention_2"))
        stock = stock.to(machine.device, torch.bfloat16)
        works["stock, flash-attn"] = training_step(stock, own, length, packed_loss)
        against["stock, flash-attn"] = "packed"
    warm_up(works)
    records = compare_times(times_in_turn(works, machine.device, size(machine).budget), against)
    return {"models": records, "limits": {"packed": 1.02}, "ok": records["packed"]["ratio"] <= 1.02}


def fused_loss(machine: Machine) -> dict:
    """Peak memory of a step at a vocabulary of 128k with Liger, of stock Llama and of BiPE-RoPE."""
    if machine.is_dry or not is_liger_kernel_available():
        raise NotMeasurableError("liger-kernel is not installed, or there is no GPU for it")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    own, fields = setting(machine, "llama"), {**SHAPES["paper"], "vocab_size": 131072}
    peaks = {}
    for name, model_class, config in (
        ("stock", LlamaForCausalLM, LlamaConfig(**fields)),
        ("bipe_rope", BipeLlamaForCausalLM, BipeLlamaConfig(**fields, separator_token_ids=[1, 2, 3])),
    ):
        for kernels in ("plain", "Liger"):
            model = model_class(config).to(machine.device, torch.bfloat16)
            if kernels == "Liger":
                _apply_liger_kernel_to_instance(model=model, rope=False)
            peaks[f"{name}, {kernels}"] = training_peak(model, own, 4096)
            del model
            torch.cuda.empty_cache()
    records = compare_memory(peaks, {"bipe_rope, Liger": "stock, Liger", "bipe_rope, plain": "stock, plain"})
    return {
        "models": records,
        "limits": {"bipe_rope, Liger": 1.02},
        "ok": records["bipe_rope, Liger"]["ratio"] <= 1.02,
    }


def rows(machine: Machine) -> list[Row]:
    """Short texts first."""
    found = []
    for length in size(machine).lengths:
        turn = 1 if length in FIRST_LENGTHS else 3
        for family in FAMILIES:
            own = {"family": family, "length": length}
            decoding = partial(decoding_steps, count=20)
            for kind, work, tokens in (
                ("training", training_step, length),
                ("prefill", prefill, length),
                ("decoding", decoding, 1),
            ):
                find = partial(times, **own, kind=kind, work=work, tokens=tokens)
                found.append(Row(f"{kind}, {family}, {length} tokens", find, turn=turn))
            for kind, peak in (("memory of training", training_peak), ("memory of a forward", forward_peak)):
                find = partial(memory, **own, kind=kind, peak=peak)
                found.append(Row(f"{kind}, {family}, {length} tokens", find, turn=turn))
    found += [
        Row(f"packing, {encoding}", partial(packing, encoding=encoding), turn=1)
        for encoding in ("bipe_rope", "bipe_alibi")
    ]
    return [*found, Row("fused loss, vocabulary 131072", fused_loss, turn=3)]
