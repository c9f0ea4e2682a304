"""What a run may stand on: a Ray cluster of two nodes, a disk that can be filled."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from tests import servers
from tests.faults import processes
from tests.faults.harness import Run

SIZE = "40m"
"""Of the small disk: several times what a study needs."""


@contextmanager
def two_nodes(run: Run) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Two raylets on this machine with one CPU each; yields the cluster's address and the node that may die."""
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{servers.free_port()}"
    run.environment["RAY_AUTH_MODE"] = "disabled"
    with ExitStack() as stack:
        # Ray's sockets want a short path.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        port = address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        stack.enter_context(_node(run, head))
        assert processes.until(lambda: not servers.nobody_listens(int(port), 0), 60, pause=0.2), "Ray did not start"
        lost = stack.enter_context(_node(run, [f"--address={address}"]))
        assert processes.until(lambda: _nodes(address) == 2, 90, pause=0.5), "the second node did not join"
        yield address, lost


def _nodes(address: str) -> int:
    from ray._raylet import GcsClient

    return len(GcsClient(address=address).get_all_node_info())


@contextmanager
def _node(run: Run, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    # Nodes of one machine must not share the ports of the agent and of the workers.
    agent = f"--dashboard-agent-listen-port={servers.free_port()}"
    ports = [agent, "--min-worker-port=0", "--max-worker-port=0"]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", "--num-cpus=1"]
    with servers.running([*command, *ports, *arguments], run.own_environment()) as process:
        try:
            yield process
        finally:
            for pid in processes.below(process.pid):
                processes.kill(pid)
            process.wait(20)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A file system of its own on a folder; yields what fills it up for the time of a block.

    Mounting one takes root. Where that is refused this fails, and says so: nobody is to believe that it was tested.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"a full disk cannot be tried here, mounting is refused: {done.stderr.strip()}; "
        "run as root, or leave it out with -m 'not mount'"
    )
    try:
        yield lambda: _filled(folder / "filler")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _filled(path: Path) -> Iterator[None]:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):  # down to the last byte
            _fill(file.write, bytes(size))
    try:
        yield
    finally:
        path.unlink()


def _fill(write: Callable[[bytes], int | None], block: bytes) -> None:
    while True:
        try:
            if write(block) != len(block):
                return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
