"""Documents, tokenizer, token ids and blocks: `bipe_hf.lab.data`."""

import bz2
import gzip
import inspect
import itertools
import json
import json.decoder
import logging
import lzma
import os
import pydoc_data.topics
import subprocess
import sys
import sysconfig
from pathlib import Path

import datasets
import pytest
from cached_files import cached_files
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import HELPERS
from transformers import PreTrainedTokenizerFast

from bipe_hf.lab.data import (
    cached_tokenizer,
    formats,
    load_documents,
    make_blocks,
    tokenize,
    tokenize_documents,
    train_tokenizer,
)
from bipe_hf.lab.data.tables import read_tables
from bipe_hf.model.errors_bipe import InputError
from bipe_hf.model.tokenization_bipe import BipeTokenizer


TEXTS = [
    'The first line.\nThe second one, which is longer; it says 1,234 times "no".\n\n    An indented line!',
    "def f(self):\n    return self._x[0].y  # naïve\r\n",
    "Что? Да. 你好。再见。 नमस्ते।\n",
]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 10, 320)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def numbered(count: int) -> dict[str, str]:
    return {f"{number:03}.txt": f"Document {number}.\n" for number in range(count)}


def names(splits) -> dict[str, list[str]]:
    return {split: [row["name"] for row in documents] for split, documents in splits.items()}


# Embedded corpus


def test_the_embedded_corpus_is_the_documentation_and_the_sources_of_this_python():
    splits = load_documents("python")
    documents = {row["name"]: row["text"] for split in splits.values() for row in split}
    assert len(documents) == sum(len(split) for split in splits.values())
    assert documents["stdlib:json/decoder.py"] == inspect.getsource(json.decoder)
    topics = {name: text for name, text in documents.items() if name.startswith("pydoc:")}
    assert topics == {f"pydoc:{name}": text for name, text in pydoc_data.topics.topics.items()}
    sources = [name.removeprefix("stdlib:") for name in documents if name not in topics]
    assert len(sources) > 300
    unwanted = {"test", "tests", "site-packages", "encodings", "pydoc_data", "__pycache__"}
    assert not [name for name in sources if unwanted & set(Path(name).parts) or "_sysconfigdata" in name]


def test_the_embedded_corpus_is_in_the_same_order_every_time_and_streamed():
    splits = names(load_documents("python"))
    assert names(load_documents("python", streaming=True)) == splits
    assert all(documents == sorted(documents) for documents in splits.values())


def test_a_python_without_documentation_or_sources_is_an_error(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pydoc_data.topics", None)
        with pytest.raises(FileNotFoundError, match="without pydoc_data"):
            load_documents("python")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    with pytest.raises(FileNotFoundError, match=r"no \.py files in .*python\.zip"):
        load_documents("python")


# Split


def test_every_document_is_in_exactly_one_split(tmp_path):
    splits = names(load_documents(str(write(tmp_path, numbered(400))), validation_fraction=0.25))
    assert sorted(splits["train"] + splits["validation"]) == list(numbered(400))
    assert 60 <= len(splits["validation"]) <= 140  # mean 100, standard deviation 9


def test_the_split_depends_on_the_seed_alone(tmp_path):
    source = str(write(tmp_path, numbered(60)))
    splits = [names(load_documents(source, validation_fraction=0.5, seed=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_adding_documents_moves_no_other(tmp_path):
    before = names(load_documents(str(write(tmp_path / "few", numbered(40))), validation_fraction=0.3))
    after = names(load_documents(str(write(tmp_path / "many", numbered(80))), validation_fraction=0.3))
    assert set(before["train"]) < set(after["train"])
    assert set(before["validation"]) < set(after["validation"])


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("streaming", [False, True])
def test_each_split_has_a_document(tmp_path, fraction, streaming):
    source = str(write(tmp_path, numbered(2)))
    splits = names(load_documents(source, validation_fraction=fraction, streaming=streaming))
    assert {split: len(documents) for split, documents in splits.items()} == {"train": 1, "validation": 1}


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.9, 1 - 1e-9])
def test_a_stream_is_split_like_a_loaded_data_set(tmp_path, fraction):
    source = str(write(tmp_path, numbered(12)))
    loaded = load_documents(source, validation_fraction=fraction)
    streamed = load_documents(source, validation_fraction=fraction, streaming=True)
    assert isinstance(streamed, datasets.IterableDatasetDict)
    for split in ("train", "validation"):
        assert list(streamed[split]) == list(loaded[split])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_validation_fraction_outside_0_and_1_is_an_error(fraction):
    with pytest.raises(ValueError, match="validation_fraction must lie between 0 and 1"):
        load_documents("python", validation_fraction=fraction)


# Files and folders


def test_a_text_file_is_cut_at_a_blank_line(tmp_path):
    text = "".join(f"Paragraph {number}.\n\n" for number in range(100))
    write(tmp_path, {"book.txt": text})
    for streaming in (False, True):
        splits = load_documents(str(tmp_path / "book.txt"), validation_fraction=0.1, streaming=streaming)
        train, validation = (list(splits[split]) for split in ("train", "validation"))
        assert train[0]["text"] + validation[0]["text"] == text
        assert train[0]["text"].endswith(".\n\n")
        assert len(validation[0]["text"]) == pytest.approx(0.1 * len(text), abs=len("Paragraph 90.\n\n"))
        assert (train[0]["name"], validation[0]["name"]) == ("book.txt:train", "book.txt:validation")


def test_subfolders_train_and_validation_are_the_splits(tmp_path):
    write(tmp_path, {"train/b/c.md": "c", "train/a.txt": "a", "validation/d.tex": "d", "train/.hidden": "h"})
    splits = load_documents(str(tmp_path))
    assert {split: list(documents) for split, documents in splits.items()} == {
        "train": [{"text": "a", "name": "train/a.txt"}, {"text": "c", "name": "train/b/c.md"}],
        "validation": [{"text": "d", "name": "validation/d.tex"}],
    }


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path, {"train/a.txt": "old", "validation/b.txt": "b"})
    assert load_documents(str(tmp_path))["train"]["text"][:] == ["old"]
    write(tmp_path, {"train/a.txt": "new text"})
    assert load_documents(str(tmp_path))["train"]["text"][:] == ["new text"]


ROWS = [{"id": number, "body": text} for number, text in enumerate(["one", "zwei\n", "", None, " \n", "three"])]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_each_row_of_a_table_with_text_is_a_document(tmp_path, suffix, streaming):
    path = tmp_path / f"table.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(ROWS))
    else:
        table = Dataset.from_list(ROWS)
        {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[suffix](path)
    splits = load_documents(str(path), text_column="body", validation_fraction=0.3, streaming=streaming)
    documents = [row for split in ("train", "validation") for row in splits[split]]
    expected = {"train:0": "one", "train:1": "zwei\n", "train:5": "three"}
    assert {row["name"]: row["text"] for row in documents} == expected
    assert len(documents) == 3


def test_a_folder_of_tables_is_split_by_its_file_names(tmp_path):
    write(tmp_path, {"train.jsonl": '{"text": "a"}\n', "validation.jsonl": '{"text": "b"}\n', "README.md": "About."})
    splits = load_documents(str(tmp_path))
    assert {split: documents["text"][:] for split, documents in splits.items()} == {
        "train": ["a"],
        "validation": ["b"],
    }


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("is_folder", [False, True])
def test_words_that_pandas_takes_for_gaps_are_texts_of_a_csv_file(tmp_path, is_folder, streaming):
    words = ["null", "None", "NA", "nan", "N/A"]
    write(tmp_path, {"train.csv": "\n".join(["text,number", *(f"{word},3" for word in words), ",", "end,4"])})
    source = tmp_path if is_folder else tmp_path / "train.csv"
    rows = list(read_tables(str(source), streaming=streaming)["train"])
    assert [row["text"] for row in rows] == [*words, None, "end"]
    assert [row["number"] for row in rows] == [3, 3, 3, 3, 3, None, 4]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_data_set_is_read_and_left_as_it_is(tmp_path, streaming):
    saved = DatasetDict({split: Dataset.from_dict({"text": [split]}) for split in ("train", "validation", "test")})
    saved.save_to_disk(tmp_path / "splits")
    Dataset.from_dict({"text": ["a", "b"]}).with_format("numpy").save_to_disk(tmp_path / "rows")
    files = sorted(tmp_path.rglob("*"))
    splits = load_documents(str(tmp_path / "splits"), streaming=streaming)
    assert {split: [row["text"] for row in documents] for split, documents in splits.items()} == {
        "train": ["train"],
        "validation": ["validation"],
    }
    splits = load_documents(str(tmp_path / "rows"), streaming=streaming)
    assert sorted(row["text"] for documents in splits.values() for row in documents) == ["a", "b"]
    assert sorted(tmp_path.rglob("*")) == files


BAD_SOURCES = {
    "missing.txt": (None, "no such file or folder: .*missing.txt"),
    "missing/folder/deep": (None, "no such file or folder: .*missing/folder/deep"),
    "empty.txt": ({"empty.txt": " \n"}, "empty.txt holds no text"),
    "line.txt": ({"line.txt": "one line\n"}, "line.txt has no blank line .* train and validation"),
    "folder": ({"folder/.hidden": "h"}, "folder holds no files"),
    "one": ({"one/a.txt": "a"}, r"one holds 1 document\(s\).* at least 2"),
    "blank": ({"blank/train/a.txt": "a", "blank/validation/b.txt": " "}, "blank/validation holds no text"),
    "tables": (
        {"tables/a.csv": "text\na\n", "tables/b.jsonl": '{"text": "b"}'},
        r"mixes kinds of files \(a.csv, b.jsonl\)",
    ),
    "mixed": ({"mixed/a.txt": "a", "mixed/b.jsonl": "{}"}, r"mixes kinds of files \(a.txt, b.jsonl\)"),
    "rows": (
        {"rows/train.jsonl": '{"text": "a"}', "rows/validation.jsonl": '{"text": ""}'},
        "the validation split holds no text",
    ),
    "column.jsonl": ({"column.jsonl": '{"a": "x", "b": "y"}'}, 'no column "text"; it has: a, b'),
    "number.jsonl": ({"number.jsonl": '{"text": 1}'}, 'column "text" of .* holds int, not text'),
    "broken.jsonl": ({"broken.jsonl": '{"text": "a"\n'}, "cannot read .*broken.jsonl: JSON parse error"),
    "empty.jsonl": ({"empty.jsonl": ""}, "cannot read .*empty.jsonl: it holds no rows"),
    "one.csv": ({"one.csv": "text\na\n"}, r"one.csv holds 1 document\(s\)"),
    "no.parquet": ({"no.parquet": "text"}, "cannot read .*no.parquet"),
    "test": ({"test/test.jsonl": '{"text": "a"}'}, "test has no split train; it has: test"),
}


@pytest.mark.parametrize("source", BAD_SOURCES)
@pytest.mark.parametrize("streaming", [False, True])
def test_what_cannot_be_read_is_one_line_that_says_why(tmp_path, source, streaming):
    files, message = BAD_SOURCES[source]
    write(tmp_path, files or {})
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_documents(str(tmp_path / source), streaming=streaming)
    assert "\n" not in str(error.value)


COMPRESSIONS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_are_read_as_what_they_hold(tmp_path, ending, streaming):
    compress = COMPRESSIONS[ending]
    texts = [f"Text {number}, é." for number in range(6)]
    contents = {
        "text.txt": "\n\n".join(texts),
        "rows.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
        "rows.csv": "text\n" + "".join(f'"{text}"\n' for text in texts),
        "rows.tsv": "text\tnumber\n" + "".join(f"{text}\t1\n" for text in texts),
        "folder/a.txt": texts[0],
        "folder/b.txt": texts[1],
        "tables/train.csv": f'text\n"{texts[0]}"\n',
        "tables/validation.csv": f'text\n"{texts[1]}"\n',
    }
    for name, content in contents.items():
        for folder, data in (("plain", content.encode()), ("packed", compress(content.encode()))):
            file = tmp_path / folder / (name if folder == "plain" else f"{name}.{ending}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def read(source):
        splits = load_documents(str(source), validation_fraction=0.3, streaming=streaming)
        return {split: [row["text"] for row in splits[split]] for split in splits}

    for name in ("text.txt", "rows.jsonl", "rows.csv", "rows.tsv", "tables"):
        packed = name if name == "tables" else f"{name}.{ending}"
        assert read(tmp_path / "packed" / packed) == read(tmp_path / "plain" / name), name
    assert sorted(itertools.chain(*read(tmp_path / "packed/folder").values())) == texts[:2]


def test_a_damaged_compressed_file_is_one_line(tmp_path):
    whole = gzip.compress(b"Some words. " * 100)
    for data in (whole[:-20], whole[:10] + b"x" * 50):
        (tmp_path / "text.txt.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"text.txt.gz is compressed with gzip and damaged \("):
            load_documents(str(tmp_path / "text.txt.gz"))


def test_zstd_is_read_or_refused_with_the_library_to_install(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    (tmp_path / "rows.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    monkeypatch.setattr(formats, "is_installed", lambda library: False)
    for name in ("text.txt", "rows.jsonl.zst"):
        with pytest.raises(InputError, match=f"{name} is compressed with zstd: pip install zstandard"):
            load_documents(str(tmp_path / name))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4rest", "is a zip archive or an office document: unpack it"),
        (b"PAR1rest", "is a Parquet table: its name must end in .parquet"),
        ("Wörter".encode("utf-16"), "is UTF-16 text: convert it"),
        ("Words".encode("utf-16-le"), "is no text, but full of NUL bytes"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"name".ljust(257, b"a") + b"ustar", "is a tar archive: unpack it"),
    ],
)
def test_what_is_no_text_is_named_whatever_it_is_called(tmp_path, data, message):
    (tmp_path / "text.txt").write_bytes(data)
    for packed in (False, True):
        (tmp_path / "text.txt").write_bytes(gzip.compress(data) if packed else data)
        with pytest.raises(InputError, match=message):
            load_documents(str(tmp_path / "text.txt"))


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".tsv", 'text\tn\n"a, b"\t1\nNA\t2\n'),
        (".tab", 'text\tn\n"a, b"\t1\nNA\t2\n'),
        (".psv", 'text|n\n"a, b"|1\nNA|2\n'),
        (".ndjson", '{"text": "a, b"}\n{"text": "NA"}\n'),
        (".jsonlines", '{"text": "a, b"}\n{"text": "NA"}\n'),
    ],
)
def test_tables_are_tables_whatever_their_ending(tmp_path, suffix, content, is_folder):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / f"rows{suffix}").write_text(content)
    if is_folder:
        (tmp_path / "folder" / "README.md").write_text("# Rows")
    source = tmp_path / "folder" if is_folder else tmp_path / "folder" / f"rows{suffix}"
    splits = load_documents(str(source), validation_fraction=0.5)
    assert sorted(row["text"] for documents in splits.values() for row in documents) == ["NA", "a, b"]


def test_rows_of_several_types_are_named_by_their_row(tmp_path):
    words = [json.dumps({"text": f"Words {number}."}) for number in range(5)]
    for value in (7, ["a"], {"a": 1}, 1.5, True):
        (tmp_path / "rows.jsonl").write_text("\n".join([*words, json.dumps({"text": value}), *words]))
        for streaming in (False, True):
            with pytest.raises(InputError, match="rows.jsonl: .* in row 5 of the train split, which is no text"):
                load_documents(str(tmp_path / "rows.jsonl"), streaming=streaming)
    (tmp_path / "rows.csv").write_text('text\n""\n' + "1\n" * 5)
    with pytest.raises(InputError, match=r"rows.csv: .* holds 1.0 in row 1 of the train split"):
        load_documents(str(tmp_path / "rows.csv"))


def test_text_that_is_not_utf_8_is_named(tmp_path):
    write(tmp_path, numbered(3))
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 text \(byte 2\)"):
        load_documents(str(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 text \(byte 2\)"):
        load_documents(str(tmp_path))


# Hub


@pytest.mark.parametrize(("source", "call"), [("wiki", ("wiki", None)), ("me/wiki-2:raw_v1", ("me/wiki-2", "raw_v1"))])
def test_any_other_name_is_a_data_set_of_the_hub(monkeypatch, source, call):
    calls = []

    def load_dataset(path, name, streaming):
        calls.append((path, name))
        return DatasetDict({split: Dataset.from_dict({"text": [split] * 9}) for split in ("train", "test")})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = load_documents(source)
    assert calls == [call]
    assert {text for documents in splits.values() for text in documents["text"]} == {"train"}


def test_a_data_set_that_the_hub_does_not_give_is_named():
    with pytest.raises(ValueError, match=r'^cannot read "nobody/nothing" .*Hugging Face Hub.*\S$'):
        load_documents("nobody/nothing")


# Tokenizer


@settings(deadline=None, max_examples=200)
@given(text=st.text())
def test_any_text_is_encoded_without_loss(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_no_token_joins_a_word_with_a_line_break_or_a_full_stop():
    documents = load_documents("python")["train"]
    tokenizer = train_tokenizer(documents["text"][:300], 2048)
    assert len(tokenizer) == 2048
    decoded = [tokenizer.decode([token]) for token in range(2, 2048)]
    line_breaks = [token for token in decoded if "\n" in token]
    assert "\n" in line_breaks
    assert all(set(token) == {"\n"} for token in line_breaks)
    stops = [token for token in decoded if "." in token]
    assert "." in stops
    assert len(stops) > 5
    assert not [token for token in stops if any(char.isalnum() or char == "_" for char in token)]


def test_special_tokens_have_the_first_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>"]) == [0, 1]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = train_tokenizer(iter(TEXTS * 10), 320)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_training_stops_on_an_endless_stream(monkeypatch):
    monkeypatch.setattr(tokenize, "TRAINING_BYTES", 100_000)
    assert len(train_tokenizer(itertools.cycle(TEXTS), 300)) == 300


@pytest.mark.parametrize("vocab_size", [257, 0, -1])
def test_a_vocabulary_without_room_for_every_byte_is_an_error(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size must be at least 258 .*, not {vocab_size}"):
        train_tokenizer(TEXTS, vocab_size)


def test_a_tokenizer_of_no_text_is_an_error():
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer([], 300)


def test_a_tokenizer_is_trained_once_for_the_same_documents(monkeypatch, tmp_path):
    documents = Dataset.from_dict({"text": TEXTS})
    first = cached_tokenizer(documents, 300, tmp_path)
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["tokenizer"]
    with monkeypatch.context() as patch:
        patch.setattr(tokenize, "train_tokenizer", lambda documents, vocab_size: pytest.fail("trained again"))
        second = cached_tokenizer(documents, 300, tmp_path)
    assert second.get_vocab() == first.get_vocab()
    assert (second.eos_token, second.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert len(cached_tokenizer(documents, 301, tmp_path)) == 301
    other = cached_tokenizer(Dataset.from_dict({"text": TEXTS[:1]}), 300, tmp_path)
    assert other.get_vocab() == train_tokenizer(TEXTS[:1], 300).get_vocab() != first.get_vocab()


def test_a_tokenizer_of_a_stream_is_that_of_its_documents():
    stream = Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    assert cached_tokenizer(stream, 300).get_vocab() == train_tokenizer(TEXTS, 300).get_vocab()


# Token ids


@pytest.mark.parametrize("streaming", [False, True])
def test_each_document_ends_with_the_end_of_text_and_knows_its_bytes(tokenizer, streaming):
    documents = Dataset.from_dict({"text": TEXTS, "name": ["a", "b", "c"]})
    documents = documents.to_iterable_dataset() if streaming else documents
    assert list(tokenize_documents(documents, tokenizer)) == [
        {"input_ids": [*tokenizer(text)["input_ids"], tokenizer.eos_token_id], "num_bytes": len(text.encode())}
        for text in TEXTS
    ]


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer):
    text = "a <|endoftext|> b<|pad|>"
    ids = tokenize_documents(Dataset.from_dict({"text": [text]}), tokenizer)[0]["input_ids"]
    assert not {0, 1} & set(ids[:-1])
    assert tokenizer.decode(ids[:-1]) == text


def test_processes_change_nothing(tokenizer):
    documents = Dataset.from_dict({"text": [f"{text} {number}" for number in range(20) for text in TEXTS]})
    parallel = tokenize_documents(documents, tokenizer, num_proc=2)
    assert list(parallel) == list(tokenize_documents(documents, tokenizer, num_proc=1))


def test_only_token_ids_are_kept_of_what_a_tokenizer_returns(tokenizer):
    wrapped = BipeTokenizer.from_tokenizer(tokenizer)
    assert "segment_ids" in wrapped("a")
    documents = Dataset.from_dict({"text": TEXTS})
    assert list(tokenize_documents(documents, wrapped)) == list(tokenize_documents(documents, tokenizer))


def test_a_document_longer_than_the_model_gives_no_warning(tokenizer, tmp_path, caplog):
    tokenizer.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path, model_max_length=8)
    logging.getLogger("transformers").addHandler(caplog.handler)
    ids = tokenize_documents(Dataset.from_dict({"text": TEXTS[:1]}), tokenizer)[0]["input_ids"]
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert len(ids) > 8
    assert caplog.records == []


def test_a_tokenizer_without_an_end_of_text_is_an_error(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no eos_token"):
        tokenize_documents(Dataset.from_dict({"text": TEXTS}), bare)


def test_nothing_is_computed_again_even_in_another_process(cache, tmp_path):
    source = write(tmp_path, numbered(50))
    files = cached_files(str(source))
    assert files[1] == files[2]
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    code = f"from cached_files import cached_files; print(*cached_files({str(source)!r}), sep='\\n')"
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, cwd=HELPERS, check=True, capture_output=True, text=True).stdout
    assert output.split() == files
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == stamps


# Blocks


def expected_blocks(documents: list[list[int]], length: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token by token: a document's position restarts with the document and with the block."""
    ids, positions = [[]], [[]]
    for document in documents:
        position = 0
        for token in document:
            if len(ids[-1]) == length:
                ids.append([])
                positions.append([])
                position = 0
            ids[-1].append(token)
            positions[-1].append(position)
            position += 1
    keep = len(ids) if len(ids[-1]) == length else len(ids) - 1
    return ids[:keep], positions[:keep]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    documents=st.lists(st.lists(st.integers(0, 99), max_size=12), max_size=250).filter(
        lambda x: sum(map(len, x)) >= 9
    ),
    length=st.integers(2, 9),
)
@pytest.mark.parametrize("streaming", [False, True])
def test_blocks_are_the_joined_documents_but_for_the_last_tail(streaming, documents, length):
    tokenized = Dataset.from_dict({"input_ids": documents, "num_bytes": [1] * len(documents)})
    tokenized = tokenized.to_iterable_dataset() if streaming else tokenized
    ids, positions = expected_blocks(documents, length)
    ignored = list(make_blocks(tokenized, length))
    assert ignored == [{"input_ids": block} for block in ids]
    kept = list(make_blocks(tokenized, length, document_boundaries="keep"))
    assert [row["input_ids"] for row in kept] == ids
    assert [row["position_ids"] for row in kept] == positions


def test_a_streamed_epoch_does_not_depend_on_the_one_before():
    tokenized = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6, 7]]}).to_iterable_dataset()
    blocks = make_blocks(tokenized, 2)
    assert list(blocks) == list(blocks) == [{"input_ids": [1, 2]}, {"input_ids": [3, 4]}, {"input_ids": [5, 6]}]


def test_blocks_of_a_shuffled_selection_follow_its_order():
    tokenized = Dataset.from_dict({"input_ids": [[1] * 3, [2] * 3, [3] * 3]}).select([2, 0])
    assert make_blocks(tokenized, 3)["input_ids"][:] == [[3] * 3, [1] * 3]


def test_blocks_become_integer_tensors():
    import torch

    blocks = make_blocks(Dataset.from_dict({"input_ids": [[1, 2, 3, 4]]}), 2, document_boundaries="keep")
    batch = blocks.with_format("torch")[:]
    assert torch.equal(batch["input_ids"], torch.tensor([[1, 2], [3, 4]]))
    assert torch.equal(batch["position_ids"], torch.tensor([[0, 1], [0, 1]]))


@pytest.mark.parametrize("length", [1, 0, -4])
def test_a_block_of_less_than_two_tokens_is_an_error(length):
    with pytest.raises(ValueError, match=f"length must be at least 2 .*, not {length}"):
        make_blocks(Dataset.from_dict({"input_ids": [[1, 2]]}), length)


def test_an_unknown_rule_for_document_boundaries_is_an_error():
    with pytest.raises(ValueError, match='"keep" or "ignore", not "drop"'):
        make_blocks(Dataset.from_dict({"input_ids": [[1, 2]]}), 2, document_boundaries="drop")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_corpus_shorter_than_a_block_is_an_error(streaming):
    tokenized = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]})
    tokenized = tokenized.to_iterable_dataset() if streaming else tokenized
    with pytest.raises(ValueError, match="hold 5 tokens, fewer than one block of length 6"):
        list(make_blocks(tokenized, 6))


# All of it


@pytest.mark.parametrize("streaming", [False, True])
def test_blocks_decode_to_the_documents(tmp_path, streaming):
    texts = {f"train/{name}": text for name, text in numbered(30).items()} | {"validation/v.txt": "V.\n"}
    documents = load_documents(str(write(tmp_path, texts)), streaming=streaming)["train"]
    tokenizer = cached_tokenizer(documents, 270)
    blocks = make_blocks(tokenize_documents(documents, tokenizer), 10)
    text = tokenizer.decode([token for row in blocks for token in row["input_ids"]])
    whole = "".join(f"{text}<|endoftext|>" for name, text in texts.items() if name.startswith("train/"))
    assert whole.startswith(text)
    tail = len(whole.removeprefix(text).replace("<|endoftext|>", "."))
    assert tail < 40
