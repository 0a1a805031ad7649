"""Writes the numbers of README and documentation from the results that they cite.

    python scripts/fill_numbers.py

A part of a page between `<!-- NAME: filled by scripts/fill_numbers.py -->` and `<!-- end -->` is what the function of
that name makes of files in results/, and so are the numbers of the sentences that filling/sentences.py has. Nothing
else of a page changes; a test holds that nothing would.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from filling.comparison import ROOT, Comparison, percent
from filling.sentences import (
    at_lowest,
    elsewhere,
    fewer_bits,
    fewer_bits_of_map,
    fewer_bits_on_new_tables,
    filled_sentences,
    kinds_of_map,
    slower_rises,
)

from bipe_hf.lab.common.tables import markdown


PART = re.compile(r"(<!-- (\w+): filled by scripts/fill_numbers\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def good_for() -> str:
    """What the README says first."""
    python, deep = Comparison("compare_python"), Comparison("compare_12_layers")
    shorter, longer_by = fewer_bits()
    of_map, far_of_map = fewer_bits_of_map()
    of_new, far_of_new = fewer_bits_on_new_tables()
    slower, all_kinds = slower_rises()
    ahead, far_ahead = elsewhere()
    names = ("hybrid over tokens", "hybrid", "RoPE")
    tokens, segments, plain = (python.cell(name, 128, "perplexity", 1) for name in names)
    code, prose = (
        [
            f"{Comparison(f'kinds/{kind}').mean(name, 256, 'perplexity'):.1f}"
            for name in ("hybrid over tokens", "hybrid over segments", "RoPE")
        ]
        for kind in ("python", "novels")
    )
    alibi, hybrid, rope = (deep.cell(name, 1024, "perplexity", 1) for name in ("ALiBi", "hybrid", "RoPE"))
    links = {
        name: f"results/{name}/comparison.md"
        for name in ("compare_python", "compare_12_layers", "compare_tables_longer")
    }
    bullets = (
        "- **Prose, verse, code, mathematics: no gain from segments.** On seven texts that people wrote RoPE and ALiBi"
        " mixed over tokens (`hybrid`) has the lowest perplexity at every length ([map](results/kinds/kinds.md),"
        f" three seeds): on Python {code[0]}, the same mix over segments (`bipe_hybrid`) {code[1]}, RoPE {code[2]};"
        f" on novels {', '.join(prose)}. Longer on [Python]({links['compare_python']}): {tokens} (one seed),"
        f" {segments}, {plain}. With [12 layers]({links['compare_12_layers']}), one seed and other slopes,"
        f" `bipe_hybrid` has {hybrid}, ALiBi {alibi}, RoPE {rope}. These two files call `bipe_hybrid` hybrid.",
        "- **The paper's gains: in part.** From 256 to 4,096 tokens BiPE-RoPE gets worse more slowly than RoPE on"
        f" {slower} of {all_kinds} kinds of text, not with 12 layers. At the train length both BiPE variants are ahead"
        " of RoPE and ALiBi on tables and C++, behind on novels. Not reproduced: arithmetic, and that both parts are"
        " needed. Not tested: YaRN, SCROLLS. See the [claims](docs/claims.md).",
        "- **Tables: yes.** With rows as segments and fields as a level inside (`bipe_levels_axes`) a small model"
        f" needs {shorter} fewer bits per byte than ALiBi, the best over tokens, at the train length and {longer_by}"
        f" at 16 times it ([800 steps]({links['compare_tables_longer']}); after 400, in the map, {of_map} and"
        f" {far_of_map}; on tables of new sources {of_new} and {far_of_new}, one seed). Where each stops at its lowest"
        f" validation loss, that of levels is {at_lowest()} below that of `hybrid` (seed 1). On every other kind of"
        f" text it has {ahead} to {far_ahead} more perplexity than `hybrid` at the train length.",
    )
    wrap = textwrap.TextWrapper(145, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"{wrap.fill(bullet)}\n" for bullet in bullets)


TABLE_ENTRIES = {
    "RoPE": "RoPE",
    "ALiBi": "ALiBi",
    "RoPE and ALiBi over tokens (`hybrid`)": "hybrid over tokens",
    "BiPE-RoPE": "BiPE-RoPE",
    "BiPE-ALiBi": "BiPE-ALiBi",
    "pairs split over field, place and token (`bipe_levels_axes`)": "levels with axes",
}


def table() -> str:
    """Bits per byte of six encodings on two kinds of text."""
    tables, python = Comparison("compare_tables_longer"), Comparison("compare_python")
    rows = [["bits per byte", "tables, 256 tokens", "4,096", "Python, 128", "4,096"]]
    for shown, entry in TABLE_ENTRIES.items():
        of_python = ["-", "-"] if "levels" in entry else [python.cell(entry, length) for length in (128, 4096)]
        rows.append([shown, *(tables.cell(entry, length) for length in (256, 4096)), *of_python])
    return numbers(rows)


def generated() -> str:
    """What the demo printed."""
    text = (ROOT / "results" / "demo" / "generated.txt").read_text(encoding="utf-8")
    return f"```text\n{text.strip()}\n```\n"


def prose() -> str:
    """Perplexity on three texts at the train length and 32 times it."""
    rows = [["perplexity, 128 / 4,096 tokens", "RoPE", "ALiBi", "`bipe_hybrid`"]]
    for shown, name in (("Python", "compare_python"), ("novels", "compare_books"), ("mathematics", "compare_math")):
        text = Comparison(name)
        cells = [
            " / ".join(text.cell(entry, length, "perplexity") for length in (128, 4096))
            for entry in ("RoPE", "ALiBi", "hybrid")
        ]
        rows.append([f"[{shown}](../results/{name}/comparison.md)", *cells])
    return numbers(rows)


def deep() -> str:
    """The 12 layers of the paper."""
    found, lengths = Comparison("compare_12_layers"), (1024, 2048, 4096, 8192)
    rows = [["perplexity, 12 layers, novels", "1,024 tokens", "2,048", "4,096", "8,192"]]
    for entry in ("ALiBi", "hybrid", "BiPE-ALiBi", "RoPE", "BiPE-RoPE"):
        shown = "`bipe_hybrid`" if entry == "hybrid" else entry
        rows.append([shown, *(found.cell_or_dash(entry, length, "perplexity", 1) for length in lengths)])
    return numbers(rows)


def arithmetic() -> str:
    """Right answers by the number of operators."""
    sizes = (1, 2, 3, 4)
    rows = [["right answers, %", "1 operator", "2", "3", "4"]]
    found = Comparison("compare_arithmetic")
    for entry in ("RoPE", "ALiBi", "NoPE", "BiPE-RoPE", "BiPE-ALiBi", "hybrid"):
        shown = "`bipe_hybrid`, learnt places" if entry == "hybrid" else entry
        rows.append([shown, *(f"{100 * found.mean(entry, size, 'accuracy'):.1f}" for size in sizes)])
    return numbers(rows)


def variants() -> str:
    """Both BiPE variants beside the plain encodings, on Python."""
    entries = ("RoPE", "BiPE-RoPE", "ALiBi", "BiPE-ALiBi")
    return by_length(Comparison("compare_python"), "perplexity, Python", entries)


def ablations() -> str:
    """What the mix loses without each of its parts."""
    shown = {
        "the recipe": "hybrid",
        "no bias": "no bias",
        "no rotation by token": "no rotation",
        "a learnt vector for the place": "learned intra",
        "slopes of ALiBi": "slopes of ALiBi",
        "one slope": "one slope",
        "sentences as segments": "sentences",
        "lines": "lines",
        "every 8 tokens": "fixed 8",
        "every token (`hybrid`)": "tokens",
    }
    return by_length(Comparison("compare_ablations"), "perplexity, Python", shown)


def mix() -> str:
    """Each encoding on a mix of kinds, at the train length, with the better of its learning rates."""
    found = Comparison("compare_learning_rates")
    entries = [entry for entry in dict.fromkeys(row["entry"] for row in found.rows) if " at " not in entry]
    rows = [["perplexity, a mix of kinds", "256 tokens", "learning rate"]]
    for entry in entries:
        rates = {"3e-3": entry, "1.5e-3": f"{entry} at 1.5e-3", "7.5e-4": f"{entry} at 7.5e-4"}
        rate = min(rates, key=lambda rate: found.mean(rates[rate], 256, "perplexity"))
        rows.append([entry, found.cell(rates[rate], 256, "perplexity", 1), rate])
    return numbers(rows)


KIND_NAMES = {
    "chinese": "Chinese",
    "cpp": "C++",
    "json_lines": "JSON lines, new sources",
    "logs_seen": "logs, known systems",
    "logs_unseen": "logs, new systems",
    "mathematics": "mathematics",
    "music": "music",
    "novels": "novels",
    "plays": "plays",
    "python": "Python",
    "tables": "tables",
    "tables_other": "tables, other sources",
    "verse": "verse",
}
KIND_ENTRIES = {
    "RoPE": "RoPE",
    "ALiBi": "ALiBi",
    "hybrid over tokens": "`hybrid`",
    "BiPE-RoPE": "BiPE-RoPE",
    "BiPE-ALiBi": "BiPE-ALiBi",
    "hybrid over segments": "`bipe_hybrid`",
    "levels": "levels",
    "levels with rotation": "with rotation",
    "levels with axes": "with axes",
}


# What `encoding: auto` takes of them, as `scripts/kinds_of_text.py` prints it; `hybrid` of the others.
AUTO = {
    "tables": "levels with axes",
    "tables_other": "levels with axes",
    "json_lines": "hybrid over segments",
    "logs_unseen": "hybrid over segments",
}


def measured_kinds() -> dict[str, Comparison]:
    """The kinds of text that have results."""
    found = kinds_of_map()
    return {name: found[name] for name in KIND_NAMES if name in found}


def kinds() -> str:
    """Bits per byte of each kind of text that has results, at the train length and 16 times it; the best are bold."""
    rows = [["bits per byte", "tokens", *KIND_ENTRIES.values()]]
    for name, found in measured_kinds().items():
        for length in (256, 4096):
            cells = {entry: f"{found.mean(entry, length):.2f}" for entry in KIND_ENTRIES if found.has(entry, length)}
            best = found.best(KIND_ENTRIES, length)
            cells[best] = f"**{cells[best]}**"
            rows.append([KIND_NAMES[name], f"{length:,}", *(cells.get(entry, "-") for entry in KIND_ENTRIES)])
    return numbers(rows)


def auto() -> str:
    """How far what `auto` takes is behind the best of each kind of text that has results."""
    lengths = (256, 1024, 4096)
    rows = [["perplexity behind the best", "`auto` takes", "256 tokens", "1,024", "4,096", "the best of these"]]
    for name, found in measured_kinds().items():
        chosen = AUTO.get(name, "hybrid over tokens")
        best = {length: found.best(KIND_ENTRIES, length, "perplexity") for length in lengths}
        behind = (percent(found.ratio(chosen, best[length], length) - 1, 1) for length in lengths)
        named = ", ".join(KIND_ENTRIES[entry] for entry in dict.fromkeys(best.values()))
        rows.append([KIND_NAMES[name], KIND_ENTRIES[chosen], *behind, named])
    return numbers(rows)


def longer() -> str:
    """Bits per byte of tables after 800 steps."""
    found = Comparison("compare_tables_longer")
    rows = [["bits per byte of tables, 800 steps", "seeds", "256 tokens", "1,024", "4,096"]]
    for entry, shown in KIND_ENTRIES.items():
        seeds = len(found.values(entry, 256))
        rows.append([shown, str(seeds), *(found.cell(entry, length, digits=3) for length in (256, 1024, 4096))])
    return numbers(rows)


def rates() -> str:
    """Perplexity of the two texts of new sources with both learning rates, at the train length."""
    texts = {"json_lines": "JSON lines", "logs_unseen": "logs"}
    columns = [f"{shown}, {rate}" for shown in texts.values() for rate in ("1.5e-3", "3e-3")]
    rows = [["perplexity, 256 tokens", *columns]]
    pairs = [(Comparison(f"kinds/{name}"), Comparison(f"kinds_rates/{name}_rates")) for name in texts]
    for entry, shown in KIND_ENTRIES.items():
        by_rate = [each for pair in pairs for each in sorted(pair, key=lambda found: found.rate(entry))]
        rows.append([shown, *(found.cell_or_dash(entry, 256, "perplexity", 1) for found in by_rate)])
    return numbers(rows)


def demo() -> str:
    """The five models of the demo."""
    found = json.loads((ROOT / "results" / "demo" / "evaluation.json").read_text(encoding="utf-8"))["results"]
    by_model: dict[str, dict[int, float]] = {}
    for row in found:
        by_model.setdefault(row["encoding"], {})[row["length"]] = row["perplexity"]
    lengths = sorted({row["length"] for row in found})
    rows = [["perplexity", *(f"{length:,}" for length in lengths)]]
    rows += [[name, *(f"{of_model[length]:.2f}" for length in lengths)] for name, of_model in by_model.items()]
    return numbers(rows)


def from_stock() -> str:
    """The table of the report, which has one."""
    report = (ROOT / "results" / "from_stock" / "smollm2.md").read_text(encoding="utf-8")
    return "\n".join(line for line in report.splitlines() if line.startswith("|")) + "\n"


def by_length(
    found: Comparison,
    title: str,
    entries: Sequence[str] | dict[str, str],
    lengths: Sequence[int] = (128, 1024, 4096),
) -> str:
    """Perplexity of entries at these lengths; a dictionary gives them other names."""
    named = entries if isinstance(entries, dict) else {entry: entry for entry in entries}
    first, *others = (f"{length:,}" for length in lengths)
    rows = [[title, f"{first} tokens", *others]]
    rows += [
        [shown, *(found.cell(entry, length, "perplexity", 1) for length in lengths)] for shown, entry in named.items()
    ]
    return numbers(rows)


def numbers(rows: Sequence[Sequence[str]]) -> str:
    """A table in which all columns but the first are numbers."""
    return markdown(rows, left=1) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        good_for,
        table,
        generated,
        prose,
        variants,
        ablations,
        deep,
        arithmetic,
        demo,
        from_stock,
        mix,
        kinds,
        longer,
        auto,
        rates,
    )
}


def filled(page: str) -> str:
    """The text of a page with the numbers as the results have them."""
    return filled_sentences(PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], page))


def pages() -> list[Path]:
    """The pages that may have such parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Writes the pages that change."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            page.write_text(filled(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)} changed")


if __name__ == "__main__":
    main()
