"""What help says is what we wrote: words in square brackets would be taken for a style, and vanish."""

from __future__ import annotations

import pytest
import typer.main

from batchtag.cli import app

COMMANDS = typer.main.get_group(app).commands


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_help_has_words_in_square_brackets(name: str) -> None:
    command = COMMANDS[name]
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert [text for text in texts if "[" in text] == []
