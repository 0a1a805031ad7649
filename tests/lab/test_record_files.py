"""Records in files and in their canonical form: nothing lost, nothing guessed in silence. `bipe_hf.lab.records`."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bipe_hf.lab.records import Given, read_records
from bipe_hf.lab.records.arguments import RecordArguments
from bipe_hf.lab.records.form import JsonForm, LogForm, TableForm
from bipe_hf.lab.records.reading import read_like
from bipe_hf.lab.records.schema import MOST_VALUES, Source, describe_columns
from bipe_hf.lab.records.tokens import encode, encode_rows, fit_record_tokenizer, row_ids, windows
from bipe_hf.lab.records.writing import rows_as_text
from bipe_hf.model.errors_bipe import InputError, InputNotFoundError


# What a file may hold: any text but NUL, and in it often what separates, quotes or escapes.
characters = st.one_of(st.sampled_from('\t\n\r\\",;|:{}[] \u2028\x85x'), st.characters(exclude_categories=["Cs"]))
cells = st.text(characters.filter(lambda character: character != "\0"), max_size=8)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=5)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(characters),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=4), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(characters, max_size=5), values, max_size=4)
lines = st.text(characters.filter(lambda character: character not in "\0\n\r"), max_size=20)


def as_rows(table):
    return [dict(zip("abcd", row, strict=False)) for row in table]


def form_and_rows(kind, rows):
    form = {"table": lambda: TableForm(list(rows[0])), "json": JsonForm, "log": LogForm}[kind]()
    return form, rows


records = st.one_of(
    tables.map(lambda table: form_and_rows("table", as_rows(table))),
    st.lists(objects, min_size=1, max_size=4).map(lambda rows: form_and_rows("json", rows)),
    st.lists(lines, min_size=1, max_size=4).map(lambda rows: form_and_rows("log", [{"line": row} for row in rows])),
)


# The canonical form


@given(records)
def test_a_line_gives_its_row_back_and_is_one_line(drawn):
    form, rows = drawn
    for row in rows:
        line = form.line(row)
        assert form.parse(line) == row
        assert line.endswith("\n")
        assert line.count("\n") == 1


@given(tables)
def test_a_tab_stands_between_the_fields_of_a_table_and_nowhere_else(table):
    for row in as_rows(table):
        parts = TableForm(list(row)).parts(row)
        assert [name for name, _ in parts] == list(row)
        assert all(re.fullmatch(r"[^\t\n\r]*[\t\n]", text) for _, text in parts)


@given(objects)
def test_commas_and_colons_of_json_stand_between_values_and_nowhere_else(row):
    line = JsonForm().line(row)
    in_strings = re.findall(r'"(?:[^"\\]|\\.)*"', line)
    assert not any(separator in string for string in in_strings for separator in ",:\n")
    assert json.loads(line) == row
    assert [name for name, _ in JsonForm().parts(row)] == (list(row) or [""])


def test_hand_worked_lines():
    table = TableForm(["name", "note"])
    assert table.line({"name": "Doe, Jane", "note": 'a\tb\n"c\\'}) == 'Doe, Jane\ta\\tb\\n"c\\\\\n'
    row = {"a": 1, "b": "x, y: z", "c": [1.5, None, {"d": True}]}
    assert JsonForm().line(row) == '{"a":1,"b":"x\\u002c y\\u003a z","c":[1.5,null,{"d":true}]}\n'
    assert JsonForm().parts({"a": 1, "b": 2}) == [("a", '{"a":1,'), ("b", '"b":2}\n')]
    assert LogForm().parts({"line": "on  at 5 "}) == [("line", "on"), ("line", "  at"), ("line", " 5 \n")]


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (TableForm(["a", "b"]), "1\n"),
        (TableForm(["a", "b"]), "1\t2\t3\n"),
        (TableForm(["a"]), "a\\x\n"),
        (TableForm(["a"]), "a\\\n"),
        (JsonForm(), "[1]\n"),
        (JsonForm(), '{"a":1,"a":2}\n'),
        (JsonForm(), '{"a":NaN}\n'),
        (JsonForm(), '{"a":1\n'),
    ],
)
def test_what_is_no_row_is_refused(form, line):
    with pytest.raises(ValueError):
        form.parse(line)


@given(records, st.data())
def test_a_line_begins_with_the_start_of_its_row(drawn, data):
    form, rows = drawn
    row = rows[0]
    some = dict(list(row.items())[: data.draw(st.integers(0, len(row) - 1 if row else 0))])
    assert form.line(row).startswith(form.start(some))


# Tokens


@settings(max_examples=25, deadline=None)
@given(records)
def test_fields_encoded_one_by_one_are_the_line_encoded_whole(drawn):
    form, rows = drawn
    assume(all(not re.search("[\ud800-\udfff]", form.line(row)) for row in rows))
    tokenizer = fit_record_tokenizer([form.line(row) for row in rows] * 3, form, 300)
    for row, fields in zip(rows, encode_rows(rows, form, tokenizer), strict=True):
        assert [row_ids(fields)] == encode([form.line(row)], tokenizer)
        assert tokenizer.decode(row_ids(fields)) == form.line(row)
        for field in fields:
            texts = [tokenizer.decode([each]) for each in field.ids]
            assert not any(len(text) > 1 and set(text) & {*form.separators, *"0123456789"} for text in texts)


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 20), st.integers(0, 10))
def test_windows_cover_every_row_once_and_see_rows_before(sizes, length, carried):
    seen = list(windows(sizes, length, carried))
    assert [at for window in seen for at in range(window.new, window.stop)] == list(range(len(sizes)))
    for window in seen:
        assert sum(sizes[window.first : window.new]) <= carried
        if window.first > 0:  # no further row would have fitted
            assert sum(sizes[window.first - 1 : window.new]) > carried
        if window.stop - window.new > 1:
            assert sum(sizes[window.first : window.stop]) <= length


# Files


def write(folder, name, content):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@settings(max_examples=200, deadline=None)  # the first call imports clevercsv
@given(tables, st.sampled_from(",\t;|"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_table_that_is_written_is_read_back(tmp_path_factory, table, delimiter, line_ending, header):
    rows = [
        dict(zip(("a", "b", "c", "d") if header else map("column {}".format, range(1, 5)), row, strict=False))
        for row in table
    ]
    source = Source("table", "utf-8", line_ending, delimiter, '"', None, header)
    text = rows_as_text(rows, source, list(rows[0]))
    assume(text.strip())
    file = write(tmp_path_factory.mktemp("table"), "t.csv", text)
    read = read_records([file], Given("table", delimiter, '"', header, "utf-8"))
    assert read.rows == rows


@given(st.lists(objects, min_size=1, max_size=4))
def test_json_lines_that_are_written_are_read_back(tmp_path_factory, rows):
    assume(any(rows))
    text = rows_as_text(rows, Source("json", "utf-8", "\n"), [])
    file = write(tmp_path_factory.mktemp("json"), "t.jsonl", text)
    assert read_records([file]).rows == rows


@given(st.lists(lines, min_size=1, max_size=5))
def test_a_log_that_is_written_is_read_back(tmp_path_factory, content):
    text = rows_as_text([{"line": line} for line in content], Source("log", "utf-8", "\n"), ["line"])
    assume(text.strip())
    file = write(tmp_path_factory.mktemp("log"), "t.log", text)
    assert [row["line"] for row in read_records([file]).rows] == content


QUOTED = 'id;who;note\n1;"Doe; Jane";"two\nlines"\n2;"O""Hara";plain\n'


def test_quotes_delimiters_and_line_breaks_in_fields_are_read_as_csv_means_them(tmp_path):
    records = read_records([write(tmp_path, "people.csv", QUOTED)])
    assert records.rows == [
        {"id": "1", "who": "Doe; Jane", "note": "two\nlines"},
        {"id": "2", "who": 'O"Hara', "note": "plain"},
    ]
    assert records.source.delimiter == ";"
    (note,) = records.notes
    assert "a table, as its name ends in .csv; ';' between fields; its first row names the columns" in note


def test_quotes_may_be_others_or_none(tmp_path):
    file = write(tmp_path, "t.tsv", "size\ttext\n5\t\"inch\n6\t'a\tb'\n")
    with pytest.raises(InputError, match='line 2: .* \\(" quotes a field; another one, or none: quote\\)'):
        read_records([file], Given(quote='"'))
    assert read_records([file], Given(quote="'")).rows[1]["text"] == "a\tb"
    with pytest.raises(InputError, match="line 3: 3 field"):
        read_records([file], Given(quote="none"))


@pytest.mark.parametrize("delimiter", list(",\t;|"))
def test_the_delimiter_is_found(tmp_path, delimiter):
    rows = [["name", "size", "text"], *(["a b", str(number), "x, y; z"] for number in range(20))]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    records = read_records([write(tmp_path, "t.txt", text.getvalue())])
    assert records.source.delimiter == delimiter
    assert records.columns == rows[0]
    assert len(records.rows) == 20


@pytest.mark.parametrize(
    ("text_encoding", "name"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
        ("latin-1", "latin-1"),
    ],
)
def test_the_encoding_is_found_and_latin_1_is_said(tmp_path, text_encoding, name):
    text = "name,town\nZoë,Zürich\nAnn,Köln\n"
    records = read_records([write(tmp_path, "t.csv", text.encode(text_encoding))])
    assert records.source.text_encoding == name
    assert records.columns == ["name", "town"]
    assert records.rows[0] == {"name": "Zoë", "town": "Zürich"}
    assert any("read as Latin-1" in note and "line 2" in note for note in records.notes) == (name == "latin-1")


@pytest.mark.parametrize(
    ("name", "content", "kind", "why"),
    [
        ("a.jsonl", '{"a": 1}\n', "json", "its name ends in .jsonl"),
        ("a.txt", '{"a": 1}\n\n{"b": "x"}\n', "json", "its lines are JSON objects"),
        ("a.txt", "a,b\n1,2\n3,4\n", "table", "its rows have the same number of fields"),
        ("a.txt", "it ran\nit stopped, and how\n", "log", "neither JSON lines nor a table"),
        ("a.log", "1,2\n3,4\n", "log", "its name ends in .log"),
    ],
)
def test_the_kind_is_guessed_and_said(tmp_path, name, content, kind, why):
    records = read_records([write(tmp_path, name, content)])
    assert records.source.kind == kind
    assert any(why in note for note in records.notes)


@pytest.mark.parametrize(
    ("first", "others", "header"),
    [
        ("name,kind", "a,x\nb,y", True),
        ("1,x", "2,y\n3,z", False),
        ("a,x", "b,x\nc,y", False),
        (",x", "1,2\n2,3", True),
    ],
)
def test_the_header_is_guessed(tmp_path, first, others, header):
    records = read_records([write(tmp_path, "t.csv", f"{first}\n{others}\n")])
    assert records.source.header == header
    assert records.columns == (first.split(",") if header else ["column 1", "column 2"])
    assert len(records.rows) == 3 - header


def test_a_folder_is_read_file_by_file_and_empty_lines_are_said(tmp_path):
    write(tmp_path, "1.csv", "a,b\n1,x\n\n2,y\n")
    write(tmp_path, "2.csv", "a,b\r\n3,z\r\n")
    write(tmp_path, ".hidden", b"\0")
    records = read_records([tmp_path])
    assert [row["a"] for row in records.rows] == ["1", "2", "3"]
    assert list(records.files) == [str(tmp_path / "1.csv"), str(tmp_path / "2.csv")]
    assert any("1 empty line" in note for note in records.notes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "holds no rows"),
        ("t.csv", " \n\n", "holds no rows"),
        ("t.csv", "a,b\n", "holds no rows"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "line 3: 3 field(s), the table has 2 columns (',' between fields"),
        ("t.csv", 'a,b\n1,"x\ny"\n1\n', "line 4: 1 field(s)"),
        ("t.csv", "a,b,a\n1,2,3\n", "line 1: the column name 'a' stands twice"),
        ("t.csv", "a,b\n1,x\0\n", "line 2: a NUL character"),
        ("t.csv", 'a,b\n1,"x"y\n', "line 2: "),
        ("t.csv", 'a,b\n1,2\n3,"x\n', "line 3: "),
        ("t.csv", b"\xff\xfea\0,\0b\0\n", "no utf-16"),
        ("t.jsonl", '{"a": 1}\n[1]\n', "line 2: no JSON object on one line (a JSON object is expected, got list)"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "line 2: no JSON object on one line"),
        ("t.jsonl", '{"a": 1, "a": 2}\n', "line 1: no JSON object on one line (the key 'a' stands twice"),
        ("t.jsonl", '{"a": NaN}\n', "line 1: no JSON object on one line (NaN is no number of JSON)"),
        ("t.jsonl", '{"a": -1e999}\n', "line 1: no JSON object on one line (-1e999 is more than a float holds)"),
        ("t.jsonl", '{"a": ' + "[" * 100_000, "line 1: lists and objects lie too deep inside each other"),
        ("t.jsonl", "{}\n{}\n", "its objects are empty"),
        (
            "t.json",
            '[\n{"a": 1}\n]\n',
            "line 1: the file is one JSON list, and each line must be an object (jq -c '.[]'",
        ),
        ("t.json", '[{"a": 1}, {"a": 2}]', "line 1: the file is one JSON list"),
        ("t.json", '{\n  "a": 1\n}\n', "line 1: the file is one JSON object over many lines"),
        ("t.csv", "sep=;\na;b\n1;2\n", "line 1: 'sep=;' is a word to Excel and no row"),
        ("t.csv", "a,b\nx,1\n".encode("utf-16-le"), "(another one, such as utf-16: text_encoding)"),
        ("t.csv", b"PK\3\4\x14\xff", "is a zip archive or an office document"),
        ("t.dat", b"PAR1\x15\xff", "is a Parquet table"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-9], "is compressed with gzip and damaged"),
    ],
)
def test_bad_files_get_one_line_that_names_file_and_line(tmp_path, name, content, message):
    file = write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read_records([file])
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Given(kind="tabel"), "kind: 'tabel' given"),
        (Given(delimiter=",,"), "delimiter: ',,' given"),
        (Given(delimiter='"'), "delimiter: "),
        (Given(quote="''"), "quote: \"''\" given"),
        (Given(text_encoding="utf-9"), "text_encoding: 'utf-9'"),
        (Given(text_encoding="hex"), "text_encoding: 'hex' is no encoding"),
        (Given(text_encoding="undefined"), "text_encoding: 'undefined' is no encoding"),
        (Given(text_encoding="ascii"), "line 2: byte 5 is no ascii"),
    ],
)
def test_wrong_words_about_files_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_records([write(tmp_path, "t.csv", "a,b\n1é,2\n")], given)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", 'a,b\n"x, y",2\n3,4\n'), ("t.jsonl", '{"a": 1}\n{"a": 2}\n'), ("t.log", "a b\n\nc d\n")],
)
def test_compressed_files_are_read_by_what_they_hold(tmp_path, name, content, compress):
    plain = read_records([write(tmp_path, name, content)])
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[compress]
    packed = read_records([write(tmp_path, name + ending, compress(content.encode()))])
    assert (packed.source, packed.columns, packed.rows) == (plain.source, plain.columns, plain.rows)


@pytest.mark.parametrize("width", [131_073, 1_000_000])
def test_a_field_may_be_of_any_length(tmp_path, width):
    field = "x" * width
    table = read_records([write(tmp_path, "t.csv", f"a,b\n{field},2\n3,4\n")])
    assert table.rows[0] == {"a": field, "b": "2"}
    lines = read_records([write(tmp_path, "t.jsonl", f'{{"a": "{field}"}}\n')])
    assert lines.rows == [{"a": field}]


def test_a_readme_of_a_folder_is_no_record(tmp_path):
    write(tmp_path, "README.md", "What this is.\n")
    write(tmp_path, "rows.csv", "a,b\nx,2\n")
    assert read_records([tmp_path]).rows == [{"a": "x", "b": "2"}]


def test_a_tab_may_be_given_as_it_is_typed():
    assert RecordArguments(delimiter="\\t").given.delimiter == "\t"


def test_files_that_do_not_go_together_are_refused(tmp_path):
    first, second = write(tmp_path, "1.csv", "a,b\n1,2\n"), write(tmp_path, "2.csv", "a,c\n1,2\n")
    with pytest.raises(InputError, match="2.csv, line 1: its columns are a, c, those of .*1.csv a, b"):
        read_records([first, second])
    with pytest.raises(InputError, match="given twice"):
        read_records([first, first])
    with pytest.raises(InputError, match="give at least one file or folder"):
        read_records([])
    for name, content in (("3.jsonl", '{"a": 1}\n'), ("3.log", "a b\n")):
        other = write(tmp_path, name, content)
        ending = name.removeprefix("3")
        with pytest.raises(InputError, match=f"{name}: its name ends in {ending}, but the first file is a table"):
            read_records([first, other])
    with pytest.raises(InputNotFoundError, match="no such file or folder"):
        read_records([tmp_path / "3.csv"])


def test_a_file_to_use_may_have_its_columns_in_another_order_and_no_others(tmp_path):
    trained = read_records([write(tmp_path, "1.csv", "a,b\n1,x\n")])
    other = read_like([write(tmp_path, "2.tsv", "b\ta\ny\t2\n")], trained.source, trained.columns)
    assert [list(row.items()) for row in other.rows] == [[("a", "2"), ("b", "y")]]
    file = write(tmp_path, "3.csv", "a,c\n1,2\n")
    with pytest.raises(
        InputError, match="3.csv, line 1: other columns than those of the model: b missing; c not learnt"
    ):
        read_like([file], trained.source, trained.columns)
    lacking = read_like([write(tmp_path, "4.csv", "a\n1\n")], trained.source, trained.columns, but=["b"])
    assert lacking.rows == [{"a": "1"}]


# Columns


def test_columns_are_described_by_what_they_hold():
    cells = [
        {
            "id": str(at),
            "size": f"{at / 7:.3f}",
            "class": "ab"[at % 2],
            "note": f"text {at}",
            "gap": ["", "NA", "5"][at % 3],
        }
        for at in range(300)
    ]
    del cells[0]["note"]
    by_name = {column.name: column for column in describe_columns(list(cells[1]), cells)}
    assert {name: column.kind for name, column in by_name.items()} == {
        "id": "integer",
        "size": "number",
        "class": "category",
        "note": "text",
        "gap": "category",
    }
    assert [name for name, column in by_name.items() if column.optional] == ["note"]
    assert by_name["class"].values == {"a": 150, "b": 150}
    assert by_name["gap"].missing == ["", "NA"]
    assert by_name["note"].values == {}
    assert len(by_name["size"].values) == MOST_VALUES
    kept = list(map(float, by_name["size"].values))
    assert kept == sorted(kept)
    assert max(right - left for left, right in pairwise(kept)) < 0.3  # evenly spaced
    accepted = {
        name: [column.accepts(cell) for cell in ("7", "-7.5", "a", "", "x")] for name, column in by_name.items()
    }
    assert accepted == {
        "id": [True, False, False, False, False],
        "size": [True, True, False, False, False],
        "class": [False, False, True, False, False],
        "note": [True] * 5,
        "gap": [False, False, False, True, False],
    }
