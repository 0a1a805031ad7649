"""What every test may ask for: tiny models, no Hub, a cache of its own."""

import ast
import sys
from functools import cache

import datasets
import pytest
import torch
import transformers.dynamic_module_utils as dynamic_modules
import transformers.integrations.flex_attention as flex_integration
import transformers.masking_utils as masking_utils
import transformers.modeling_flash_attention_utils as flash_utils
from families import FAMILIES, family_of, pairs
from huggingface_hub import constants
from naive_flash import naive_flash, naive_flash_varlen
from small_pair import make_pair
from tiny import LEVELS, TINY
from transformers.utils import logging

from bipe_hf.model.configuration_bipe import own_fields


# Tests that take seconds with each of their parameters: those with one of these words are slow tests. Quicker ones
# cover the same families, sizes and types, and `make test-all` runs everything.
SLOW_PARAMETERS = {
    "test_16_bit_alibi_is_finite_over_thousands_of_segments": ["gpt_neox", "eager-dtype1"],
    "test_5000_segments_in_16_bits_stay_near_float64": ["levels", "rope-dtype1", "alibi-dtype1"],
    "test_a_comparison_runs_with_its_configuration": ["extension", "books", "python"],
    "test_a_model_loads_without_the_package": ["gpt_neox-Model", "gpt_neox-ForSequence"],
    "test_a_model_saved_without_the_package_is_complete": ["gpt_neox"],
    "test_a_resumed_run_equals_the_uninterrupted_one_whatever_the_workers": ["stretch-3"],
    "test_a_static_cache_with_room_made_early_compiles": ["gpt_neox"],
    "test_a_step_into_a_static_cache_compiles_once": ["gpt_neox"],
    "test_a_traced_model_serves_every_batch_and_length": ["gpt_neox", "fire", "cope", "path"],
    "test_accumulated_batches_train_as_one_batch": ["gpt_neox", "-2"],
    "test_answers_are_those_of_one_request_at_a_time": ["levels-auto", "gpt_neox-alibi-auto"],
    "test_attention_weights_follow_the_formula": [
        "one gate",
        "fixed gates",
        "cable without",
        "gpt_neox-fox with",
        "llama-cable as",
    ],
    "test_backends_agree_on_a_bias": ["gpt_neox", "fire"],
    "test_best_checkpoint_is_what_is_saved": ["gpt_neox"],
    "test_columns_are_as_near_float64_as_a_materialised_bias": ["bfloat16-64", "float32"],
    "test_compiled_ids_are_treated_as_eager_ones": ["gpt_neox"],
    "test_decoding_into_a_static_cache_compiles_once": ["levels"],
    "test_drafts_change_no_token": ["gpt_neox-fox"],
    "test_every_gradient_is_that_of_a_step_without": ["fire", "cope", "dape"],
    "test_every_task_learns_an_easy_rule": ["gpt_neox"],
    "test_flex_attention_equals_eager": ["fox-left", "fox-plain", "fox-packed-", "cable-right", "cable-plain"],
    "test_generate_compiles_decoding_into_a_static_cache_once": ["llama-rope", "alibi"],
    "test_logits_equal_float64_where_the_authors_round": ["sdpa"],
    "test_measured_scale_is_that_of_the_training_blocks": ["ignore"],
    "test_one_program_serves_every_batch_and_length": [
        "llama-rope",
        "levels-padding",
        "levels-given",
        "levels-tokens_alone",
        "alibi-packed",
        "alibi-tokens_alone",
    ],
    "test_padding_free_training_is_padded_training": ["gpt_neox"],
    "test_record_tells_what_happened": ["gpt_neox"],
    "test_recorded_loss_does_not_depend_on_the_batches": ["token_classification"],
    "test_running_columns_are_as_near_float64_as_a_materialised_bias": [
        "torch.float16",
        "torch.float32-sums",
        "torch.bfloat16-sums-2",
        "weighted sums-4",
    ],
    "test_the_forward_compiles": ["llama-rope", "alibi-tokens_alone", "levels-padding"],
    "test_the_package_is_a_program": ["bipe_hf.commands"],
    "test_the_training_step_compiles": ["llama-rope"],
    "test_transformers_exports_a_step_with_its_cache": ["llama-rope", "levels-decode", "alibi-prefill"],
    "test_two_interrupted_processes_train_what_one_does": ["fsdp2"],
    "test_what_was_learnt_is_answered": ["gpt_neox"],
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        name = item.name.partition("[")
        if any(word in name[2] for word in SLOW_PARAMETERS.get(name[0], ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def no_hub():
    """No test asks the Hub, here or in a process that it starts: without a network a client tries for minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def own_datasets_cache(tmp_path_factory):
    """Nothing that `datasets` cached for another test module is found here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def no_progress_bars():
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    yield
    datasets.enable_progress_bars()
    logging.enable_progress_bar()


# CoPE starts as no encoding, TAPE as RoPE: a test would see nothing of them.
START_AT_ZERO = ("layer_logits.table.weight", "rotary_updates.attended", "rotary_updates.up")


@cache
def _cached_model(family, fields):
    torch.manual_seed(0)
    model = FAMILIES[family].make_causal_lm(**{**TINY, **ast.literal_eval(fields)}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(START_AT_ZERO):
            torch.nn.init.normal_(parameter, std=1.0 if "layer_logits" in name else 0.3)
    return model


def _tiny_model(family="llama", **fields):
    return _cached_model(family, repr(dict(sorted(fields.items()))))


@pytest.fixture(scope="session")
def tiny_model():
    """A function from a family and configuration fields to a model in eval mode, the same one for the same fields."""
    return _tiny_model


@pytest.fixture(scope="session")
def tiny_relative():
    """A function from a tiny model to the one of its family, inter encoding and levels that has the given fields."""

    def relative(model, **fields):
        divides = fields.get("segmentation") != "tokens" and fields.get("intra_encoding") != "none"
        levels = LEVELS if model.config.inner_separator_token_ids and divides else {}
        usual = _tiny_model(family_of(model)).config
        own = {
            name: getattr(model.config, name)
            for name in own_fields()
            if getattr(model.config, name) != getattr(usual, name) and name != "inner_separator_token_ids"
        }
        if family_of(model) == "llama":
            own["num_key_value_heads"] = model.config.num_key_value_heads  # TAPE has as many as heads
        if "layer_encodings" in own and "num_hidden_layers" in fields:
            own["layer_encodings"] = own["layer_encodings"][-fields["num_hidden_layers"] :]
        if model.config.inter_encoding == "axes" and not divides:  # nothing is left that could turn
            own = {"inter_encoding": "alibi"}
        return _tiny_model(family_of(model), **{**own, **levels, **fields})

    return relative


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=pairs(["rope", "alibi", "fox", "cable", "selective_rope", "cope", "dape_v2", "levels", "axes"]))
def model(request, tiny_model):
    """A tiny model of each family with each inter encoding, and with levels inside segments."""
    family, encoding = request.param
    encodings = {
        "levels": {"inter_encoding": "rope", **LEVELS},
        "axes": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    }
    return tiny_model(family, **encodings.get(encoding, {"inter_encoding": encoding}))


@pytest.fixture
def uncompiled_flex_attention(monkeypatch):
    """transformers compiles flex attention, which wants a C++ toolchain; what it computes is the same without."""
    monkeypatch.setattr(
        flex_integration, "WrappedFlexAttention", lambda training: lambda: flex_integration.flex_attention
    )
    create_block_mask = masking_utils.create_block_mask

    def uncompiled(*args, _compile, **kwargs):
        return create_block_mask(*args, **kwargs)

    monkeypatch.setattr(masking_utils, "create_block_mask", uncompiled)


@pytest.fixture
def flash_kernels(monkeypatch):
    """transformers' own flash attention code, with kernels that run on any machine."""
    functions = (naive_flash, naive_flash_varlen, None, flash_utils._pad_input, flash_utils._unpad_input)
    monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *args, **kwargs: functions)
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder in which a tiny model stands where README and docs have the one that `make demo` makes."""
    for part in make_pair(max_position_embeddings=64):
        for folder in (tmp_path / "runs" / "demo" / "tiny_bipe_rope", tmp_path / "me" / "my-bipe"):
            part.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path
