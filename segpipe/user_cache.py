"""What this user's machine has measured or compiled and can make again: shared by all runs, safe to delete."""

import os
import re
from pathlib import Path


def user_cache(kind: str, name: str) -> Path:
    """Where a thing of this kind is kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "segpipe" / kind / re.sub(r"[^\w.-]", "_", name)
