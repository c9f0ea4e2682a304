"""Who drives a study: a lease with a fencing number, held by one process at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsestudy.tracking.ledger import Ledger

LEASE_SECONDS = 60.0
"""A lease that was not renewed for this long may be taken by another driver."""
RELEASED = {"owner_host": None, "owner_pid": None, "lease_expires": None, "stop_asked": None}
"""Columns of a study that nobody drives."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to drive a study, until released, or until it is not renewed for `LEASE_SECONDS`."""

    ledger: Ledger
    study_id: int
    study: str
    fence: int

    def renew(self) -> bool:
        """Hold it for another `LEASE_SECONDS`.

        Returns:
            Whether somebody has asked the driver to stop.

        Raises:
            ConflictError: Somebody else has it now.
        """
        return self.ledger.renew(self)

    def release(self) -> None:
        """Let others drive the study."""
        self.ledger.release(self)


def ownership(now: float) -> dict[str, Any]:
    """Columns of a study that this process drives from ``now`` on, in seconds since 1970."""
    return {
        "owner_host": socket.gethostname(),
        "owner_pid": os.getpid(),
        "owner_boot": _boot(),
        "lease_expires": now + LEASE_SECONDS,
        "lease_uptime": time.monotonic() + LEASE_SECONDS,
    }


def held(row: Mapping[str, Any], now: float) -> bool:
    """Whether somebody holds the lease of a study.

    Args:
        row: The study's columns.
        now: Seconds since 1970 by the clock of the database.
    """
    if row["lease_expires"] is None:
        return False
    same_boot = row["owner_boot"] is not None and row["owner_boot"] == _boot()
    here = row["owner_host"] == socket.gethostname() and (same_boot or row["owner_boot"] is None)
    if here and not _alive(row["owner_pid"]):
        return False  # on this machine the lease of a dead process need not be waited out
    # The monotonic clock counts from the machine's start, the same for all its processes, and nobody sets it.
    return bool(row["lease_uptime"] > time.monotonic() if same_boot else row["lease_expires"] > now)


def _boot() -> str | None:
    """What tells this start of this machine from all others; None where the system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
