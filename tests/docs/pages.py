"""The Markdown pages of this repository as tests need them: fenced blocks, commands, inline code and links.

A block of commands is fenced as `console` (commands begin with `$ `, the rest is output) or `bash` (every line is a
command). An HTML comment directly before the fence says what a test does with the block:

    <!-- not run: needs a cluster -->     the commands are parsed and never executed; the reason is required
    <!-- file: cells.yaml -->             the block is the content of a file that later commands of the page use

Every other block of commands is executed by `test_commands.py`, in the order of the page.
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("console", "bash")

_FENCE = re.compile(r"^ *(`{3,})(\w*) *$")
_COMMENT = re.compile(r"^<!-- *(not run|file): *(.+?) *-->$")
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block. `line` is that of its fence, from 1; `not_run` and `file` are the comment before it, or ""."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    file: str = ""

    @property
    def is_shell(self) -> bool:
        return self.language in SHELLS

    def commands(self) -> list[list[str]]:
        """Return the words of each command. A quoted word may go over several lines; `a && b` is two commands."""
        lines = self.text.split("\n")
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found: list[list[str]] = []
        open_text = ""
        for line in lines:
            try:
                words = shlex.split(open_text + line, comments=True)
            except ValueError:  # a quotation that the next line closes
                open_text += f"{line}\n"
                continue
            open_text = ""
            found += [list(group) for is_and, group in itertools.groupby(words, "&&".__eq__) if not is_and]
        assert not open_text, f"{self.page}:{self.line}: a quotation is never closed"
        return found


def without_shell(words: list[str]) -> list[str]:
    """Return a command without the variables that are set before it and without where its output goes."""
    plain = list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words))
    return plain[: plain.index(">")] if ">" in plain else plain


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    found: list[Block] = []
    body: list[str] = []
    comment = {"not run": "", "file": ""}
    fence, start = "", 0
    language = ""
    for number, line in enumerate(page.read_text().split("\n"), start=1):
        match = _FENCE.match(line)
        if fence:
            if match and match[1] == fence and not match[2]:
                found.append(
                    Block(
                        page=str(page.relative_to(ROOT)),
                        line=start,
                        language=language,
                        text="\n".join(body),
                        not_run=comment["not run"],
                        file=comment["file"],
                    )
                )
                fence, body, comment = "", [], {"not run": "", "file": ""}
            else:
                body.append(line)
        elif match:
            fence, language, start = match[1], match[2], number
        elif note := _COMMENT.match(line):
            comment[note[1]] = note[2]
        elif line.strip():
            comment = {"not run": "", "file": ""}
    assert not fence, f"{page}:{start}: this block is never closed"
    return found


def prose_of(page: Path) -> str:
    """Return the text of a page without its fenced blocks and comments."""
    text = re.sub(r"^ *(`{3,}).*?^ *\1 *$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """Return what stands in backticks outside blocks, line ends as spaces."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose_of(page))]


def links_of(page: Path) -> list[str]:
    """Return the targets of links into this repository, with their anchors."""
    return _LINK.findall(prose_of(page))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(prose_of(page)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(slug if slug not in anchors else f"{slug}-1")
    return anchors
