"""What goes with a BiPE model in vLLM is seen before it is loaded, and the rest refused in one line."""

import pytest
import torch
from families import FAMILIES, all_key_heads
from tiny import TINY
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.engine.arg_utils import EngineArgs
from vllm_engine import SETTINGS


def configure(folder, **settings):
    """What an engine does first."""
    return EngineArgs(model=str(folder), **{**SETTINGS, **settings}).create_engine_config()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_a_model_that_is_held_is_configured(saved, family):
    _, folder = saved(family, inter_encoding="alibi")
    assert configure(folder).use_v2_model_runner


def test_requests_are_as_long_as_the_overrides_say(saved, family):
    _, folder = saved(family, inter_encoding="alibi")
    with pytest.raises(ValueError, match="max_model_len"):
        configure(folder, max_model_len=8192)
    longer = configure(folder, max_model_len=8192, hf_overrides={"max_position_embeddings": 8192})
    assert longer.model_config.max_model_len == 8192


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inter_encoding": "kerple"}, "inter_encoding='kerple' has a bias for each pair.*padded batch"),
        ({"inter_encoding": "cope"}, "inter_encoding='cope' changes finished logits.*padded batch"),
        ({"inter_encoding": "fox"}, "inter_encoding='fox' has a state in every layer.*padded batch"),
        ({"inter_encoding": "xpos"}, "inter_encoding='xpos' has to look.*padded batch"),
        ({"sepllm_neighbors": 4}, "sepllm_neighbors.*padded batch"),
        (
            {
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "factor": 2.0,
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 1.0,
                }
            },
            "rope_type='dynamic'.*'yarn'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_encodings_that_need_more_than_a_paged_cache(fields, message, saved, family):
    _, folder = saved(family, **all_key_heads(family), **fields)
    with pytest.raises(ValueError, match=f"vLLM: .*{message}"):
        configure(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_prompt_embeds": True}, "enable_prompt_embeds: .*Send token ids or text"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype='fp8' would round the bias columns.*Use kv_cache_dtype 'auto'"),
        (
            {
                "kv_transfer_config": {
                    "kv_connector": "SharedStorageConnector",
                    "kv_role": "kv_both",
                    "kv_load_failure_policy": "recompute",
                }
            },
            "kv_load_failure_policy='recompute' .*Use kv_load_failure_policy 'fail'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_features_without_room_for_segments(settings, message, saved, family):
    _, folder = saved(family, inter_encoding="alibi")
    with pytest.raises(ValueError, match=f"vLLM: {message}"):
        configure(folder, **settings)


def test_an_fp8_cache_holds_keys_without_columns(saved, family):
    _, folder = saved(family, inter_encoding="rope")
    assert configure(folder, kv_cache_dtype="fp8").cache_config.cache_dtype == "fp8"


def test_the_first_model_runner(saved, family, monkeypatch):
    _, folder = saved(family, inter_encoding="rope")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    with pytest.raises(ValueError, match="vLLM: BiPE needs the V2 model runner.*Install Triton, unset"):
        configure(folder)


def test_a_bipe_model_as_drafter(saved, family, tmp_path):
    _, folder = saved(family, inter_encoding="rope")
    stock = {name: value for name, value in TINY.items() if name in LlamaConfig().to_dict()}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**stock, head_dim=32)).save_pretrained(tmp_path)
    drafts = {"method": "draft_model", "model": str(folder), "num_speculative_tokens": 2}
    with pytest.raises(ValueError, match="vLLM: a BiPE model cannot draft for another.*method 'ngram'"):
        configure(tmp_path, speculative_config=drafts)


def test_prefill_in_parallel(saved, family):
    _, folder = saved(family, inter_encoding="rope")
    with pytest.raises(ValueError, match="vLLM: prefill_context_parallel_size: .*Use tensor_parallel_size"):
        configure(folder, prefill_context_parallel_size=2)
