"""Stock Llama and GPT-NeoX checkpoints: what becomes of them, what is refused, and that they train on."""

import json
import math
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset
from families import FAMILIES
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GenerationConfig,
    GPTNeoXTokenizer,
    LlamaConfig,
    Trainer,
    TrainingArguments,
)

import bipe_hf
from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import with_fields
from bipe_hf.lab.common.messages import parsed_json
from bipe_hf.lab.conversion import convert_stock_checkpoint
from bipe_hf.lab.conversion.step_zero import StepZero
from bipe_hf.lab.conversion.stock import note_step_zero
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.training import DataArguments, ModelArguments, build_config, fit_tokenizer, pretrain
from bipe_hf.model.configuration_bipe import own_fields
from bipe_hf.model.errors_bipe import InputError


TEXT = 'The cat sat. "It ran!"\nWhile rain fell, it sat on that hill. And then?\n'
TINY = {
    "vocab_size": 290,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # at 0.02 every model predicts its last token again
    "bos_token_id": 0,
    "eos_token_id": 0,
}
TABLE = {"llama": "model.intra_encoding.weight", "gpt_neox": "gpt_neox.intra_encoding.weight"}
WEIGHTS = "model.safetensors"
STOCK = {"segmentation": "tokens", "intra_encoding": "none"}

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT] * 5, 280)


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """A function that saves a tiny stock checkpoint with a tokenizer and returns the folder."""

    def save(family, dtype=torch.float32, max_shard_size="1GB", **fields) -> Path:
        torch.manual_seed(0)
        model = FAMILIES[family].make_stock_causal_lm(**{**TINY, **fields}).to(dtype)
        model.save_pretrained(tmp_path / "stock", max_shard_size=max_shard_size)
        tokenizer.save_pretrained(tmp_path / "stock")
        return tmp_path / "stock"

    return save


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "output"


def edit_config(folder, drop=(), **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))


def edit_weights(folder, changes, drop=()):
    weights = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in {**weights, **changes}.items() if k not in drop}, folder / WEIGHTS)


def as_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def saved_config(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def ids(tokenizer):
    return torch.tensor([tokenizer(TEXT)["input_ids"]])


def logits(folder, input_ids, attention="sdpa"):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    with torch.no_grad():
        return model(input_ids=input_ids).logits


def assert_same_weights(family, stock, output):
    """Every weight that the stock class loads, bit for bit and in its dtype, and nothing beyond the table."""
    expected = FAMILIES[family].stock_causal_lm.from_pretrained(stock, dtype="auto").state_dict()
    actual = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert type(actual) is FAMILIES[family].causal_lm
    actual = actual.state_dict()
    assert set(actual) - set(expected) <= {TABLE[family]}
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype
        assert torch.equal(actual[key], value), key


# Weights


@every_family
def test_weights_keep_their_names_in_the_file(family, checkpoint, output):
    stock = checkpoint(family)
    convert_stock_checkpoint(stock, output)
    assert load_file(output / WEIGHTS).keys() - {TABLE[family]} == load_file(stock / WEIGHTS).keys()


def test_two_heads_are_refused(checkpoint, output):
    stock = checkpoint("gpt_neox")
    edit_weights(stock, {"lm_head.weight": torch.ones(290, 32)})
    with pytest.raises(ValueError, match=r"'(lm_head|embed_out).weight' comes twice: lm_head.weight"):
        convert_stock_checkpoint(stock, output)
    assert not output.exists()


def test_the_head_of_a_gpt_neox_is_no_key_of_a_llama(checkpoint, output):
    stock = checkpoint("llama")
    edit_weights(stock, {"embed_out.weight": torch.ones(290, 32)}, drop=["lm_head.weight"])
    with pytest.raises(ValueError, match="unknown key 'embed_out.weight'"):
        convert_stock_checkpoint(stock, output)


def test_overwriting_leaves_nothing_of_the_model_before(checkpoint, output):
    stock = checkpoint("llama", max_shard_size="20KB")
    convert_stock_checkpoint(stock, output)
    AutoModelForCausalLM.from_pretrained(output).save_pretrained(output, max_shard_size="20KB")
    (output / "notes.txt").write_text("mine")
    assert (output / "model.safetensors.index.json").exists()
    (stock / "tokenizer.json").unlink()
    convert_stock_checkpoint(stock, output, segmentation="document", overwrite=True)
    left = {path.name for path in output.iterdir() if path.suffix != ".py"}
    assert left == {"config.json", "generation_config.json", WEIGHTS, "notes.txt", "README.md", "origin.json"}
    assert "whole text is one" in (output / "README.md").read_text()


def test_overwriting_deletes_nothing_where_a_file_of_somebody_else_is_in_the_way(checkpoint, output):
    stock = checkpoint("llama")
    convert_stock_checkpoint(stock, output)
    (output / "cache_bipe.py").write_text("mine = 1\n")
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    with pytest.raises(FileExistsError, match="holds a file cache_bipe.py"):
        convert_stock_checkpoint(stock, output, overwrite=True)
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_fields_of_bipe_in_a_stock_configuration_are_not_believed(checkpoint, output):
    stock = checkpoint("llama")
    edit_config(stock, log_scale_train_length=4, max_segment_length=3, segmentation="document")
    convert_stock_checkpoint(stock, output)
    config = saved_config(output)
    assert (config["log_scale_train_length"], config["max_segment_length"]) == (None, 1024)
    assert config["segmentation"] == "separators"


def test_a_padding_token_that_is_none_is_left_out(checkpoint, output):
    stock = checkpoint("llama")
    edit_config(stock, pad_token_id=-1)
    report = convert_stock_checkpoint(stock, output)
    assert saved_config(output)["pad_token_id"] is None
    assert "pad_token_id -1 is not carried over" in str(report)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_taken_over_bit_for_bit_in_their_dtype(checkpoint, output, family, dtype):
    stock = checkpoint(family, dtype)
    convert_stock_checkpoint(stock, output)
    assert_same_weights(family, stock, output)
    assert saved_config(output)["dtype"] == str(dtype).removeprefix("torch.")


@every_family
def test_sharded_weights_are_taken_over(checkpoint, output, family):
    stock = checkpoint(family, max_shard_size="20KB")
    assert len(list(stock.glob("*.safetensors"))) > 2
    convert_stock_checkpoint(stock, output)
    assert_same_weights(family, stock, output)


@every_family
def test_weights_in_a_pickle_are_taken_over(checkpoint, output, family):
    stock = checkpoint(family)
    as_pickle(stock)
    convert_stock_checkpoint(stock, output)
    assert_same_weights(family, stock, output)


@every_family
def test_tied_weights_stay_tied(checkpoint, output, family):
    stock = checkpoint(family, tie_word_embeddings=True)
    report = convert_stock_checkpoint(stock, output)
    assert_same_weights(family, stock, output)
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not any(key.startswith(("lm_head", "embed_out")) for key in (*report.used, *load_file(output / WEIGHTS)))


def test_weights_of_several_dtypes_are_kept_exactly_in_the_widest(checkpoint, output):
    stock = checkpoint("llama", torch.bfloat16)
    norm = torch.rand(32, generator=torch.Generator().manual_seed(0))
    edit_weights(stock, {"model.norm.weight": norm})
    report = convert_stock_checkpoint(stock, output)
    assert "weights kept in float32" in report.notes
    actual, expected = load_file(output / WEIGHTS), load_file(stock / WEIGHTS)
    assert all(torch.equal(actual[key], value.float()) for key, value in expected.items())


def test_head_that_is_not_the_embedding_is_not_tied_to_it(checkpoint, output, tokenizer):
    """What transformers does with such a checkpoint, whose configuration is wrong."""
    stock = checkpoint("llama")
    edit_config(stock, tie_word_embeddings=True)
    convert_stock_checkpoint(stock, output, **STOCK)
    assert torch.equal(logits(output, ids(tokenizer)), logits(stock, ids(tokenizer)))


@every_family
def test_files_of_older_versions_are_read(checkpoint, output, family, tokenizer):
    """Field names, buffers and pickles as in Pythia's and the first Llama's repositories."""
    stock = checkpoint(family, torch.float16)
    old = {"torch_dtype": "float16", "transformers_version": "4.24.0"}
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    if family == "gpt_neox":
        old |= {"rotary_emb_base": 500, "rotary_pct": 0.5}
        prefix = "gpt_neox.layers.1.attention."
        buffers = {prefix + "bias": mask, prefix + "masked_bias": torch.tensor(-1e9)}
    else:
        old |= {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
        prefix, buffers = "model.layers.1.self_attn.", {}
    edit_config(stock, drop=("rope_parameters", "dtype"), **old)
    edit_weights(stock, {**buffers, prefix + "rotary_emb.inv_freq": torch.ones(4)})
    as_pickle(stock)
    report = convert_stock_checkpoint(stock, output, **STOCK)
    assert torch.equal(logits(output, ids(tokenizer)), logits(stock, ids(tokenizer)))
    assert saved_config(output)["rope_parameters"]["rope_theta"] == 500
    left_out = {key for key, fate in report.used.items() if fate.startswith("left out")}
    assert left_out == {*buffers, prefix + "rotary_emb.inv_freq"}


# What the model computes


@every_family
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_tokens_with_rope_and_no_intra_encoding_give_the_stock_logits(
    checkpoint, output, tokenizer, family, attention
):
    stock = checkpoint(family)
    convert_stock_checkpoint(stock, output, inter_encoding="rope", **STOCK)
    assert torch.equal(logits(output, ids(tokenizer), attention), logits(stock, ids(tokenizer), attention))


@every_family
@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
def test_zeros_in_the_table_change_no_logits(checkpoint, tmp_path, tokenizer, family, inter_encoding):
    stock = checkpoint(family)
    settings = {"zeros": {}, "none": {"intra_encoding": "none"}, "normal": {"intra_init": "normal"}}
    for name, fields in settings.items():
        convert_stock_checkpoint(stock, tmp_path / name, inter_encoding=inter_encoding, **fields)
    zeros, none, normal = (logits(tmp_path / name, ids(tokenizer)) for name in settings)
    assert torch.equal(zeros, none)
    assert not torch.allclose(normal, none, atol=0.1)
    assert not torch.allclose(logits(stock, ids(tokenizer)), none, atol=0.1)  # segments count, not tokens


@every_family
def test_normal_table_has_the_deviation_of_the_checkpoint_and_is_the_same_each_time(checkpoint, tmp_path, family):
    stock = checkpoint(family)
    tables = []
    for name in "ab":
        torch.rand(1)
        convert_stock_checkpoint(stock, tmp_path / name, intra_init="normal")
        tables.append(load_file(tmp_path / name / WEIGHTS)[TABLE[family]])
    assert torch.equal(*tables)
    assert tables[0].shape == (1024, 32)
    assert abs(tables[0].mean()) < 0.01
    assert abs(tables[0].std() - 0.3) < 0.01


# Configuration and report


@every_family
def test_configuration_is_the_stock_one_with_the_fields_of_bipe(checkpoint, output, tokenizer, family):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5000.0}
    stock = checkpoint(family, rope_parameters=rope, max_position_embeddings=64, attention_dropout=0.1)
    edit_config(stock, auto_map={"AutoConfig": "other--code.Config"}, note_of_the_owner="kept")
    convert_stock_checkpoint(stock, output, max_segment_length=20, inter_encoding="alibi", alibi_slope_scale=8)
    before, after = saved_config(stock), saved_config(output)
    bipe = {name: own.default for name, own in own_fields().items()} | {
        "inter_encoding": "alibi",
        "separator_token_ids": BipeTokenizer.from_tokenizer(tokenizer).separator_token_ids,
        "max_segment_length": 20,
        "inner_separator_token_ids": [],
        "layer_encodings": [],
        "alibi_slope_scale": 8,
        "bipe_hf_version": bipe_hf.__version__,
    }
    about_the_file = {"architectures": [FAMILIES[family].causal_lm.__name__], "model_type": f"bipe_{family}"}
    del before["auto_map"]
    assert "--" not in str(after.pop("auto_map"))
    assert after == before | bipe | about_the_file
    assert load_file(output / WEIGHTS)[TABLE[family]].shape == (20, 32)


def test_levels_add_tables_of_zeros_that_change_nothing(checkpoint, output, tokenizer, family):
    """Over a document without segments, levels whose tables are zeros leave the stock model as it is."""
    stock = checkpoint(family)
    convert_stock_checkpoint(stock, output, levels=["lines", "words"], max_inner_index=5, max_segment_length=20)
    loaded, config = load_file(output / WEIGHTS), saved_config(output)
    wrapped = BipeTokenizer.from_tokenizer(tokenizer, levels=["lines", "words"])
    assert config["separator_token_ids"] == wrapped.separator_token_ids
    assert config["inner_separator_token_ids"] == wrapped.inner_separator_token_ids
    assert AutoTokenizer.from_pretrained(output).levels == ["lines", "words"]
    inner = loaded[TABLE[family].replace("intra_encoding", "inner_encodings.0")]
    assert inner.shape == (5, 32)
    assert not inner.any()
    one_level = output.parent / "one_level"
    convert_stock_checkpoint(stock, one_level, separators="lines", max_segment_length=20)
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (output, one_level)]
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        logits, expected = (model(ids).logits for model in models)
    torch.testing.assert_close(logits, expected)


@every_family
def test_report_says_what_became_of_every_key(checkpoint, output, tokenizer, family):
    stock = checkpoint(family, torch.bfloat16)
    report = convert_stock_checkpoint(stock, output, max_segment_length=20)
    keys = load_file(stock / WEIGHTS)
    renamed = {"embed_out.weight": "lm_head.weight"}
    assert report.used == {key: renamed.get(key, key) for key in keys}
    assert report.created == {TABLE[family]: "zeros (new), 20 rows"}
    assert str(report).count("\n") < len(keys)
    assert f"{len(keys.keys() - renamed)} weights are taken over as they are" in str(report)
    assert f"{TABLE[family]}  zeros (new), 20 rows" in str(report)
    text = report.text(verbose=True)
    assert all(key in text for key in (*keys, TABLE[family], "tokenizer saved as BipeTokenizer"))
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    assert f"{newline} '\\n'" in text
    assert "rotary angles follow the segment index" in text
    assert "weights kept in bfloat16" in text
    assert report.parameters == sum(value.numel() for value in load_file(output / WEIGHTS).values())


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({"rope_parameters": DYNAMIC}, {}, "max_position_embeddings (2048) where it reads it, count segments"),
        ({}, {"inter_encoding": "alibi"}, "alibi drops the rotary encoding that the weights were trained with; ALiBi"),
        ({}, {"inter_encoding": "none"}, "none drops the rotary encoding"),
        (
            {},
            {
                "inter_encoding": "hybrid",
                "hybrid_max_period": 64,
                "hybrid_alibi_scale": 2.0,
                "hybrid_alibi_power": 0.5,
            },
            "rotary pairs of more than 64 tokens, with which the weights were trained, do not turn any more; ALiBi"
            " over segments, slopes to the power of 0.5 times 2",
        ),
        ({}, {"intra_encoding": "sinusoidal"}, "the sinusoidal intra encoding adds"),
        ({}, {"separators": list(range(2, 20))}, "and 6 more"),
    ],
    ids=str,
)
def test_report_notes_what_is_not_as_in_the_checkpoint(checkpoint, output, fields, settings, expected):
    assert expected in str(convert_stock_checkpoint(checkpoint("llama", **fields), output, **settings))


def test_plain_encoding_has_nothing_to_note_on_positions(checkpoint, output):
    stock = checkpoint("llama", rope_parameters=DYNAMIC)
    notes = convert_stock_checkpoint(stock, output, **STOCK).notes
    assert [note.split()[0] for note in notes] == ["tokenizer", "weights", "step"], notes


@every_family
def test_generation_settings_come_along(checkpoint, output, family):
    stock = checkpoint(family)
    GenerationConfig(do_sample=True, temperature=0.6, eos_token_id=[0, 3]).save_pretrained(stock)
    convert_stock_checkpoint(stock, output)
    generation = AutoModelForCausalLM.from_pretrained(output).generation_config
    assert (generation.do_sample, generation.temperature, generation.eos_token_id) == (True, 0.6, [0, 3])


def test_generation_settings_that_contradict_each_other_come_along_as_they_are(checkpoint, output):
    """Many published checkpoints have such files; transformers reads them and refuses to write them if changed."""
    stock = checkpoint("llama")
    (stock / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    convert_stock_checkpoint(stock, output)
    assert json.loads((output / "generation_config.json").read_text())["temperature"] == 0.9


def test_generation_settings_in_an_old_configuration_come_along(checkpoint, output):
    stock = checkpoint("llama")
    (stock / "generation_config.json").unlink()
    edit_config(stock, max_length=33)
    convert_stock_checkpoint(stock, output)
    generation = AutoModelForCausalLM.from_pretrained(output).generation_config
    assert (generation.max_length, generation.eos_token_id) == (33, 0)


# Tokenizer


@every_family
@pytest.mark.parametrize("separators", [None, "lines", ["."]])
def test_separators_of_the_tokenizer_are_those_of_the_model(checkpoint, output, tokenizer, family, separators):
    convert_stock_checkpoint(checkpoint(family), output, separators=separators)
    expected = BipeTokenizer.from_tokenizer(tokenizer, separators or "sentences")
    loaded, model = AutoTokenizer.from_pretrained(output), AutoModelForCausalLM.from_pretrained(output)
    assert type(loaded) is BipeTokenizer
    assert loaded.separators == (separators or "sentences")
    assert loaded.separator_token_ids == model.config.separator_token_ids == expected.separator_token_ids
    encoded = loaded(TEXT, return_tensors="pt")
    assert encoded["input_ids"].tolist() == ids(tokenizer).tolist()
    assert encoded["segment_ids"].max() >= 1
    with torch.no_grad():
        assert torch.equal(model(**encoded).logits, model(encoded["input_ids"]).logits)


@pytest.mark.parametrize("segmentation", ["tokens", "document"])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_tokenizer_knows_no_segments_where_none_end_at_separators(
    checkpoint, output, tokenizer, segmentation, is_wrapped
):
    stock = checkpoint("llama")
    if is_wrapped:
        BipeTokenizer.from_tokenizer(tokenizer).save_pretrained(stock)
    report = convert_stock_checkpoint(stock, output, segmentation=segmentation)
    loaded = AutoTokenizer.from_pretrained(output)
    assert "segment_ids" not in loaded(TEXT)
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    saved = f"tokenizer saved as {type(loaded).__name__}, without segments, which this model does not read"
    assert saved in report.notes


@pytest.mark.parametrize("segmentation", ["separators", "tokens"])
def test_tokenizer_of_the_family_encodes_as_before(checkpoint, output, segmentation):
    """Pythia's class, which sets up its backend itself."""
    stock = checkpoint("gpt_neox")
    edit = json.loads((stock / "tokenizer_config.json").read_text()) | {"tokenizer_class": "GPTNeoXTokenizer"}
    (stock / "tokenizer_config.json").write_text(json.dumps(edit))
    before = AutoTokenizer.from_pretrained(stock)
    assert type(before) is GPTNeoXTokenizer
    convert_stock_checkpoint(stock, output, segmentation=segmentation)
    after = AutoTokenizer.from_pretrained(output)
    assert type(after) is (BipeTokenizer if segmentation == "separators" else GPTNeoXTokenizer)
    assert after(TEXT)["input_ids"] == before(TEXT)["input_ids"]


@every_family
def test_token_ids_are_enough_without_a_tokenizer(checkpoint, output, family):
    stock = checkpoint(family)
    (stock / "tokenizer.json").unlink()
    (stock / "tokenizer_config.json").unlink()
    report = convert_stock_checkpoint(stock, output, separators=[9, 4, 9])
    assert saved_config(output)["separator_token_ids"] == [4, 9]
    assert "tokens that end a segment: 4, 9" in report.notes
    assert "save a tokenizer into the output folder" in str(report)
    assert not (output / "tokenizer.json").exists()


# Training on


@every_family
def test_one_training_step_moves_the_table_away_from_zeros(checkpoint, tmp_path, output, family):
    convert_stock_checkpoint(checkpoint(family), output)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not before[TABLE[family]].any()
    arguments = TrainingArguments(
        tmp_path / "run", max_steps=1, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True
    )
    texts = Dataset.from_dict(tokenizer([TEXT, TEXT[:30]]))
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    result = Trainer(model, arguments, train_dataset=texts, data_collator=collator).train()
    assert math.isfinite(result.training_loss)
    after = model.state_dict()
    longest = max(tokenizer(TEXT)["segment_ids"].count(segment) for segment in range(8))
    assert after[TABLE[family]][:longest].any(dim=1).all()
    assert not after[TABLE[family]][longest:].any()
    assert all(value.isfinite().all() for value in after.values())
    assert not any(torch.equal(before[key], value) for key, value in after.items())


@every_family
def test_pretraining_continues_from_the_converted_model(checkpoint, tmp_path, output, monkeypatch, family):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    stock = checkpoint(family, torch.bfloat16)
    (stock / "README.md").write_text("---\nlicense: mit\nbase_model: owner/base\n---\n")
    convert_stock_checkpoint(stock, output)
    (tmp_path / "text.txt").write_text("\n\n".join(f"{TEXT} {number}" for number in range(60)))
    settings = {
        "data": str(tmp_path / "text.txt"),
        "validation_fraction": 0.2,
        "train_length": 16,
        "initial_model": str(output),
        "max_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "output_dir": str(tmp_path / "run"),
    }
    result = pretrain(settings)
    assert math.isfinite(result["eval_loss"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.state_dict()[TABLE[family]].any()
    expected = saved_config(output) | {"dtype": "float32", "pad_token_id": 1}  # Trainer takes the tokenizer's
    assert saved_config(tmp_path / "run") == expected
    loaded = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert loaded.separator_token_ids == expected["separator_token_ids"]
    for folder in (output, tmp_path / "run"):
        card = (folder / "README.md").read_text()
        assert "base_model: owner/base" in card
        assert "license: mit" in card
        assert "- before: converted to BiPE-RoPE\n" in card
        assert "- trained on:" not in card
    assert f"- trained further on: `{settings['data']}`" in card
    assert loaded.separators == "sentences"  # not the ids


@pytest.mark.parametrize("changes", [{}, {"index_stretch": 4.0}])
@pytest.mark.parametrize("segmentation", ["tokens", "document"])
@every_family
def test_a_list_of_separators_that_nothing_read_is_not_inherited(
    checkpoint, output, tokenizer, family, segmentation, changes
):
    convert_stock_checkpoint(checkpoint(family), output, segmentation=segmentation, intra_encoding="none")
    model_args = ModelArguments(initial_model=str(output), segmentation="separators")
    data_args = DataArguments(**changes)
    config = build_config(model_args, data_args)
    fitted = fit_tokenizer(config, tokenizer, model_args, data_args)
    wanted = BipeTokenizer.from_tokenizer(tokenizer, separators="sentences").separator_token_ids
    assert wanted
    assert config.separator_token_ids == fitted.separator_token_ids == wanted


def test_segments_that_nothing_ends_are_inherited_on_request_only(checkpoint, output, tokenizer):
    convert_stock_checkpoint(checkpoint("llama"), output)
    edit_config(output, separator_token_ids=[])
    model_args = ModelArguments(initial_model=str(output))
    with pytest.raises(InputError, match="^separators: initial_model .* has none.*separators: sentences"):
        build_config(model_args, DataArguments())
    chosen = DataArguments(separators=[])
    config = build_config(model_args, chosen)
    assert fit_tokenizer(config, tokenizer, model_args, chosen).separator_token_ids == config.separator_token_ids == []


@every_family
def test_separators_that_nothing_read_are_not_measured_with(family):
    config = FAMILIES[family].make_config(**STOCK)
    with pytest.raises(InputError, match="^config fields .*give separator_token_ids besides"):
        with_fields(config, {"segmentation": "separators"})
    assert with_fields(config, {"segmentation": "separators", "separator_token_ids": []}).separator_token_ids == []


@every_family
def test_command_converts_and_prints_the_report(checkpoint, output, capsys, family):
    words = ["--from", "stock", "--separators", "lines", "--max-segment-length", "7"]
    assert main(["convert", str(checkpoint(family)), str(output), *words]) == 0
    printed = capsys.readouterr().out
    assert f"{TABLE[family]}  " in printed
    assert "zeros (new), 7 rows" in printed
    assert AutoTokenizer.from_pretrained(output).separators == "lines"


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        (["--separators", '["lines", 5, "-turns"]'], [["lines", 5, "-turns"]]),
        (["--levels", "lines", '["sentences", 5]'], ["lines", ["sentences", 5]]),
        (["--levels", '["lines", ["sentences", 5]]'], ["lines", ["sentences", 5]]),
        (["--levels", "lines,sentences"], ["lines", "sentences"]),
    ],
)
def test_every_door_takes_the_same_forms_of_separators(checkpoint, tmp_path, tokenizer, words, levels):
    stock = checkpoint("llama")
    expected = BipeTokenizer.from_tokenizer(tokenizer, levels=levels)
    ids = [expected.separator_token_ids, *expected.inner_separator_token_ids]
    assert main(["convert", str(stock), str(tmp_path / "model"), "--from", "stock", *words]) == 0
    converted = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert converted.levels == levels
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert [config.separator_token_ids, *config.inner_separator_token_ids] == ids

    flag, *given = words
    value = given[0] if len(given) == 1 else [parsed_json("levels", each) for each in given]
    for form in (value, levels if flag == "--levels" else levels[0]):  # as a flag of `pretrain`, and as in YAML
        data_args = DataArguments(**{flag.removeprefix("--"): form})
        assert (data_args.levels or [data_args.separators]) == levels
    text = tmp_path / "text.txt"
    text.write_text("It is. It was.\n")
    tokenizer.save_pretrained(tmp_path / "plain")
    command = [
        "segments",
        str(text),
        "--tokenizer",
        str(tmp_path / "plain"),
        "--output",
        str(tmp_path / "out"),
        *words,
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert [report["separator_token_ids"], *report.get("inner_separator_token_ids", [])] == ids


# What is refused


def refused(stock, output, message, error=ValueError, **settings):
    with pytest.raises(error, match=message):
        convert_stock_checkpoint(stock, output, **settings)
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type in config.json must be one of llama, gpt_neox, got 'gpt2'"),
        ({"model_type": None}, "model_type .* got None"),
        ({"model_type": ["llama"]}, "model_type .* got .'llama'."),
        ({"model_type": "bipe_llama"}, "already is a BiPE model"),
        ({"rpe_type": "bipe_rope"}, "--from authors"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
        ({"vocab_size": 300}, r"has the shape \(290, 32\), but config.json asks for \(300, 32\)"),
        ({"vocab_size": 200}, "the tokenizer has 280 tokens, the model only 200"),
        ({"num_hidden_layers": 1}, "unknown key 'model.layers.1.input_layernorm.weight'"),
        ({"num_hidden_layers": 3}, "lacks the keys model.layers.2"),
        ({"num_hidden_layers": "two"}, "config.json cannot be a model's: .*num_hidden_layers"),
        ({"num_attention_heads": 0}, "config.json cannot be a model's"),
        ({"hidden_act": "magic"}, "hidden_act in config.json is not known to transformers: 'magic'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "config.json cannot be a model's: .*factor"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "config.json cannot be a model's: .*spiral"),
        ({"pad_token_id": 1000}, "config.json cannot be a model's: .*Padding_idx"),
        ({"per_layer_config": {"0": {"hidden_size": 8}}}, "config.json cannot be a model's"),
    ],
    ids=str,
)
def test_configuration_that_does_not_fit_is_refused(checkpoint, output, changes, message):
    stock = checkpoint("llama")
    edit_config(stock, **changes)
    refused(stock, output, message)


def test_converted_model_is_not_converted_again(checkpoint, output, tmp_path):
    convert_stock_checkpoint(checkpoint("gpt_neox"), output)
    refused(output, tmp_path / "again", "output already is a BiPE model .model_type 'bipe_gpt_neox'")


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"model.mystery": torch.ones(3)}, (), r"unknown key 'model.mystery' of shape \(3,\)"),
        ({TABLE["llama"]: torch.ones(1024, 32)}, (), "unknown key 'model.intra_encoding.weight'"),
        ({"score.weight": torch.ones(2, 32)}, ("lm_head.weight",), "unknown key 'score.weight'"),
        ({}, ("model.norm.weight", "lm_head.weight"), "lacks the keys lm_head.weight, model.norm.weight"),
        ({"model.norm.weight": torch.ones(5)}, (), r"model.norm.weight has the shape \(5,\)"),
        ({"model.norm.weight": torch.ones(32, dtype=torch.int8)}, (), "has the dtype torch.int8"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused_by_name(checkpoint, output, changes, drop, message):
    stock = checkpoint("llama")
    edit_weights(stock, changes, drop)
    refused(stock, output, message)


@pytest.mark.parametrize(
    ("settings", "expected", "preset"),
    [
        ({"encoding": "bipe_rope"}, {"inter_encoding": "rope", "intra_encoding": "learned"}, "sentences"),
        ({"encoding": "bipe_hybrid"}, {"hybrid_max_period": 1024.0, "hybrid_alibi_power": 0.5}, "clauses"),
        (
            {
                "encoding": "bipe_hybrid",
                "hybrid_max_period": 64,
                "hybrid_slow_pairs": "segments",
                "separators": "lines",
            },
            {"hybrid_max_period": 64, "hybrid_slow_pairs": "segments", "hybrid_alibi_scale": 5e-05},
            "lines",
        ),
        ({"encoding": "sinusoidal"}, {"segmentation": "document", "max_segment_length": 2048}, None),
        ({"encoding": "rope"}, {"segmentation": "tokens", "intra_encoding": "none"}, None),
    ],
    ids=str,
)
def test_an_encoding_is_named_and_what_is_given_besides_wins(
    checkpoint, output, tokenizer, settings, expected, preset
):
    """The checkpoint is declared for 2048 tokens."""
    convert_stock_checkpoint(checkpoint("llama"), output, **settings)
    config = json.loads((output / "config.json").read_text())
    assert config.items() >= expected.items()
    assert "encoding" not in config
    separators = [] if preset is None else BipeTokenizer.from_tokenizer(tokenizer, preset).separator_token_ids
    assert config["separator_token_ids"] == separators


@pytest.mark.parametrize(
    "encoding", ["rope", "hybrid", "bipe_rope", "bipe_hybrid", "bipe_levels", "bipe_levels_hybrid"]
)
@pytest.mark.parametrize("rope", ["default", "llama3"])
@every_family
def test_an_encoding_that_is_named_starts_where_the_stock_model_is(checkpoint, output, family, rope, encoding):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    scaling = {"rope_type": rope, "rope_theta": 10000.0, **(scaling if rope == "llama3" else {})}
    stock = checkpoint(family, max_position_embeddings=512, initializer_range=0.05, rope_parameters=scaling)
    levels = {"levels": ["lines", "words"]} if "levels" in encoding else {}
    report = convert_stock_checkpoint(stock, output, encoding=encoding, **levels)
    assert abs(report.step_zero.cost) < 1e-3
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (stock, output)]
    ids = torch.arange(512)[None] % 280
    with torch.no_grad():
        expected, logits = (model(ids).logits for model in models)
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.02 if "hybrid" in encoding else 1e-5)
    schedule = (
        json.loads(report.notes[-1].split("encoding_schedule: ")[1].split(" (")[0]) if encoding != "rope" else {}
    )
    assert ("token_share" in schedule) == encoding.startswith("bipe")
    assert ("hybrid_alibi_scale" in schedule) == ("hybrid" in encoding)
    models[1].base_model.move_fields(**{name: last for name, (_, last) in schedule.items()})


@pytest.mark.parametrize(
    ("encoding", "last"),
    [("bipe_rope", {"token_share": 0.0}), ("bipe_hybrid", {"token_share": 0.0, "hybrid_alibi_scale": 0.5})],
)
@every_family
def test_a_model_with_the_last_values_says_which_schedule_starts_at_the_stock_model(
    checkpoint, output, family, encoding, last
):
    stock = checkpoint(family, max_position_embeddings=512, initializer_range=0.05)
    report = convert_stock_checkpoint(stock, output, encoding=encoding, **last)
    schedule = json.loads(re.search(r"--schedule '(.*?)' \(docs/finetune.md\)", report.notes[-1])[1])
    assert {name: values[1] for name, values in schedule.items()} == last
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (stock, output)]
    models[1].base_model.move_fields(**{name: first for name, (first, _) in schedule.items()})
    ids = torch.arange(512)[None] % 280
    with torch.no_grad():
        expected, logits = (model(ids).logits for model in models)
    torch.testing.assert_close(logits, expected, rtol=0.0, atol=0.02 if encoding == "bipe_hybrid" else 1e-5)


# Longer texts without training


PARTIAL = {"llama": {}, "gpt_neox": {"rotary_pct": 0.5}}  # a fast and a slow pair


def models_of(*folders):
    return [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders]


@every_family
@pytest.mark.parametrize(
    ("encoding", "same", "note"),
    [
        ("dca", 97, "chunks of 80, at most 96 apart, in tokens; texts of up to 97 tokens are what they were"),
        ("hirope", 100, "pairs of more than 128 tokens turn with the segment beyond the window; texts of up to 100"),
    ],
)
@torch.no_grad()
def test_dca_and_hirope_are_the_stock_model_in_short_texts(checkpoint, output, family, encoding, same, note):
    stock = checkpoint(family, max_position_embeddings=128, **PARTIAL[family])
    window = {"hirope_window": 100} if encoding == "hirope" else {}
    report = convert_stock_checkpoint(stock, output, encoding=encoding, **window)
    assert note in str(report)
    assert_same_weights(family, stock, output)
    ids = torch.arange(300)[None] % 280
    expected, found = (model(ids).logits for model in models_of(stock, output))
    torch.testing.assert_close(found[:, :same], expected[:, :same], rtol=0, atol=2e-5)
    assert (found - expected)[:, same + 50 :].abs().max() > 0.01


@every_family
@pytest.mark.parametrize("encoding", ["linear", "dynamic", "yarn"])
@torch.no_grad()
def test_scaled_angles_are_those_of_the_stock_class(checkpoint, output, family, encoding):
    stock = checkpoint(family, max_position_embeddings=128, **PARTIAL[family])
    words = ["--from", "stock", "--encoding", encoding, *([] if encoding == "dynamic" else ["--factor", "4"])]
    assert main(["convert", str(stock), str(output), *words]) == 0
    assert_same_weights(family, stock, output)
    config = saved_config(output)
    factor, length = (1.0, 128) if encoding == "dynamic" else (4.0, 512)
    original = {"original_max_position_embeddings": 128} if encoding == "yarn" else {}
    rope = saved_config(stock)["rope_parameters"] | {"rope_type": encoding, "factor": factor} | original
    assert (config["rope_parameters"], config["max_position_embeddings"]) == (rope, length)
    ids = torch.arange(300)[None] % 280
    plain, ours = models_of(stock, output)
    if encoding == "dynamic":
        assert torch.equal(ours(ids[:, :128]).logits, plain(ids[:, :128]).logits)
    edit_config(stock, rope_parameters=rope, max_position_embeddings=length)
    (theirs,) = models_of(stock)
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert (ours(ids).logits - plain(ids).logits).abs().max() > 0.01


def test_the_report_says_how_angles_are_scaled(checkpoint, output):
    stock = checkpoint("llama", max_position_embeddings=128)
    notes = convert_stock_checkpoint(stock, output, encoding="yarn", factor=2.5).notes
    scaled = "rotary angles are scaled (yarn, factor 2.5) at every length; max_position_embeddings 128 is 320 now"
    assert notes[0] == scaled
    assert notes[-1].startswith("step 0 costs")
    assert "converted to RoPE with yarn scaling" in (output / "README.md").read_text()
    notes = convert_stock_checkpoint(stock, output, encoding="dynamic", factor=2, overwrite=True).notes
    assert notes[0].startswith("rotary angles are scaled (dynamic, factor 2) by the longest text")


def test_angles_are_not_scaled_twice(checkpoint, output):
    stock = checkpoint("llama", rope_parameters=DYNAMIC)
    scaled = "'yarn': the angles of the checkpoint are scaled already, by 'dynamic'"
    refused(stock, output, scaled, encoding="yarn", factor=2)
    refused(stock, output, "'dca' must have rope_type 'default'", encoding="dca")


def test_what_step_zero_costs_is_measured_on_the_text_that_is_given(checkpoint, output, tokenizer, tmp_path):
    """By hand: the losses of both models on the whole text, and the exponential of their difference."""
    file = tmp_path / "text.txt"
    file.write_text("It sat. It ran!\nAnd so on, while rain fell. " * 9)
    stock = checkpoint("llama")
    words = ["--from", "stock", "--inter-encoding", "none", "--intra-encoding", "none", "--text", str(file)]
    assert main(["convert", str(stock), str(output), *words]) == 0
    ids = torch.tensor([tokenizer(file.read_text())["input_ids"]])
    losses = []
    for folder in (stock, output):
        logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits.detach()
        losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].double(), ids[0, 1:]).item())
    options = {"inter_encoding": "none", "intra_encoding": "none", "overwrite": True}
    report = convert_stock_checkpoint(stock, output, text=file, **options)
    assert report.step_zero.cost == pytest.approx(math.exp(losses[1] - losses[0]) - 1, rel=1e-4)
    assert report.step_zero.tokens == ids.shape[1] - 1
    assert f"({ids.shape[1] - 1:,} tokens of {file})" in str(report)


def test_a_start_that_costs_much_says_which_costs_nothing(checkpoint, output):
    report = convert_stock_checkpoint(checkpoint("llama"), output, encoding="bipe_alibi")
    report.notes.clear()
    report.step_zero = StepZero(stock=2.0, converted=3.0, tokens=10, text="a text")
    note_step_zero(AutoModelForCausalLM.from_pretrained(output).config, report)
    assert report.notes[0].startswith("step 0 costs +171.83%: perplexity 20.09, that of the stock model is 7.389")
    assert "--encoding bipe_hybrid or bipe_rope starts where the stock model is" in report.notes[1]


def test_without_a_tokenizer_step_zero_is_not_measured(checkpoint, output):
    stock = checkpoint("llama")
    (stock / "tokenizer.json").unlink()
    report = convert_stock_checkpoint(stock, output, separators=[3])
    assert report.step_zero is None
    assert "what step 0 costs is not measured" in report.notes[-1]


def test_a_text_that_is_not_there_is_refused_before_any_work(checkpoint, output):
    refused(checkpoint("llama"), output, "text: nowhere.txt cannot be read", text="nowhere.txt")


def test_every_field_of_the_encoding_is_a_flag(checkpoint, output):
    words = "--inter-encoding hybrid --hybrid-max-period 64 --hybrid-slow-pairs segments --logn-train-length 128"
    assert main(["convert", str(checkpoint("llama")), str(output), "--from", "stock", *words.split()]) == 0
    config = json.loads((output / "config.json").read_text())
    assert (config["hybrid_slow_pairs"], config["logn_train_length"]) == ("segments", 128)


TAKEN_OVER = "rope, xpos, alibi, hybrid, hirope, dca, none"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inter_encoding": "magic"}, f"inter_encoding must be one of {TAKEN_OVER}, got 'magic'"),
        ({"inter_encoding": "t5"}, f"inter_encoding must be one of {TAKEN_OVER}, got 't5'"),
        ({"inter_encoding": "hybrid"}, "needs hybrid_max_period"),
        ({"hybrid_max_period": 64}, "hybrid_max_period: 64 given, but only inter_encoding hybrid or hirope or axes"),
        ({"hybrid_alibi_scale": 2}, "hybrid_alibi_scale: 2 given, but only inter_encoding hybrid or axes reads it"),
        (
            {"hybrid_alibi_power": 0.5},
            "hybrid_alibi_power: 0.5 given, but only inter_encoding hybrid or axes",
        ),
        ({"hybrid_slow_pairs": "none"}, "hybrid_slow_pairs: 'none' given, but only inter_encoding hybrid reads it"),
        ({"encoding": "bipe_rop"}, "encoding: 'bipe_rop' is none; did you mean bipe_rope?"),
        ({"encoding": "t5"}, f"inter_encoding must be one of {TAKEN_OVER}, got 't5'"),
        ({"encoding": "rope", "separators": "lines"}, "separators: 'lines' given, but only segmentation separators"),
        (
            {"encoding": "rope", "alibi_slope_scale": 2.0},
            "alibi_slope_scale: 2.0 given, but only inter_encoding alibi",
        ),
        (
            {"encoding": "yarm"},
            r"encoding: 'yarm' is none; did you mean yarn\? \(accepted: rope, .*, dynamic, yarn\)",
        ),
        ({"encoding": "yarn"}, "encoding 'yarn' needs factor, from 1 on: .* got None"),
        ({"encoding": "linear", "factor": 0.5}, "encoding 'linear' needs factor, from 1 on: .* got 0.5"),
        ({"encoding": "rope", "factor": 2.0}, "factor: 2 given, but only encoding linear, dynamic, yarn reads it"),
        (
            {"encoding": "yarn", "factor": 2.0, "segmentation": "document"},
            "encoding 'yarn' scales RoPE over tokens, got inter_encoding 'rope' over document",
        ),
        (
            {"encoding": "bipe_dca", "separators": "lines"},
            "inter_encoding 'dca' needs dca_train_length, at least 2 segments",
        ),
        ({"hidden_size": 64}, "hidden_size: there is no such field to set"),
        ({"max_segment_lenght": 64}, "max_segment_lenght: there is no such field to set; did you mean max_segment_l"),
        ({"fixed_segment_length": 64}, "fixed_segment_length: 64 given, but only segmentation fixed reads it"),
        ({"intra_initializer_range": 0.1}, "only intra_init normal reads it"),
        ({"segmentation": "fixed"}, "segmentation 'fixed' needs fixed_segment_length, at least 1 token, got None"),
        ({"intra_encoding": "magic"}, "intra_encoding must be one of learned, sinusoidal, none, got 'magic'"),
        ({"segmentation": "magic"}, "segmentation must be one of separators, fixed, tokens, document, got 'magic'"),
        ({"intra_init": "ones"}, "intra_init must be one of zeros, normal, got 'ones'"),
        ({"max_segment_length": 0}, "max_segment_length must be at least 1 token, got 0"),
        ({"inter_encoding": "alibi", "alibi_slope_scale": 0}, "alibi_slope_scale must lie between"),
        ({"separators": "word"}, "separators: 'word' is not accepted; give one of 'turns'"),
        ({"separators": "lines", "levels": ["lines"]}, "the first of the levels are the separators"),
        ({"separators": "lines", "encoding": "bipe_levels"}, "has levels inside segments; give levels instead"),
        (
            {"levels": ["lines"], "encoding": "bipe_levels"},
            r"levels: \['lines'\] is one level, but enc",
        ),
        ({"levels": ["lines", "words"], "intra_encoding": "none"}, "levels: .* given, but only intra_encoding"),
        ({"separators": [288]}, "separators: .*288 is out of range"),
        ({"separators": []}, r"separators: \[\] names no token"),
        (
            {"separators": "lines", "segmentation": "tokens"},
            "separators: 'lines' given, but only segmentation separators reads it",
        ),
        (
            {"max_segment_length": 9, "intra_encoding": "none"},
            "max_segment_length: 9 given, but only intra_encoding learned or sinusoidal",
        ),
        ({"alibi_slope_scale": 9.0}, "alibi_slope_scale: 9.0 given, but only inter_encoding alibi"),
        (
            {"intra_init": "zeros", "intra_encoding": "sinusoidal"},
            "intra_init: 'zeros' given, but only intra_encoding learned reads",
        ),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(checkpoint, output, settings, message):
    refused(checkpoint("llama"), output, message, **settings)


@pytest.mark.parametrize("separators", [None, "lines", [5, "."]])
def test_separators_cannot_be_found_without_a_tokenizer(checkpoint, output, separators):
    stock = checkpoint("llama")
    (stock / "tokenizer.json").unlink()
    message = (
        f"separators: there is no tokenizer.json in .*stock to find .*{'sentences' if separators is None else ''}"
    )
    refused(stock, output, message, separators=separators)


def test_token_ids_beyond_the_vocabulary_are_refused_without_a_tokenizer(checkpoint, output):
    stock = checkpoint("llama")
    (stock / "tokenizer.json").unlink()
    refused(
        stock, output, r"separator_token_ids must lie in the vocabulary, from 0 to 289, got \[290\]", separators=[290]
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "file not found: .*config.json"),
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"[]", "config.json must hold a JSON object, got list"),
        ("generation_config.json", b"{", "generation_config.json is not JSON"),
        ("generation_config.json", b'{"watermarking_config": 3}', "generation_config.json is no generation config"),
        ("tokenizer.json", b"{", "the tokenizer in .* cannot be loaded"),
        ("tokenizer.json", b'{"model": 3}', "the tokenizer in .* cannot be loaded"),
        ("model.safetensors", None, "no weights in .*stock"),
        ("model.safetensors", b"\x00\x01 not weights", "model.safetensors is corrupt"),
    ],
)
def test_missing_and_damaged_files_are_named_in_one_line(checkpoint, output, capsys, name, content, message):
    stock = checkpoint("llama")
    (stock / name).unlink()
    if content is not None:
        (stock / name).write_bytes(content)
    refused(stock, output, message, (FileNotFoundError, ValueError))
    capsys.readouterr()
    assert main(["convert", str(stock), str(output), "--from", "stock"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("bipe-hf: error: ")


def test_truncated_shard_is_named(checkpoint, output):
    stock = checkpoint("gpt_neox", max_shard_size="20KB")
    shard = sorted(stock.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(stock, output, f"{shard.name} is corrupt")
    shard.unlink()
    refused(stock, output, f"weights file not found: .*{shard.name}", FileNotFoundError)


def test_output_is_not_overwritten_silently(checkpoint, output):
    stock = checkpoint("llama")
    output.mkdir()
    (output / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert_stock_checkpoint(stock, output)
    assert [path.name for path in output.iterdir()] == ["precious.txt"]
    convert_stock_checkpoint(stock, output, overwrite=True)
    assert (output / "precious.txt").read_text() == "mine"
    assert_same_weights("llama", stock, output)


def test_checkpoint_is_not_written_over(checkpoint):
    stock = checkpoint("llama")
    before = {path.name: path.read_bytes() for path in stock.iterdir()}
    with pytest.raises(ValueError, match="output folder is the checkpoint itself"):
        convert_stock_checkpoint(stock, stock, overwrite=True)
    assert {path.name: path.read_bytes() for path in stock.iterdir()} == before


# The Hub


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The local cache of the Hub, with no network behind it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.mark.parametrize("is_pickle", [False, True])
def test_checkpoint_is_found_by_its_name_on_the_hub(checkpoint, hub_cache, output, is_pickle):
    stock = checkpoint("llama")
    if is_pickle:
        as_pickle(stock)
    repository = hub_cache / "models--owner--tiny"
    commit = "abc4" * 10
    shutil.copytree(stock, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    report = convert_stock_checkpoint("owner/tiny", output)
    assert str(report).splitlines()[-1].startswith("owner/tiny -> ")
    assert_same_weights("llama", stock, output)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("owner/missing", r"cannot be downloaded from the Hub \(HF_HUB_OFFLINE is set, and it is not in the cache\)"),
        ("no/such/folder", r"is no name on the Hub \(owner/name\)"),
    ],
)
def test_checkpoint_that_is_nowhere_is_named(hub_cache, output, name, reason):
    refused(name, output, f"checkpoint {name}: there is no such folder, and it {reason}", FileNotFoundError)


def test_configuration_of_the_stock_class_reads_the_same_fields(checkpoint, output):
    """Legacy fields mean to our configuration what they mean to the stock one."""
    stock = checkpoint("llama")
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    edit_config(
        stock,
        drop=("rope_parameters",),
        rope_theta=500000.0,
        rope_scaling={**llama3, "original_max_position_embeddings": 512},
    )
    convert_stock_checkpoint(stock, output)
    assert saved_config(output)["rope_parameters"] == LlamaConfig.from_pretrained(stock).rope_parameters
