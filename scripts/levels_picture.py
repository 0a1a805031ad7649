"""Draws the two positions of every token of a short text, as SVG for light and for dark pages.

    python scripts/levels_picture.py --output docs/pictures

The text is the beginning of the Zen of Python, which every Python has; segments and places are those that the package
finds, with lines as segments.
"""

import argparse
import codecs
import contextlib
import io
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from bipe_hf import BipeTokenizer
from bipe_hf.lab.data import train_tokenizer


LINES = 4
LIGHT, DARK = ("#cfe3fb", "#fbe3c4", "#d3efd5", "#eadcf7"), ("#1f3f66", "#5a3d12", "#1f4d2b", "#46305e")
THEMES = {
    "light": {"ink": "#1f2328", "faint": "#59636e", "back": "#ffffff", "fills": LIGHT},
    "dark": {"ink": "#e6edf3", "faint": "#9198a1", "back": "#0d1117", "fills": DARK},
}
# pixels: type, width of a character, space between tokens, height of a row, space on the left
SIZE, CELL, GAP, ROW, MARGIN = 15, 9.2, 6, 74, 16


def text() -> str:
    """The first lines of the Zen of Python, without its title."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return "\n".join(codecs.decode(this.s, "rot13").splitlines()[2 : 2 + LINES]) + "\n"


class Token(NamedTuple):
    """A token of the text, with its two positions and the one that a plain encoding has."""

    text: str
    segment: int
    place: int
    index: int


def tokens_of(of_text: str) -> list[Token]:
    """The tokens of a text in a vocabulary that knows its words, with lines as segments."""
    tokenizer = BipeTokenizer.from_tokenizer(train_tokenizer([of_text] * 50, vocab_size=600), separators="lines")
    encoded = tokenizer(of_text)
    found: list[Token] = []
    for index, (token_id, segment) in enumerate(zip(encoded["input_ids"], encoded["segment_ids"], strict=True)):
        goes_on = bool(found) and found[-1].segment == segment
        word = tokenizer.decode([token_id]).strip(" ").replace("\n", "↵")
        found.append(Token(word, segment, found[-1].place + 1 if goes_on else 0, index))
    return found


def drawing(tokens: list[Token], theme: dict) -> str:
    """The SVG: a row for each segment, a box for each token, its place below it."""
    ink, faint = theme["ink"], theme["faint"]
    shapes, widths = [], []
    for segment in range(tokens[-1].segment + 1):
        row, top = [token for token in tokens if token.segment == segment], ROW * segment + 40
        fill = theme["fills"][segment % len(theme["fills"])]
        shapes.append(label(MARGIN, top + 20, f"segment {segment}", ink, bold=True))
        left = MARGIN + 100
        for token in row:
            width = max(len(token.text), 2) * CELL + 10
            box = f'x="{left:.0f}" y="{top}" width="{width:.0f}" height="30" rx="5" fill="{fill}"'
            shapes.append(f"<rect {box}/>")
            shapes.append(label(left + width / 2, top + 20, token.text, ink, middle=True))
            shapes.append(label(left + width / 2, top + 47, str(token.place), faint, middle=True))
            left += width + GAP
        widths.append(left)
    right = max(widths) + 24
    for segment in range(tokens[-1].segment + 1):
        indices = [token.index for token in tokens if token.segment == segment]
        shapes.append(label(right, ROW * segment + 60, f"{indices[0]} to {indices[-1]}", faint))
    shapes.append(label(MARGIN, 20, "Attention sees the segment, the embedding the place in it.", ink))
    shapes.append(label(right, 20, "plain index", faint))
    width, height = right + 110, ROW * (tokens[-1].segment + 1) + 40
    style = f"font: {SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
    title = "<title>Segments and places of the tokens of a text</title>"
    back = f'<rect width="100%" height="100%" fill="{theme["back"]}"/>'
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    body = "\n".join([title, back, *shapes])
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} style="{style}">\n{body}\n</svg>\n'


def label(x: float, y: float, words: str, color: str, *, bold: bool = False, middle: bool = False) -> str:
    """A line of text; `middle` puts the middle of it at x."""
    extra = (' font-weight="bold"' if bold else "") + (' text-anchor="middle"' if middle else "")
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}"{extra}>{escape(words)}</text>'


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for levels_light.svg and levels_dark.svg")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tokens = tokens_of(text())
    for name, theme in THEMES.items():
        (options.output / f"levels_{name}.svg").write_text(drawing(tokens, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
