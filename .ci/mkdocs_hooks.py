"""Makes a site of pages that are also read in the repository, where links lead to other folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside of docs/, and their places in the site."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")

CODE_IN_TABLE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files outside of docs/ that pages link to."""
    for name, place in PAGES.items():
        files.append(File.generated(config, place, content=moved((ROOT / name).read_text(), ROOT)))
    for path in sorted(linked()):
        files.append(File.generated(config, str(path), content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to places in the site."""
    return markdown if page.file.src_uri in PAGES.values() else moved(markdown, ROOT / "docs")


def moved(markdown: str, folder: Path) -> str:
    """Rewrite the links of a page that is in `folder` of the repository, and bars in code.

    In a table, GitHub needs a backslash before a bar in code, and MkDocs shows it.
    """
    markdown = CODE_IN_TABLE.sub(lambda code: code[0].replace("\\|", "|"), markdown)
    return LINK.sub(lambda link: in_site(link[1], folder), markdown)


def in_site(link: str, folder: Path) -> str:
    """Return the place in the site of a file that a page links to."""
    path = (folder / link).resolve().relative_to(ROOT)
    return PAGES.get(str(path), str(path).removeprefix("docs/"))


def linked() -> set[Path]:
    """Files outside of docs/ to which a page links, and which are not pages."""
    found = set()
    for page in [*(ROOT / name for name in PAGES), *(ROOT / "docs").glob("*.md")]:
        for link in LINK.findall(page.read_text()):
            path = (page.parent / link).resolve().relative_to(ROOT)
            if path.parts[0] != "docs" and str(path) not in PAGES and (ROOT / path).is_file():
                found.add(path)
    return found
