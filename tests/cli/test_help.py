"""`--help`, `--version` and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from batchtag import __version__
from batchtag.cli import app
from batchtag.cli.options import CLUSTER, READ, TAG, TRAIN

COMMANDS = typer.main.get_group(app).commands
SCRIPT = str(Path(sys.executable).with_name("batchtag"))


def run_script(*words: str, **environment: str) -> str:
    settings = {**os.environ, "COLUMNS": "80", **environment}
    return subprocess.run([SCRIPT, *words], env=settings, capture_output=True, text=True, check=True).stdout


def test_commands_are_grouped_by_what_a_user_wants() -> None:
    lines = run_script("--help").splitlines()
    titles = [line.strip("╭╮─ ") for line in lines if line.startswith("╭")]
    assert titles == ["Options", TAG, READ, TRAIN, CLUSTER]
    assert "--install-completion" in "\n".join(lines)


def test_the_help_of_run_fits_two_screens_of_24_lines_and_80_columns() -> None:
    lines = run_script("run", "--help").splitlines()
    titles = [line.strip("╭╮─ ") for line in lines if line.startswith("╭")]
    assert titles == ["Arguments", "Options", "Source", "Models", "Run", "Output"]
    assert len(lines) <= 48
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines), "nothing is cut off"


def test_help_on_a_narrow_terminal_cuts_off_no_flag() -> None:
    """Typer's panels would; so plain text is printed there."""
    lines = run_script("run", "--help", COLUMNS="40").splitlines()
    assert max(map(len, lines)) <= 40
    assert any(line.startswith("  --max-failure-rate SHARE") for line in lines)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_no_words_in_square_brackets(name: str) -> None:
    """Rich would take them for a style, and they would vanish."""
    command = COMMANDS[name]
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert [text for text in texts if "[" in text] == []


def test_version_prints_the_version() -> None:
    assert run_script("--version") == f"{__version__}\n"


def complete(words: str, *, index: int) -> list[str]:
    """Return the suggestions of bash completion for the word at `index`."""
    return run_script(_BATCHTAG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(index)).split()


def test_bash_completes_commands_flags_and_choices() -> None:
    assert complete("batchtag st", index=1) == ["status"]
    assert "--max-failure-rate" in complete("batchtag run --m", index=2)
    assert complete("batchtag run --device c", index=3) == ["cpu", "cuda"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_is_printed(shell: str) -> None:
    assert f"complete_{shell}" in run_script(_BATCHTAG_COMPLETE=f"source_{shell}")
