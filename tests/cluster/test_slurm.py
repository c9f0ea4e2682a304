"""study.sbatch with Slurm, Ray and the study played by small scripts: when it stops, when it is queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/slurm/study.sbatch"
PLAYERS = {
    # The study ends when a file tells it to; on TERM, too, with the exit code of an interrupted one, unless it is slow.
    "sparsestudy": """
        echo "study $* at $RAY_ADDRESS data $SPARSESTUDY_DATA" >>"$PLAY/log"
        stop() {
            echo "study got TERM" >>"$PLAY/log"
            [ -e "$PLAY/slow" ] || exit "$(cat "$PLAY/stops-with" 2>/dev/null || echo 130)"
        }
        trap stop TERM
        while [ ! -e "$PLAY/study-ends" ]; do sleep 0.05; done
        exit "$(cat "$PLAY/study-ends")"
    """,
    "ray": """
        echo "ray $*" >>"$PLAY/log"
        [ ! -e "$PLAY/no-head" ] || exit 1
        [ "$1" = start ] || exit 0
        echo "token ${#RAY_AUTH_TOKEN} $RAY_AUTH_MODE" >>"$PLAY/log"
        exec sleep 60
    """,
    "srun": """
        echo "srun $*" >>"$PLAY/log"
        trap 'exit 0' TERM
        while [ ! -e "$PLAY/workers-die" ]; do sleep 0.05; done
        exit 1
    """,
    "scontrol": """
        echo "scontrol $*" >>"$PLAY/log"
        [ "$1" != show ] || printf 'one\\ntwo\\nthree\\n'
    """,
    "squeue": 'cat "$PLAY/state"',
    "getent": "echo '127.0.1.1 STREAM one'; echo '10.0.0.1 STREAM one'",
    "python": "exit 0",  # waits until all nodes are there
}


class Job:
    """One start of the script."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self.set("state", "RUNNING")
        for name, body in PLAYERS.items():
            player = folder / name
            player.write_text(f"#!/bin/sh\n{body}")
            player.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PLAY": str(folder),
            "SLURM_JOB_ID": "58",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_ON_NODE": "8",
        }
        environment.pop("SPARSESTUDY_DATA", None)
        with (folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                ["bash", str(SCRIPT), *arguments], cwd=folder, env=environment, stdout=out, stderr=out
            )

    def set(self, name: str, content: str = "") -> None:
        """Tell the players something."""
        draft = self._folder / f"{name}.part"
        draft.write_text(content)
        draft.replace(self._folder / name)

    def log(self) -> str:
        """What the players were asked."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    def until(self, text: str) -> None:
        """Wait for it in the log."""
        deadline = time.monotonic() + 20
        while text not in self.log():
            assert time.monotonic() < deadline, f"no {text!r} in: {self.log()}\n{self.out()}"
            time.sleep(0.02)

    def out(self) -> str:
        """What the script said."""
        return (self._folder / "out").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it to the script alone, as Slurm's B: does."""
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        return self._process.wait(30)

    def kill(self) -> None:
        """If a test left it."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start the script; whatever happens, it ends."""
    jobs: list[Job] = []

    def begin(*arguments: str) -> Job:
        jobs.append(Job(tmp_path, *arguments))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.set("study-ends", "0")
        job.set("workers-die")
        job.kill()


def test_a_study_that_ends_ends_the_job(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start("studies/my study.yaml", "-s", "training.epochs=5")
    # Job 58 has the ports 2 × 400 above 10000, as 58 = 56 + 2; the first address that is not the host's own loopback.
    job.until(f"study run studies/my study.yaml -s training.epochs=5 at 10.0.0.1:10800 data {tmp_path}/data")
    job.set("study-ends", "0")
    assert job.end() == 0
    assert "requeue" not in job.log()


def test_ray_is_on_every_node_at_ports_of_the_job_with_a_token(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.until("study run")
    # The head starts in the background, so that its line may come second.
    lines = [line for line in job.log().splitlines() if "ray start" in line]
    (head, workers) = sorted(lines, key=lambda line: "--head" not in line)
    assert "--head" in head
    assert "--node-ip-address=10.0.0.1" in head
    assert "--port=10800" in head
    assert "srun --quiet --nodes=2 --ntasks=2 --exclude=one" in workers
    assert "--address=10.0.0.1:10800" in workers
    for line in (head, workers):
        assert "--num-cpus=8" in line
        ports = [int(part.split("=")[1]) for part in line.split() if part.startswith("--") and "port=" in part]
        assert all(10800 <= port < 11200 for port in ports)
        assert len(ports) == len(set(ports))
    assert "token 64 token" in job.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_the_study_once_and_queues_the_job(start: Callable[..., Job], number: signal.Signals) -> None:
    job = start("a.yaml")
    job.until("study run")
    job.signal(number)
    job.until("study got TERM")
    assert job.end() == 0
    assert job.log().count("study got TERM") == 1
    assert "scontrol requeue 58" in job.log()


def test_a_second_signal_does_not_reach_a_study_that_is_stopping(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.set("slow")
    job.until("study run")
    job.signal(signal.SIGTERM)
    job.until("study got TERM")
    job.signal(signal.SIGTERM)
    time.sleep(0.5)
    job.set("study-ends", "130")
    assert job.end() == 0
    assert job.log().count("study got TERM") == 1


def test_a_cancelled_job_stays_cancelled(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.until("study run")
    job.set("state", "COMPLETING")
    job.signal(signal.SIGTERM)
    assert job.end() == 130
    assert "requeue" not in job.log()


def test_the_loss_of_the_workers_stops_the_study(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.until("study run")
    job.set("workers-die")
    job.until("study got TERM")
    assert job.end() == 0
    assert "scontrol requeue 58" in job.log()


def test_a_study_that_fails_fails_the_job(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.until("study run")
    job.set("study-ends", "1")
    assert job.end() == 1
    assert "requeue" not in job.log()


def test_a_study_that_is_done_when_the_signal_comes_is_done(start: Callable[..., Job]) -> None:
    job = start("a.yaml")
    job.set("stops-with", "0")
    job.until("study run")
    job.signal(signal.SIGTERM)
    assert job.end() == 0
    assert "study got TERM" in job.log()
    assert "requeue" not in job.log()


def test_a_head_that_does_not_start_is_said(start: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "no-head").touch()
    job = start("a.yaml")
    assert job.end() == 1
    assert "Ray's head did not start" in job.out()
    assert "study run" not in job.log()


def test_without_a_file_it_says_how(start: Callable[..., Job]) -> None:
    job = start()
    assert job.end() == 2
    assert "usage: sbatch study.sbatch FILE" in job.out()
