"""A training loop with accelerate and nothing of ours but the model. Prints the units that FSDP shards.

accelerate launch --config_file FILE --num_processes 2 tests/helpers/plain_loop.py MODEL OUTPUT
"""

import sys

import torch
from accelerate import Accelerator
from sharding_on_cpu import shard_on_cpu
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

import bipe_hf  # noqa: F401  registers the classes


def train(source: str, output: str) -> None:
    shard_on_cpu()
    accelerator = Accelerator(cpu=True)
    model = AutoModelForCausalLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (24, 16), generator=generator)
    batches = DataLoader(list(tokens), batch_size=6 // accelerator.num_processes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    accelerator.print(*(name for name, module in model.named_modules() if isinstance(module, FSDPModule)))
    for batch in batches:
        accelerator.backward(model(input_ids=batch, labels=batch).loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.unwrap_model(model).save_pretrained(
        output, is_main_process=accelerator.is_main_process, state_dict=accelerator.get_state_dict(model)
    )
    accelerator.save_state(f"{output}_state")
    accelerator.end_training()


if __name__ == "__main__":
    train(*sys.argv[1:])
