"""Where the first worker writes what happened, and the driver reads it.

In a file of its own that needs neither torch nor Ray: the process of the actor imports it, and would else take 12 s of
a core and 900 MB for passing on a few lines.
"""

from __future__ import annotations

from batchtag.training.plan import News


class Board:
    """An actor that needs no core."""

    def __init__(self) -> None:
        self._news: list[News] = []

    def tell(self, news: News) -> None:
        self._news.append(news)

    def since(self, number: int) -> list[News]:
        """All but the first `number`."""
        return self._news[number:]
