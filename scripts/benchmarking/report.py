"""Records of measurements as Markdown tables."""

from .measurements import MEASUREMENTS
from .models import FAMILIES


LIMITS = {
    "stock": {"bipe_rope": 1.02, "bipe_alibi": 1.10},
    "levels": {"bipe_levels": 1.02},
    "packing": {"packed_rope": 1.02, "packed_alibi": 1.02},
    "biases": {"bipe_fox": 1.15, "bipe_cable": 1.15},
    "logits": {},
    "authors": {},
}
"""What a ratio may be, in every row of each table."""

DISTURBED = 0.05
"""Share of the processors that others used, from which on the table says so."""


def disturbed(row: dict) -> str:
    """What is said behind the title of a row beside whose measurement others used much of the processors."""
    others = row.get("others") or 0.0
    return f" (others used {others:.0%} of the processors)" if others >= DISTURBED else ""


FAMILY_TITLES = {"llama": "Llama", "gpt_neox": "GPT-NeoX"}

LEGEND = (
    "A ratio of times is the median over rounds of the ratio within a round. Behind it, in brackets: where that "
    "median lies with 95 % probability (below six rounds, the least and the greatest ratio), and the ratio of the "
    "two least times. Bold: over the limit."
)
AUTHORS_NOTE = (
    "The authors' way, written anew: attention in plain torch, scores and mask in memory, no cache. Both with a third "
    "of the layers and of the vocabulary, because the scores of all layers at 4096 tokens take 9 GB. Decoding a token "
    "their way is a forward of all tokens up to it."
)


LOGITS_NOTE = (
    "With a third of the layers and of the vocabulary. Queries are taken in blocks, each of which is computed again "
    "in the backward."
)
PACKING_NOTE = (
    "With a sixth of the layers and of the vocabulary. The documents stand in one row, beside the same documents each "
    "in a row of its own. On `sdpa` each is attended to by itself, without a mask."
)
TABLES = {
    "stock": ("", None),
    "levels": (" with levels", None),
    "packing": (" on packed documents", PACKING_NOTE),
    "biases": (" with biases that every layer learns", None),
    "logits": (" with logits that every layer changes", LOGITS_NOTE),
    "authors": (" beside the authors' way", AUTHORS_NOTE),
}
"""What stands behind the name of the family above each table, and below that."""
LABELS = {
    "stock": "stock",
    "bipe_rope": "BiPE-RoPE",
    "bipe_alibi": "BiPE-ALiBi",
    "bipe_levels": "with two levels inside segments",
    "packed_rope": "BiPE-RoPE, packed",
    "packed_alibi": "BiPE-ALiBi, packed",
    "bipe_fox": "BiPE-FoX",
    "bipe_cable": "BiPE-CABLE",
    "bipe_cope": "BiPE-CoPE",
    "bipe_dape": "BiPE-DAPE",
    "authors_rope": "authors'",
    "authors_alibi": "authors'",
}


def document(record: dict) -> str:
    """Markdown: where and with what the numbers were measured, what changed since, and the tables."""
    environment = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items() if value is not None)
    parts = [f"Measured with {environment}; {settings}."]
    if changes := record.get("code changed"):
        notes = "; ".join(f"{change['note']} ({change['model code']})" for change in changes)
        parts.append(f"The model code has changed since these numbers were measured: {notes}.")
    return "\n\n".join([*parts, report(record["results"])])


def report(results: dict[str, dict[str, dict]]) -> str:
    """Markdown: the tables of each family, of what has been measured."""
    parts = [LEGEND]
    for family in FAMILIES:
        for table, (title, note) in TABLES.items():
            measured = _measured(results, family, table)
            if measured:
                parts += [f"## {FAMILY_TITLES[family]}{title}", *([note] if note else [])]
                parts.append(_table(_columns(table), [_row(name, record) for name, record in measured]))
    return "\n\n".join(parts)


def _columns(table: str) -> list[str]:
    against = next(each.against for each in MEASUREMENTS.values() if each.table == table)
    columns = []
    for model, base in against.items():
        if LABELS[base] not in columns:
            columns.append(LABELS[base])
        limit = LIMITS[table].get(model)
        columns.append(f"{LABELS[model]} / {LABELS[base]}" + (f" (limit {limit:.2f})" if limit else ""))
    return columns


def over_limit(results: dict[str, dict[str, dict]]) -> list[str]:
    """One line for each ratio that is over its limit."""
    return [
        f"{family}, {MEASUREMENTS[name].title}: {model} {record['models'][model]['ratio']:.3f}, limit {limit:.2f}"
        for family in FAMILIES
        for table, limits in LIMITS.items()
        for name, record in _measured(results, family, table)
        for model, limit in limits.items()
        if "models" in record and record["models"][model]["ratio"] > limit
    ]


def _measured(results: dict[str, dict[str, dict]], family: str, table: str) -> list[tuple[str, dict]]:
    records = results.get(family, {})
    return [
        (name, records[name])
        for name, measurement in MEASUREMENTS.items()
        if name in records and measurement.table == table
    ]


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [["", *columns], ["---", *("---:" for _ in columns)], *rows]
    return "\n".join("| " + " | ".join([*line, *[""] * (len(columns) + 1 - len(line))]) + " |" for line in lines)


def _row(name: str, record: dict) -> list[str]:
    title = MEASUREMENTS[name].title
    if "not_measured" in record:
        return [title, f"not measured: {record['not_measured']}"]
    cells = [title + disturbed(record)]
    shown = set()
    for model, base in MEASUREMENTS[name].against.items():
        if base not in shown:
            cells.append(_amount(record["models"][base]))
            shown.add(base)
        limits = LIMITS[MEASUREMENTS[name].table]
        cells.append(_ratio(record["models"][model], limits.get(model, float("inf"))))
    return cells


def _amount(record: dict) -> str:
    if "bytes" in record:
        return f"{record['bytes'] / 2**20:.0f} MiB"
    return f"{record['seconds']:.2f} s" if record["seconds"] >= 1 else f"{record['seconds'] * 1e3:.2f} ms"


def _ratio(record: dict, limit: float) -> str:
    ratio = f"**{record['ratio']:.3f}**" if record["ratio"] > limit else f"{record['ratio']:.3f}"
    if "interval" not in record:
        return ratio
    low, high = record["interval"]
    return f"{ratio} ({low:.3f} to {high:.3f}; {record['of_least']:.3f})"
