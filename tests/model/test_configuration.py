"""What a configuration accepts, what it says of the rest, and that it survives saving and the Auto classes."""

import copy
import inspect
import json
import logging
import operator
import pickle

import pytest
import torch
import yaml
from families import FAMILIES, HEADS
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import bipe_hf
from bipe_hf import BipeLlamaConfig
from bipe_hf.model import configuration_bipe, inter_bipe, intra_bipe


TINY = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "separator_token_ids": [5, 3],
    "pad_token_id": 0,
}
AUTO_CLASSES = {
    "Model": AutoModel,
    "ForCausalLM": AutoModelForCausalLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def test_public_names():
    names = [family.prefix + name for family in FAMILIES.values() for name in ("Config", *HEADS)]
    assert sorted(bipe_hf.__all__) == sorted([*names, "BipeTokenizer", "SepLLMCache", "edit_cache"])
    for name in bipe_hf.__all__:
        assert vars(bipe_hf)[name].__name__ == name


def test_defaults_are_those_of_the_paper(family):
    config = family.config(separator_token_ids=[1])
    assert (config.inter_encoding, config.intra_encoding, config.segmentation) == ("rope", "learned", "separators")
    assert (config.max_segment_length, config.alibi_slope_scale, config.log_scale_train_length) == (1024, 96.0, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inter_encoding": "ape"}, "t5, fire, fox, fox_pro, cable, .*, dape_v2, none, got 'ape'"),
        ({"intra_encoding": "rope"}, "intra_encoding must be one of learned, sinusoidal, none, got 'rope'"),
        ({"segmentation": "words"}, "segmentation must be one of separators, fixed, tokens, document, got 'words'"),
        ({"max_segment_length": 0}, "max_segment_length must be at least 1 token, got 0"),
        ({"intra_initializer_range": -0.1}, "intra_initializer_range must be None or a standard deviation from 0 on"),
        ({"intra_initializer_range": float("nan")}, "intra_initializer_range must be None or a standard deviation"),
        ({"alibi_slope_scale": 0.0}, "alibi_slope_scale must lie between 1e-6 and 1e6, got 0.0"),
        ({"alibi_slope_scale": float("inf")}, "alibi_slope_scale must lie between 1e-6 and 1e6, got inf"),
        ({"log_scale_train_length": 1}, "log_scale_train_length must be None or at least 2"),
        ({"separator_token_ids": [31]}, r"separator_token_ids must lie in the vocabulary, from 0 to 30, got \[31\]"),
    ],
)
def test_invalid_fields_fail_at_construction_and_say_what_is_accepted(family, fields, message):
    with pytest.raises(ValueError, match=message):
        family.make_config(**{**TINY, **fields})


def test_every_field_is_documented_and_says_what_reads_it(family):
    own = configuration_bipe.own_fields()
    added = set(family.config().to_dict()) - set(family.stock_config().to_dict())
    assert set(own) == added - {"bipe_hf_version"}
    for name, each in own.items():
        assert f"{name} (`" in family.config.__doc__
        assert "\n" not in each.metadata["help"]
        for reader, values in each.metadata["read_by"].items():
            assert set(values) < set(own[reader].metadata["choices"])


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("alibi_slope_scale", {"inter_encoding": "alibi"}, None),
        ("alibi_slope_scale", {"inter_encoding": "hybrid"}, "only inter_encoding alibi or dape or dape_v2 reads it"),
        ("alibi_slope_scale", {}, "only inter_encoding alibi or dape or dape_v2 reads it"),  # the default is rope
        ("hybrid_slow_pairs", {"inter_encoding": "hybrid"}, None),
        ("max_segment_length", {"intra_encoding": "none"}, "only intra_encoding learned or sinusoidal reads it"),
        ("separator_token_ids", {}, None),
        ("fixed_segment_length", {"segmentation": "tokens"}, "only segmentation fixed reads it"),
        ("inter_encoding", {"segmentation": "tokens"}, None),
    ],
)
def test_a_field_that_nothing_reads_is_told(name, fields, reason):
    assert configuration_bipe.why_unread(name, fields) == reason


OWN_FIELDS = tuple(configuration_bipe.own_fields())


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_a_field_with_a_letter_dropped_is_refused_with_its_name(family, name, tmp_path):
    family.make_config(**TINY).save_pretrained(tmp_path)
    value = family.make_config(**TINY).to_dict()[name]
    for at in range(len(name)):
        misspelt = name[:at] + name[at + 1 :]
        meant = "int(er|ra)_encoding" if misspelt == "intr_encoding" else name
        message = rf"^{misspelt}: {family.config.__name__} has no such field; did you mean {meant}\?$"
        with pytest.raises(ValueError, match=message):
            family.make_config(**{**TINY, misspelt: value})
        for load in (family.config, AutoConfig, family.causal_lm):
            with pytest.raises(ValueError, match=message):
                load.from_pretrained(tmp_path, **{misspelt: value})


@given(name=st.sampled_from(OWN_FIELDS), at=st.integers(0, 30), letter=st.sampled_from("aeinrst_"))
def test_a_field_with_another_letter_is_refused(name, at, letter):
    at %= len(name)
    for misspelt in (name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :]):
        if misspelt not in OWN_FIELDS:
            with pytest.raises(ValueError, match=f"^{misspelt}: BipeLlamaConfig has no such field; did you mean "):
                BipeLlamaConfig(**{**TINY, misspelt: 1})


@pytest.mark.parametrize("name", ["foo", "rope_tetha", "num_hidden_layer", "bipe_levels"])
def test_what_is_no_field_at_all_is_refused(family, name):
    with pytest.raises(ValueError, match=f"^{name}: {family.config.__name__} has no such field"):
        family.make_config(**TINY, **{name: 1})


def test_what_transformers_takes_is_taken(family):
    """Old names too, those of generation, and all that a configuration writes of itself."""
    stock = {
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "torch_dtype": "bfloat16",
        "num_labels": 5,
        "name_or_path": "me/x",
        "attn_implementation": "eager",
        "output_attentions": True,
        "use_cache": False,
        "temperature": 0.5,
        "max_length": 30,
        "quantization_config": {"quant_method": "bitsandbytes"},
    }
    own_names = {
        "BipeLlama": {"num_key_value_heads": 1, "head_dim": 8, "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        "BipeGPTNeoX": {"rotary_emb_base": 500.0, "rotary_pct": 0.5},
    }[family.prefix]
    config = family.config(**TINY, **stock, **own_names)
    parent = family.stock_config(**{**TINY, "separator_token_ids": None}, **stock, **own_names)
    assert config.rope_parameters == parent.rope_parameters
    assert (config.dtype, config.num_labels, config.use_cache) == (torch.bfloat16, 5, False)
    again = family.config(**config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_unknown_fields_of_a_file_load(family, tmp_path):
    family.make_config(**TINY).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "note_of_the_owner": "x", "inter_encodng": "alibi"}))
    content = json.loads(file.read_text())
    for config in (
        family.config.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        family.config.from_dict(content),
        family.config.from_json_file(file),
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).config,
    ):
        assert (config.note_of_the_owner, config.inter_encoding) == ("x", "rope")
    config, unused = family.config.from_pretrained(tmp_path, return_unused_kwargs=True, padding_side="left")
    assert (config.note_of_the_owner, unused) == ("x", {"padding_side": "left"})


def test_a_field_given_to_from_pretrained_is_checked(family, tmp_path):
    family.make_config(**TINY).save_pretrained(tmp_path)
    config = family.config.from_pretrained(tmp_path, inter_encoding="alibi", separator_token_ids=[7, 2, 7])
    assert (config.inter_encoding, config.separator_token_ids) == ("alibi", [2, 7])
    with pytest.raises(ValueError, match="inter_encoding must be one of rope, .*, got 'ape'"):
        family.config.from_pretrained(tmp_path, inter_encoding="ape")


def test_fields_change_until_a_model_is_built_and_not_afterwards(family, tmp_path):
    """What a model was built from is what it saves."""
    config = family.make_config(**TINY)
    config.separator_token_ids, config.inter_encoding = [9, 4, 9], "alibi"
    model = family.causal_lm(config).eval()
    ids = torch.tensor([[1, 4, 5, 3, 9, 2]])
    assert model.base_model.segment(ids).segment_ids.tolist() == [[0, 0, 1, 1, 1, 2]]
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for name, value in {"separator_token_ids": [3], "segmentation": "tokens", "inter_encoding": "rope"}.items():
            with pytest.raises(ValueError, match=f"{name} of a configuration that a model was built from"):
                setattr(copied.config, name, value)
        copied.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert (saved["separator_token_ids"], saved["inter_encoding"]) == ([4, 9], "alibi")
        assert not [name for name in saved if name.startswith("_")]
    for other in (family.config.from_dict(model.config.to_dict()), copy.deepcopy(model.config)):
        other.separator_token_ids = [3]
        assert family.causal_lm(other).base_model.segment(ids).segment_ids.tolist() == [[0, 0, 0, 0, 1, 1]]
    model.config.inter_encoding = "alibi"  # as it is
    model.config.use_cache = False  # what is not ours is as free as in transformers


def test_another_configuration_than_that_of_the_weights_is_not_saved(family, tmp_path):
    model = family.causal_lm(family.make_config(**TINY))
    model.config = family.make_config(**{**TINY, "separator_token_ids": [9]})
    with pytest.raises(
        ValueError, match=r"separator_token_ids of the configuration is \[9\], but the model was built"
    ):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inter_encoding", "alibbi", "inter_encoding must be one of"),
        ("segmentation", "fixed", "segmentation 'fixed' needs fixed_segment_length"),
    ],
)
def test_what_was_set_since_is_checked_when_a_model_is_built(family, field, value, message):
    config = family.make_config(**TINY)
    setattr(config, field, value)
    with pytest.raises(ValueError, match=message):
        family.causal_lm(config)
    setattr(config, field, family.make_config(**TINY).to_dict()[field])  # nothing was built: it can be mended
    family.causal_lm(config)


def test_a_misspelt_field_is_not_set_either(family):
    config = family.make_config(**TINY)
    with pytest.raises(ValueError, match="inter_encodng: .* has no such field; did you mean inter_encoding"):
        config.inter_encodng = "alibi"
    with pytest.raises(ValueError, match="separators: they belong to the tokenizer"):
        family.make_config(**TINY, separators="lines")
    config.note = "of one's own"


def test_a_saved_configuration_is_plain_and_an_unknown_field_in_it_does_no_harm(family):
    content = family.make_config(**TINY).to_dict()
    assert yaml.safe_load(yaml.safe_dump({"ids": content["separator_token_ids"]})) == {"ids": [3, 5]}
    config = family.config(**{**content, "unsloth_version": "1"})  # as a configuration inside another is made
    assert config.separator_token_ids == [3, 5]


def test_separators_do_not_change_in_place(family):
    config = family.make_config(**TINY)
    for change in (
        lambda ids: ids.append(7),
        lambda ids: ids.extend([7]),
        lambda ids: ids.insert(0, 7),
        lambda ids: ids.remove(3),
        lambda ids: ids.pop(),
        lambda ids: ids.clear(),
        lambda ids: ids.reverse(),
        lambda ids: ids.sort(),
        lambda ids: operator.setitem(ids, 0, 7),
        lambda ids: operator.delitem(ids, 0),
        lambda ids: operator.iadd(ids, [7]),
        lambda ids: operator.imul(ids, 2),
    ):
        with pytest.raises(ValueError, match="separator_token_ids cannot be changed in place"):
            change(config.separator_token_ids)
    assert config.separator_token_ids == copy.deepcopy(config).separator_token_ids == [3, 5]


@pytest.mark.parametrize("fields", [{"separator_token_ids": ["."]}, {"max_segment_length": "long"}])
def test_fields_of_the_wrong_type_fail_as_in_every_transformers_configuration(family, fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        family.make_config(**{**TINY, **fields})


def test_separators_without_any_are_warned_of(caplog):
    library_logger = logging.getLogger("transformers")
    library_logger.addHandler(caplog.handler)
    try:
        configuration_bipe.logger.warning_once.cache_clear()
        BipeLlamaConfig(**{**TINY, "separator_token_ids": []})
        assert "separator_token_ids is empty" in caplog.text
        caplog.clear()
        configuration_bipe.logger.warning_once.cache_clear()
        BipeLlamaConfig(**{**TINY, "separator_token_ids": [], "segmentation": "document"})
        assert not caplog.text
    finally:
        library_logger.removeHandler(caplog.handler)


def test_every_name_that_is_accepted_has_an_encoding():
    assert tuple(inter_bipe.INTER_ENCODINGS) == configuration_bipe.INTER_ENCODINGS
    assert tuple(intra_bipe.INTRA_ENCODINGS) == configuration_bipe.INTRA_ENCODINGS


def test_separators_are_a_sorted_set():
    assert BipeLlamaConfig(**TINY, max_segment_length=7).separator_token_ids == [3, 5]
    assert BipeLlamaConfig(**{**TINY, "separator_token_ids": [5, 5, 3]}).separator_token_ids == [3, 5]


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
def test_models_save_load_and_register(family, head, inter_encoding, tmp_path):
    auto_class = AUTO_CLASSES[head]
    config = family.make_config(**TINY, inter_encoding=inter_encoding, num_labels=3)
    model = auto_class.from_config(config).eval()
    assert type(model) is family.head(head)
    model.save_pretrained(tmp_path)
    saved, original = AutoConfig.from_pretrained(tmp_path).to_dict(), model.config.to_dict()
    assert {**saved, "_name_or_path": ""} == {**original, "_name_or_path": ""}
    loaded = auto_class.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    segment_ids = torch.tensor([[0, 0, 0, 2, 2, 4, 4]])
    for arguments in ({}, {"segment_ids": segment_ids}):
        expected, actual = model(ids, **arguments), loaded(ids, **arguments)
        for key in expected:
            if isinstance(expected[key], torch.Tensor):
                assert torch.equal(expected[key], actual[key])
    assert not torch.equal(model(ids)[0], model(ids, segment_ids=segment_ids)[0])


def test_heads_load_the_weights_of_a_pretrained_language_model(family, tmp_path):
    language_model = family.make_causal_lm(**TINY)
    language_model.save_pretrained(tmp_path)
    parameters = dict(language_model.base_model.named_parameters())
    for auto_class in AUTO_CLASSES.values():
        base = auto_class.from_pretrained(tmp_path).base_model
        for (name, expected), actual in zip(parameters.items(), base.parameters(), strict=True):
            assert torch.equal(expected, actual), name


def test_a_stock_checkpoint_loads_whole(family, tmp_path):
    """Whatever the family calls its weights in a file; new are the encodings alone."""
    torch.manual_seed(0)
    stock = family.make_stock_causal_lm(**{**TINY, "separator_token_ids": None})
    stock.save_pretrained(tmp_path / "stock")
    ours, info = family.causal_lm.from_pretrained(
        tmp_path / "stock", separator_token_ids=TINY["separator_token_ids"], output_loading_info=True
    )
    assert info["missing_keys"] == {f"{ours.base_model_prefix}.intra_encoding.weight"}
    assert not info["unexpected_keys"]
    for name, weight in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    ours.save_pretrained(tmp_path / "ours")
    again = family.stock_causal_lm.from_pretrained(tmp_path / "ours")
    for name, weight in stock.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_vocabulary_may_grow(family):
    """New tokens are words: nothing beyond the separators that the configuration names ends a segment."""
    model = family.make_causal_lm(**TINY).eval()
    model.resize_token_embeddings(40)
    ids = torch.tensor([[1, 39, 5, 31, 38, 30, 3, 2]])
    assert model.base_model.segment(ids).segment_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1, 2]]
    assert model(ids).logits.shape == (1, 8, 40)


@pytest.mark.parametrize("spread", [None, 0, 0.5])
def test_the_first_values_of_the_intra_table_have_the_spread_asked_for(family, spread, tmp_path):
    """And nothing else of a model changes with it."""
    fields = {**TINY, "hidden_size": 64, "max_segment_length": 200, "initializer_range": 0.1}
    torch.manual_seed(0)
    plain = family.make_causal_lm(**fields, intra_encoding="none").state_dict()
    torch.manual_seed(0)
    model = family.make_causal_lm(**fields, intra_initializer_range=spread)
    weights = model.state_dict()
    table = weights[f"{model.base_model_prefix}.intra_encoding.weight"]
    assert table.std().item() == pytest.approx(0.1 if spread is None else spread, rel=0.03)
    assert all(torch.equal(weights[name], expected) for name, expected in plain.items())
    # what was learnt comes back as it is
    with torch.no_grad():
        table += 1
    model.save_pretrained(tmp_path)
    loaded = family.causal_lm.from_pretrained(tmp_path).state_dict()
    assert torch.equal(loaded[f"{model.base_model_prefix}.intra_encoding.weight"], table)


def test_the_intra_table_stands_beside_the_embedding_that_it_is_added_to(family):
    """A device map places modules in this order: behind the layers, the table would land on another device."""
    children = list(family.head("Model")(family.make_config(**TINY)).children())
    assert isinstance(children[0], torch.nn.Embedding)
    assert isinstance(children[1], intra_bipe.LearnedIntraEncoding)


def test_a_model_is_built_once(family):
    """The decoder and its attention exist once: no constructor builds what another one throws away."""
    counted = []

    class Counting(torch.nn.Linear):
        def __init__(self, *args, **kwargs):
            counted.append(args)
            super().__init__(*args, **kwargs)

    original, torch.nn.Linear = torch.nn.Linear, Counting
    try:
        model = family.make_causal_lm(**TINY)
    finally:
        torch.nn.Linear = original
    assert len(counted) == sum(isinstance(module, original) for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_buffers_survive_loading_in_another_dtype(family, tmp_path, dtype):
    """Slopes and separators are no weights: a checkpoint does not hold them, and a cast must not round them."""
    model = family.make_causal_lm(**TINY, inter_encoding="alibi")
    model.save_pretrained(tmp_path)
    for loaded in (family.causal_lm.from_pretrained(tmp_path, dtype=dtype), model.to(dtype)):
        ours, fresh = loaded.base_model, family.causal_lm(loaded.config).base_model
        assert torch.equal(ours.segmenter.is_separator, fresh.segmenter.is_separator)
        assert ours.segmenter.is_separator.nonzero().flatten().tolist() == [3, 5]
        buffers = dict(fresh.inter_encoding.alibi.named_buffers())
        assert buffers
        for name, buffer in ours.inter_encoding.alibi.named_buffers():
            assert torch.equal(buffer, buffers[name])
        assert loaded(torch.tensor([[1, 3, 2]])).logits.dtype == dtype


def test_forward_names_segment_ids_so_that_trainer_keeps_the_column(family):
    for head in HEADS:
        assert "segment_ids" in inspect.signature(family.head(head).forward).parameters
