"""A place for measured processes: fresh folders, a quiet environment, and nothing left when it is closed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

LIMIT_SECONDS = 3600.0
"""A side that takes longer hangs."""
_BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then listens on the loopback address, on Linux too
}
FOREIGN = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONDONTWRITEBYTECODE")
"""Settings of the caller that would send a side elsewhere, or make every process compile all that it imports."""


class Sandbox:
    """Runs processes in a temporary folder. Use it as a context manager.

    On Linux orphans of what it runs become children of this process, so that all of them can be found and ended.
    """

    def __init__(self) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0)
        self.root = Path(tempfile.mkdtemp(prefix="bench-"))
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not stop the sweeping.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._end()
        shutil.rmtree(self.root, ignore_errors=True)

    def folder(self, name: str) -> Path:
        """A fresh folder."""
        folder = self.root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def run(self, folder: Path, *commands: Sequence[str | Path]) -> float:
        """Run commands side by side in a folder, and end whatever they leave behind.

        Returns:
            Seconds from the start of the first to the end of the last.

        Raises:
            SystemExit: One of them failed; the message has the last lines it wrote.
        """
        log = folder / "log.txt"
        with log.open("wb") as output:
            started = time.perf_counter()
            for command in commands:
                self._running.append(
                    subprocess.Popen(
                        [str(part) for part in command],
                        cwd=folder,
                        env=self._environment(folder),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            codes = [process.wait(LIMIT_SECONDS) for process in self._running]
            seconds = time.perf_counter() - started
        self._end()
        if any(codes):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise SystemExit("\n".join([f"{folder.name} ended with exit codes {codes}:", *lines[-40:]]))
        return seconds

    def _environment(self, folder: Path) -> dict[str, str]:
        (folder / "t").mkdir(exist_ok=True)  # a short name: Ray's sockets lie below it
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        places = {
            "TMPDIR": str(folder / "t"),
            "RAY_TMPDIR": str(folder / "t"),
            "SPARSESTUDY_HOME": str(folder / "results"),
            "PYTHONPYCACHEPREFIX": str(self.root / "bytecode"),
        }
        return {**kept, **QUIET, **places}

    def _end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()
        while left := _descendants():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue


def _descendants() -> set[int]:
    """Every process that this one started, directly or not, orphans included; none where there is no /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
    found, fresh = set[int](), {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        found |= fresh
    return found
