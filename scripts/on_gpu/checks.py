"""What must be equal on every device: backends, caches, compiled graphs, packed documents, columns, quantised weights.

Every check gives a difference and the most that it may be. In float32 that is a number; in 16 bits it is what the same
computation of a peer differs from float32, times 1.5.
"""

import copy
import math
import shutil
from functools import partial
from itertools import product
from unittest import mock

import torch
from benchmarking.measurements import NotMeasurableError
from torch.nn import functional as F
from torch.nn.attention import varlen
from transformers import PreTrainedModel, StaticCache
from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available, is_torchao_available

from bipe_hf import BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM, BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.model.alibi_bipe import AlibiBias
from bipe_hf.model.attention_bipe import attach_columns

from .record import Machine, Row


FAMILIES = {
    "llama": (BipeLlamaConfig, BipeLlamaForCausalLM),
    "gpt_neox": (BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM),
}
ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "rope", "hybrid_max_period": 64.0, "hybrid_alibi_scale": 1.0},
    "levels": {"inter_encoding": "rope", "inner_separator_token_ids": [[10, 11, 12], [13, 14, 15, 16]]},
    "fox": {"inter_encoding": "fox"},
    "cable": {"inter_encoding": "cable"},
    "local": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 16},
}
WITHOUT = {"inter_encoding": "none", "intra_encoding": "none"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BACKENDS = ("sdpa", "flex_attention", "flash_attention_2")
VOCABULARY = 256
FLOAT32_LIMIT = 2e-4
"""Of the largest difference, in parts of the largest logit."""
PEER_FACTOR = 1.5


def model_of(
    machine: Machine, family: str, encoding: str | None, dtype: str = "float32", backend: str = "eager"
) -> PreTrainedModel:
    """A small model with random weights, the same ones for every dtype and backend; None is one without encoding."""
    torch.manual_seed(0)
    config_class, model_class = FAMILIES[family]
    heads, head_dim = (2, 16) if machine.is_dry else (4, 64)
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=heads * head_dim,
        intermediate_size=2 * heads * head_dim,
        num_hidden_layers=2,
        num_attention_heads=heads,
        **({"num_key_value_heads": heads // 2} if family == "llama" else {}),
        initializer_range=0.1,
        separator_token_ids=list(range(8)),
        attn_implementation=backend,
        **(ENCODINGS[encoding] if encoding else WITHOUT),
    )
    return model_class(config).to(device=machine.device, dtype=DTYPES[dtype]).eval()


def tokens(machine: Machine, rows: int = 2) -> torch.Tensor:
    length = 40 if machine.is_dry else 600
    ids = torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))
    return ids.to(machine.device)


def compared(actual: torch.Tensor, expected: torch.Tensor, peer: torch.Tensor | None = None) -> dict:
    """The largest difference in parts of the largest number, and its limit; for 16 bits root mean squares.

    Args:
        actual: what is checked.
        expected: in float32.
        peer: what another way gives in the dtype of `actual`; None in float32.
    """
    actual, expected = actual.double(), expected.double()
    if peer is None:
        difference, limit = ((actual - expected).abs().max() / expected.abs().max()).item(), FLOAT32_LIMIT
    else:
        difference = (actual - expected).pow(2).mean().sqrt().item()
        limit = PEER_FACTOR * (peer.double() - expected).pow(2).mean().sqrt().item()
    return {"difference": difference, "limit": limit, "ok": difference <= limit}


def check_compiler() -> None:
    """Raises `NotMeasurableError` where there is no C compiler, which Triton needs."""
    if not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        raise NotMeasurableError("there is no C compiler")


def check_backend(machine: Machine, backend: str) -> None:
    """Raises `NotMeasurableError` for a backend that this machine lacks."""
    if backend == "flash_attention_2" and not is_flash_attn_2_available():
        raise NotMeasurableError("flash-attn is not installed")
    if backend == "flex_attention" and machine.is_dry:
        raise NotMeasurableError("flex attention compiles for minutes on a CPU")
    if backend == "flex_attention":
        check_compiler()


@torch.inference_mode()
def backend_equals_eager(machine: Machine, family: str, encoding: str, dtype: str, backend: str) -> dict:
    """Logits under left padding."""
    check_backend(machine, backend)
    if backend == "flash_attention_2" and dtype == "float32":
        raise NotMeasurableError("flash-attn has no float32")
    ids = tokens(machine)
    mask = torch.ones_like(ids)
    mask[0, : ids.shape[1] // 4] = 0
    is_token = mask.bool()

    def logits(*which: str) -> torch.Tensor:
        torch.compiler.reset()  # so many models share the code of flex attention
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            return model_of(machine, family, encoding, *which)(ids, attention_mask=mask).logits[is_token]

    expected = logits("float32", "eager")
    peer = None if dtype == "float32" else logits(dtype, "eager")
    return compared(logits(dtype, backend), expected, peer)


@torch.inference_mode()
def cached_equals_uncached(machine: Machine, family: str, encoding: str, dtype: str) -> dict:
    """A prefill, a chunk, and single tokens behind it."""
    ids = tokens(machine)
    model = model_of(machine, family, encoding, dtype, "sdpa")
    steps = [ids.shape[1] // 2, ids.shape[1] // 4, *[1] * 8]
    cache, parts = None, []
    for part in ids[:, : sum(steps)].split(steps, dim=1):
        output = model(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    whole = ids[:, : sum(steps)]
    expected = model_of(machine, family, encoding, "float32", "sdpa")(whole, use_cache=False).logits
    peer = None if dtype == "float32" else model(whole, use_cache=False).logits
    return compared(torch.cat(parts, dim=1), expected, peer)


@torch.no_grad()
def compiled_equals_eager(machine: Machine, family: str, encoding: str, dtype: str) -> dict:
    """Single tokens into a static cache by one graph, which CUDA graphs replay."""
    ids = tokens(machine)
    model = model_of(machine, family, encoding, dtype, "sdpa")
    prompt, steps = ids.shape[1] // 2, 6
    torch.compiler.reset()  # so many models share the code of their forward
    how = {"backend": "eager"} if machine.is_dry else {"mode": "reduce-overhead"}
    if not machine.is_dry:
        check_compiler()
    outputs = []
    for step in (model, torch.compile(model.__call__, fullgraph=True, dynamic=False, **how)):
        cache = StaticCache(model.config, max_cache_len=ids.shape[1])
        model(ids[:, :prompt], past_key_values=cache)
        with torch._inductor.config.patch("triton.cudagraph_or_error", True):  # no step without its graph
            parts = [
                step(ids[:, at : at + 1], past_key_values=cache).logits.clone() for at in range(prompt, prompt + steps)
            ]
        outputs.append(torch.cat(parts, dim=1))
    plain, compiled = outputs
    if dtype == "float32":
        return compared(compiled, plain)
    whole = model_of(machine, family, encoding, "float32", "sdpa")(ids[:, : prompt + steps]).logits[:, prompt:]
    return compared(compiled, whole, plain)


def packed_equals_alone(machine: Machine, family: str, encoding: str, dtype: str, autocast: bool = False) -> dict:
    """Logits, and gradients of the embedding, of documents in two rows with padding at either end."""
    ids = tokens(machine)
    quarter, rest = ids.shape[1] // 4, ids.shape[1] - 3 * (ids.shape[1] // 4)
    rows = [[2 * quarter, 1, rest - 1], [rest, quarter - 1, 1, quarter]]  # and a quarter of padding
    mask = torch.ones_like(ids)
    mask[0, :quarter] = mask[1, -quarter:] = 0
    padding = torch.arange(quarter)
    positions = [[torch.arange(length) for length in row] for row in rows]
    positions = [torch.cat([padding, *positions[0]]), torch.cat([*positions[1], padding])]
    positions = torch.stack(positions).to(machine.device)
    lengths, texts = [length for row in rows for length in row], ids[mask.bool()]
    weights = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2)).to(machine.device)

    def results(dtype: str, packed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = model_of(machine, family, encoding, "float32" if autocast else dtype, "sdpa")
        is_16_bit = autocast and dtype == "bfloat16"
        with torch.autocast(machine.device, torch.bfloat16, enabled=is_16_bit):
            if packed:
                output = model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
                logits = output.logits[mask.bool()]
            else:
                parts = [model(part[None], use_cache=False).logits[0] for part in texts.split(lengths)]
                logits = torch.cat(parts)
        (logits.float() @ weights).mean().backward()
        return logits.detach().float(), model.get_input_embeddings().weight.grad.float()

    expected = results("float32", packed=False)
    scale = expected[0].abs().max() / expected[1].abs().max()  # both in one number
    kernel, calls = varlen.varlen_attn, []

    def counted(*args, **kwargs):
        calls.append(len(args))
        return kernel(*args, **kwargs)

    with mock.patch.object(varlen, "varlen_attn", counted):
        packed = results(dtype, packed=True)
    peer = None if dtype == "float32" else results(dtype, packed=False)
    flat = [
        None if each is None else torch.cat([each[0].flatten(), (each[1] * scale).flatten()])
        for each in (packed, expected, peer)
    ]
    found = compared(*flat) | {"calls of the flash kernel": len(calls)}
    if dtype == "bfloat16" and not machine.is_dry and not calls:
        found |= {"ok": False}
    return found


def liger_equals_plain(machine: Machine, encoding: str) -> dict:
    """The loss and all gradients of a Llama with Liger's norm, MLP and fused loss, in float32."""
    if machine.is_dry or not is_liger_kernel_available():
        raise NotMeasurableError("liger-kernel is not installed, or there is no GPU for it")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    ids, found = tokens(machine), []
    for has_liger in (False, True):
        model = model_of(machine, "llama", encoding, backend="sdpa").train()
        if has_liger:
            _apply_liger_kernel_to_instance(model=model)
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        found.append(torch.cat([loss.detach()[None], *(each.grad.flatten() for each in model.parameters())]))
    return compared(found[1], found[0])


def columns_are_near_float64(machine: Machine, dtype: str, head_dim: int) -> dict:
    """ALiBi by columns beside a bias that is made, both against float64; the worst of output and gradients."""
    length, heads = (64, 4) if machine.is_dry else (2048, 8)
    generator = torch.Generator().manual_seed(0)
    segments = (torch.rand(1, length, generator=generator) < 0.15).cumsum(-1).to(machine.device)
    module = AlibiBias(heads, head_dim, 96.0, "alibi_slope_scale").to(machine.device)
    slopes = torch.tensor(module.slopes, dtype=torch.float64, device=machine.device)
    bias = -slopes[:, None, None] * (segments[:, None, :, None] - segments[:, None, None, :]).double()
    causal = torch.ones(length, length, dtype=torch.bool, device=machine.device).tril()
    given = [torch.randn(1, heads, length, head_dim, generator=generator).to(machine.device) for _ in range(4)]
    given = [each.to(DTYPES[dtype]) for each in given]  # so that all three ways start from the same numbers

    def attention(way: str) -> list[torch.Tensor]:
        own = torch.float64 if way == "exact" else DTYPES[dtype]
        query, key, value = (each.to(own, copy=True).requires_grad_() for each in given[:3])
        if way == "columns":
            columns = module(segments, query[0])
            parts = attach_columns(columns, query, key, value)
            output = F.scaled_dot_product_attention(*parts, is_causal=True, scale=columns.scaling)[..., :head_dim]
        elif way == "made":
            mask = bias.to(own).masked_fill(~causal, torch.finfo(own).min)
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            logits = query @ key.transpose(-1, -2) / math.sqrt(head_dim) + bias
            output = logits.masked_fill(~causal, -math.inf).softmax(-1) @ value
        (output * given[3].to(own)).sum().backward()
        return [each.double() for each in (output.detach(), query.grad, key.grad, value.grad)]

    exact, made, columns = attention("exact"), attention("made"), attention("columns")
    ratios = {}
    for name, truth, peer, mine in zip(("output", "query", "key", "value"), exact, made, columns, strict=True):
        ratios[name] = ((mine - truth).abs().max() / (peer - truth).abs().max()).item()
    worst = torch.tensor(list(ratios.values())).max().item()  # which is no number where one of them is none
    return {"difference": worst, "limit": PEER_FACTOR, "ok": worst <= PEER_FACTOR, "times the error of a bias": ratios}


@torch.inference_mode()
def quantised_is_near(machine: Machine, family: str, encoding: str) -> dict:
    """Weights in 8 bits by torchao, beside the same model with its encoding taken away."""
    if not is_torchao_available():
        raise NotMeasurableError("torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    ids = tokens(machine)
    differences = []
    for name in (encoding, None):
        model = model_of(machine, family, name, backend="sdpa")
        quantised = copy.deepcopy(model)
        quantize_(quantised, Int8WeightOnlyConfig())
        expected = model(ids).logits
        differences.append(((quantised(ids).logits - expected).pow(2).mean() / expected.pow(2).mean()).sqrt().item())
    difference, limit = differences[0], PEER_FACTOR * differences[1]
    return {"difference": difference, "limit": limit, "ok": difference <= limit}


def rows() -> list[Row]:
    """All checks; those that compile come last."""
    found = [
        Row(
            f"columns, head dimension {head_dim}, {dtype}",
            partial(columns_are_near_float64, dtype=dtype, head_dim=head_dim),
        )
        for head_dim in (64, 128)
        for dtype in DTYPES
    ]
    for family, encoding, dtype in product(FAMILIES, ENCODINGS, DTYPES):
        title, which = f"{family}, {encoding}, {dtype}", {"family": family, "encoding": encoding, "dtype": dtype}
        found.append(Row(f"cached = uncached, {title}", partial(cached_equals_uncached, **which)))
        found.append(Row(f"packed = alone, {title}", partial(packed_equals_alone, **which)))
        for backend in BACKENDS:
            turn = 2 if backend == "flex_attention" else 0
            check = partial(backend_equals_eager, **which, backend=backend)
            found.append(Row(f"{backend} = eager, {title}", check, turn=turn))
        check = partial(compiled_equals_eager, **which)
        found.append(Row(f"compiled = eager, {title}", check, most_seconds=120, turn=2))
    for encoding in ENCODINGS:
        which = {"encoding": encoding, "family": "llama"}
        check = partial(packed_equals_alone, **which, dtype="bfloat16", autocast=True)
        found.append(Row(f"packed = alone, llama, {encoding}, autocast", check))
        found.append(Row(f"8 bits, llama, {encoding}", partial(quantised_is_near, **which)))
        found.append(Row(f"Liger = plain, {encoding}", partial(liger_equals_plain, encoding=encoding)))
    return found
