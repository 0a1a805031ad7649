"""Hooks of the documentation site: links to files of the repository outside `docs/` work in the site as well.

mkdocs build --strict

Such a file is mounted below `repository/`, and so are the files that it links to itself. Markdown becomes a page, and
so does a notebook with its outputs; figures, configurations and scripts are copied as they are. A folder is its
README, or a list of what is in it.
A picture `NAME_light.svg` gives way to `NAME_dark.svg`, which stands beside it, on a dark page.
"""

import base64
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor


MOUNT = "repository"
# Pages that the navigation names; what they and the pages of docs/ link to comes along.
ALWAYS = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "configs/README.md"),
    *("notebooks/1_segments.ipynb", "notebooks/2_length.ipynb", "notebooks/3_records.ipynb"),
)
LINK = re.compile(r"""(\]\(|(?:src|srcset|href)=["'])([^)\s"']+)""")
LIGHT = re.compile(r"(!\[[^\]]*\]\([^)\s]*)_light\.svg\)")
NOTEBOOK = ".ipynb"
FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside `docs/` that pages link to."""
    root, docs = _folders(config)
    waiting = [docs / file.src_uri for file in files.documentation_pages()] + [root / name for name in ALWAYS]
    seen = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        content = _made(path)
        if not path.is_relative_to(docs):
            source = {"abs_src_path": str(path)} if content is None else {"content": content}
            uri = _uri(path, root, docs)
            files.append(File.generated(config, uri, **source, inclusion=InclusionLevel.NOT_IN_NAV))
        if content is not None:
            waiting += _targets(content, path if path.is_dir() else path.parent, root)
        elif path.suffix == ".md":
            waiting += _targets(path.read_text(encoding="utf-8"), path.parent, root)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes links as the site has them."""
    root, docs = _folders(config)
    folder = docs
    if page.file.src_uri.startswith(f"{MOUNT}/"):
        folder = (root / page.file.src_uri.removeprefix(f"{MOUNT}/")).parent
    here = posixpath.dirname(page.file.src_uri)

    def in_site(match: re.Match) -> str:
        before, link = match.groups()
        target = _target(link, folder, root)
        if target is None or (target.is_relative_to(docs) and folder == docs):
            return match.group()
        anchor = link.partition("#")[1:]
        return before + posixpath.relpath(_uri(target, root, docs), here or ".") + "".join(anchor)

    parts = FENCE.split(markdown)  # code stands at odd places
    parts[::2] = [LIGHT.sub(_both, LINK.sub(in_site, part)) for part in parts[::2]]
    return "".join(parts)


def _both(match: re.Match) -> str:
    """A picture for light pages, and the one for dark pages."""
    return f"{match[1]}_light.svg#only-light){match[1]}_dark.svg#only-dark)"


def _folders(config: MkDocsConfig) -> tuple[Path, Path]:
    return Path(config.config_file_path).parent.resolve(), Path(config.docs_dir).resolve()


def _targets(markdown: str, folder: Path, root: Path) -> list[Path]:
    text = "".join(FENCE.split(markdown)[::2])
    found = [_target(match.group(2), folder, root) for match in LINK.finditer(text)]
    return [target for target in found if target is not None]


def _made(path: Path) -> str | None:
    """The page that is made of a folder or a notebook; None for what is a file of the site as it is."""
    if path.is_dir():
        return _listing(path)
    return _notebook(path) if path.suffix == NOTEBOOK else None


def _listing(folder: Path) -> str:
    """A page with the Markdown files in a folder, or with all files where there are none."""
    found = sorted(folder.rglob("*.md")) or sorted(path for path in folder.iterdir() if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in found]
    return f"# {folder.name}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def _notebook(path: Path) -> str:
    """A page with the cells of a notebook, what they printed and what they drew."""
    exporter = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor])  # what a cell prints comes in pieces
    markdown, resources = exporter.from_filename(str(path))
    for name, content in resources["outputs"].items():
        markdown = markdown.replace(f"({name})", f"(data:image/png;base64,{base64.b64encode(content).decode()})")
    return markdown


def _target(link: str, folder: Path, root: Path) -> Path | None:
    """The file or folder of the repository that a link names; of a folder its README. None for all other links."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:|/", path):
        return None
    target = Path(os.path.normpath(folder / path))
    if (target / "README.md").is_file():
        target /= "README.md"
    return target if target.exists() and target.is_relative_to(root) else None


def _uri(path: Path, root: Path, docs: Path) -> str:
    """The place of a file among the sources of the site."""
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    if path.is_dir():
        path /= "index.md"
    if path.suffix == NOTEBOOK:
        path = path.with_suffix(".md")
    return posixpath.join(MOUNT, path.relative_to(root).as_posix())
