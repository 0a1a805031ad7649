"""What is measured, and how: times of several models in turn, or the peak memory of one."""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from transformers import Cache, StaticCache

from bipe_hf.model.cache_bipe import SegmentHistoryLayer

from .models import FAMILIES, Setting, build, loss, tokens


FEWEST_ROUNDS, MOST_ROUNDS = 3, 60

Loss = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
"""The loss of a model on token ids, from which a step of training goes back."""


class NotMeasurableError(Exception):
    """This machine cannot measure it; the message says why."""


# Times


@dataclass
class Work:
    """What is timed of one model."""

    run: Callable[[], None]
    warm_up: Callable[[], None]
    prepare: Callable[[], None] = lambda: None
    """Done before every run, not timed."""
    count: int = 1
    """Steps in a run; the time of one is what counts."""


def training_step(model: torch.nn.Module, setting: Setting, length: int, loss: Loss = loss) -> Work:
    """Forward, backward and AdamW; the gradient buffers stay allocated, as in a long run."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(ids: torch.Tensor) -> None:
        loss(model, ids).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return _whole_sequence(step, tokens(setting, length))


def prefill(model: torch.nn.Module, setting: Setting, length: int) -> Work:
    """Forward of a prompt into an empty cache, with the logits of its last token."""
    model.eval()

    @torch.inference_mode()
    def forward(ids: torch.Tensor) -> None:
        model(ids, use_cache=True, logits_to_keep=1)

    return _whole_sequence(forward, tokens(setting, length))


def repeated_cache(model: torch.nn.Module, setting: Setting, length: int) -> Cache:
    """A dynamic cache of `length` tokens.

    A part of up to 1024 tokens is computed and repeated: what stands in a cache does not change what a step costs.
    """
    computed = math.gcd(length, 1024)
    with torch.inference_mode():
        ids = tokens(setting, computed)
        cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
        for layer in cache.layers:
            if isinstance(layer, SegmentHistoryLayer):
                times = (1, length // computed, 1)
                layer.states = layer.states.repeat(times)
                layer.layer_states = {at: states.repeat(times) for at, states in layer.layer_states.items()}
            else:
                layer.keys, layer.values = (
                    each.repeat(1, 1, length // computed, 1) for each in (layer.keys, layer.values)
                )
    return cache


def decoding_steps(model: torch.nn.Module, setting: Setting, length: int, count: int) -> Work:
    """Single-token steps from a dynamic cache of `length` tokens, which is cropped back to them between runs."""
    model.eval()
    cache = repeated_cache(model, setting, length)
    ids = tokens(setting, count)

    @torch.inference_mode()
    def steps() -> None:
        for i in range(count):
            model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)

    def crop() -> None:
        surplus = cache.get_seq_length() - length
        if surplus > 0:
            cache.crop(-surplus)

    return Work(steps, warm_up=steps, prepare=crop, count=count)


def compiled_decoding_steps(model: torch.nn.Module, setting: Setting, length: int, count: int) -> Work:
    """Single-token steps of the compiled model in one graph, from a static cache; compiling again is an error.

    The static cache has room for 128 tokens more; when they are used up, it is filled anew between two runs.
    """
    if setting.device == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise NotMeasurableError("torch.compile needs a C++ compiler, and there is none") from error
    model.eval()
    ids = tokens(setting, length)
    room = length + 128
    cache = StaticCache(model.config, max_cache_len=room)
    # dynamic=False: BiPE-RoPE and BiPE-ALiBi share the code of their forward, and the second to be compiled would
    # otherwise get a symbolic size wherever it differs from the first.
    compiled = torch.compile(model.__call__, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def make_room() -> None:
        if not 0 < int(cache.get_seq_length()) <= room - count:
            cache.reset()
            model(ids, past_key_values=cache, logits_to_keep=1)

    @torch.no_grad()
    def steps() -> None:
        for i in range(count):
            compiled(ids[:, i : i + 1], past_key_values=cache)

    @torch._dynamo.config.patch(error_on_recompile=True)
    def steps_without_compiling() -> None:
        steps()

    return Work(steps_without_compiling, warm_up=steps, prepare=make_room, count=count)


def forward_without_cache(model: torch.nn.Module, setting: Setting, length: int) -> Work:
    """What a token costs where nothing is cached: a forward of all tokens up to it."""
    model.eval()
    return _whole_sequence(torch.inference_mode()(model), tokens(setting, length))


def _whole_sequence(function: Callable[[torch.Tensor], None], ids: torch.Tensor) -> Work:
    # A whole run: the first one in a process took 30 % longer, until the heap had grown, and whoever came first paid.
    return Work(run=lambda: function(ids), warm_up=lambda: function(ids))


def seconds(function: Callable[[], None], device: str) -> float:
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def warm_up(works: dict[str, Work]) -> None:
    for work in works.values():
        work.prepare()
        work.warm_up()


def times_in_turn(works: dict[str, Work], device: str, budget: float, rounds: int | None = None) -> dict[str, list]:
    """Runs all works in turn, once a round, in an order that changes from round to round.

    Args:
        budget: seconds after which no further round begins, within `FEWEST_ROUNDS` and `MOST_ROUNDS`.
        rounds: number of rounds, whatever they take.

    Returns:
        For each name the seconds of a step in every round.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    orders = orders_of(list(works))
    start = time.perf_counter()

    def goes_on(done: int) -> bool:
        if rounds is not None:
            return done < rounds
        return done < FEWEST_ROUNDS or (done < MOST_ROUNDS and time.perf_counter() - start < budget)

    done = 0
    while goes_on(done):
        for name in orders[done % len(orders)]:
            works[name].prepare()
            times[name].append(seconds(works[name].run, device) / works[name].count)
        done += 1
        print(".", end="", flush=True, file=sys.stderr)
    return times


def orders_of(names: list[str]) -> list[list[str]]:
    """Another one first each time, and as often behind each of the others."""
    turned = [names[i:] + names[:i] for i in range(len(names))]
    return turned + [order[::-1] for order in reversed(turned)]


class ShareOfOthers:
    """The share of the machine's processors that other processes, and other guests of its host, use from now on."""

    def __init__(self):
        self.start = self._seconds()

    def so_far(self) -> float | None:
        """From 0 to 1; None where there is no /proc/stat to say."""
        if self.start is None:
            return None
        wall, own, all_ = (now - before for now, before in zip(self._seconds(), self.start, strict=True))
        return max(0.0, all_ - own) / (wall * os.cpu_count())

    def _seconds(self) -> tuple[float, float, float] | None:
        if not Path("/proc/stat").exists():
            return None
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _idle, _wait, hardware_interrupts, software_interrupts, stolen = ticks
        busy = user + nice + system + hardware_interrupts + software_interrupts + stolen
        return time.perf_counter(), time.process_time(), busy / os.sysconf("SC_CLK_TCK")


def median_interval(values: list[float]) -> tuple[float, float]:
    """Bounds between which the median of the distribution lies with 95 % probability, whatever the distribution.

    Below six values no two of them are that far apart; the least and the greatest are returned.
    """
    ordered, outside, cut = sorted(values), 0.0, 0
    while outside + math.comb(len(ordered), cut) / 2 ** len(ordered) <= 0.025:
        outside += math.comb(len(ordered), cut) / 2 ** len(ordered)
        cut += 1
    cut = max(cut, 1)
    return ordered[cut - 1], ordered[-cut]


def compare_times(times: dict[str, list[float]], against: dict[str, str]) -> dict[str, dict]:
    """The record of each model: all its times, the least, and its ratio to the model that `against` names.

    The ratio is the median over rounds of the ratio within a round. `of_least` is the ratio of the two least times.
    """
    records: dict[str, dict] = {name: {"seconds": min(values), "all": values} for name, values in times.items()}
    for name, base in against.items():
        ratios = [mine / other for mine, other in zip(times[name], times[base], strict=True)]
        records[name]["ratio"] = statistics.median(ratios)
        records[name]["interval"] = median_interval(ratios)
        records[name]["of_least"] = min(times[name]) / min(times[base])
    return records


# Peak memory


def training_peak(model: torch.nn.Module, setting: Setting, length: int, loss: Loss = loss) -> int:
    """Bytes that forward and backward take beyond the weights, their gradients and the optimizer's state."""
    training_step(model, setting, 32).run()  # allocates gradients and optimizer state, loads all code
    ids = tokens(setting, length)
    return peak_bytes(lambda: loss(model, ids).backward(), setting.device)


def forward_peak(model: torch.nn.Module, setting: Setting, length: int) -> int:
    """Bytes that a forward takes beyond the weights.

    Only the last token's logits are made: at 16384 tokens all of them are 2 GB, more than the layers ever hold, and
    would hide what those take.
    """
    model.eval()

    @torch.inference_mode()
    def forward(ids: torch.Tensor) -> None:
        model(ids, use_cache=False, logits_to_keep=1)

    forward(tokens(setting, 32))
    ids = tokens(setting, length)
    return peak_bytes(lambda: forward(ids), setting.device)


def peak_bytes(function: Callable[[], None], device: str) -> int:
    """The most memory that `function` takes at a time: resident in this process, or allocated on a GPU."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        raise NotMeasurableError("peak memory is read from /proc/self, which only Linux has")
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present size
    if _resident("VmHWM") > before + 2**20:
        raise NotMeasurableError("/proc/self/clear_refs does not set back the high-water mark here")
    function()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise NotMeasurableError(f"/proc/self/status has no {field}")


def compare_memory(peaks: dict[str, int], against: dict[str, str]) -> dict[str, dict]:
    """As `compare_times`, of one number for each model."""
    records: dict[str, dict] = {name: {"bytes": peak} for name, peak in peaks.items()}
    for name, base in against.items():
        records[name]["ratio"] = peaks[name] / peaks[base]
    return records


# Packing

DOCUMENTS, TOKENS_OF_DOCUMENT = 16, 1024


def packed_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss of documents that stand in one row."""
    positions = torch.arange(TOKENS_OF_DOCUMENT, device=ids.device).repeat(DOCUMENTS)[None]
    return model(ids, position_ids=positions, labels=ids, use_cache=False).loss


def rows_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss of the same documents, each in a row of its own."""
    return loss(model, ids.view(DOCUMENTS, TOKENS_OF_DOCUMENT))


def packing_loss(name: str) -> Loss:
    return packed_loss if name.startswith("packed") else rows_loss


# The list


@dataclass(frozen=True)
class Measurement:
    """One row of a table."""

    title: str

    table: ClassVar[str] = "stock"
    """The table that it stands in."""

    @property
    def against(self) -> dict[str, str]:
        """The ratios of the row: a model, and the one that it is divided by."""
        return {"bipe_rope": "stock", "bipe_alibi": "stock"}

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys([*self.against.values(), *self.against]))

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(FAMILIES)

    def own(self, setting: Setting) -> Setting:
        """What its models share, where that differs."""
        return setting


class Packing:
    """Documents in one row beside the same documents in rows of their own, with two of twelve layers."""

    table = "packing"

    @property
    def against(self) -> dict[str, str]:
        return {"packed_rope": "bipe_rope", "packed_alibi": "bipe_alibi"}

    def own(self, setting: Setting) -> Setting:
        return replace(setting, parts=6)


class LayerBiases:
    """Biases that every layer learns, over segments."""

    table = "biases"

    @property
    def against(self) -> dict[str, str]:
        return {"bipe_fox": "stock", "bipe_cable": "stock"}


class LayerLogits:
    """Logits that every layer changes, over segments. With a third of the layers: a step takes many times stock's."""

    table = "logits"

    @property
    def against(self) -> dict[str, str]:
        return {"bipe_cope": "stock", "bipe_dape": "stock"}

    def own(self, setting: Setting) -> Setting:
        return replace(setting, parts=3)


@dataclass(frozen=True)
class PeakMemory(Measurement):
    peak: Callable[[torch.nn.Module, Setting], int]

    def measure(self, setting: Setting, name: str) -> int:
        """Bytes, in a process that has done nothing else."""
        setting = self.own(setting)
        return self.peak(build(setting, name), setting)


@dataclass(frozen=True)
class PackingMemory(Packing, PeakMemory):
    def measure(self, setting: Setting, name: str) -> int:
        setting = self.own(setting)
        return self.peak(build(setting, name), setting, loss=packing_loss(name))


@dataclass(frozen=True)
class BiasesMemory(LayerBiases, PeakMemory): ...


@dataclass(frozen=True)
class LogitsMemory(LayerLogits, PeakMemory): ...


@dataclass(frozen=True)
class Timing(Measurement):
    work: Callable[[torch.nn.Module, Setting], Work]
    budget: float
    """Seconds for all rounds of one family; see `times_in_turn`."""

    def work_of(self, setting: Setting, name: str) -> Work:
        setting = self.own(setting)
        return self.work(build(setting, name), setting)

    def measure(self, setting: Setting, rounds: int | None) -> tuple[dict[str, list[float]], float | None]:
        """Seconds in every round, by model, and the share of the processors that others used meanwhile."""
        works = {name: self.work_of(setting, name) for name in self.models}
        warm_up(works)
        others = ShareOfOthers()
        times = times_in_turn(works, setting.device, self.budget, rounds)
        return times, others.so_far()


@dataclass(frozen=True)
class FewLayersTiming(Timing):
    """With a sixth of the layers, two of twelve: what a step does once, whatever its layers, shows."""

    def own(self, setting: Setting) -> Setting:
        return replace(setting, parts=6)


@dataclass(frozen=True)
class LevelsTiming(Timing):
    """BiPE-RoPE with two levels inside segments beside BiPE-RoPE."""

    table = "levels"

    @property
    def against(self) -> dict[str, str]:
        return {"bipe_levels": "bipe_rope"}


@dataclass(frozen=True)
class PackingTiming(Packing, Timing):
    def work_of(self, setting: Setting, name: str) -> Work:
        setting = self.own(setting)
        return self.work(build(setting, name), setting, loss=packing_loss(name))


@dataclass(frozen=True)
class BiasesTiming(LayerBiases, Timing): ...


@dataclass(frozen=True)
class LogitsTiming(LayerLogits, Timing): ...


@dataclass(frozen=True)
class AuthorsTiming(Timing):
    """The authors' way beside ours.

    With a third of the layers, because the scores that the backward of 12 needs at 4096 tokens take 9 GB beside all
    the rest, and a third of the vocabulary, so that the head keeps its share of the work.
    """

    table = "authors"

    authors_work: Callable[[torch.nn.Module, Setting], Work]

    @property
    def against(self) -> dict[str, str]:
        return {"authors_rope": "bipe_rope", "authors_alibi": "bipe_alibi"}

    @property
    def families(self) -> tuple[str, ...]:
        return ("llama",)

    def own(self, setting: Setting) -> Setting:
        return replace(setting, parts=3)

    def work_of(self, setting: Setting, name: str) -> Work:
        setting = self.own(setting)
        work = self.authors_work if name in self.against else self.work
        return work(build(setting, name), setting)


def _training(length: int) -> Callable[[torch.nn.Module, Setting], Work]:
    return partial(training_step, length=length)


def _decoding(length: int, count: int) -> Callable[[torch.nn.Module, Setting], Work]:
    return partial(decoding_steps, length=length, count=count)


MEASUREMENTS: dict[str, Timing | PeakMemory] = {
    "train_1024": Timing("training step, 1024 tokens", _training(1024), budget=110),
    "train_4096": Timing("training step, 4096 tokens", _training(4096), budget=480),
    "memory_train_1024": PeakMemory("peak memory, training step, 1024 tokens", partial(training_peak, length=1024)),
    "memory_train_4096": PeakMemory("peak memory, training step, 4096 tokens", partial(training_peak, length=4096)),
    "memory_forward_16384": PeakMemory("peak memory, forward, 16384 tokens", partial(forward_peak, length=16384)),
    "prefill_4096": Timing("prefill, 4096 tokens", partial(prefill, length=4096), budget=80),
    "decode_1024": Timing("decoding a token, 1024 cached", _decoding(1024, count=10), budget=60),
    "decode_8192": Timing("decoding a token, 8192 cached", _decoding(8192, count=5), budget=70),
    "decode_12288": Timing("decoding a token, 12288 cached", _decoding(12288, count=4), budget=40),
    "decode_32768": Timing("decoding a token, 32768 cached", _decoding(32768, count=2), budget=40),
    "decode_few_layers_1024": FewLayersTiming(
        "decoding a token, 1024 cached, two layers", _decoding(1024, count=20), budget=20
    ),
    "decode_few_layers_12288": FewLayersTiming(
        "decoding a token, 12288 cached, two layers", _decoding(12288, count=10), budget=20
    ),
    "decode_few_layers_32768": FewLayersTiming(
        "decoding a token, 32768 cached, two layers", _decoding(32768, count=5), budget=20
    ),
    "decode_compiled_1024": Timing(
        "decoding a token, 1024 in a static cache, compiled",
        partial(compiled_decoding_steps, length=1024, count=10),
        budget=40,
    ),
    "levels_train_1024": LevelsTiming("training step, 1024 tokens", _training(1024), budget=110),
    "levels_decode_1024": LevelsTiming("decoding a token, 1024 cached", _decoding(1024, count=10), budget=60),
    "packing_train": PackingTiming(
        "training step, 16 documents of 1024 tokens", _training(DOCUMENTS * TOKENS_OF_DOCUMENT), budget=240
    ),
    "packing_memory_train": PackingMemory(
        "peak memory, training step, 16 documents of 1024 tokens",
        partial(training_peak, length=DOCUMENTS * TOKENS_OF_DOCUMENT),
    ),
    "biases_train_4096": BiasesTiming("training step, 4096 tokens", _training(4096), budget=240),
    **{
        f"biases_memory_train_{length}": BiasesMemory(
            f"peak memory, training step, {length} tokens", partial(training_peak, length=length)
        )
        for length in (1024, 2048, 4096)
    },
    "logits_train_1024": LogitsTiming("training step, 1024 tokens", _training(1024), budget=60),
    "logits_train_4096": LogitsTiming("training step, 4096 tokens", _training(4096), budget=60),
    **{
        f"logits_memory_train_{length}": LogitsMemory(
            f"peak memory, training step, {length} tokens", partial(training_peak, length=length)
        )
        for length in (1024, 2048, 4096)
    },
    "authors_train_1024": AuthorsTiming(
        "training step, 1024 tokens", _training(1024), budget=40, authors_work=_training(1024)
    ),
    "authors_train_4096": AuthorsTiming(
        "training step, 4096 tokens", _training(4096), budget=60, authors_work=_training(4096)
    ),
    "authors_decode_1024": AuthorsTiming(
        "decoding a token, 1024 before it",
        _decoding(1024, count=10),
        budget=30,
        authors_work=partial(forward_without_cache, length=1025),
    ),
}
