"""One name, one encoding: the fields that a name stands for, where they come from, and the label as its inverse."""

import every_encoding
import pytest
from families import FAMILIES
from paths import ROOT
from transformers import AutoConfig

from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.model import inter_bipe
from bipe_hf.model.configuration_bipe import INTER_ENCODINGS
from bipe_hf.model.encodings_bipe import (
    ENCODING_NAMES,
    ENCODINGS,
    FINISHED_LOGITS,
    WITH_ADDED_ROTATION,
    encoding_name,
)
from bipe_hf.model.errors_bipe import did_you_mean


SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
OVER_TOKENS = {"segmentation": "tokens", "intra_encoding": "none"}
BILEVEL = {"segmentation": "separators", "intra_encoding": "learned"}
HYBRID = {
    "inter_encoding": "hybrid",
    "intra_encoding": "none",
    "hybrid_max_period": 64.0,
    "hybrid_slow_pairs": "none",
    "hybrid_alibi_scale": 2.0,
    "hybrid_alibi_power": 0.5,
}
LOCAL = {"layer_encodings": ["local", "inter"], "local_window": 32}
EXPECTED = {
    "rope": ("RoPE", {"inter_encoding": "rope", **OVER_TOKENS}),
    "xpos": ("xPos", {"inter_encoding": "xpos", **OVER_TOKENS}),
    "alibi": ("ALiBi", {"inter_encoding": "alibi", "alibi_slope_scale": 1.0, **OVER_TOKENS}),
    "kerple": ("Kerple", {"inter_encoding": "kerple", **OVER_TOKENS}),
    "t5": ("T5 bias", {"inter_encoding": "t5", **OVER_TOKENS}),
    "fire": ("FIRE", {"inter_encoding": "fire", **OVER_TOKENS}),
    "fox": ("FoX", {"inter_encoding": "fox", **OVER_TOKENS}),
    "fox_rope": ("FoX with RoPE", {"inter_encoding": "fox", "added_rotation": "rope", **OVER_TOKENS}),
    "fox_pro": ("FoX (Pro)", {"inter_encoding": "fox_pro", **OVER_TOKENS}),
    "cable": ("CABLE", {"inter_encoding": "cable", **OVER_TOKENS}),
    "cable_kernel": ("CABLE with kernel", {"inter_encoding": "cable_kernel", **OVER_TOKENS}),
    "selective_rope": ("Selective RoPE", {"inter_encoding": "selective_rope", **OVER_TOKENS}),
    "tape": ("TAPE", {"inter_encoding": "tape", **OVER_TOKENS}),
    "path": ("PaTH", {"inter_encoding": "path", **OVER_TOKENS}),
    "path_fox": ("PaTH-FoX", {"inter_encoding": "path", "path_gates": "fox", **OVER_TOKENS}),
    "cope": ("CoPE", {"inter_encoding": "cope", **OVER_TOKENS}),
    "dape": ("DAPE", {"inter_encoding": "dape", "alibi_slope_scale": 1.0, **OVER_TOKENS}),
    "dape_v2": ("DAPE V2", {"inter_encoding": "dape_v2", "alibi_slope_scale": 1.0, **OVER_TOKENS}),
    "nope": ("NoPE", {"inter_encoding": "none", **OVER_TOKENS}),
    "rnope": (
        "NoPE and RoPE layers",
        {"inter_encoding": "none", "layer_encodings": ["rope", "inter"], **OVER_TOKENS},
    ),
    "rnope_local": ("NoPE and local layers", {"inter_encoding": "none", **LOCAL, **OVER_TOKENS}),
    "hybrid": ("hybrid", {**HYBRID, "segmentation": "tokens"}),
    "hirope": (
        "HiRoPE over segments",
        {
            "inter_encoding": "hirope",
            "intra_encoding": "none",
            "segmentation": "fixed",
            "fixed_segment_length": 128,
            "hybrid_max_period": 128,
        },
    ),
    "dca": ("DCA", {"inter_encoding": "dca", "dca_train_length": 128, **OVER_TOKENS}),
    "sinusoidal": (
        "sinusoidal APE",
        {
            "inter_encoding": "none",
            "intra_encoding": "sinusoidal",
            "segmentation": "document",
            "max_segment_length": 128,
        },
    ),
    "learned": (
        "learned APE",
        {"inter_encoding": "none", "intra_encoding": "learned", "segmentation": "document", "max_segment_length": 128},
    ),
    "bipe_rope": ("BiPE-RoPE", {"inter_encoding": "rope", **BILEVEL}),
    "bipe_xpos": ("BiPE-xPos", {"inter_encoding": "xpos", **BILEVEL}),
    "bipe_alibi": ("BiPE-ALiBi", {"inter_encoding": "alibi", "alibi_slope_scale": 96.0, **BILEVEL}),
    "bipe_kerple": ("BiPE-Kerple", {"inter_encoding": "kerple", **BILEVEL}),
    "bipe_t5": ("BiPE-T5 bias", {"inter_encoding": "t5", **BILEVEL}),
    "bipe_fire": ("BiPE-FIRE", {"inter_encoding": "fire", **BILEVEL}),
    "bipe_fox": ("BiPE-FoX", {"inter_encoding": "fox", **BILEVEL}),
    "bipe_fox_pro": ("BiPE-FoX (Pro)", {"inter_encoding": "fox_pro", **BILEVEL}),
    "bipe_cable": ("BiPE-CABLE", {"inter_encoding": "cable", **BILEVEL}),
    "bipe_cable_kernel": ("BiPE-CABLE with kernel", {"inter_encoding": "cable_kernel", **BILEVEL}),
    "bipe_selective_rope": ("BiPE-Selective RoPE", {"inter_encoding": "selective_rope", **BILEVEL}),
    "bipe_tape": ("BiPE-TAPE", {"inter_encoding": "tape", **BILEVEL}),
    "bipe_path": ("BiPE-PaTH", {"inter_encoding": "path", **BILEVEL}),
    "bipe_cope": ("BiPE-CoPE", {"inter_encoding": "cope", **BILEVEL}),
    "bipe_dape": ("BiPE-DAPE", {"inter_encoding": "dape", **BILEVEL}),
    "bipe_dape_v2": ("BiPE-DAPE V2", {"inter_encoding": "dape_v2", **BILEVEL}),
    "bipe_hirope": ("BiPE-HiRoPE", {"inter_encoding": "hirope", "hybrid_max_period": 128, **BILEVEL}),
    "bipe_dca": ("BiPE-DCA", {"inter_encoding": "dca", **BILEVEL}),
    "bipe_nope": ("learned APE in segments", {"inter_encoding": "none", **BILEVEL}),
    "bipe_hybrid": ("hybrid over segments", {**HYBRID, "segmentation": "separators"}),
    "bipe_rope_local": ("BiPE-RoPE and local layers", {"inter_encoding": "rope", **LOCAL, **BILEVEL}),
    "bipe_alibi_local": (
        "BiPE-ALiBi and local layers",
        {"inter_encoding": "alibi", "alibi_slope_scale": 96.0, **LOCAL, **BILEVEL},
    ),
    "bipe_levels": ("BiPE-RoPE with levels", {"inter_encoding": "rope", **BILEVEL}),
    "bipe_levels_hybrid": ("BiPE-hybrid with levels", {**HYBRID, **BILEVEL}),
    "bipe_levels_axes": (
        "BiPE-axes with levels",
        {
            "inter_encoding": "axes",
            "hybrid_max_period": 64.0,
            "hybrid_alibi_scale": 2.0,
            "hybrid_alibi_power": 0.5,
            **BILEVEL,
        },
    ),
}


RELATIVES = {"fox": "FoX", "cable": "CABLE", "cope": "CoPE", "dape": "DAPE"}
for name, title in RELATIVES.items():
    for prefix, label in (("", title), ("bipe_", f"BiPE-{title}")):
        fast = {"added_rotation": "fast", "hybrid_max_period": 64.0}
        EXPECTED[f"{prefix}{name}_fast"] = (f"{label} with fast pairs", EXPECTED[f"{prefix}{name}"][1] | fast)


def needed_by(name):
    """What no train length gives: the separators of an encoding, of all its levels, and the segments that BiPE-DCA has
    seen.
    """
    inner = {"inner_separator_token_ids": [[4], [5, 6]]} if "levels" in name else {}
    length = {"dca_train_length": 9} if name == "bipe_dca" else {}
    return {"separator_token_ids": [3], **inner, **length}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The cat sat, as ever; it ran.\nNo end! Why? So: yes."] * 5, 290)


def separators_of(tokenizer, preset):
    return BipeTokenizer.from_tokenizer(tokenizer, preset).separator_token_ids


def test_every_name_has_its_fields(family):
    assert tuple(EXPECTED) == ENCODING_NAMES
    for name, (label, fields) in EXPECTED.items():
        config = family.config.for_encoding(name, train_length=128, vocab_size=60, **needed_by(name), **SHAPE)
        given = {**fields, **needed_by(name), "max_position_embeddings": 128}
        assert config.to_dict() == family.config(**{**given, "vocab_size": 60, **SHAPE}).to_dict(), name
        assert config.encoding_label == label


def test_the_label_of_a_configuration_is_the_inverse_of_its_name(family):
    labels = []
    for name in ENCODING_NAMES:
        config = family.config.for_encoding(name, train_length=128, **needed_by(name))
        assert encoding_name(config.encoding_label) == name
        labels.append(config.encoding_label)
    assert len(set(labels)) == len(ENCODING_NAMES)
    assert encoding_name("RoPE over segments") is None


def test_a_tokenizer_gives_vocabulary_special_tokens_and_separators(family, tokenizer):
    config = family.config.for_encoding("bipe_rope", tokenizer=tokenizer, train_length=128, **SHAPE)
    assert config.vocab_size == len(tokenizer)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert config.separator_token_ids == separators_of(tokenizer, "sentences") != []


@pytest.mark.parametrize(("name", "preset"), [("bipe_alibi", "sentences"), ("bipe_hybrid", "clauses")])
def test_a_plain_tokenizer_is_searched_for_the_separators_that_an_encoding_is_meant_for(tokenizer, name, preset):
    expected = separators_of(tokenizer, preset)
    assert expected != separators_of(tokenizer, "lines")
    config = BipeLlamaConfig.for_encoding(name, tokenizer=tokenizer, train_length=128, **SHAPE)
    assert config.separator_token_ids == expected
    own = BipeTokenizer.from_tokenizer(tokenizer, "lines")
    config = BipeLlamaConfig.for_encoding(name, tokenizer=own, train_length=128, **SHAPE)
    assert config.separator_token_ids == own.separator_token_ids


def test_segments_that_do_not_end_at_separators_need_none(tokenizer):
    for name in ("rope", "learned"):
        config = BipeLlamaConfig.for_encoding(name, tokenizer=tokenizer, train_length=128, **SHAPE)
        assert config.separator_token_ids == []


def test_given_fields_win(tokenizer):
    config = BipeLlamaConfig.for_encoding(
        "bipe_hybrid",
        tokenizer=tokenizer,
        train_length=128,
        vocab_size=400,
        separator_token_ids=[7],
        hybrid_max_period=20,
        max_position_embeddings=99,
        intra_encoding="learned",
        max_segment_length=5,
        **SHAPE,
    )
    assert (config.vocab_size, config.separator_token_ids, config.hybrid_max_period) == (400, [7], 20)
    assert (config.max_position_embeddings, config.max_segment_length) == (99, 5)
    assert config.encoding_label == "BiPE-hybrid"
    # what would follow from the train length may be given instead
    without = BipeLlamaConfig.for_encoding("hybrid", hybrid_max_period=20, **SHAPE)
    assert without.hybrid_max_period == 20


def test_the_saved_configuration_holds_the_fields_and_not_the_name(family, tmp_path):
    config = family.config.for_encoding("bipe_hybrid", train_length=128, separator_token_ids=[3], **SHAPE)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: loaded.to_dict()[name] for name in HYBRID} == HYBRID
    assert loaded.encoding_label == "hybrid over segments"


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"inter_encoding": "rope", "segmentation": "tokens"}, "RoPE with yarn scaling"),
        ({"inter_encoding": "rope"}, "BiPE-RoPE with yarn scaling"),
        ({"inter_encoding": "alibi"}, "BiPE-ALiBi"),  # nothing turns
    ],
)
def test_the_label_names_scaled_angles(family, fields, label):
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    config = family.config(separator_token_ids=[3], rope_parameters=yarn, **fields, **SHAPE)
    assert config.encoding_label == label


def test_a_word_that_a_known_one_holds_is_understood():
    known = ("num_train_epochs", "max_steps", "learning_rate")
    assert did_you_mean("epochs", known) == "; did you mean num_train_epochs?"
    assert did_you_mean("learning_rat", known) == "; did you mean learning_rate?"
    assert did_you_mean("ste", known) == did_you_mean("qqqq", known) == ""


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bipe_ropee", {}, r"encoding: 'bipe_ropee' is none; did you mean bipe_rope\? \(accepted: rope, "),
        (3, {}, r"encoding: 3 is none \(accepted: rope, "),
        ("hybrid", {}, "encoding 'hybrid' needs train_length, from which hybrid_max_period follows"),
        ("learned", {}, "encoding 'learned' needs train_length, from which max_segment_length follows"),
        ("dca", {}, "encoding 'dca' needs train_length, from which dca_train_length follows"),
        ("bipe_dca", {"train_length": 128, "separator_token_ids": [3]}, "'dca' needs dca_train_length, .* segments"),
        ("bipe_hybrid", {"train_length": 0}, "train_length must be a number of tokens from 1 on, got 0"),
        ("rope", {"train_length": 2.5}, "train_length must be a number of tokens from 1 on, got 2.5"),
        ("bipe_rope", {}, "encoding 'bipe_rope' ends segments at separators: give tokenizer or separator_token_ids"),
        ("bipe_rope", {"separator_token_ids": [70], "vocab_size": 60}, "separator_token_ids must lie in the vocab"),
    ],
)
def test_bad_input_says_what_is_accepted(family, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        family.config.for_encoding(name, **arguments)


def test_the_map_of_methods_has_every_inter_encoding_and_every_name():
    text, patterns = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("methods", "layer_patterns"))
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert rows.pop("inter_encoding")
    assert rows.keys() == set(INTER_ENCODINGS)
    for name, encoding in ENCODINGS.items():
        where = patterns if "layer_encodings" in encoding.fields else rows[encoding.fields["inter_encoding"]]
        assert f"`{name}`" in where


def test_the_mask_of_sepllm_is_in_the_label():
    config = BipeLlamaConfig(separator_token_ids=[1], sepllm_neighbors=8)
    assert config.encoding_label == "BiPE-RoPE with SepLLM's mask"


def test_those_that_change_finished_logits_are_named():
    with_logits = {name for name, inter in inter_bipe.INTER_ENCODINGS.items() if inter.logits_class is not None}
    assert with_logits == set(FINISHED_LOGITS)
    turned = {
        name for name, inter in inter_bipe.INTER_ENCODINGS.items() if issubclass(inter, inter_bipe.TurnedInterEncoding)
    }
    assert turned == set(WITH_ADDED_ROTATION)


def test_what_tests_run_with_every_encoding_forgets_none():
    assert {fields["inter_encoding"] for fields in every_encoding.ENCODINGS.values()} == set(INTER_ENCODINGS)
