"""Where runs were sent: a small file a run under the user's state folder, so that `status RUN` needs no address.

No secret is in them. A lost note costs nothing: the cluster is asked instead.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Note:
    """One submission."""

    run_id: str
    address: str
    out: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """`output.storage_options`: how OUT is reached. A job with a secret there was not sent."""


def _folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "batchtag" / "runs"


def keep(note: Note) -> None:
    """Remember it; a folder that cannot be written is no reason to fail."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        (_folder() / f"{note.run_id}.json").write_text(json.dumps(asdict(note)), encoding="utf-8")
    except OSError:
        return


def find(run_id: str) -> Note | None:
    """What was kept of a run, if anything was and is whole."""
    try:
        return Note(**json.loads((_folder() / f"{run_id}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
