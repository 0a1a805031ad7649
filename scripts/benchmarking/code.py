"""Which code was measured: a hash of what travels with a checkpoint."""

import ast
import hashlib
import io
import tokenize
from pathlib import Path

import bipe_hf.model


MODEL = Path(bipe_hf.model.__file__).parent
# A release changes it and nothing that is measured; the version stands beside the hash.
VERSION = "version_bipe.py"


def code_hash(folder: Path = MODEL) -> str:
    """Twelve hex digits of the SHA-256 of all Python files of `folder`, their names included.

    Comments, docstrings and blank lines do not count: prose changes no speed. Everything else does, the wording of an
    error too: which of it matters to speed is no question for a program.
    """
    code = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        if path.name != VERSION:
            code.update(f"{path.name}\n{without_prose(path.read_text(encoding='utf-8'))}".encode())
    return code.hexdigest()[:12]


def without_prose(source: str) -> str:
    """Python source without comments, docstrings (of attributes too), blank lines and white space at line ends."""
    lines = source.encode().splitlines()  # `ast` counts columns in bytes
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, node.end_lineno - 1
            rest = lines[last][node.end_col_offset :]
            lines[first : last + 1] = [lines[first][: node.col_offset] + rest, *[b""] * (last - first)]
    texts = [line.decode() for line in lines]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row = token.start[0] - 1
            texts[row] = texts[row].removesuffix(token.string)
    return "\n".join(text.rstrip() for text in texts if text.strip())
