"""An extension of griffe: docstrings in the grammar of transformers, as mkdocstrings reads them.

mkdocs build --strict

Arguments are written ``name (`int`, *optional*): text``, and other objects [`Name`] or [`~package.Name`].
"""

import re
from typing import Any

from griffe import Extension, Object


ARGUMENT = re.compile(r"^( +)(\*{0,2}\w+) \((.*)\)(:| *$)", flags=re.MULTILINE)
OBJECT = re.compile(r"\[`~?([\w.]+)`\](?![\[(])")


def plain(docstring: str) -> str:
    """The docstring with types without marks, and objects as code.

    Args:
        docstring: as it stands in the source.
    """
    docstring = ARGUMENT.sub(_argument, docstring)
    return OBJECT.sub(
        lambda match: f"`{match.group(1).split('.')[-1] if '~' in match.group() else match.group(1)}`", docstring
    )


def _argument(match: re.Match) -> str:
    indent, name, kind, end = match.groups()
    kind = OBJECT.sub(lambda each: each.group(1).split(".")[-1], kind)
    return f"{indent}{name} ({kind.replace('`', '').replace('*optional*', 'optional')}){end or ':'}"


class Docstrings(Extension):
    """Rewrites the docstring of each object."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
