"""Data parallel training on as many devices as there are, by torch's own `DistributedDataParallel`."""

import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from benchmarking.measurements import NotMeasurableError
from benchmarking.models import Setting, build, loss, tokens
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from .record import Machine, Row
from .speed import setting


STEPS, WARM_UP = 10, 3


def train(rank: int, world: int, own: Setting, encoding: str, folder: str, length: int) -> None:
    """What a process does: steps on the same tokens as the others; the first one writes what they took."""
    is_cpu = own.device == "cpu"
    device = "cpu" if is_cpu else f"cuda:{rank}"
    own = Setting(own.family, own.shape, device, own.dtype)
    if not is_cpu:
        torch.cuda.set_device(rank)
    store = distributed.FileStore(str(Path(folder) / f"store_{world}"), world)
    distributed.init_process_group("gloo" if is_cpu else "nccl", store=store, rank=rank, world_size=world)
    model = DistributedDataParallel(build(own, encoding), device_ids=None if is_cpu else [rank])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = tokens(own, length)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            wait(is_cpu)
            start = time.perf_counter()
        loss(model, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    wait(is_cpu)
    if rank == 0:
        (Path(folder) / f"seconds_{world}").write_text(str((time.perf_counter() - start) / STEPS))
    distributed.destroy_process_group()


def wait(is_cpu: bool) -> None:
    if not is_cpu:
        torch.cuda.synchronize()
    distributed.barrier()


def data_parallel(machine: Machine, encoding: str) -> dict:
    """Tokens a second on one device and on all, and what part of so many times one that is."""
    devices = 2 if machine.is_dry else torch.cuda.device_count()
    if devices < 2:
        raise NotMeasurableError("there is one device")
    own, length = setting(machine, "llama"), 32 if machine.is_dry else 8192
    seconds = {}
    for world in (1, devices):
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(train, (world, own, encoding, folder, length), nprocs=world)
            seconds[world] = float((Path(folder) / f"seconds_{world}").read_text())
    return {
        "devices": devices,
        "tokens a second": {str(world): world * length / each for world, each in seconds.items()},
        "efficiency": seconds[1] / seconds[devices],
        "ok": True,
    }


def rows() -> list[Row]:
    encodings = ("stock", "bipe_rope", "bipe_alibi")
    return [Row(f"data parallel, {name}", partial(data_parallel, encoding=name), 120, turn=1) for name in encodings]
