"""Daft in a virtual environment of its own, which borrows our torch: it asks for an older pyarrow than ours (below 26).

So nothing of batchtag's own environment changes for a peer's sake, and both run what they were released with.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "0.7.26"
_READY = "ready"


def interpreter(cache: Path) -> tuple[str, str]:
    """The Python that has Daft, and "" or the reason why there is none. Made on first use; needs a package registry."""
    home = cache / f"daft-{VERSION}"
    python = home / "bin" / "python"
    if not (home / _READY).is_file():
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"daft=={VERSION}"],
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
                return "", f"daft {VERSION} cannot be installed: {last[0]}"
        borrowed = sysconfig.get_path("purelib")
        own = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
        # Behind its own folder on the path, so its own pyarrow comes first.
        (own / "borrowed.pth").write_text(borrowed + "\n")
        (home / _READY).touch()
    return str(python), ""
