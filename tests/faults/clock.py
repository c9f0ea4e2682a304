"""A clock that jumps: `time.time` of a process, replaced. Not the clock of the machine, which would take root.

Whoever calls `time.time` by that name is deceived: sparsestudy in the driver and in the workers, Ray and MLflow in
Python. Databases, file systems and compiled code go on reading the true clock, as do monotonic clocks, which no jump
of a real clock moves either.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

FILE = "SPARSESTUDY_FAULTS_CLOCK"
"""Variable with the path of a file that holds the seconds by which the clock is wrong; none: it is right."""
_true = time.time


def follow() -> None:
    """From now on, `time.time` of this process is wrong by what the file says, if there is one."""
    if FILE not in os.environ:
        return
    path = Path(os.environ[FILE])

    def wrong() -> float:
        text = path.read_text() if path.exists() else ""
        return _true() + float(text or 0)

    time.time = wrong


if __name__ == "__main__":  # the command line of sparsestudy, by that clock
    follow()
    from sparsestudy.cli import main

    sys.exit(main(sys.argv[1:]))
