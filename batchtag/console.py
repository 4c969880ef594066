"""Text that is safe and readable on a terminal. Imports no terminal library."""

from __future__ import annotations


def escape_unprintable(text: str) -> str:
    """Return `text` with newlines and control characters spelled out.

    An object key may hold newlines and escape sequences; a terminal that obeyed them would show something false.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    """Format a duration with two units at most: `42 s`, `3 min 07 s`, `5 h 12 min`."""
    seconds = int(seconds + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
