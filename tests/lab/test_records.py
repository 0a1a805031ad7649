"""Models of records: trained, resumed, asked for bits, rows and fields. `bipe_hf.lab.records`."""

import csv
import io
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from interruption import interrupt
from transformers import AutoModelForCausalLM, AutoTokenizer

from bipe_hf.commands import main
from bipe_hf.lab.records import RecordSettings, open_records, read_records, train_records
from bipe_hf.lab.records.fill import check_fillable, fill_rows, value_chances
from bipe_hf.lab.records.sample import sample_rows, why_invalid
from bipe_hf.lab.records.schema import Schema, Source, describe_columns, form_of
from bipe_hf.lab.records.score import FILES, score_records
from bipe_hf.lab.records.scoring import by_column, field_bits
from bipe_hf.lab.records.tokens import row_ids
from bipe_hf.lab.records.train import _examples_per_step
from bipe_hf.model.errors_bipe import InputError, InputExistsError


pytestmark = pytest.mark.usefixtures("no_progress_bars", "own_datasets_cache")

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_steps": 120,
    "eval_steps": 60,
    "save_steps": 60,
    "warmup_steps": 10,
    "learning_rate": 1e-2,
    "early_stopping_patience": 10,
    "report_to": "none",
}


def settings_of(folder, **fields):
    words = [f"--{key}={value}" for key, value in (TINY | fields).items() if value is not None]
    return RecordSettings.read(None, words, folder)


def animals(count, seed=0):
    """Rows in which what an animal says follows from what it is, and its legs are one of two."""
    random = Random(seed)
    says = {"cat": 'meow, "purr"', "dog": "woof", "bee": "buzz\nbuzz"}
    for _ in range(count):
        what = random.choice(list(says))
        yield {
            "says": says[what],
            "what": what,
            "legs": str(6 if what == "bee" else 4),
            "weight": str(random.randint(10, 99)),
        }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of animals, with quotes, delimiters and line breaks in its fields."""
    file = tmp_path_factory.mktemp("records") / "animals.csv"
    rows = list(animals(300))
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """The folder of a model of the animals."""
    folder = tmp_path_factory.mktemp("run") / "animals"
    train_records([table], settings_of(folder))
    return folder


@pytest.fixture(scope="module")
def used(run):
    return open_records(run, device="cpu")


def turn_lines(count, seed=0):
    """Lines of a log in each of which the unit is that of the line before (3 of 10) or the next of three."""
    random = Random(seed)
    unit = 0
    for _ in range(count):
        unit = (unit + (random.random() < 0.7)) % 3
        yield f"unit-{'abc'[unit]} is up"


@pytest.fixture(scope="module")
def log_run(tmp_path_factory):
    """The folder of a model of a log in which each line says what the one before leaves open to one bit."""
    folder = tmp_path_factory.mktemp("log")
    larger = {"hidden_size": 64, "max_steps": 200, "learning_rate": 4e-3, "train_length": 32}
    larger["per_device_train_batch_size"] = 32
    (folder / "unit.log").write_text("".join(line + "\n" for line in turn_lines(1000)))
    train_records([folder / "unit.log"], settings_of(folder / "run", **larger))
    return folder / "run"


# Training


def test_a_run_loads_as_any_model_and_says_what_its_columns_hold(run, table):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert model.config.encoding_label == "BiPE-RoPE with levels"
    texts = [
        [tokenizer.decode([each]) for each in level]
        for level in [model.config.separator_token_ids, *model.config.inner_separator_token_ids]
    ]
    assert texts == [["\n"], ["\t"]]
    written = json.loads((run / "records.json").read_text())
    assert [column["name"] for column in written["columns"]] == ["says", "what", "legs", "weight"]
    assert [column["kind"] for column in written["columns"]] == ["category", "category", "category", "integer"]
    assert written["source"]["delimiter"] == ";"
    assert written["levels"] == ["lines", "fields"]
    assert written["rows"] == {"train": 270, "validation": 30}
    assert sum(written["bits_per_field"].values()) == pytest.approx(written["bits_per_row"])
    # What follows from other fields costs little; a weight, which does not, no less than it must.
    assert written["bits_per_field"]["what"] < 0.1
    assert written["bits_per_field"]["legs"] < 0.1
    assert written["bits_per_field"]["weight"] > math.log2(90) - 0.1


def test_what_is_guessed_is_said(table, tmp_path, capsys):
    train_records([table], settings_of(tmp_path / "run", max_steps=1))
    said = capsys.readouterr().out
    assert "a table, as its name ends in .csv; ';' between fields; its first row names the columns" in said
    assert "300 rows, 4 column(s); levels lines, fields; each row is learnt alone (else: levels, order)" in said


SHORT = {"max_steps": 12, "eval_steps": 4, "save_steps": 4}


def test_an_interrupted_run_ends_as_an_uninterrupted_one(table, tmp_path):
    train_records([table], settings_of(tmp_path / "whole", **SHORT))
    interrupt(partial(train_records, [table]), settings_of(tmp_path / "run", **SHORT), 7)
    result = train_records([table], settings_of(tmp_path / "run", **SHORT))
    assert result["resumed_from"] == "checkpoint-4"
    whole, resumed = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_replaced_only_when_asked(table, tmp_path):
    train_records([table], settings_of(tmp_path / "run", max_steps=1))
    with pytest.raises(InputExistsError, match="holds a finished run"):
        train_records([table], settings_of(tmp_path / "run", max_steps=1))
    assert train_records([table], settings_of(tmp_path / "run", max_steps=2), overwrite=True)["steps"] == 2


def test_a_run_is_not_resumed_on_other_records(table, tmp_path):
    other = tmp_path / "animals.csv"
    shutil.copy(table, other)
    interrupt(partial(train_records, [other]), settings_of(tmp_path / "run", **SHORT), 5)
    other.write_text(other.read_text().replace("woof", "bark"))
    with pytest.raises(InputError, match="the text is not what the interrupted run"):
        train_records([other], settings_of(tmp_path / "run", **SHORT))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "random"}, "order: 'random' given"),
        ({"validation_fraction": 1.0}, "validation_fraction: 1.0 given"),
        ({"train_length": 1}, "train_length: 1 given"),
        ({"vocab_size": 100}, "vocab_size must be at least 258"),
        ({"load_best_model_at_end": "false"}, "early_stopping_patience: give load_best_model_at_end"),
        ({"levels": "lines,feilds"}, "'feilds' is not accepted"),
        ({"alibi_slope_scale": "measured", "encoding": "bipe_alibi"}, "alibi_slope_scale: give a number"),
        ({"levels": "lines,values"}, "levels: 'values' given, but table records have lines, fields"),
        ({"initial_model": "x"}, "initial_model cannot be set"),
        ({"encoding_schedule": '{"token_share": [1, 0]}'}, "encoding_schedule cannot be set: training starts from"),
        ({"colour": "red"}, "unknown argument '--colour'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(table, tmp_path, fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        train_records([table], settings_of(tmp_path / "run", **fields))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("length", "count"), [(2, 64), (100, 41), (400, 10), (5000, 8)])
def test_a_step_has_about_as_many_tokens_as_wanted(length, count):
    assert _examples_per_step([{"input_ids": [0] * (length - 1)}, {"input_ids": [0] * (length + 1)}], 4096) == count


def test_one_row_is_too_few(tmp_path):
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="1 row; to train on some and measure others, at least 2"):
        train_records([tmp_path / "one.csv"], settings_of(tmp_path / "run"))


def test_levels_and_encodings_can_be_chosen(table, tmp_path, capsys):
    train_records([table], settings_of(tmp_path / "words", max_steps=1, levels="lines,fields,words"))
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "words").config.inner_separator_token_ids) == 2
    train_records([table], settings_of(tmp_path / "lines", max_steps=1, levels="lines"))
    assert "levels lines alone: the model will not tell fields apart" in capsys.readouterr().out
    train_records([table], settings_of(tmp_path / "rope", max_steps=1, encoding="rope"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rope").config.encoding_label == "RoPE"


def test_a_table_with_more_columns_than_the_table_of_indices_gets_a_larger_one(tmp_path):
    names = [f"c{number}" for number in range(70)]
    (tmp_path / "wide.csv").write_text(
        "\n".join([",".join(names), *(",".join(map(str, range(row, row + 70))) for row in range(9))])
    )
    train_records([tmp_path / "wide.csv"], settings_of(tmp_path / "run", max_steps=1))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.max_inner_index >= 70


# Bits


def naive_bits(used, ids):
    """In float64, one token after the other, each with all before it and no cache."""
    model = used.model.double()
    bits = []
    with torch.no_grad():
        for at in range(1, len(ids)):
            logits = model(input_ids=torch.tensor([ids[:at]])).logits[0, -1]
            bits.append(-torch.log_softmax(logits, -1)[ids[at]].item() / math.log(2))
    model.float()
    return bits


def test_bits_of_fields_are_those_of_their_tokens_row_by_row(used, table):
    fields = used.fields(read_records([table]).rows[:4])
    found = used.bits(fields)
    for row, own in zip(fields, found, strict=True):
        ids = [used.tokenizer.eos_token_id, *(each for field in row for each in field.ids)]
        bits = iter(naive_bits(used, ids))
        assert own == pytest.approx([sum(next(bits) for _ in field.ids) for field in row], abs=1e-4)


def test_a_line_of_a_log_is_scored_behind_the_lines_before_it(log_run):
    used = open_records(log_run, device="cpu")
    lines = [{"line": line} for line in turn_lines(40, seed=1)]
    fields = used.fields(lines)
    bits = [sum(own) for own in used.bits(fields)]
    assert 0.7 < np.mean(bits[1:]) < 1.2  # 0.88 where the line before is known, 1.58 where it is not
    alone = [sum(own) for own in field_bits(used.model, fields, used.tokenizer.eos_token_id, None)]
    assert np.mean(alone) > 1.4
    # By hand: windows of 32 tokens of which rows before fill up to 16, for rows of 6 tokens: 2 and then 3 more.
    assert {len(own) for own in map(row_ids, fields)} == {6}
    for first, new, stop in [(0, 0, 5), (3, 5, 8), (6, 8, 11)]:
        ids = [used.tokenizer.eos_token_id, *(each for row in fields[first:stop] for each in row_ids(row))]
        costs = naive_bits(used, ids)
        assert bits[new:stop] == pytest.approx(
            [sum(costs[6 * (at - first) : 6 * (at - first) + 6]) for at in range(new, stop)], abs=1e-3
        )
    words = used.bits(fields)[3]
    assert len(words) == 3
    assert by_column(fields[3], words) == {"line": pytest.approx(sum(words))}


@pytest.mark.parametrize("order", ["any", "file"])
def test_rows_get_the_same_bits_in_whatever_batch_they_run(used, table, order, monkeypatch):
    rows = read_records([table]).rows[:30]
    length = {"any": None, "file": 128}[order]
    fields = used.fields(rows)
    whole = field_bits(used.model, fields, used.tokenizer.eos_token_id, length)
    monkeypatch.setattr("bipe_hf.lab.records.scoring.BATCH_TOKENS", 1)
    alone = field_bits(used.model, fields, used.tokenizer.eos_token_id, length)
    np.testing.assert_allclose(np.array(whole), np.array(alone), atol=1e-4)


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """What is written of animals of which one is odd."""
    folder = tmp_path_factory.mktemp("scores")
    rows = list(animals(40, seed=1))
    rows[7] |= {"what": "dog", "legs": "6", "says": "<b>moo</b> & 'x'"}
    with (folder / "new.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return score_records(run, [folder / "new.csv"], output=folder / "out", page_rows=5, device="cpu"), folder, rows


def test_scores_rank_the_odd_row_first_and_are_all_written(report):
    result, folder, rows = report
    assert result.results[0].row == 8
    assert result.results[0].cells == rows[7]
    with (folder / "out" / "scores.csv").open(newline="") as opened:
        written = list(csv.DictReader(opened))
    assert [int(row["row"]) for row in written] == list(range(1, 41))
    for row in written:
        assert float(row["bits"]) == pytest.approx(sum(float(row[f"bits of {name}"]) for name in rows[0]), abs=1e-3)
    assert result.bits_per_row["highest"] == max(row.bits for row in result.results)
    assert result.columns["legs"]["mean"] == pytest.approx(
        np.mean([float(row["bits of legs"]) for row in written]), abs=1e-3
    )
    content = json.loads((folder / "out" / "scores.json").read_text())
    assert content["format"] == "bipe-hf record scores 1"
    assert [row["row"] for row in content["results"]][:1] == [8]


class Cells(HTMLParser):
    """The rows of a table: the text of each cell and its class."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.is_open = [], Counter(), False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(["", dict(attributes).get("class", "")])
            self.is_open = True

    def handle_endtag(self, tag):
        self.is_open = self.is_open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.is_open:
            self.rows[-1][-1][0] += data


def test_the_page_shows_every_cell_with_its_bits_and_runs_nothing(report):
    result, folder, rows = report
    page = (folder / "out" / "scores.html").read_text()
    cells = Cells(page)
    assert "default-src 'none'" in page
    assert not cells.tags.keys() & {"script", "img", "link", "b"}
    head, *shown = cells.rows
    assert [text for text, _ in head] == ["row", "bits", "says", "what", "legs", "weight"]
    assert len(shown) == 5
    odd = shown[0]
    assert odd[0][0] == "8"
    assert odd[2][0] == f"<b>moo</b> & 'x'{result.results[0].bits_per_field['says']:.1f}"
    # By hand: how many of the steps 1, 2, 3, 5 and 8 the bits are standard deviations above the mean.
    for name, (_, look) in zip(rows[0], odd[2:], strict=True):
        own, usual = result.results[0].bits_per_field[name], result.columns[name]
        above = (own - usual["mean"]) / usual["sd"]
        assert look == f"h{sum(above >= step for step in (1, 2, 3, 5, 8)) if own - usual['mean'] >= 1 else 0}"


def test_the_page_of_a_log_colours_its_words(log_run, tmp_path):
    lines = [*turn_lines(30), "unit-b is <down>", *turn_lines(10)]
    (tmp_path / "new.log").write_text("".join(line + "\n" for line in lines))
    score_records(log_run, [tmp_path / "new.log"], output=tmp_path / "out", page_rows=3, device="cpu")
    page = (tmp_path / "out" / "scores.html").read_text()
    assert "above the mean of all words" in page
    head, *shown = Cells(page).rows
    assert [text for text, _ in head] == ["row", "bits", "line"]
    assert shown[0][2][0].startswith("unit-b is <down>")
    (word,) = re.findall(r'<span class="h([1-5])"> &lt;down&gt;</span>', page)
    assert int(word) >= 2


def test_scores_are_not_overwritten_unasked(run, table, report):
    _, folder, _ = report
    with pytest.raises(InputExistsError, match="scores.csv exists"):
        score_records(run, [table], output=folder / "out", device="cpu")
    assert {file.name for file in (folder / "out").iterdir()} == set(FILES)


def test_a_folder_without_records_is_no_model_of_records(run, tmp_path, table):
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    (tmp_path / "copy" / "records.json").unlink()
    with pytest.raises(InputError, match="has written no records.json"):
        open_records(tmp_path / "copy")
    (tmp_path / "copy" / "records.json").write_text("{}")
    with pytest.raises(InputError, match="is not what `bipe-hf records train` writes"):
        open_records(tmp_path / "copy")


# Rows to come


def test_rows_are_drawn_and_what_is_none_is_counted(used):
    sample = sample_rows(used, 40, temperature=1.0, seed=1)
    assert len(sample.rows) + sample.given_up == 40
    assert sample.drawn == len(sample.rows) + sum(sample.invalid.values())
    assert f"{len(sample.rows)} of {sample.drawn} rows drawn are valid" in str(sample)
    assert all(why_invalid(used.form.line(row), used.schema) is None for row in sample.rows)
    follows = [(row["what"] == "bee") == (row["legs"] == "6") == ("buzz" in row["says"]) for row in sample.rows]
    assert np.mean(follows) > 0.9
    assert len({row["weight"] for row in sample.rows}) > 10
    assert sample_rows(used, 40, seed=1) == sample
    assert sample_rows(used, 40, seed=2).rows != sample.rows


def test_begun_rows_are_completed_and_keep_their_beginning(used):
    starts = [{"says": "woof", "what": "dog"}, {"says": "buzz\nbuzz"}]
    sample = sample_rows(used, 3, starts=starts)
    assert [row["says"] for row in sample.rows] == ["woof"] * 3 + ["buzz\nbuzz"] * 3
    assert [row["legs"] for row in sample.rows] == ["4"] * 3 + ["6"] * 3


def test_lines_of_a_log_are_drawn_behind_those_before_them(log_run):
    used = open_records(log_run, device="cpu")
    before = [{"line": line} for line in turn_lines(20, seed=2)]
    sample = sample_rows(used, 20, before=before, temperature=0.1)
    units = ["abc".index(row["line"][5]) for row in [*before, *sample.rows]]
    assert np.mean([right == (left + 1) % 3 for left, right in pairwise(units[19:])]) > 0.8


def test_a_model_that_knows_nothing_gives_up_and_says_so(used, monkeypatch):
    monkeypatch.setattr(
        "bipe_hf.lab.records.sample.write_at_random", lambda model, prompts, *_, **__: [[5, 6]] * len(prompts)
    )
    sample = sample_rows(used, 2)
    assert (sample.rows, sample.drawn, sample.invalid, sample.given_up) == ([], 20, {"without an end": 20}, 2)
    assert str(sample) == (
        "0 of 20 rows drawn are valid (0.0%); the others: 20 without an end; 2 not found in 10 draws each"
        " (train longer, or lower the temperature)"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("woof\tdog\t4\t30\n", None),
        ("woof\tdog\t4\t30", "without an end"),
        ("woof\tdog\t4\n", "no row"),
        ("woof\tdog\\x\t4\t30\n", "no row"),
        ("woof\ufffd\tdog\t4\t30\n", "not UTF-8"),
        ("woof\tcow\t4\t30\n", "with another kind of 'what'"),
        ("woof\tdog\t4\t30kg\n", "with another kind of 'weight'"),
    ],
)
def test_what_is_no_row_of_the_table_is_told(used, line, why):
    assert why_invalid(line, used.schema) == why


def test_what_is_no_row_of_json_lines_is_told():
    rows = [{"a": at, "b": "xy"[at % 2]} | ({"c": None} if at % 3 else {}) for at in range(30)]
    form = form_of("json", [])
    columns = describe_columns(["a", "b", "c"], [form.cells(row) for row in rows])
    schema = Schema(Source("json", "ascii", "\n"), "any", ["lines", "values"], columns, 9)
    told = {
        '{"a":7,"b":"x"}\n': None,
        '{"b":"y","a":-7,"c":null}\n': None,
        '{"a":7}\n': "without 'b'",
        '{"a":7.5,"b":"x"}\n': "with another kind of 'a'",
        '{"a":7,"b":"é"}\n': "with another kind of 'b'",
        '{"a":7,"b":"x","d":1}\n': "with an unknown 'd'",
        '{"a":7,"b":"x"\n': "no row",
    }
    assert {line: why_invalid(line, schema) for line in told} == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "rows: 0 given"),
        ({"count": 1, "temperature": 0.0}, "temperature: 0.0 given"),
        ({"count": 1, "before": [{}]}, "before: each row of this model stands alone"),
    ],
)
def test_draws_that_make_no_sense_are_refused(used, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        sample_rows(used, **arguments)


# Fields to fill


def test_chances_of_values_are_those_of_whole_rows(used):
    row = {"says": "woof", "what": "", "legs": "4", "weight": "30"}
    column = used.schema.column("what")
    found = value_chances(used, [row], column)[0]
    left = value_chances(used, [row], column, from_left=True)[0]
    whole, partly = [], []
    for value in column.values:
        fields = used.fields([{**row, "what": value}])[0]
        bits = naive_bits(used, [used.tokenizer.eos_token_id, *(each for field in fields for each in field.ids)])
        whole.append(2 ** -sum(bits))
        partly.append(2 ** -sum(bits[: sum(len(field.ids) for field in fields[:2])]))
    assert found == pytest.approx([each / sum(whole) for each in whole], abs=1e-5)
    assert left == pytest.approx([each / sum(partly) for each in partly], abs=1e-5)


def test_a_field_is_filled_from_the_fields_on_its_right_too(used):
    rows = list(animals(60, seed=3))
    blank = [{**row, "says": ["", "NA"][at % 2]} if at < 50 else row for at, row in enumerate(rows)]
    filled = fill_rows(used, blank, "says")
    assert filled.filled == 50
    assert [row["says"] for row in filled.rows] == [row["says"] for row in rows]
    assert filled.probability > 0.95
    # What stands on its left says nothing of it.
    from_left = value_chances(used, rows, used.schema.column("says"), from_left=True)
    assert from_left.max() < 0.6


def test_a_number_is_filled_with_the_median_of_its_chances(used):
    (row,) = fill_rows(used, [{"says": "woof", "what": "dog", "legs": "4", "weight": ""}], "weight").rows
    chances = value_chances(used, [row], used.schema.column("weight"))[0]
    values = list(used.schema.column("weight").values)
    at = values.index(row["weight"])
    assert sum(chances[:at]) < 0.5 <= sum(chances[: at + 1])
    assert 30 < int(row["weight"]) < 80


def test_a_key_that_json_lacks_is_filled_in_its_place(tmp_path):
    rows = [{"a": at % 2, "b": {"c": at % 2 == 1}, "d": [1, 2]} for at in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_records([tmp_path / "t.jsonl"], settings_of(tmp_path / "run", max_steps=1))
    used = open_records(tmp_path / "run", device="cpu")
    assert used.schema.levels == ["lines", "values"]
    lacking = [{"a": 0, "d": [1, 2]}, {"a": 1, "b": None, "d": [1, 2]}]
    column = used.schema.column("b")
    chosen = [json.loads(list(column.values)[at]) for at in value_chances(used, lacking, column).argmax(axis=1)]
    filled = fill_rows(used, lacking, "b").rows
    assert [json.dumps(row) for row in filled] == [
        json.dumps({"a": row["a"], "b": value, "d": [1, 2]}) for row, value in zip(lacking, chosen, strict=True)
    ]


def test_free_text_and_unknown_columns_are_not_filled(log_run, used):
    with pytest.raises(InputError, match="there is no 'wat'; did you mean what"):
        fill_rows(used, [], "wat")
    free = replace(used.schema.column("what"), kind="text", values={})
    with pytest.raises(InputError, match="'what' holds free text"):
        check_fillable(replace(used.schema, columns=[free]), "what")


# The command


def test_train_and_score_are_commands(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = [
        word
        for key, value in (TINY | {"max_steps": 2, "save_steps": 1, "eval_steps": 1}).items()
        for word in (f"--{key}", str(value))
    ]
    assert main(["records", "train", str(table), "--output", "run", *small]) == 0
    assert main(["records", "score", "run", str(table), "--output", "scores", "--page-rows", "3"]) == 0
    assert "Most unusual rows" in capsys.readouterr().out
    assert main(["records", "score", "run", str(table), "--output", "scores"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "ragged.csv").write_text("says;what;legs;weight\n1;2\n")
    assert main(["records", "score", "run", "ragged.csv", "--output", "other"]) == 2
    assert "ragged.csv, line 2: 2 field(s)" in capsys.readouterr().err
    status = main(["records", "continue", "run", "--rows", "2", "--output", "drawn.csv"])
    said = capsys.readouterr().err
    assert "rows drawn are valid" in said
    assert status == ("not found" in said)
    assert main(["records", "continue", "run", "--output", "drawn.csv"]) == 2
    assert "drawn.csv exists" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # a model that has learnt nothing
        patch.setattr(
            "bipe_hf.lab.records.sample.write_at_random", lambda model, prompts, *_, **__: [[5]] * len(prompts)
        )
        assert main(["records", "continue", "run", "--rows", "2"]) == 1
    assert "2 not found in 10 draws each" in capsys.readouterr().err
    (tmp_path / "gaps.csv").write_text("what,legs,weight\ndog,4,30\n")
    assert main(["records", "fill", "run", "gaps.csv", "--column", "says"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "says,what,legs,weight"
    assert next(csv.DictReader(io.StringIO(printed.out)))["what"] == "dog"
    assert "1 of 1 rows filled (1 empty)" in printed.err
    (tmp_path / "words.csv").write_text("says,what,legs,weight\nNA,dog,4,30\n?,dog,4,30\n")
    assert main(["records", "fill", "run", "words.csv", "--column", "says", "--missing", "?", ""]) == 0
    printed = capsys.readouterr()
    assert [row["says"] == "NA" for row in csv.DictReader(io.StringIO(printed.out))] == [True, False]
    assert "1 of 2 rows filled (1 '?')" in printed.err
    (tmp_path / "prompt.csv").write_text("what\ndog\n")
    assert main(["records", "continue", "run", "--prompt", "prompt.csv"]) == 2
    assert "has the columns what, but the first ones of the table are needed: says" in capsys.readouterr().err
    assert main(["records", "train", str(table), "--output", "run", "--config", "none.yaml"]) == 2
    assert "there is no file none.yaml" in capsys.readouterr().err
    (tmp_path / "own.yaml").write_text("max_steps: 3\nsave_steps: 3\neval_steps: 3\n")
    flags = [word for key, value in TINY.items() if "steps" not in key for word in (f"--{key}", str(value))]
    assert main(["records", "train", str(table), "--output", "own", "--config", "own.yaml", *flags]) == 0
    assert json.loads((tmp_path / "own" / "records.json").read_text())["steps"] == 3
