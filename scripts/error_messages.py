"""List the messages of errors that a user can meet and that `docs/troubleshooting.md` does not explain.

python scripts/error_messages.py

Messages are found in the source: what is given to `InputError` and its relatives, and to the functions that make one
of them. What an f-string fills in stands as `…`. `--all` lists those that are explained, too.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bipe_hf"
PAGE = ROOT / "docs" / "troubleshooting.md"
# What makes an error, and which of its arguments has the message.
MAKERS = {
    "InputError": 0,
    "InputNotFoundError": 0,
    "InputExistsError": 0,
    "InputOSError": 0,
    "FieldTypeError": 0,
    "ValueError": 0,
    "as_input_error": 0,
    "row_error": 4,
}
# Functions that return the words of a message, or of the reason in one.
SAY = {"_refusal", "_broken_off", "_why", "_why_no_object"}
LONGEST = 100
"""Characters of a message that the page shows; a reader finds it by these."""


class Message(NamedTuple):
    """A message and where it comes from."""

    file: str
    line: int
    text: str


def main() -> None:
    """Prints what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--all", action="store_true", help="list those that are explained, too")
    shows_all = parser.parse_args().all
    page = PAGE.read_text(encoding="utf-8")
    for message in messages():
        if shows_all or not is_on(page, message):
            print(f"{message.file}:{message.line}: {code(message.text)}")


def messages() -> list[Message]:
    """Every message with words of its own, as the page shows it."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line, text in sorted(_texts(tree)):
            if len(re.findall(r"[a-zA-Z]{2,}", text)) > 1:
                found.append(Message(file.relative_to(PACKAGE).as_posix(), line, shown(text)))
    return found


def is_on(page: str, message: Message) -> bool:
    """Whether a page shows the message."""
    return code(message.text) in page


def code(text: str) -> str:
    """The message as code in Markdown, whatever marks it has."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def shown(text: str) -> str:
    """The beginning of a message, up to the end of a word."""
    text = re.sub(r"…+", "…", " ".join(text.split()))
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rpartition(' ')[0].rstrip(' …')} …"


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in SAY:
            returned = [each for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
            yield from ((each.lineno, _text(each.value)) for each in returned)
        if not isinstance(node, ast.Call):
            continue
        at = MAKERS.get(node.func.id if isinstance(node.func, ast.Name) else "")
        if at is not None and len(node.args) > at:
            yield node.lineno, _text(node.args[at])


def _text(node: ast.expr) -> str:
    """The words of an expression; what is not known before it runs is `…`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"


if __name__ == "__main__":
    main()
