"""``make docs`` builds a site that loads nothing from elsewhere, and whose links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.commands import ROOT

LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=.?(?:https?:)?//")
STYLE = re.compile(r"<link\b[^>]*>")
IN_CSS = re.compile(r"(?:url\(|@import ).?(?:https?:)?//")


def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / ".ci/mkdocs.yml"), "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "contributing.html", "reference-options.html"} <= {
        page.name for page in pages
    }
    for page in pages:
        text = page.read_text()
        assert not LOADED.findall(text), page
        links = [link for link in STYLE.findall(text) if "//" in link and "canonical" not in link]
        assert not links, page
        assert "\\|" not in text, page  # a bar in a table is shown as a bar
    for sheet in tmp_path.rglob("*.css"):
        assert not IN_CSS.search(sheet.read_text()), sheet
