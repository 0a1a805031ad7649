"""A vLLM engine of tiny models in this process, and what `generate` finds for the same prompts."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tiny import TINY
from transformers import PreTrainedModel
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


SETTINGS = {
    "dtype": "float32",
    "enforce_eager": True,
    "skip_tokenizer_init": True,
    "max_model_len": 128,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 24,  # longer prompts come in chunks
    "block_size": 32,
    "kv_cache_memory_bytes": 2**24,
    "seed": 0,
}


@contextmanager
def engine(folder: Path, **settings: Any) -> Iterator[LLM]:
    """An engine of the model in that folder. There is one at a time in a process."""
    llm = LLM(str(folder), **{**SETTINGS, **settings})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()


def random_prompts(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(1, TINY["vocab_size"]) for _ in range(length)] for length in lengths]


def tokens_of(llm: LLM, prompts: list[list[int]], count: int = 12) -> list[list[int]]:
    """What the engine goes on with, greedily, all prompts at once."""
    return [list(output.outputs[0].token_ids) for output in run(llm, prompts, max_tokens=count)]


def run(llm: LLM, prompts: list[list[int]], **sampling: Any) -> list:
    sampling = SamplingParams(**{"temperature": 0.0, "detokenize": False, **sampling})
    return llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)


@torch.no_grad()
def tokens_of_generate(model: PreTrainedModel, prompts: list[list[int]], count: int = 12) -> list[list[int]]:
    """What transformers goes on with, each prompt by itself."""
    outputs = [
        model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)[0, len(prompt) :]
        for prompt in prompts
    ]
    return [output.tolist() for output in outputs]
