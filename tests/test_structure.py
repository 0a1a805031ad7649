"""Where things stand: imports go one way, no circle, and importing the model brings nothing of the lab."""

import ast
import re
from pathlib import Path

import pytest
from paths import ROOT


PACKAGE = ROOT / "src" / "bipe_hf"
# Each room may import itself and those named here.
ROOMS = {
    "model": set(),
    "hub": {"model"},
    "integrations": {"model"},
    "lab": {"hub", "integrations", "model"},
    "commands": {"lab", "hub", "integrations", "model"},
}


def module_of(file: Path) -> tuple[str, ...]:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(file: Path, inside_functions: bool = True) -> set[tuple[str, ...]]:
    """Modules and names of this package that a file imports, as they are seen from the package's root."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    types = [node for each in tree.body if isinstance(each, ast.If) for node in each.body]
    package = module_of(file) if file.name == "__init__.py" else module_of(file)[:-1]
    found = set()
    for node in ast.walk(tree) if inside_functions else [*tree.body, *types]:
        if isinstance(node, ast.Import):
            found |= {tuple(each.name.split(".")[1:]) for each in node.names if each.name.startswith("bipe_hf")}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + tuple(
                    (node.module or "").split(".") * bool(node.module)
                )
            elif (node.module or "").split(".")[0] == "bipe_hf":
                base = tuple(node.module.split(".")[1:])
            else:
                continue
            found |= {(*base, each.name) for each in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(module_of(file)) or "root")
def test_imports_go_one_way(file):
    if file.parent == PACKAGE:  # the public names, and the program
        return
    room = module_of(file)[0]
    assert {(target or ("the root",))[0] for target in imports_of(file)} <= ROOMS[room] | {room}


def test_no_circle():
    modules = {module_of(file): file for file in FILES}

    def targets(file):
        for target in imports_of(file, inside_functions=False):
            for end in (target, target[:-1]):  # a module, or a name in one
                if end in modules:
                    yield end
                    break

    edges = {module: set(targets(file)) - {module} for module, file in modules.items()}
    # A module whose targets are all gone goes, until nothing goes any more; what is left is a circle.
    while free := [module for module, found in edges.items() if not found & edges.keys()]:
        for module in free:
            del edges[module]
    assert not edges


def test_what_travels_is_named_after_the_method_and_stands_side_by_side():
    files = [file for file in (PACKAGE / "model").rglob("*") if "__pycache__" not in file.parts]
    assert all(file.parent == PACKAGE / "model" for file in files if file.suffix == ".py")
    assert all("bipe" in file.stem for file in files if file.stem != "__init__")


def test_no_test_imports_another_test():
    for file in (ROOT / "tests").rglob("*.py"):
        if file.is_relative_to(ROOT / "tests" / "upstream"):  # which runs those of transformers
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[-1].startswith("test_") or name == "conftest" for name in names), file


def test_no_comment_is_a_rule():
    """Comments say why; a line of dashes says nothing."""
    for folder in ("src", "tests", "scripts"):
        for file in (ROOT / folder).rglob("*.py"):
            if "golden_0.1" in file.parts:  # as it was released
                continue
            for line in file.read_text(encoding="utf-8").splitlines():
                assert not re.match(r"\s*# ?[-=#]{5,}", line), f"{file}: {line}"
