"""Sentences of the pages with numbers of results/ in them.

Each is a piece of text with `{}` where a number stands, and what gives these numbers. Line breaks count as spaces. To
add a number to a page is to write its sentence there and here.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmark_serving import ratios

from .comparison import ROOT, Comparison, percent


AXES = "levels with axes"
WRITTEN = ("novels", "mathematics", "python", "cpp", "plays", "verse", "chinese")


def filled_sentences(page: str) -> str:
    """The text of a page with the numbers as the results have them in every sentence that it has."""
    for sentence, numbers in SENTENCES.items():
        found = pattern(sentence).search(page)
        if found:
            values = numbers()
            for at in reversed(range(len(values))):
                page = page[: found.start(at + 1)] + values[at] + page[found.end(at + 1) :]
    return page


def pattern(sentence: str) -> re.Pattern[str]:
    """What matches a sentence with any numbers in it, each a group."""
    words = [re.escape(word).replace(r"\{\}", r"([-+\d.,]*\d(?: %)?)") for word in sentence.split()]
    return re.compile(r"\s+".join(words))


def spread(shares: Iterable[float]) -> tuple[str, str]:
    """The least without its sign, and the greatest with it."""
    shares = list(shares)
    return f"{100 * min(shares):.0f}", percent(max(shares))


def of_tables() -> Comparison:
    return Comparison("compare_tables_longer")


def fewer_bits(digits: int = 0, name: str = "compare_tables_longer") -> list[str]:
    """By how much levels with axes are below ALiBi on tables, at the train length and 16 times it."""
    return [Comparison(name).less(AXES, "ALiBi", length, digits=digits) for length in (256, 4096)]


def fewer_bits_of_map() -> list[str]:
    """The same after 400 steps, in the map."""
    return fewer_bits(name="kinds/tables")


def fewer_bits_on_new_tables() -> list[str]:
    """The same on tables of sources that training has not seen."""
    return fewer_bits(name="kinds/tables_other")


def as_range(percents: Sequence[str]) -> tuple[str, str]:
    """Two of them as they stand with "to" between."""
    least, greatest = percents
    return least.removesuffix(" %"), greatest


def at_lowest() -> str:
    """The same below the best over tokens, where each stops at its lowest validation loss."""
    return of_tables().less_at_best(AXES, ["RoPE", "ALiBi", "hybrid over tokens"])


def kinds_of_map() -> dict[str, Comparison]:
    """The kinds of text that the map has, and what was measured on each."""
    found = sorted(path.parent.name for path in (ROOT / "results" / "kinds").glob("*/comparison.json"))
    return {name: Comparison(f"kinds/{name}") for name in found}


def elsewhere() -> tuple[str, str]:
    """By how much levels with axes are above the mix over tokens where the text is no table."""
    others = [found for name, found in kinds_of_map().items() if not name.startswith("tables")]
    return spread(found.ratio(AXES, "hybrid over tokens", 256) - 1 for found in others)


def slower_rises() -> list[str]:
    """On how many kinds of the map BiPE-RoPE gets worse more slowly than RoPE, and how many there are."""
    growths = [[each.growth(name, 256, 4096) for name in ("BiPE-RoPE", "RoPE")] for each in kinds_of_map().values()]
    return [str(sum(ours < theirs for ours, theirs in growths)), str(len(growths))]


def lower_on(name: str, other: str, length: int) -> str:
    """On how many kinds of the map an entry is below another one."""
    return str(sum(each.ratio(name, other, length) < 1 for each in kinds_of_map().values()))


def above_tokens() -> tuple[str, str]:
    """By how much the mix over segments is above the same over tokens, on what people write, at each length."""
    return over_tokens("hybrid over segments", WRITTEN)


def on_known_logs() -> tuple[str, str]:
    """By how much levels with rotation are above the mix over tokens on logs of systems that were trained on."""
    return over_tokens("levels with rotation", ["logs_seen"])


def over_tokens(name: str, kinds: Iterable[str]) -> tuple[str, str]:
    """By how much an entry is above the mix over tokens, on these kinds of text, at each length."""
    found = [Comparison(f"kinds/{kind}") for kind in kinds]
    return spread(each.ratio(name, "hybrid over tokens", at) - 1 for each in found for at in (256, 1024, 4096))


def deviations() -> list[str]:
    """The largest standard deviations over seeds, in parts of the mean, at the train length and beyond it."""
    near, far = [], []
    for path in sorted((ROOT / "results").glob("**/comparison.json")):
        found = Comparison(path.parent.relative_to(ROOT / "results").as_posix())
        rows = [row for row in found.rows if "perplexity" in row["measured"]]
        for entry in dict.fromkeys(row["entry"] for row in rows):
            for at, length in enumerate(sorted({row["size"] for row in rows if row["entry"] == entry})):
                values = found.values(entry, length, "perplexity")
                if len(values) > 1:
                    (far if at else near).append(statistics.stdev(values) / statistics.mean(values))
    return [percent(max(near)), percent(max(far))]


def four_times() -> list[str]:
    """How much better RoPE is at four times the length on JSON lines, and how much worse on mathematics."""
    better = 1 - Comparison("kinds/json_lines").growth("RoPE", 256, 1024)
    return [percent(better), percent(Comparison("compare_math_longer").growth("RoPE", 128, 512) - 1)]


def rises() -> list[str]:
    """What BiPE-RoPE and RoPE lose beyond the train length: tables, Python, the demo."""
    names = ("BiPE-RoPE", "RoPE")
    found = [of_tables().growth(name, 256, 4096) for name in names]
    found += [Comparison("compare_python").growth(name, 128, 4096) for name in names]
    rows = json.loads((ROOT / "results" / "demo" / "evaluation.json").read_text(encoding="utf-8"))["results"]
    lengths = sorted({row["length"] for row in rows})
    for name in names:
        first, last = (
            next(row["perplexity"] for row in rows if (row["encoding"], row["length"]) == (name, length))
            for length in (lengths[0], lengths[-1])
        )
        found.append(last / first)
    return [percent(growth - 1) for growth in found]


def answers() -> list[str]:
    """Right answers at two operators."""
    found = Comparison("compare_arithmetic")
    return [percent(found.mean(name, 2, "accuracy")) for name in ("ALiBi", "NoPE", "BiPE-ALiBi")]


def place() -> list[str]:
    """What the learnt vector for the place costs on Python."""
    return [percent(Comparison("compare_ablations").ratio("learned intra", "hybrid", 128) - 1)]


def parts_of_the_mix() -> tuple[str, str]:
    """What bias and rotation are worth at the train length."""
    found = Comparison("compare_ablations")
    return spread(found.ratio(name, "hybrid", 128) - 1 for name in ("no bias", "no rotation"))


def one_slope() -> list[str]:
    return [Comparison("compare_ablations").less("one slope", "hybrid", 128, "perplexity")]


def mix_of_kinds() -> list[str]:
    """By how much the mix over tokens is below levels with axes on a mix of kinds."""
    return [Comparison("compare_learning_rates").less("hybrid over tokens", AXES, 256, "perplexity")]


def of_both_rates() -> list[tuple[Comparison, Comparison]]:
    """What was measured on each text of new sources with the lower and with the higher rate."""
    names = ("json_lines", "logs_unseen")
    return [(Comparison(f"kinds/{name}"), Comparison(f"kinds_rates/{name}_rates")) for name in names]


def twice_the_rate() -> list[str]:
    """What the higher rate costs on new sources, and how far encodings are behind the best with the lower one."""
    costs, behind = [], []
    for lower, higher in of_both_rates():
        means = {row["entry"]: lower.mean(row["entry"], 256, "perplexity") for row in lower.rows}
        costs += [higher.mean(entry, 256, "perplexity") / mean - 1 for entry, mean in means.items()]
        behind.append(percent(max(means.values()) / min(means.values()) - 1))
    return [*spread(costs), *behind]


def lower_rate() -> tuple[str, str]:
    """By how much the rest is above RoPE and ALiBi with half its learning rate, on JSON lines and logs."""
    behind = []
    for lower, higher in of_both_rates():
        entries = {row["entry"] for row in higher.rows} - {"RoPE", "ALiBi"}
        behind += [
            higher.mean(entry, 256, "perplexity") / lower.mean(first, 256, "perplexity") - 1
            for entry in entries
            for first in ("RoPE", "ALiBi")
        ]
    return spread(behind)


def of_stock(*cells: tuple[str, int]) -> list[str]:
    """Perplexity of SmolLM2: each a model of the report and a length."""
    rows = json.loads((ROOT / "results" / "from_stock" / "smollm2.json").read_text(encoding="utf-8"))["results"]
    found = {row["model"]: row["perplexity"] for row in rows}
    return [f"{found[model][str(length)]:.1f}" for model, length in cells]


def throughput() -> list[str]:
    """Tokens a second under a server, of those of stock Llama: median, least and greatest round."""
    record = json.loads((ROOT / "results" / "benchmark_serving.json").read_text(encoding="utf-8"))
    return [f"{value:.2f}" for each in ratios(record).values() for value in (each.median, *each.rounds)]


SENTENCES: dict[str, Callable[[], Sequence[str]]] = {
    # choose.md
    "It has {} (256 tokens) to {} (4,096) fewer bits per byte than ALiBi, the best over tokens, after 800 steps, and"
    " {} to {} fewer after 400.": lambda: [*fewer_bits(), *as_range(fewer_bits_of_map())],
    "lowest validation loss, that of levels is {} below that of `hybrid`, then the best over tokens, seed 1": lambda: [
        at_lowest()
    ],
    "mix over segments has {} to {} more ([numbers]": above_tokens,
    "comes near: in the map it has {} more perplexity than `hybrid`.": lambda: [
        percent(Comparison("kinds/mathematics").ratio("hybrid over segments", "hybrid over tokens", 256) - 1)
    ],
    "longer it was {} ahead of RoPE at the train length,": lambda: [
        Comparison("compare_math").less("hybrid", "RoPE", 128, "perplexity")
    ],
    "RoPE is between {} better ([JSON lines](../results/kinds/kinds.md)) and {} worse": four_times,
    "where RoPE's perplexity rises to {} times its own (one textbook;": lambda: [
        f"{Comparison('compare_math').growth('RoPE', 128, 4096):.1f}"
    ],
    # claims.md
    "on tables yes (perplexity {} up at 16 times the length, RoPE, at twice its best rate, {}), on Python ({} and {}"
    " up at 32 times) and in the demo ({} and {} up at 16 times)": rises,
    "on Python the place costs {} and every token as a segment is better": place,
    "at two operators ALiBi {} and no encoding {}, BiPE-ALiBi {};": answers,
    "from 256 to 4,096 tokens it gets worse more slowly on {} of the {} kinds of the map;": slower_rises,
    "at 4,096 tokens BiPE-ALiBi is lower on {} of the {} kinds of the map, tables": lambda: [
        lower_on("BiPE-ALiBi", "ALiBi", 4096),
        str(len(kinds_of_map())),
    ],
    "at the train length BiPE-RoPE is ahead of RoPE on {} kinds of the map, tables and C++ among them, BiPE-ALiBi"
    " ahead of ALiBi on {};": lambda: [lower_on("BiPE-RoPE", "RoPE", 256), lower_on("BiPE-ALiBi", "ALiBi", 256)],
    # levels.md
    "and get better with length: {} (256 tokens) and {} (4,096) fewer bits per byte than ALiBi": fewer_bits_of_map,
    "On tables of sources that training has not seen they have {} and {} fewer bits": fewer_bits_on_new_tables,
    "On logs RoPE is {} lower at the train length, which is less than seeds differ by.": lambda: [
        Comparison("kinds/logs_unseen").less("RoPE", "hybrid over segments", 256, "perplexity")
    ],
    "Twice the rate costs {} to {}; at one rate encodings are up to {} (JSON lines) and {} (logs) behind the best": (
        twice_the_rate
    ),
    "over lines, sentences or paragraphs comes second, and has {} to {} more perplexity.": above_tokens,
    "Levels with rotation, the best over segments beyond the train length, have {} to {} more": on_known_logs,
    "Levels with axes have {} fewer bits than ALiBi, the best over tokens, at the train length and {} fewer at 16": (
        lambda: fewer_bits(1)
    ),
    "Where each stops at its lowest, levels with axes are {} below `hybrid`, then": lambda: [at_lowest()],
    "On that mix `hybrid` over plain tokens is ahead of all, {} below levels with axes.": mix_of_kinds,
    # measured.md
    "Standard deviations over seeds are up to {} at the train length, up to {} beyond it (of RoPE),": deviations,
    "On tables levels with axes have {} to {} fewer bits per byte than ALiBi": lambda: as_range(fewer_bits()),
    "the mix over segments has {} to {} more perplexity on what people write": above_tokens,
    "and to {} times in [twice as many steps]": lambda: [
        f"{Comparison('compare_math_longer').growth('RoPE', 128, 4096):.1f}"
    ],
    "The bias and the rotation by token are worth {} to {} each at the train length": parts_of_the_mix,
    "for the place in the segment costs {} this early.": place,
    "and one slope for all heads is {} better than the recipe.": one_slope,
    # what_did_not_work.md
    "other seven with the higher one by {} to {}, which says": lower_rate,
    "It costs {} after 300 steps on Python": place,
    "It ended at {} where the stock model has {} at 2,048 tokens, and at {} where it has {} at 16,384.": (
        lambda: of_stock(
            *((model, length) for length in (2048, 16384) for model in ("LoRA with the schedule", "stock"))
        )
    ),
    "The same LoRA without the schedule got {} and {} (": lambda: of_stock(
        ("LoRA without", 2048), ("LoRA without", 16384)
    ),
    # serving.md
    "BiPE-RoPE writes {} times as many tokens a second ({} to {} in sixteen rounds), BiPE-ALiBi {} ({} to {}):": (
        throughput
    ),
    # finetune.md
    "On SmolLM2 twenty steps ended at perplexity {}, where LoRA on its own encoding has {} and the stock model {} (": (
        lambda: of_stock(("LoRA with the schedule", 2048), ("LoRA without", 2048), ("stock", 2048))
    ),
    # from_stock.md
    "The way over costs {} at 2,048 tokens and doubles": lambda: [
        percent(float(of_stock(("converted, not trained", 2048))[0]) / float(of_stock(("stock", 2048))[0]) - 1)
    ],
}
