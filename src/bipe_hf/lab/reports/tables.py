"""The numbers of a report as tables, in plain text and in Markdown."""

from ..common.tables import aligned, markdown
from .results import LevelReport, SegmentReport


MARKS_TITLE = (
    "Marks that end a unit of each level. Share one: beyond the first in a separator. Difference: marks of the text"
    " less those of its tokens (above 0: split over tokens or dropped; below 0: none of their own in the text, as the"
    " dot in 3.14 or the second of two spaces)"
)


def segment_table(report: SegmentReport) -> str:
    """The numbers of a report as aligned plain text."""
    return "\n\n".join(f"{title}\n{aligned(rows)}" for title, rows in _tables(report))


def markdown_tables(report: SegmentReport) -> str:
    """The same as Markdown, with the command in front. Needs tabulate."""
    tables = [f"{title}:\n\n{markdown(_escaped(rows))}" for title, rows in _tables(report)]
    return "\n\n".join([f"`{report.command}`, measured {report.created}", *tables]) + "\n"


def _escaped(rows: list[list[str]]) -> list[list[str]]:
    """Cells in which a bar is one, for Markdown."""
    return [[cell.replace("|", "\\|") for cell in row] for row in rows]


def _tables(report: SegmentReport) -> list[tuple[str, list[list[str]]]]:
    tables = _segment_tables(report)
    return [*tables, *_level_tables(report)] if isinstance(report, LevelReport) else tables


def _segment_tables(report: SegmentReport) -> list[tuple[str, list[list[str]]]]:
    statistics = report.statistics
    has_inner = isinstance(report, LevelReport) and len(report.levels) > 1
    positions = "positions in the innermost unit" if has_inner else "positions"
    per_segment = statistics.tokens_per_segment
    whole = [
        ["quantity", "value"],
        ["documents", f"{statistics.documents}"],
        ["tokens, end-of-text tokens included", f"{statistics.tokens}"],
        ["segments", f"{statistics.segments}"],
        ["tokens per segment, mean", f"{per_segment['mean']:.2f}"],
        ["tokens per segment, median", f"{per_segment['median']:g}"],
        ["tokens per segment, 5th percentile", f"{per_segment['percentile_5']:g}"],
        ["tokens per segment, 95th percentile", f"{per_segment['percentile_95']:g}"],
        ["tokens per segment, longest", f"{per_segment['longest']}"],
        [f"{positions} from {report.max_segment_length} on (clamped)", _percent(statistics.clamped_share)],
        ["alibi_slope_scale that the mean suggests", f"{statistics.suggested_alibi_slope_scale:.1f}"],
    ]
    blocks = [["tokens per block", "blocks", "segments, mean", "fewest", "most", "clamped"]]
    for block in statistics.blocks:
        if block.blocks == 0:
            blocks.append([str(block.length), "0", "-", "-", "-", "-"])
        else:
            counts = [f"{block.segments_mean:.1f}", str(block.segments_fewest), str(block.segments_most)]
            blocks.append([str(block.length), str(block.blocks), *counts, _percent(block.clamped_share)])
    title = f"Segments of {report.text} (tokenizer {report.tokenizer}, {report.segmentation})"
    return [(title, whole), ("Segments per block, the rest that fills no block left out", blocks)]


def _level_tables(report: LevelReport) -> list[tuple[str, list[list[str]]]]:
    spread = ["mean", "median", "5th percentile", "95th percentile"]
    units = [["level", "ends at", "units", "tokens each: mean", *spread[1:], "longest"]]
    parents = [["level", "of each", *spread, "most", f"index from {report.max_inner_index} on (clamped)"]]
    for at, level in enumerate(report.levels):
        ends_at = "-" if level.separators is None else _short(level.separators)
        units.append([level.unit, ends_at, str(level.units), *_spread(level.tokens_per_unit)])
        if level.units_per_parent is not None:
            inside = report.levels[at - 1].unit
            parents.append([level.unit, inside, *_spread(level.units_per_parent), _percent(level.clamped_share)])
    tables = [("Levels, coarse to fine", units)]
    if len(parents) > 1:
        tables.append(("Units inside each one of the next coarser level", parents))
    return [*tables, *_hidden_tables(report)]


def _spread(distribution: dict[str, float]) -> list[str]:
    mean, median, low, high, most = distribution.values()
    return [f"{mean:.2f}", *(f"{value:g}" for value in (median, low, high)), str(most)]


def _short(separators: str | list[int | str]) -> str:
    text = str(separators)
    return text if len(text) <= 40 else f"{len(separators)} separators"


def _hidden_tables(report: LevelReport) -> list[tuple[str, list[list[str]]]]:
    """What the vocabulary hides; nothing where no level ends at separators."""
    hidden, tokens = report.hidden, report.statistics.tokens
    if not hidden.levels:
        return []
    names = ["marks in the text", "separators", "share one", "in other tokens", "difference"]
    marks = [["level", "ends at", *names]]
    ends_at = {level.unit: level.separators for level in report.levels}
    for level in hidden.levels:
        numbers = (level.marks, level.separators, level.sharing, level.elsewhere, level.difference)
        marks.append([level.unit, _short(ends_at[level.unit]), *map(str, numbers)])
    listed = [["token", "ends a", "id", "separators in it", "times", "share of tokens"]]
    for token in hidden.tokens:
        numbers = [str(token.token_id), str(token.marks), str(token.times), _percent(token.times / tokens)]
        listed.append([repr(token.text), token.unit or "-", *numbers])
    if not hidden.tokens:
        listed.append(["-"] * len(listed[0]))
    several = "Tokens that hold more than one separator count once, at the coarsest level: " + _of_both(
        hidden.several_in_vocabulary, hidden.several_in_text, hidden.vocabulary, tokens
    )
    if hidden.not_separators_in_vocabulary:
        others = hidden.not_separators_in_vocabulary, hidden.not_separators_in_text
        several += f". Tokens that hold one and end nothing: {_of_both(*others, hidden.vocabulary, tokens)}"
    return [(MARKS_TITLE, marks), (several, listed)]


def _of_both(in_vocabulary: int, in_text: int, vocabulary: int, tokens: int) -> str:
    return (
        f"{in_vocabulary:,} of {vocabulary:,} in the vocabulary ({_percent(in_vocabulary / vocabulary)}),"
        f" {in_text:,} of {tokens:,} in the text ({_percent(in_text / tokens)})"
    )


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or share == 0 else "< 0.01%"
