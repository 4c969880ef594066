"""Where runs were sent: one small file per submission in the user's state folder, so `status RUN` needs no address.

The files hold no secret. A lost file costs nothing: the cluster is asked instead.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SubmissionNote:
    """One submission: which run went to which cluster."""

    run_id: str
    address: str
    out: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """The job's `output.storage_options`, without which OUT may be out of reach. Jobs with secrets there are
    refused."""


def store_note(note: SubmissionNote) -> None:
    """Write the note of a submission. A folder that cannot be written is not an error."""
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        (_folder() / f"{note.run_id}.json").write_text(json.dumps(asdict(note)), encoding="utf-8")
    except OSError:
        return


def find_note(run_id: str) -> SubmissionNote | None:
    """Return the note of a submission; None if it is absent or damaged."""
    try:
        return SubmissionNote(**json.loads((_folder() / f"{run_id}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "batchtag" / "runs"
