"""Sphinx builds these Markdown pages into HTML: `make docs` writes build/docs.

The pages must read well on a code host as they are, so they contain plain Markdown and no directives. What only the
HTML needs is done here: the sidebar is made of the links of index.md, in their order, and README, CONTRIBUTING and
folders outside docs/ are named instead of linked.
"""

from __future__ import annotations

import re
from typing import Any

from batchtag import __version__

project = "batchtag"
version = release = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"batchtag {__version__}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide_tables.css"]
templates_path: list[str] = []
exclude_patterns = ["images"]
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def _prepare_page(_: Any, name: str, source: list[str]) -> None:
    """Change the text of a page before Sphinx reads it."""
    pages = dict.fromkeys(re.findall(r"\]\((\w+)\.md\)", source[0]))
    source[0] = re.sub(r"\[[^]]+\]\(\.\./([^)]*(?:\.md|/))\)", r"`\1`", source[0])
    if name == "index":
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", *pages, "```\n"])


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    app.connect("source-read", _prepare_page)
