"""What the constructor of a configuration refuses is refused, in one line, wherever else it comes from."""

import json

import pytest
import torch
from families import FAMILIES
from tiny import TINY
from transformers import AutoConfig, AutoModelForCausalLM

from bipe_hf.lab.common.checkpoints import with_fields
from bipe_hf.lab.training.arguments import DataArguments, ModelArguments
from bipe_hf.lab.training.model import build_config
from bipe_hf.model.configuration_bipe import own_fields


NAN = float("nan")
HYBRID = {"inter_encoding": "hybrid", "hybrid_max_period": 8.0}
OWN = ("segmentation", "inter_encoding", "intra_encoding")
"""Fields with choices that have cases of their own."""
CASES = [
    {"segmentation": "sentences"},
    {"segmentation": None},
    {"segmentation": "fixed"},
    {"segmentation": "fixed", "fixed_segment_length": -2},
    {"separator_token_ids": [60]},
    {"separator_token_ids": [-1]},
    {"separator_token_ids": ["."]},
    {"separator_token_ids": "sentences"},
    {"inner_separator_token_ids": [[60]]},
    {"inner_separator_token_ids": [[]]},
    {"inner_separator_token_ids": [5]},
    {"inner_separator_token_ids": [[5]], "intra_encoding": "none"},
    {"inter_encoding": "ropee"},
    {"intra_encoding": "learnt"},
    {"max_segment_length": 0},
    {"max_segment_length": "64"},
    {"max_inner_index": 0},
    {"intra_initializer_range": NAN},
    {"log_scale_train_length": 1},
    {"logn_train_length": 1},
    {"inter_encoding": "alibi", "alibi_slope_scale": -96.0},
    {"inter_encoding": "alibi", "alibi_slope_scale": NAN},
    {"inter_encoding": "hybrid"},
    {**HYBRID, "hybrid_max_period": NAN},
    {**HYBRID, "hybrid_slow_pairs": "segment"},
    {**HYBRID, "hybrid_alibi_scale": -1.0},
    {**HYBRID, "hybrid_alibi_power": 2.0},
    {"inter_encoding": "hybrid", "hybrid_max_period": 8.0, "token_share": 1.5},
    {"inter_encoding": "dca"},
    {"inter_encoding": "dca", "dca_train_length": 1},
    {"inter_encoding": "dca", "dca_train_length": 8, "dca_chunk_size": 9},
    {"inter_encoding": "hirope"},
    {"inter_encoding": "fox", "fox_min_time": -1.0},
    {"inter_encoding": "dape", "dape_width": 0},
    {"inter_encoding": "dape_v2", "dape_kernel": 2},
    {"inter_encoding": "tape", "tape_channels": 0},
    {"inter_encoding": "selective_rope", "selective_rope_theta": NAN},
    {"sepllm_neighbors": 0},
    {"sepllm_initial_tokens": -1},
    {"layer_encodings": ["local"]},
    {"layer_encodings": ["inter", "global"]},
    {"layer_encodings": ["local", "inter"], "local_window": 0},
    {"vocab_size": 19},
]
CASES += [
    {name: "made up"} for name, own in own_fields().items() if own.metadata["choices"] is not None and name not in OWN
]


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    family.make_causal_lm(**TINY).save_pretrained(folder)
    return folder


def edited(folder, tmp_path, fields):
    """A folder with the configuration alone, changed by hand: weights are not asked for before."""
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    return tmp_path


def set_and_built(family, folder, fields):
    config = AutoConfig.from_pretrained(folder)
    for name, value in fields.items():
        setattr(config, name, value)
    return family.causal_lm(config)


DOORS = {
    "constructor": lambda family, folder, tmp, fields: family.make_config(**{**TINY, **fields}),
    "model": lambda family, folder, tmp, fields: AutoModelForCausalLM.from_pretrained(folder, **fields),
    "model_class": lambda family, folder, tmp, fields: family.causal_lm.from_pretrained(folder, **fields),
    "configuration": lambda family, folder, tmp, fields: AutoConfig.from_pretrained(folder, **fields),
    "edited_file": lambda family, folder, tmp, fields: AutoConfig.from_pretrained(edited(folder, tmp, fields)),
    "model_of_an_edited_file": lambda family, folder, tmp, fields: AutoModelForCausalLM.from_pretrained(
        edited(folder, tmp, fields)
    ),
    "set_before_building": lambda family, folder, tmp, fields: set_and_built(family, folder, fields),
    "config_fields": lambda family, folder, tmp, fields: with_fields(AutoConfig.from_pretrained(folder), fields),
}


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "-".join(f"{k}={v}" for k, v in fields.items())[:50])
@pytest.mark.parametrize("door", DOORS)
def test_a_value_that_no_model_has_is_refused_in_one_line(family, folder, tmp_path, door, fields):
    with pytest.raises(ValueError, match=list(fields)[-1] if "vocab_size" not in fields else "vocabulary") as refusal:
        DOORS[door](family, folder, tmp_path, fields)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": "sentences"},
        {"inter_encoding": "ropee"},
        {"inter_encoding": "alibi", "alibi_slope_scale": -96.0},
        {"max_segment_length": 0},
        HYBRID | {"hybrid_alibi_power": 2.0},
    ],
    ids=lambda fields: list(fields)[-1],
)
def test_settings_over_an_initial_model_are_refused_alike(folder, fields):
    with pytest.raises(ValueError, match=list(fields)[-1]) as refusal:
        build_config(ModelArguments(initial_model=str(folder), **fields), DataArguments(data="text"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("door", ["configuration", "model"])
def test_separators_of_a_model_that_has_none_are_asked_for(family, tmp_path, door):
    """A model over tokens that is loaded over segments would find a single one."""
    family.make_causal_lm(**{**TINY, "segmentation": "tokens", "separator_token_ids": []}).save_pretrained(tmp_path)
    fields = {"segmentation": "separators"}
    with pytest.raises(ValueError, match="segmentation: 'separators' needs separator_token_ids") as refusal:
        DOORS[door](family, tmp_path, tmp_path, fields)
    assert "\n" not in str(refusal.value)
    loaded = DOORS[door](family, tmp_path, tmp_path, fields | {"separator_token_ids": [3]})
    config = loaded if door == "configuration" else loaded.config
    assert (config.segmentation, config.separator_token_ids) == ("separators", [3])
    assert DOORS[door](family, tmp_path, tmp_path, {"segmentation": "document"})


@pytest.mark.parametrize("door", ["configuration", "model"])
def test_given_rope_parameters_keep_what_they_do_not_name(family, tmp_path, door):
    own = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    family.make_causal_lm(**TINY, rope_parameters=own).save_pretrained(tmp_path)
    for given in ({"factor": 2.0}, {"rope_type": "linear", "factor": 3.0}, {"rope_theta": 20.0, "factor": 5.0}):
        loaded = DOORS[door](family, tmp_path, tmp_path, {"rope_parameters": given})
        config = loaded if door == "configuration" else loaded.config
        found = config.rope_parameters
        assert (found["rope_type"], found["rope_theta"]) == ("linear", given.get("rope_theta", 500.0))
        assert found["factor"] == given["factor"]


@pytest.mark.parametrize("size", [{"new_num_tokens": 19}, {"new_num_tokens": 12, "pad_to_multiple_of": 8}])
@pytest.mark.parametrize("separators", ["separator_token_ids", "inner_separator_token_ids"])
def test_a_vocabulary_without_a_separator_is_refused_and_the_model_stays(family, size, separators, tmp_path):
    fields = {"separator_token_ids": [3]} if separators == "inner_separator_token_ids" else {}
    inner = {"inner_separator_token_ids": [[5, 19]]} if separators == "inner_separator_token_ids" else {}
    model = family.make_causal_lm(**{**TINY, **fields, **inner}).eval()
    ids = torch.tensor([[5, 3, 9, 19, 4]])
    expected = model(ids).logits
    with pytest.raises(ValueError, match=rf"new_num_tokens=.*{separators}.* must lie in the vocabulary, .*got \[19\]"):
        model.resize_token_embeddings(**size)
    assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(family.causal_lm.from_pretrained(tmp_path).eval()(ids).logits, expected)


@pytest.mark.parametrize(
    "size", [{"new_num_tokens": 20}, {"new_num_tokens": 80}, {"new_num_tokens": 17, "pad_to_multiple_of": 20}]
)
def test_a_vocabulary_with_all_separators_is_taken(family, size, tmp_path):
    model = family.make_causal_lm(**TINY).eval()
    ids = torch.tensor([[5, 3, 9, 19, 4]])
    expected = model(ids).logits[..., :20]
    model.resize_token_embeddings(**size)
    torch.testing.assert_close(model(ids).logits[..., :20], expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    assert family.causal_lm.from_pretrained(tmp_path).config.vocab_size == max(20, size["new_num_tokens"])
