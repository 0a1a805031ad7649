"""The blocks of a page of documentation: Python that runs, command lines in words, and what both print."""

import re
import shlex
from typing import NamedTuple


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    text: str
    line: int
    """Of the page, counted from 1: where the text starts."""
    output: str | None
    """What the page says that it prints; None where it says nothing."""


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page but for those of its output.

    Output is a block `text` right behind the one that prints it, or in Python the lines that start with `# > `.
    """
    found = []
    for match in re.finditer(r"^( *)```([\w-]*)[^\n]*\n(.*?)^ *```$", page, flags=re.DOTALL | re.MULTILINE):
        indent, language, text = match.groups()
        text = re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        if language == "text" and found:
            found[-1] = found[-1]._replace(output=text)
            continue
        comments = [line.removeprefix("# > ") for line in text.splitlines() if line.startswith("# > ")]
        line = page.count("\n", 0, match.start()) + 2
        found.append(Block(language, text, line, "\n".join(comments) if comments else None))
    return found


def lines_of(block: str) -> list[list[str]]:
    """The words of each command of a bash block, without comments; a line that ends in a backslash goes on."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_python(block: Block, page: str, names: dict) -> None:
    """Runs a block in the names of those before it; a traceback names the line of the page."""
    exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
