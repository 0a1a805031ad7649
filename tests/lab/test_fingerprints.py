"""What tells a model, and a text, from another one."""

import hashlib
import json
import os
import shutil

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tiny import TINY
from weights import change_a_weight
from words import WORDS

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.lab.common import digests
from bipe_hf.lab.common.checkpoints import open_folder
from bipe_hf.lab.common.digests import file_digest, rows_digest
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.evaluation import Evaluation, evaluate
from bipe_hf.lab.evaluation.results import results_of_model
from bipe_hf.model.errors_bipe import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and files that count as written long ago."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(digests, "CLOCK_TICK", -1.0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)], 280)


@pytest.fixture
def folder(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = BipeLlamaConfig(**TINY | {"vocab_size": len(tokenizer), "separator_token_ids": [3]})
    BipeLlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def fingerprint(folder, **fields):
    return open_folder(folder, fields).fingerprint


def test_a_copied_moved_or_touched_model_is_the_same(folder, tmp_path):
    before = fingerprint(folder)
    shutil.copytree(folder, tmp_path / "another name", copy_function=shutil.copyfile)
    assert fingerprint(tmp_path / "another name") == before
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert fingerprint(folder) == before
    folder.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: change_a_weight(folder / "model.safetensors"),
        lambda folder: edit_config(folder, separator_token_ids=[4]),
        lambda folder: edit_config(folder, rms_norm_eps=0.1),
        lambda folder: edit_config(folder, dtype="bfloat16"),
    ],
    ids=["weight", "separators", "norm", "dtype"],
)
def test_another_model_has_another_fingerprint(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_a_weight_changed_without_a_trace_in_the_time_is_seen(folder):
    """As by a program that writes in place and sets the time back."""
    file = folder / "model.safetensors"
    before, stat = fingerprint(folder), file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "fields",
    [
        {"transformers_version": "5.0.0", "architectures": ["Other"], "auto_map": {}, "_name_or_path": "elsewhere"},
        {"tie_word_embeddings": False, "attention_bias": False},
    ],
    ids=["history", "a default written out"],
)
def test_what_another_version_would_write_of_the_same_model_does_not_count(folder, fields):
    before = fingerprint(folder)
    edit_config(folder, **fields)
    assert fingerprint(folder) == before


def test_config_fields_are_part_of_it_as_if_they_were_saved(folder):
    stretched = fingerprint(folder, rms_norm_eps=0.1)
    assert stretched != fingerprint(folder)
    edit_config(folder, rms_norm_eps=0.1)
    assert fingerprint(folder) == stretched


def test_other_files_of_a_folder_do_not_count(folder):
    before = fingerprint(folder)
    (folder / "training_args.bin").write_bytes(b"of a run")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier model, and not read")
    assert fingerprint(folder) == before


def test_every_shard_counts(folder, tmp_path):
    sharded = tmp_path / "sharded"
    BipeLlamaForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="20KB")
    for file in folder.glob("tokenizer*"):
        shutil.copyfile(file, sharded / file.name)
    before = fingerprint(sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    change_a_weight(shards[-1])
    assert fingerprint(sharded) != before


def test_weights_are_read_once(folder, monkeypatch):
    before = fingerprint(folder)
    monkeypatch.setattr(digests, "_read", lambda file: pytest.fail("read again"))
    assert fingerprint(folder) == before


def test_what_was_written_a_moment_ago_is_not_kept(tmp_path, cache, monkeypatch):
    """Its time may not move when it is written once more."""
    monkeypatch.setattr(digests, "CLOCK_TICK", 60.0)
    file = tmp_path / "file"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        assert file_digest(file) == hashlib.sha256(content).hexdigest()
    assert not cache.exists()


def test_a_damaged_cache_is_made_anew(folder, cache):
    before = fingerprint(folder)
    for file in cache.rglob("digests/*"):
        file.write_text("")
    assert fingerprint(folder) == before


def test_results_of_earlier_versions_load_and_are_measured_again(folder, tmp_path, capsys):
    """They tell a model by the time of its files; those of models that are not asked for stay as they are."""
    (tmp_path / "text.txt").write_text("\n\n".join([" ".join(WORDS)] * 40))
    output, options = tmp_path / "results.json", {"data": str(tmp_path / "text.txt"), "device": "cpu"}
    evaluate([folder], [16], output=output, **options)
    content = json.loads(output.read_text())
    (row,) = content["results"]
    del row["commit"]
    row["model_fingerprint"] = "0" * 64
    content["results"].append(row | {"model": "runs/gone"})
    output.write_text(json.dumps(content))
    assert len(Evaluation.load(output).results) == 2
    with pytest.raises(InputError, match=r"tells this model by the time of its files.*; measure it again$"):
        results_of_model(output, open_folder(folder))
    results = evaluate([folder], [16], output=output, resume=True, **options).results
    assert {each.model: each.model_fingerprint for each in results} == {
        "runs/gone": "0" * 64,
        str(folder): open_folder(folder).fingerprint,
    }
    assert f"the results of {folder} tell it by the time of its files" in capsys.readouterr().err


# What is learnt from


def value_by_value(*splits):
    """The hash as it was first defined, in a loop."""
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            for value in row.values():
                digest.update(str(value).encode())
                digest.update(b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


ROWS = {
    "text": ["Ünë", "", "two\0words", None, "last"],
    "label": [0, 1, 1, 0, 1],
    "score": [0.1, 1e300, None, float("inf"), 3.0],
    "tokens": [["a", "b"], [], [None], ["c"], ["d"]],
    "answer": [{"start": 1, "text": "x"}] * 5,
}


def test_the_hash_of_rows_is_that_of_every_value(monkeypatch):
    rows = Dataset.from_dict(ROWS).cast_column("label", ClassLabel(names=["no", "yes"]))
    for at_once in (1, 2, 1000):
        monkeypatch.setattr(digests, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(digests, "_kept", lambda key, compute: compute())
        for part in (rows, rows.select_columns("text"), rows.select([4, 0, 2]), rows.select([])):
            assert rows_digest(part, rows) == value_by_value(part, rows)


def test_the_hash_of_rows_does_not_depend_on_how_they_lie(tmp_path):
    rows = Dataset.from_dict({"text": ROWS["text"]})
    large = rows.cast(Features({"text": Value("large_string")}))
    parts = datasets.concatenate_datasets([rows.select([0, 1]), rows.select([2, 3, 4])])
    rows.save_to_disk(tmp_path / "saved")
    again = Dataset.load_from_disk(tmp_path / "saved")
    assert {rows_digest(each) for each in (rows, large, parts, again)} == {value_by_value(rows)}


def test_rows_are_hashed_once(monkeypatch):
    before = rows_digest(Dataset.from_dict(ROWS))
    monkeypatch.setattr(digests, "_values", lambda *arguments: pytest.fail("hashed again"))
    assert rows_digest(Dataset.from_dict(ROWS)) == before
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        rows_digest(Dataset.from_dict(ROWS).select([0]))
