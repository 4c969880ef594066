"""A virtual environment for Daft that shares our torch, because Daft needs an older pyarrow than ours (below 26).

batchtag's own environment does not change for a peer, and both run with the versions that they were released with.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "0.7.26"
_READY_FILE = "ready"


def find_or_make_python(cache: Path) -> tuple[str, str]:
    """Return the Python that has Daft, and "" or the reason why there is none.

    The first use makes the environment, which needs a package registry.
    """
    home = cache / f"daft-{VERSION}"
    python = home / "bin" / "python"
    if not (home / _READY_FILE).is_file():
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"daft=={VERSION}"],
        )
        for step in steps:
            completed = subprocess.run(step, capture_output=True, text=True)
            if completed.returncode:
                last = completed.stderr.strip().splitlines()[-1:] or ["no reason given"]
                return "", f"daft {VERSION} cannot be installed: {last[0]}"
        ours = sysconfig.get_path("purelib")
        own = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
        # Our packages come after its own folder on the path, so its own pyarrow is imported.
        (own / "borrowed.pth").write_text(ours + "\n")
        (home / _READY_FILE).touch()
    return str(python), ""
