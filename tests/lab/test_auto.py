"""The encoding that suits a text. `bipe_hf.lab.training.auto`."""

import json
import random
import re

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from interruption import interrupt
from transformers import AutoConfig
from words import WORDS

from bipe_hf.lab.training import pretrain
from bipe_hf.lab.training.auto import PIECES, choose_encoding, familiarity, likeness, regularity, sample
from bipe_hf.model.encodings_bipe import ENCODINGS
from bipe_hf.model.errors_bipe import InputError


def prose(lines, seed=0):
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) + "." for _ in range(lines))


def table(rows, columns, delimiter=","):
    return "\n".join(delimiter.join(f"v{row}c{column}" for column in range(columns)) for row in range(rows))


def test_regularity_of_lines_counted_by_hand():
    comma = re.compile(",")
    assert regularity([["a,b,c", "d,e,f", "g,h", "i,j", "k,l,m"]], comma) == 1 / 4  # two separators are needed
    assert regularity([["a,b,c"], ["d,e,f"]], comma) == 0  # no line before it in its piece
    assert regularity([], comma) == 0


@given(st.integers(3, 12), st.sampled_from(",\t;|"), st.integers(3, 60))
@settings(max_examples=30, deadline=None)
def test_a_table_has_levels_whatever_its_delimiter(columns, delimiter, rows):
    choice = choose_encoding([table(rows, columns, delimiter)], [])
    assert (choice.encoding, choice.levels) == ("bipe_levels_axes", ("lines", "fields"))


@given(st.lists(st.text("abc ,", min_size=1), min_size=2, max_size=6, unique=True), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_json_lines_have_segments_that_are_lines(keys, rows):
    lines = [json.dumps(dict.fromkeys(keys, row)) for row in range(rows)]
    of_training = "\n".join(lines)
    choice = choose_encoding([of_training], ["quite another source"])
    assert (choice.encoding, choice.levels) == ("bipe_hybrid", ("lines",))
    assert choice.reason == (
        "JSON lines, since 100% of the lines begin with a brace; 0% of the words held out occur in training, fewer "
        "than 75%: of other sources"
    )
    choice = choose_encoding([of_training], [of_training])
    assert (choice.encoding, choice.levels) == ("hybrid", ())
    assert choice.reason.endswith(
        "100% of the words held out occur in training, no fewer than 75%: of the same sources"
    )


LINES_OF_LOGS = {
    "syslog": "Jun {day:2} {hour:02}:{minute:02}:17 combo sshd(pam_unix)[{number}]: authentication failure {words}",
    "spark": "17/06/{day:02} {hour:02}:{minute:02}:40 INFO storage.BlockManager: Found block rdd_{number} {words}",
    "access": '10.0.{day}.{minute} - - [{day:02}/Mar/2015:{hour:02}:{minute:02}:00 +0000] "GET /{number}" 200 {words}',
}


@given(st.sampled_from(sorted(LINES_OF_LOGS)), st.integers(20, 60), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_logs_have_segments_that_are_lines(kind, count, seed):
    draw = random.Random(seed)
    lines = [
        LINES_OF_LOGS[kind].format(
            day=draw.randint(10, 28),
            hour=draw.randrange(24),
            minute=draw.randrange(60),
            number=draw.randrange(9999),
            words=" ".join(draw.choices(WORDS, k=draw.randint(1, 9))),
        )
        for _ in range(count)
    ]
    of_training = "\n".join(lines)
    choice = choose_encoding([of_training], ["quite another source"])
    assert (choice.encoding, choice.levels) == ("bipe_hybrid", ("lines",))
    assert choice.reason.startswith("a log, since of the lines ")
    choice = choose_encoding([of_training], [of_training[len(of_training) // 2 :]])
    assert (choice.encoding, choice.levels) == ("hybrid", ())


def test_familiarity_of_words_counted_by_hand():
    assert familiarity(["one two, three4"], ["two six", "three 5 a"]) == 2 / 3  # numbers and letters are no words
    assert familiarity(["one"], []) == familiarity([], ["1 2"]) == 1
    assert familiarity([], ["one"]) == 0


def test_likeness_of_lines_counted_by_hand():
    assert likeness([["Jun 14 15:16", "Jul 3 7:01", "at 9 o'clock", "at 10 o'clock"]]) == 2 / 3
    assert likeness([["one two three", "four five six"]]) == 0  # no number
    assert likeness([["Jun 14"], ["Jun 15"]]) == likeness([]) == 0  # no line before it in its piece


@pytest.mark.parametrize("text", [prose(200), "", "\n\n", "one word", "a,b\nc,d\ne,f", "1\n2\nthe end\nof it"])
def test_what_is_no_record_has_none(text):
    choice = choose_encoding([text], ["quite another source"])
    assert choice.levels == ()
    assert "levels" not in ENCODINGS[choice.encoding].label


def test_pieces_lie_all_over_a_long_document_and_begin_with_a_line():
    text = "\n".join(f"line {number} " + "x" * 90 for number in range(60_000))
    pieces = sample(Dataset.from_dict({"text": [text]}))
    assert len(pieces) == PIECES
    assert all(piece.startswith("line ") for piece in pieces)
    assert int(pieces[-1].split()[1]) > 59_000


def test_pieces_are_of_documents_evenly_spaced():
    many = Dataset.from_dict({"text": [f"document {number}" for number in range(1000)]})
    pieces = sample(many)
    assert (len(pieces), pieces[0], pieces[-1]) == (PIECES, "document 0", "document 995")
    assert sample(many.to_iterable_dataset())[-1] == f"document {PIECES - 1}"


@pytest.fixture
def run(tmp_path):
    """Settings of a run of two steps on rows of a table."""
    data = tmp_path / "rows"
    data.mkdir()
    for number in range(4):
        (data / f"{number}.txt").write_text(table(80, 4))
    return {
        "data": str(data),
        "output_dir": str(tmp_path / "run"),
        "encoding": "auto",
        "vocab_size": 280,
        "train_length": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_steps": 2,
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }


@pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")
def test_a_run_says_what_it_chose_and_is_that_run(run, capsys):
    result = pretrain(run)
    said = capsys.readouterr().out
    assert "encoding bipe_levels_axes with levels lines, fields: a table, since 100% of the lines have" in said
    assert (result["chosen"]["encoding"], result["config"]["encoding"]) == ("bipe_levels_axes", "auto")
    named = pretrain(run | {"encoding": "bipe_levels_axes", "output_dir": run["output_dir"] + "-named"})
    assert named["eval_loss"] == result["eval_loss"]
    ours, theirs = (AutoConfig.from_pretrained(run["output_dir"] + end).to_dict() for end in ("", "-named"))
    assert ours | {"_name_or_path": ""} == theirs | {"_name_or_path": ""}


@pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")
def test_an_interrupted_run_goes_on_as_what_it_chose(run):
    interrupt(pretrain, run, step=2)
    assert pretrain(run)["resumed_from"] == "checkpoint-1"


@pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")
def test_what_is_given_besides_wins(run):
    pretrain(run | {"levels": ["lines", "words"], "max_segment_length": 7})
    config = AutoConfig.from_pretrained(run["output_dir"])
    assert config.max_segment_length == 7
    assert len(config.inner_separator_token_ids) == 1


def test_another_model_has_its_own_encoding(run):
    with pytest.raises(InputError, match="encoding: 'auto' given, but a model of type llama has its own"):
        pretrain(run | {"model_type": "llama"})
