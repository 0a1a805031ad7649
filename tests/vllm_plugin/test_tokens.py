"""vLLM gives the tokens of `generate`: every encoding that a paged cache holds, in both families."""

import pytest
from families import FAMILIES
from tiny import LEVELS
from vllm_engine import engine, random_prompts, run, tokens_of, tokens_of_generate


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0},
    "none": {"inter_encoding": "none"},
    "rope with levels": {"inter_encoding": "rope", **LEVELS},
    "axes with levels": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    "sinusoidal with levels": {"inter_encoding": "alibi", "intra_encoding": "sinusoidal", **LEVELS},
    "factors": {"inter_encoding": "rope", "log_scale_train_length": 8, "logn_train_length": 8},
    "fixed": {"inter_encoding": "alibi", "segmentation": "fixed", "fixed_segment_length": 4},
    "tokens": {"inter_encoding": "rope", "segmentation": "tokens", "intra_encoding": "none"},
    "document": {"inter_encoding": "none", "segmentation": "document", "max_segment_length": 64},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_generate(family, encoding, saved):
    """In chunks of prompts, and again with prefixes in the cache."""
    model, folder = saved(family, **ENCODINGS[encoding])
    prompts = random_prompts(1, 40, 70, 33)
    expected = tokens_of_generate(model, prompts)
    with engine(folder) as llm:
        assert tokens_of(llm, prompts) == expected
        longer = [[*prompt, *tokens] for prompt, tokens in zip(prompts, expected, strict=True)]
        outputs = run(llm, longer, max_tokens=12)
        assert sum(output.num_cached_tokens for output in outputs) >= 3 * 32
        assert [list(output.outputs[0].token_ids) for output in outputs] == tokens_of_generate(model, longer)
