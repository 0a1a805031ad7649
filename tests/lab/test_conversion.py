"""The authors' checkpoints: what is imported, what is refused, and equality with numbers that their code computed."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from paths import GOLDEN
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.nn import functional as F
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from bipe_hf import BipeTokenizer
from bipe_hf.lab.conversion import AUTHORS_SEPARATOR_TOKEN_IDS, convert_checkpoint
from bipe_hf.model.alibi_bipe import alibi_slopes
from bipe_hf.model.segmentation_bipe import segment_tokens


NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
# The authors add `slope * seg_j`, up to 6,000 here, to a logit of order 1 in float32. With 12 heads, whose slopes are
# no round numbers, that alone moves their result by 3.07e-4 from float64: nothing exact can come within 1e-4 of it.
ROUNDED_BY_THE_AUTHORS = "bipe_alibi_12_heads"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converts a golden checkpoint once; the value is a function from its name to the folder."""
    folder = tmp_path_factory.mktemp("converted")

    def convert(name):
        if not (folder / name).exists():
            convert_checkpoint(GOLDEN / name, folder / name)
        return folder / name

    return convert


def expected_of(name):
    return load_file(GOLDEN / name / "expected.safetensors")


def run(path, expected, attention):
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention, dtype=torch.float32)
    with torch.inference_mode():
        output = model(expected["input_ids"], labels=expected["input_ids"])
    return output.logits[:, expected["positions"]], output.loss


def largest_difference(actual, expected):
    return (actual.double() - expected.double()).abs().max().item()


@pytest.mark.parametrize("name", NAMES)
def test_segments_and_intra_positions_equal_the_authors(name):
    expected = expected_of(name)
    ends_segment = torch.isin(expected["input_ids"], torch.tensor(AUTHORS_SEPARATOR_TOKEN_IDS))
    segments = segment_tokens(ends_segment)
    assert torch.equal(segments.segment_ids, expected["segment_ids"])
    assert torch.equal(segments.intra_positions.clamp(max=1023), expected["intra_ids"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != ROUNDED_BY_THE_AUTHORS])
def test_logits_and_loss_equal_the_authors(converted, name, attention):
    expected = expected_of(name)
    logits, loss = run(converted(name), expected, attention)
    assert largest_difference(logits, expected["logits"]) < 1e-4
    assert abs(loss.item() - expected["loss"].item()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_authors_in_their_order_of_summation(converted, name):
    """All eight, in the model itself, once attention sums as the authors do."""
    expected = expected_of(name)
    slopes, key_positions = None, None
    if "alibi" in name:
        config = json.loads((converted(name) / "config.json").read_text())
        slopes = torch.tensor(alibi_slopes(config["num_attention_heads"])) * config["alibi_slope_scale"]
        length = expected["input_ids"].shape[1]
        key_positions = expected["segment_ids"] if "bipe" in name else torch.arange(length)[None]

    def authors_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        if slopes is not None:  # the bias comes from here, not from the columns
            query, key = query[..., -module.head_dim :], key[..., -module.head_dim :]
        key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
        logits = query @ key.transpose(2, 3) * scaling
        if slopes is not None:
            logits = logits + (slopes[:, None] * key_positions[:, None])[:, :, None]
        weights = (logits + attention_mask).softmax(dim=-1)
        return (weights @ value).transpose(1, 2), weights

    AttentionInterface.register("authors", authors_attention)
    AttentionMaskInterface.register("authors", eager_mask)
    logits, loss = run(converted(name), expected, "authors")
    assert largest_difference(logits, expected["logits"]) < 1e-4
    assert abs(loss.item() - expected["loss"].item()) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_equal_float64_where_the_authors_round(converted, attention):
    name = ROUNDED_BY_THE_AUTHORS
    expected = expected_of(name)
    logits, loss = run(converted(name), expected, attention)
    exact = float64_logits(name, expected)
    authors_error = largest_difference(expected["logits"], exact)
    assert 2e-4 < authors_error < 4e-4  # what makes the difference below; not ours
    assert largest_difference(logits, exact) < 1e-5
    assert largest_difference(logits, expected["logits"]) < authors_error + 1e-5
    assert abs(loss.item() - expected["loss"].item()) < 1e-5


def float64_logits(name, expected):
    """BiPE-ALiBi Llama in float64, written out from the paper's formulas and the authors' weight names."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    weights = {key: value.double() for key, value in load_file(GOLDEN / name / "model.safetensors").items()}
    heads = config["num_attention_heads"]
    segments = expected["segment_ids"].double()
    distance = segments[:, None, :, None] - segments[:, None, None, :]
    slopes = 96 * torch.tensor(alibi_slopes(heads), dtype=torch.float64)
    causal = torch.ones(distance.shape[-2:]).tril().bool()

    def norm(x, key):
        return weights[key] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])

    x = weights["model.embed_tokens.weight"][expected["input_ids"]]
    x = x + weights["model.embeds.0.weight"][expected["intra_ids"]]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        y = norm(x, prefix + "input_layernorm.weight")
        query, key, value = (
            (y @ weights[f"{prefix}self_attn.{part}_proj.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in "qkv"
        )
        logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) - slopes[:, None, None] * distance
        attended = logits.masked_fill(~causal, -math.inf).softmax(-1) @ value
        x = x + attended.transpose(1, 2).flatten(2) @ weights[prefix + "self_attn.o_proj.weight"].T
        y = norm(x, prefix + "post_attention_layernorm.weight")
        gate, up, down = (weights[f"{prefix}mlp.{part}_proj.weight"].T for part in ("gate", "up", "down"))
        x = x + (F.silu(y @ gate) * (y @ up)) @ down
    return norm(x, "model.norm.weight")[:, expected["positions"]] @ weights["lm_head.weight"].T


def test_bin_checkpoint_gives_the_same_model_as_safetensors(converted, tmp_path):
    source = copy_of("bipe_rope", tmp_path)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    convert_checkpoint(source, tmp_path / "output")
    original = load_file(converted("bipe_rope") / "model.safetensors")
    for key, value in load_file(tmp_path / "output" / "model.safetensors").items():
        assert torch.equal(value, original[key])


def test_sharded_checkpoint_gives_the_same_model(converted, tmp_path):
    source = copy_of("bipe_alibi", tmp_path)
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: weights[key] for key in keys}, source / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert_checkpoint(source, tmp_path / "output")
    original = load_file(converted("bipe_alibi") / "model.safetensors")
    for key, value in load_file(tmp_path / "output" / "model.safetensors").items():
        assert torch.equal(value, original[key])


def test_report_names_every_key_of_the_checkpoint(tmp_path):
    report = convert_checkpoint(GOLDEN / "bipe_alibi", tmp_path / "output")
    assert set(report.used) == set(load_file(GOLDEN / "bipe_alibi" / "model.safetensors"))
    assert report.used["model.embeds.0.weight"] == "model.intra_encoding.weight"
    assert all(key in report.text(verbose=True) for key in report.used)


def test_log_scale_and_separators_reach_the_configuration(converted):
    config = json.loads((converted("bipe_rope_log_scale") / "config.json").read_text())
    assert config["log_scale_train_length"] == 1024
    assert config["separator_token_ids"] == [13, 869]
    assert config["segmentation"] == "separators"
    plain = json.loads((converted("alibi") / "config.json").read_text())
    assert (plain["segmentation"], plain["alibi_slope_scale"], plain["intra_encoding"]) == ("tokens", 1.0, "none")


@pytest.mark.parametrize(("name", "kind"), [("bipe_rope", BipeTokenizer), ("rope", PreTrainedTokenizerFast)])
def test_tokenizer_of_the_checkpoint_comes_along(tmp_path, name, kind):
    """Wrapped with the separators of the model; a model without separators keeps the plain one."""
    source = copy_of(name, tmp_path)
    vocabulary = {f"t{i}": i for i in range(896)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="t0"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="t0").save_pretrained(source)
    convert_checkpoint(source, tmp_path / "output")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    assert type(tokenizer) is kind
    if kind is BipeTokenizer:
        assert tokenizer("t5 t13 t6 t869 t7").segment_ids == [0, 0, 1, 1, 2]


def test_dynamic_scaling_is_converted_with_a_note_on_its_unit(tmp_path):
    source = copy_of("bipe_rope", tmp_path, rope_scaling={"type": "dynamic", "factor": 2.0})
    report = convert_checkpoint(source, tmp_path / "output")
    assert "number of segments" in " ".join(report.notes)
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


def test_unknown_key_is_refused_by_name(tmp_path):
    source = copy_of("rope", tmp_path)
    weights = load_file(source / "model.safetensors")
    save_file({**weights, "model.mystery": torch.ones(3)}, source / "model.safetensors")
    with pytest.raises(ValueError, match="unknown key 'model.mystery'"):
        convert_checkpoint(source, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_missing_key_is_refused_by_name(tmp_path):
    source = copy_of("rope", tmp_path)
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks the keys model\.norm\.weight"):
        convert_checkpoint(source, tmp_path / "output")


def test_other_slopes_than_the_configuration_implies_are_refused(tmp_path):
    source = copy_of("bipe_alibi", tmp_path)
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.self_attn.alibi"] *= 2
    save_file(weights, source / "model.safetensors")
    with pytest.raises(ValueError, match="other slopes"):
        convert_checkpoint(source, tmp_path / "output")


class Malicious:
    """Unpickled with code allowed, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_pickle_can_run_no_code(tmp_path):
    source = copy_of("rope", tmp_path)
    (source / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Malicious(tmp_path / "hacked")}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="more than weights"):
        convert_checkpoint(source, tmp_path / "output")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_corrupt_weights_are_named(tmp_path, name):
    source = copy_of("rope", tmp_path)
    (source / "model.safetensors").unlink()
    (source / name).write_bytes(b"\x00\x01 not weights at all")
    with pytest.raises(ValueError, match="corrupt"):
        convert_checkpoint(source, tmp_path / "output")


def test_missing_folder_configuration_and_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint folder not found"):
        convert_checkpoint(tmp_path / "nowhere", tmp_path / "output")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "output")
    shutil.copy(GOLDEN / "rope" / "config.json", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no weights"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "output")


def test_a_configuration_of_somebody_else_is_refused(tmp_path):
    source = copy_of("rope", tmp_path, rpe_type="t5")
    with pytest.raises(ValueError, match="rpe_type .* got 't5'"):
        convert_checkpoint(source, tmp_path / "output")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log_scale": True, "train_scale": None}, "log_scale_train_length|train_scale"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling in config.json must be null or hold a type"),
        ({"rope_scaling": "linear"}, "rope_scaling in config.json must be null or hold a type"),
        ({"num_attention_heads": 0}, "config.json cannot be a model's"),
        ({"vocab_size": 100}, "separator_token_ids must lie in the vocabulary"),
        ({"hidden_act": "zzz"}, "hidden_act in config.json is not known to transformers: 'zzz'"),
        ({"hidden_size": 64}, "has the shape"),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused_in_one_line(tmp_path, changes, message):
    source = copy_of("bipe_rope", tmp_path, **changes)
    if changes.get("log_scale"):
        config = json.loads((source / "config.json").read_text())
        del config["train_scale"]
        (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(source, tmp_path / "output")


def test_an_index_without_shards_and_a_file_of_something_else_are_refused(tmp_path):
    source = copy_of("rope", tmp_path)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no weight_map"):
        convert_checkpoint(source, tmp_path / "output")
    (source / "model.safetensors.index.json").unlink()
    torch.save([torch.ones(2)], source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        convert_checkpoint(source, tmp_path / "output")


def test_fields_that_the_authors_code_does_not_read_are_noted(tmp_path):
    report = convert_checkpoint(copy_of("bipe_rope", tmp_path, rope_theta=5e5), tmp_path / "output")
    assert "rope_theta 500000.0 is not used" in str(report)


def test_output_is_not_overwritten_silently(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert_checkpoint(GOLDEN / "rope", tmp_path / "output")
    convert_checkpoint(GOLDEN / "rope", tmp_path / "output", overwrite=True)
    assert (tmp_path / "output" / "precious.txt").read_text() == "mine"


def copy_of(name, folder, **changes):
    """A golden checkpoint that a test may damage, with fields of its configuration changed."""
    target = folder / "source"
    target.mkdir()
    shutil.copyfile(GOLDEN / name / "model.safetensors", target / "model.safetensors")
    config = json.loads((GOLDEN / name / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target
