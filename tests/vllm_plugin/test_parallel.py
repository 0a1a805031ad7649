"""The tokens of `generate` where a model is compiled, or stands in two processes."""

import pytest
from families import FAMILIES
from tiny import LEVELS
from vllm.compilation.counter import compilation_counter
from vllm_engine import engine, random_prompts, tokens_of, tokens_of_generate


AXES = {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS}
DRAFTS = {"method": "ngram_gpu", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}


def programs() -> int:
    """How many programs vLLM has compiled in this process, or found compiled by one before."""
    return compilation_counter.num_aot_compiles + compilation_counter.num_aot_artifacts_loaded


@pytest.mark.parametrize(
    "settings",
    [{"tensor_parallel_size": 2, "speculative_config": DRAFTS}, {"pipeline_parallel_size": 2}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_change_no_token(family, settings, saved):
    """The slopes of ALiBi go with the heads of a process, and both count the same segments."""
    model, folder = saved(family, **AXES)
    prompts = random_prompts(25, 40, 7, 60)
    with engine(folder, distributed_executor_backend="mp", **settings) as llm:
        assert tokens_of(llm, prompts) == tokens_of_generate(model, prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_changes_no_token(family, saved):
    model, folder = saved(family, **AXES)
    prompts = random_prompts(25, 40, 7, 60)
    compiled = programs()
    with engine(folder, enforce_eager=False) as llm:
        assert programs() == compiled + 1
        assert tokens_of(llm, prompts) == tokens_of_generate(model, prompts)
