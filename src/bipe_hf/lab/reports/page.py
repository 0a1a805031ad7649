"""A web page that shows a text with its segments in turns of two colours, and both positions of each token.

With inner levels the units of the first are in turns of two shades of the segment's colour, and a line stands where
one of the innermost level starts; of levels in between, those of the first are underlined in turns. Every index shows.

The page is one file that loads nothing and runs nothing: no script, no font, no picture, and a content security policy
that forbids them. Everything that the text holds is escaped. Pointing at a token, reaching it with the tab key and
touching it all show its positions, by style alone.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..data.segments import segment_batch
from .inputs import TextSegmentation


# Tokens on the page, end-of-text tokens included: more makes it slow to scroll and no clearer.
PAGE_TOKENS = 2048

# A page may not hold the first ones, the second ones would reorder the text around them, the third ones break lines
# where the text has no newline. They are shown by name.
_HIDDEN = {
    *(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"),
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    *(0x2028, 0x2029),
}


@dataclass(frozen=True)
class Piece:
    """A stretch of text and the tokens that stand for it: one, or those that share a character.

    Byte-level tokens may hold a part of a character. What `num_tokens` of them stand for together is then shown as
    one, since no part of it is text.
    """

    text: str
    num_tokens: int


def split_text(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[list[Piece], str]:
    """Divides a text among its tokens, no character lost.

    A character that no token claims (white space that a tokenizer drops) goes to the token after it.

    Args:
        text: what was tokenized.
        offsets: first character of each token and the one after its last, as `return_offsets_mapping` gives them.

    Returns:
        The pieces in their order, and what follows the last token.
    """
    pieces: list[Piece] = []
    cursor = 0
    for start, end in offsets:
        end = max(cursor, end)
        own = text[cursor:end]
        if start < cursor:
            pieces[-1] = Piece(pieces[-1].text + own, pieces[-1].num_tokens + 1)
        else:
            pieces.append(Piece(own, 1))
        cursor = end
    return pieces, text[cursor:]


def render_page(
    documents: Iterable[dict[str, str]], segmentation: TextSegmentation, source: str, total: int, facts: str
) -> str:
    """The page of the first documents, up to `PAGE_TOKENS` tokens.

    Args:
        documents: with `text` and `name`, read until there are enough tokens.
        segmentation: as `open_segmentation` returns it.
        source: what the documents were read from.
        total: tokens of all documents.
        facts: a sentence on the text as a whole.

    Returns:
        HTML in which the elements of class `text` hold the documents: character data, with an element
        `<i data-code="...">` in place of each character that a page cannot hold.
    """
    tokenizer = segmentation.tokenizer
    ids: list[int] = []
    shown: list[tuple[str, list[Piece], str | None]] = []
    for document in documents:
        encoded = tokenizer(
            document["text"],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        pieces, rest = split_text(document["text"], encoded["offset_mapping"])
        fitting, used = 0, 0
        while fitting < len(pieces) and len(ids) + used + pieces[fitting].num_tokens <= PAGE_TOKENS:
            used += pieces[fitting].num_tokens
            fitting += 1
        ids += encoded["input_ids"][:used]
        if fitting < len(pieces) or len(ids) == PAGE_TOKENS:
            shown.append((document["name"], pieces[:fitting], None))
            break
        ids.append(tokenizer.eos_token_id)
        shown.append((document["name"], pieces, rest))
        if len(ids) == PAGE_TOKENS:
            break

    writer = _Writer(segmentation, ids)
    body = "\n".join(writer.document(*each) for each in shown)
    extent = f"all {total:,}" if len(ids) == total else f"the first {len(ids):,} of {total:,}"
    inner = [level.unit for level in segmentation.levels[1:]]
    return _PAGE.format(
        style=_STYLE + (_LEVELS_STYLE if inner else ""),
        source=html.escape(source),
        extent=extent,
        facts=html.escape(facts),
        legend=_legend(inner),
        documents=body,
    )


def _legend(inner: list[str]) -> str:
    """What the looks stand for, by the names of units at each inner level."""
    if not inner:
        return "counted from 0 at the start of the text. Positions count from 0 inside each\nsegment."
    first, *between, innermost = inner if len(inner) > 1 else inner * 2
    weak, strong = '<span class="a sample">a weak</span>', '<span class="a d sample">a strong</span>'
    looks = [f"{first}s between {weak} and {strong} shade"]
    if between:
        looks.append(f'every second {between[0]} is <span class="a u sample">underlined</span>')
    looks.append(f'a line stands where <span class="a s sample">a new {innermost} starts</span>')
    counted = [f"{unit}s count from 0 inside their {parent}" for parent, unit in pairwise(["segment", *inner])]
    return (
        "counted from 0 at the start of the text;\n"
        + f"{'; '.join(looks)}. {', '.join(counted).capitalize()},\npositions inside their {innermost}."
    )


class _Writer:
    """Writes tokens in their order."""

    def __init__(self, segmentation: TextSegmentation, ids: list[int]) -> None:
        self.tokenizer = segmentation.tokenizer
        self.max_segment_length = segmentation.config.max_segment_length
        self.max_inner_index = segmentation.config.max_inner_index
        self.inner_units = [level.unit for level in segmentation.levels[1:]]
        self.ids = ids
        segments = segment_batch({"input_ids": torch.tensor([ids])}, segmentation.config)
        self.segment_ids = segments.segment_ids[0].tolist()
        self.inner_indices = [index[0].tolist() for index in segments.inner_indices]
        self.intra_positions = segments.intra_positions[0].tolist()
        self.at = 0

    def document(self, name: str, pieces: list[Piece], rest: str | None) -> str:
        """`rest` is what follows the last token; None where the document goes on."""
        written = [self._piece(piece) for piece in pieces]
        if rest is not None:
            written += [escape(rest), self._piece(Piece("", 1))]
        return f'<h2>{html.escape(name)}</h2>\n<div class="text" lang="" dir="auto">{"".join(written)}</div>'

    def _piece(self, piece: Piece) -> str:
        tokens = range(self.at, self.at + piece.num_tokens)
        self.at = tokens.stop
        lines = [self._positions(token) for token in tokens]
        if len(lines) > 1:
            lines = [f"{line} (part {part} of {len(lines)})" for part, line in enumerate(lines, 1)]
        looks = " ".join(self._looks(tokens))
        label = ""
        if not piece.text:  # end-of-text, or a token that marks the start of a word
            token = self.tokenizer.convert_ids_to_tokens(self.ids[tokens.start])
            label = f' data-label="{html.escape(token)}"'
        positions = html.escape("\n".join(lines)).replace("\n", "&#10;")
        return f'<span class="{looks}" tabindex="0"{label} data-positions="{positions}">{escape(piece.text)}</span>'

    def _looks(self, tokens: range) -> list[str]:
        """Classes of the style: those of the first token, and the line where an innermost unit starts at any."""
        looks = ["ab"[self.segment_ids[tokens.start] % 2]]
        if self.inner_units:
            looks += ["d"] * (self.inner_indices[0][tokens.start] % 2)
            looks += ["s"] * any(self.intra_positions[token] == 0 for token in tokens)
        if len(self.inner_units) > 2:
            looks += ["u"] * (self.inner_indices[1][tokens.start] % 2)
        return looks

    def _positions(self, token: int) -> str:
        inner = [
            f"{unit} {_encoded(indices[token], self.max_inner_index)}"
            for unit, indices in zip(self.inner_units, self.inner_indices, strict=True)
        ]
        position = f"position {_encoded(self.intra_positions[token], self.max_segment_length)}"
        return ", ".join([f"segment {self.segment_ids[token]}", *inner, position, f"token id {self.ids[token]}"])


def _encoded(index: int, rows: int) -> str:
    """An index, and the one that it is encoded as by a table of so many rows where that is another."""
    return f"{index} (encoded as {rows - 1})" if index >= rows else str(index)


def escape(text: str) -> str:
    """HTML of a text; what no page can hold, or what would reorder it, is shown by name."""
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return '<i class="newline">\n</i>'
    if code in _HIDDEN:
        return f'<i data-code="{code}" data-label="U+{code:04X}"></i>'
    return html.escape(character)


# Colours: black on a light tint or white on a dark one, at a contrast of 7 or more; a blue and an orange, which every
# common colour vision tells apart.
_STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --ink: #15181c; --quiet: #4a5058; --a: #cfe4f7; --b: #fbe0bd;
  --panel: #15181c; --panel-ink: #ffffff; --mark: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --ink: #f2f4f6; --quiet: #b4bbc3; --a: #143f63; --b: #5a3708;
    --panel: #f2f4f6; --panel-ink: #15181c; --mark: #9fd0ff; }
}
*, *::after { box-sizing: border-box; }
html { scroll-padding-bottom: 7rem; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1rem 8rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.2; }
h2 { font-size: 1rem; margin: 2rem 0 0.5rem; color: var(--quiet); }
p { margin: 0.5rem 0; }
.text { font: 1rem/1.9 ui-monospace, monospace; white-space: pre-wrap; unicode-bidi: plaintext; tab-size: 4; }
.a { background: var(--a); }
.b { background: var(--b); }
.sample { padding: 0 0.4em; }
i { font-style: normal; }
.newline::before { content: "\\21B5"; color: var(--mark); }
[data-label]::before { content: attr(data-label); color: var(--mark); font-size: 0.8em; }
[tabindex]:hover, [tabindex]:focus { outline: 2px solid var(--mark); outline-offset: -1px; }
#hint, [tabindex]:hover::after, [tabindex]:focus::after { position: fixed; inset: auto 0 0; margin: 0;
  min-height: 3rem; padding: 0.75rem 1rem; background: var(--panel); color: var(--panel-ink);
  font: 1rem/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
  text-align: center; direction: ltr; unicode-bidi: isolate; }
[tabindex]:focus::after { content: attr(data-positions); white-space: pre-wrap; z-index: 1; pointer-events: none; }
[tabindex]:hover::after { content: attr(data-positions); white-space: pre-wrap; z-index: 2; pointer-events: none; }
@media (forced-colors: active) { .b { text-decoration: underline; } }"""

# A stronger shade of each colour for every second unit of the first inner level, still at a contrast of 7; a mark that
# keeps 4.5 on it, and a line that keeps 3. Where a system sets the colours, a line above the text stands for a shade.
_LEVELS_STYLE = """
:root { --a-strong: #a6ccf0; --b-strong: #f4c48a; --edge: #4f5a66; --mark: #084a8c; }
@media (prefers-color-scheme: dark) {
  :root { --a-strong: #1c5483; --b-strong: #75480a; --edge: #b4bbc3; --mark: #9fd0ff; }
}
.a.d { background: var(--a-strong); }
.b.d { background: var(--b-strong); }
.s { border-inline-start: 1px solid var(--edge); }
.u { border-block-end: 2px dotted var(--edge); }
@media (forced-colors: active) {
  .d { text-decoration: overline; }
  .b.d { text-decoration: underline overline; }
}"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Segments of {source}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>Segments of {source}</h1>
<p>{facts}</p>
<p>Shown are {extent} tokens. Segments alternate between <span class="a sample">one colour</span> and
<span class="b sample">the other</span>, {legend} Tokens that hold parts of one character are shown as one.</p>
</header>
<main>
{documents}
</main>
<p id="hint">Point at a token, tap it or reach it with the tab key: its positions show here.</p>
</body>
</html>
"""
