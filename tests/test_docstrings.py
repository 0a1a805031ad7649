"""The docstrings of all public classes and functions keep one grammar, and say no less and no more than the code.

Public are the names in the `__all__` of a package; where it has none, all names of its modules without an underscore
in front; and of a class the methods and properties that it adds to its bases. The command line is left out: `--help`
says what it takes. Sources are read and not run, so that no optional library must be here; a module is imported only
to see what the bases of its classes have.
"""

import ast
import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from paths import ROOT
from torch import nn

from bipe_hf.model import errors_bipe


PACKAGE = ROOT / "src" / "bipe_hf"
ROOMS = ("hub", "integrations", "lab", "model")
Function = ast.FunctionDef | ast.AsyncFunctionDef
# A summary of a function begins with what it is (one of these words, or code) or with what it does (a verb with an s
# at its end). The former says what is returned; after the latter a section `Returns:` or such a sentence does.
NOUNS = {
    *("A", "All", "An", "As", "Each", "Every", "Everything", "How", "None", "Nothing", "One"),
    *("The", "Those", "Two", "What", "Where", "Whether", "Which", "Why"),
}
END_OF_SENTENCE = re.compile(r"(?<!e\.g)(?<!et al)[.?!] (?=[A-Z`\[])")
SHAPE = re.compile(r"`\([^`]*\)`")
DTYPE = re.compile(
    r"\b((bfloat|float|int)\d+|bool|float|integer|long|(Bool|Double|Float|Int|Long)Tensor|any dtype|the dtype of)\b"
)


def faults(node: ast.ClassDef | Function, is_override: bool = False) -> Iterator[str]:
    """What is wrong with a docstring; where a base has the same method, it may say no more than what differs."""
    text = ast.get_docstring(node)
    is_class = isinstance(node, ast.ClassDef)
    if text is None:
        if is_class or not is_override:
            yield "no docstring"
        return
    summary = " ".join(text.partition("\n\n")[0].split())
    sentences = [each for each in END_OF_SENTENCE.split(summary) if not each.startswith("Raises `")]
    if len(sentences) > 1 or not summary.endswith("."):
        yield "the summary is not one sentence"
    parameters, others, explained = fields_of(node) if is_class else parameters_of(node)
    entries = entries_of(text)
    said = [name for name in entries if name not in others]
    wanted = [name for name in parameters if name not in explained]
    needs_all = not is_override and (len(wanted) > 1 or any(is_tensor(parameters[name]) for name in wanted))
    if said != wanted and (said or needs_all) and parameters:
        yield f"Args has {', '.join(said) or 'nothing'}, the signature {', '.join(wanted)}"
    with_summary = {name: f"{each} {summary}" for name, each in explained.items()}  # of all fields, as it may be
    for name, entry in {**entries, **with_summary}.items():
        if is_tensor(parameters.get(name, "")) and not (SHAPE.search(entry) and DTYPE.search(entry)):
            yield f"{name} has no shape or no dtype"
    if is_class:
        return
    errors = text[text.find("Raises") :] if "Raises" in text else ""
    yield from (f"does not say that it raises {each}" for each in raised(node) if not is_named(each, errors))
    first = summary.split()[0].rstrip(",:;")
    is_noun = first in NOUNS or first[0] in "`["
    returned = ast.unparse(node.returns) if node.returns else "None"
    is_value = returned not in ("None", "NoReturn", "Iterator[None]")
    if not first.endswith("s") and not (is_noun and (is_value or first == "Nothing")):
        yield "the summary begins with neither what it is nor what it does"
    if is_value and not is_override and not (is_noun or re.search(r"^(Returns|Yields)\b", text, re.MULTILINE)):
        yield "does not say what it returns"
    if is_tensor(returned) and not is_override and not re.search(r"\bshapes?\b|`\(", text):
        yield "does not say of which shape the tensor is that it returns"


def entries_of(text: str) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each parameter."""
    section = re.search(r"^Args:\n((?:(?: .*)?(?:\n|\Z))*)", text, flags=re.MULTILINE)
    parts = re.split(r"^    (\w+)(?= \(|:)", section[1] if section else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parameters_of(function: Function) -> tuple[dict[str, str], set[str], dict[str, str]]:
    """The parameters with their types, the names of those that take any number of arguments, and nothing."""
    arguments = function.args
    each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    types = {one.arg: ast.unparse(one.annotation) if one.annotation else "" for one in each}
    others = {one.arg for one in (arguments.vararg, arguments.kwarg) if one}
    return {name: kind for name, kind in types.items() if name not in ("self", "cls")}, others, {}


def fields_of(owner: ast.ClassDef) -> tuple[dict[str, str], set[str], dict[str, str]]:
    """The same of a constructor; or the fields of a data class, but for those with a line of help, with their types
    and the docstrings of their own. Nothing where both are those of a base."""
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return parameters_of(node)
    made_of = {ast.unparse(each).partition("(")[0] for each in (*owner.decorator_list, *owner.bases)}
    types, explained = {}, {}
    for node, behind in zip(owner.body, [*owner.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and not re.search(r"ClassVar|'help'", ast.unparse(node)):
            types[node.target.id] = ast.unparse(node.annotation)
            if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
                explained[node.target.id] = behind.value.value
    return (types, set(), explained) if made_of & {"dataclass", "NamedTuple"} else ({}, set(), {})


def is_tensor(kind: str) -> bool:
    return bool(re.search(r"\b(Bool|Float|Int|Long)?Tensor\b", kind))


def raised(function: Function) -> list[str]:
    """The errors that the body itself raises, but for what a subclass has to write."""
    nodes, found = list(function.body), set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            found.add(ast.unparse(node.exc).partition("(")[0])
        if not isinstance(node, Function | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return sorted(each for each in found if each.endswith("Error") and each != "NotImplementedError")


def is_named(error: str, text: str) -> bool:
    """Whether a text names an error, or a kind that it is of: an `InputError` is a `ValueError`."""
    kind = getattr(errors_bipe, error, None) or getattr(builtins, error, None)
    names = [error] if kind is None else [each.__name__ for each in kind.__mro__]
    return any(re.search(rf"\b{name}\b", text) for name in names if name != "Exception")


@lru_cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def names_of(file: Path) -> list[str] | None:
    """The `__all__` of a module."""
    for node in parsed(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def is_checked(node: ast.AST) -> bool:
    """Whether it is a class or function, and not one whose docstring is made of its fields: see tests/test_docs.py."""
    return isinstance(node, ast.ClassDef | Function) and "__doc__ =" not in ast.unparse(node)


def defined(file: Path, name: str) -> Iterator[tuple[Path, ast.ClassDef | Function]]:
    """The class or function of that name in a module, or in the one that it is imported from."""
    for node in parsed(file).body:
        if is_checked(node) and node.name == name:
            yield file, node
        if isinstance(node, ast.ImportFrom) and node.level and name in [each.name for each in node.names]:
            source = file.parents[node.level - 1].joinpath(*node.module.split("."))
            yield from defined(source / "__init__.py" if source.is_dir() else source.with_suffix(".py"), name)


def public(folder: Path) -> Iterator[tuple[Path, ast.ClassDef | Function]]:
    """The public classes and functions of a package and of those inside it."""
    names = names_of(folder / "__init__.py")
    for name in names or ():
        yield from defined(folder / "__init__.py", name)
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and names is None:
            yield from ((path, node) for node in parsed(path).body if is_checked(node) and node.name[0] != "_")
        elif (path / "__init__.py").exists() and (folder != PACKAGE or path.name in ROOMS):
            yield from public(path)


def is_override(module: str, owner: ast.ClassDef, method: Function) -> bool:
    """Whether a base has the method, the constructor with the same parameters; if its library is missing, any may."""
    try:
        bases = getattr(importlib.import_module(module), owner.name).__mro__[1:]
    except ImportError:
        return any(ast.unparse(base) != "nn.Module" for base in owner.bases)
    others = (vars(base) for base in bases if base not in (nn.Module, object))
    theirs = [names[method.name] for names in others if method.name in names]
    if method.name != "__init__":
        return bool(theirs)
    return any(list(inspect.signature(each).parameters)[1:] == list(parameters_of(method)[0]) for each in theirs)


def public_faults() -> dict[str, list[str]]:
    """What is wrong with each public docstring, by the name of what it is of."""
    found = {}
    for file, node in public(PACKAGE):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        name = f"{module}.{node.name}"
        methods = [each for each in node.body if isinstance(each, Function)] if isinstance(node, ast.ClassDef) else []
        found[name] = list(faults(node, any(is_override(module, node, m) for m in methods if m.name == "__init__")))
        for method in methods:
            if method.name[0] != "_":
                found[f"{name}.{method.name}"] = list(faults(method, is_override(module, node, method)))
    return found


def test_every_public_docstring_keeps_the_grammar():
    found = public_faults()
    assert {
        "bipe_hf.model.edit_bipe.edit_cache",
        "bipe_hf.lab.evaluation.scoring.Windows.tokens_scored",
        "bipe_hf.integrations.vllm.attention.BipeAttention.forward",  # whose library need not be here
    } <= found.keys()
    assert not any(found.values()), "\n".join(f"{name}: {each}" for name in found for each in found[name])


GOOD = '''
def moved(states: torch.Tensor, places: list[int], *, fill: int = 0, **options) -> torch.Tensor:
    """The states in other places. Raises `ValueError` for a place that is none.

    Args:
        states (`torch.FloatTensor` of shape `(batch, length)`): of the tokens.
        places: new ones, from 0.
        fill:
            What stands where nothing is moved to.
        options: of the move.
    """
    if min(places) < 0:
        raise InputError("places")
'''


def test_a_good_docstring_has_no_fault():
    assert list(faults(ast.parse(GOOD).body[0])) == []


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("other places. Raises", "other places. It copies. Raises", "the summary is not one sentence"),
        ("that is none.", "that is none", "the summary is not one sentence"),
        ("The states in", "Move the states to", "the summary begins with neither what it is nor what it does"),
        ("The states in", "Moves the states to", "does not say what it returns"),
        (" -> torch.Tensor", " -> None", "the summary begins with neither what it is nor what it does"),
        ("Raises `ValueError` for", "A copy for", "does not say that it raises InputError"),
        ("`ValueError`", "`TypeError`", "does not say that it raises InputError"),
        ("    Args:", "    Parameters:", "Args has nothing, the signature states, places, fill"),
        ("        places: new", "        positions: new", "Args has states, positions, fill, the signature states,"),
        ("*, fill: int = 0, ", "", "Args has states, places, fill, the signature states, places"),
        ("places: list[int], *, fill: int = 0", "fill: int, places: list[int]", "Args has states, places, fill, the"),
        (" of shape `(batch, length)`", "", "states has no shape or no dtype"),
        ("`torch.FloatTensor`", "`torch.Tensor`", "states has no shape or no dtype"),
    ],
)
def test_each_fault_is_found(right, wrong, fault):
    assert right in GOOD
    assert any(each.startswith(fault) for each in faults(ast.parse(GOOD.replace(right, wrong)).body[0]))


def test_what_a_base_documents_may_say_less():
    bare = ast.parse("def forward(self, a: torch.Tensor, b: int) -> torch.Tensor: return a").body[0]
    assert list(faults(bare)) == ["no docstring"]
    assert list(faults(bare, is_override=True)) == []


def test_fields_of_a_data_class_are_explained_one_way_or_another():
    fields = 'size: int\n    value: float\n    """In nats."""\n    seed: int'
    source = f'@dataclass\nclass Row:\n    """A row."""\n\n    {fields}\n'
    assert list(faults(ast.parse(source).body[0])) == ["Args has nothing, the signature size, seed"]
