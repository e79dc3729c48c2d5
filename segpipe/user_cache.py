"""What this user's machine has measured or compiled and can make again: shared by all runs, safe to delete."""

import re
from pathlib import Path

from platformdirs import user_cache_path


def user_cache(kind: str, name: str) -> Path:
    """Where a thing of this kind is kept."""
    return user_cache_path("segpipe") / kind / re.sub(r"[^\w.-]", "_", name)
