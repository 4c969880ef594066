"""Text for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """For a terminal: a key may hold newlines and escape sequences, which must not act there."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 07 s`, `5 h 12 min`: two figures at most."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
