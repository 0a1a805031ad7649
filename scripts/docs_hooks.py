"""Hooks of the documentation site: links to files of the repository outside `docs/` work in the site as well.

mkdocs build --strict

Such a file is mounted below `repository/`, and so are the files that it links to itself. Markdown becomes a page;
figures, configurations and scripts are copied as they are.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page


MOUNT = "repository"
# Pages that the navigation names; what they and the pages of docs/ link to comes along.
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "configs/README.md")
LINK = re.compile(r"""(\]\(|(?:src|srcset|href)=["'])([^)\s"']+)""")
FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside `docs/` that pages link to."""
    root, docs = _folders(config)
    waiting = [docs / file.src_uri for file in files.documentation_pages()] + [root / name for name in ALWAYS]
    seen = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        if not path.is_relative_to(docs):
            uri = _uri(path, root, docs)
            files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
        if path.suffix == ".md":
            waiting += _targets(path.read_text(encoding="utf-8"), path.parent, root)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes links as the site has them."""
    root, docs = _folders(config)
    folder = Path(page.file.abs_src_path).parent
    here = posixpath.dirname(page.file.src_uri)

    def in_site(match: re.Match) -> str:
        before, link = match.groups()
        target = _target(link, folder, root)
        if target is None or (target.is_relative_to(docs) and folder == docs):
            return match.group()
        anchor = link.partition("#")[1:]
        return before + posixpath.relpath(_uri(target, root, docs), here or ".") + "".join(anchor)

    parts = FENCE.split(markdown)  # code stands at odd places
    parts[::2] = [LINK.sub(in_site, part) for part in parts[::2]]
    return "".join(parts)


def _folders(config: MkDocsConfig) -> tuple[Path, Path]:
    return Path(config.config_file_path).parent.resolve(), Path(config.docs_dir).resolve()


def _targets(markdown: str, folder: Path, root: Path) -> list[Path]:
    text = "".join(FENCE.split(markdown)[::2])
    found = [_target(match.group(2), folder, root) for match in LINK.finditer(text)]
    return [target for target in found if target is not None]


def _target(link: str, folder: Path, root: Path) -> Path | None:
    """The file of the repository that a link names; of a folder its README. None for all other links."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:|/", path):
        return None
    target = Path(os.path.normpath(folder / path))
    if target.is_dir():
        target /= "README.md"
    return target if target.is_file() and target.is_relative_to(root) else None


def _uri(path: Path, root: Path, docs: Path) -> str:
    """The place of a file among the sources of the site."""
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    return posixpath.join(MOUNT, path.relative_to(root).as_posix())
