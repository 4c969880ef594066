"""The printer of all commands: widths on terminals and in pipes, JSON, and colours."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batchtag.cli.output import Column, print_csv, print_json, print_jsonl, print_table

URI = "s3://photos/2026/" + "shelf/" * 20 + "0001.jpg"
COLUMNS = (Column(heading="uri", folds=True), Column(heading="state"), Column(heading="images", is_number=True))
ROWS = [[URI, "done", "1,200"], ["s3://photos/x\x1b[31m.jpg", "running", "7"]]
PRINT_SCRIPT = f"""
from batchtag.cli.output import Column, print_table
columns = (Column(heading="uri", folds=True), Column(heading="state"), Column(heading="images", is_number=True))
print_table(columns, {ROWS!r}, title="Runs")
"""


def print_on_terminal(width: int, **environment: str) -> str:
    """Return what a terminal of this width gets from PRINT_SCRIPT."""
    our_end, its_end = pty.openpty()
    settings = {"COLUMNS": str(width), "TERM": "xterm-256color", **environment}
    child = subprocess.Popen(
        [sys.executable, "-c", PRINT_SCRIPT], stdin=its_end, stdout=its_end, env={**os.environ, **settings}
    )
    os.close(its_end)
    chunks = []
    with os.fdopen(our_end, "rb") as terminal:
        while True:
            try:
                chunk = terminal.read1()
            except OSError:  # Linux reports the end of a terminal as EIO
                break
            if not chunk:
                break
            chunks.append(chunk)
    assert child.wait() == 0
    return b"".join(chunks).decode().replace("\r\n", "\n")


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("columns", ["40", ""])
def test_a_table_in_a_pipe_is_neither_folded_nor_cut(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table(COLUMNS, ROWS, title="Runs")
    title, headings, first, second = capsys.readouterr().out.splitlines()
    assert title == "Runs"
    assert headings.split() == ["uri", "state", "images"]
    assert first.split() == ROWS[0]
    assert second.split() == ["s3://photos/x\\x1b[31m.jpg", "running", "7"], "control characters are spelled out"


def test_a_table_on_a_terminal_is_as_wide_as_the_terminal() -> None:
    lines = without_styles(print_on_terminal(80)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["uri", "state", "images"]
    folded = "".join(line[: lines[1].index("state")].strip() for line in lines[2:])
    assert folded.startswith(URI), "long values are folded, not cut"


def test_rows_become_blocks_on_a_narrow_terminal() -> None:
    _, *lines = without_styles(print_on_terminal(30)).splitlines()
    assert max(map(len, lines)) <= 30
    headings = [line.split()[0] for line in lines if line.startswith(("uri", "state", "images"))]
    assert headings == ["uri", "state", "images"] * 2
    uri_lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("state"))]
    assert "".join(line.removeprefix("uri").strip() for line in uri_lines) == URI, "long values are folded, not cut"


def test_no_color_is_obeyed() -> None:
    help_on = [sys.executable, "-c", "from batchtag.cli import main; main()", "--help"]
    settings = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}
    colour = re.compile(r"\x1b\[(?:[0-9]+;)*3[0-9]")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | settings
    coloured = subprocess.run(help_on, env=environment, capture_output=True, text=True, check=True).stdout
    plain = subprocess.run(help_on, env={**environment, "NO_COLOR": "1"}, capture_output=True, text=True, check=True)
    assert colour.search(coloured)
    assert not colour.search(plain.stdout)
    assert not colour.search(print_on_terminal(80, NO_COLOR="1"))


def test_json_is_valid_for_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no NaN, times, decimals or bytes."""
    row = {
        "nan": float("nan"),
        "list": [1.5, float("inf")],
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "decimal": Decimal("1.5"),
        "bytes": b"\x01\xff",
        "text": "å\n",
    }
    expected = {
        "nan": None,
        "list": [1.5, None],
        "time": "2026-01-02T00:00:00+00:00",
        "decimal": 1.5,
        "bytes": "01ff",
        "text": "å\n",
    }
    print_json(row)
    assert json.loads(capsys.readouterr().out) == expected
    print_jsonl([row, row])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [expected, expected]


def test_csv_has_a_header_and_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(["uri", "size"], [{"uri": "a,b", "size": Decimal("2")}, {"uri": None, "size": 3}])
    assert capsys.readouterr().out == 'uri,size\n"a,b",2.0\n,3\n'
