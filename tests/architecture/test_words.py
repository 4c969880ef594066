"""The prose of the project is plain technical English: some words are a sign that it is not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("batchtag", "tests", "docs", "benchmarks", "deploy", "jobs")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "cluster.yaml")
SUFFIXES = {".py", ".md", ".html", ".css", ".yaml"}

METAPHORS = re.compile(r"\b(?:rooms?|houses?|doors?|floors?)\b", re.IGNORECASE)
"""Metaphors for packages, modules and limits."""
ODD_ENGLISH = re.compile(r"(?<!\S)is no |\bbegun again\b|\bso long\b(?! as\b)", re.IGNORECASE)
"""`is not a`, `restarted` and `as long as` are plain."""
ALLOWED = re.compile(r"score.floors?\b|\bfloor\(|\.floor\b", re.IGNORECASE)
"""The term for the least score that is written, and mathematics."""


def is_own_text(path: Path) -> bool:
    """Whether a file is prose or code of the project, and not this test, which has to name the words."""
    return path.suffix in SUFFIXES and "architecture" not in path.parts and "_static" not in path.parts


def project_files() -> list[Path]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if is_own_text(path)]
    return [*paths, *(ROOT / name for name in FILES)]


def test_no_text_uses_metaphors_or_odd_english() -> None:
    hits = []
    for path in project_files():
        text = ALLOWED.sub("", path.read_text(encoding="utf-8"))
        for match in [*METAPHORS.finditer(text), *ODD_ENGLISH.finditer(text)]:
            number = text.count("\n", 0, match.end()) + 1
            hits.append(f"{path.relative_to(ROOT)}:{number}: {text.splitlines()[number - 1].strip()}")
    assert hits == []
