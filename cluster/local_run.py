"""`python -m cluster.local_run FOLDER COMMAND…`: run a command once, and leave its exit code in FOLDER.

While it runs, a lock in FOLDER is held, by this process and by the command's, so that it ends with the last
of them. A second start finds the lock held, or the process id of a run that is over, and does nothing.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

LOCK, PID, EXIT_CODE, LOG = "lock", "pid", "exit_code", "log"


def is_held(folder: Path) -> bool:
    """Whether a run holds the lock of this folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at once do not take each other for the run.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def main(folder: Path, command: list[str]) -> int:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    # Waits for those who look; a run never lets go, but then its process id is there.
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if (folder / PID).exists():
                return 0
    if (folder / PID).exists():
        return 0
    _write_whole(folder / PID, str(os.getpid()))
    with (folder / LOG).open("ab") as log:
        code = subprocess.call(command, stdout=log, stderr=log, pass_fds=[descriptor])
    _write_whole(folder / EXIT_CODE, str(code))
    return code


def _write_whole(path: Path, text: str) -> None:
    """Whoever looks, whenever, finds the file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
