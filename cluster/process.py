"""What every process of ours begins with, whatever it does."""

from __future__ import annotations

import gc

from cluster.logs import set_up_logging
from cluster.settings import settings

# Objects made since the last look for garbage before the next: 700 by default, which is a fifth of the time that torch,
# transformers and vLLM take to import, and finds nothing there.
OBJECTS_BETWEEN_COLLECTIONS = 50_000


def set_up_process() -> None:
    """Log lines by our settings, and a garbage collector that suits large imports. Doing it again changes nothing."""
    set_up_logging(settings().log_level)
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
