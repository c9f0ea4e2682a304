"""The faults: each is a function that harms a run at moments it draws, and brings it to its end as a user would.

A user's answer to everything is to run the same command again. How many epochs of one trial may be trained twice
follows from the fault: after the death of whoever trained, those since its last checkpoint and the one under way.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests import servers
from tests.faults import processes, surroundings
from tests.faults.harness import DATABASE, EPOCHS, EVERY, LIMIT, NAME, STEPS, TRIALS, Moment, Run

Injury = Callable[[Run, Random], None]
DEATH = EVERY + 1
"""Epochs that the death of a worker may cost each trial it befalls: the interval, and the one under way."""


def driver(run: Run, random: Random) -> None:
    """`kill -9` of the driver, once or twice."""
    run.drive()
    for _ in range(random.choice((1, 1, 2))):
        if run.wait_for(Moment.draw(random, len(run.steps()) // STEPS)):
            run.strike(run.launches[-1].pid, with_workers=True)
            run.allowed += DEATH
            run.launches[-1].wait(LIMIT)
            run.drive()
    run.finish()


def worker(run: Run, random: Random) -> None:
    """`kill -9` of a worker that trains, once or twice; the driver tries its trial again."""
    run.drive()
    for _ in range(random.choice((1, 2))):
        if run.wait_for(Moment.amid(random, len(run.steps()) // STEPS)) and (alive := run.working()):
            run.strike(random.choice(alive))
            run.allowed += DEATH
    run.finish(launches=1)


def node(run: Run, random: Random) -> None:
    """`kill -9` of every process of one of two Ray nodes; its trials go on on the other one."""
    head, lost = run.around.enter_context(surroundings.two_nodes(run))
    run.environment["RAY_ADDRESS"] = head
    run.drive()
    run.wait_for(Moment.amid(random))
    trains = lambda: bool({*processes.below(lost.pid)} & {*run.working()})  # noqa: E731
    assert processes.until(trains, LIMIT), "no trial was trained on the node"
    run.strike(*processes.below(lost.pid))
    run.allowed += DEATH
    run.finish(launches=1)


def tracker(run: Run, random: Random) -> None:
    """`kill -9` of the MLflow server, back some seconds later on the same port and files, or when the study is over."""
    port = servers.free_port()
    run.around.enter_context(servers.mlflow_server(run.folder, port))
    run.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    run.drive()
    run.wait_for(Moment.draw(random))
    run.strike(*(pid for pid, command in processes.descendants().items() if f"--port {port}" in command))
    away = random.choice((random.uniform(0.5, 8), LIMIT))
    processes.until(lambda: run.launches[-1].poll() is not None, away)
    run.around.enter_context(servers.mlflow_server(run.folder, port))
    run.finish()


def database(run: Run, random: Random) -> None:
    """`kill -9` of all processes of the PostgreSQL server, back within seconds; the driver waits for it."""
    server = run.around.enter_context(servers.postgres())
    run.environment[DATABASE] = server.database()
    run.drive()
    run.wait_for(Moment.draw(random))
    postmaster = int(Path(server.server.pgdata, "postmaster.pid").read_text().split()[0])
    run.strike(*processes.below(postmaster))
    processes.until(lambda: run.launches[-1].poll() is not None, random.uniform(0.5, 8))
    assert processes.until(lambda: processes.buried(postmaster), 20)  # else it would pass for one that runs
    server.start()
    run.finish()
    assert not any("Traceback" in run.said(launch) for launch in range(len(run.launches)))


def disk(run: Run, random: Random) -> None:
    """The file system of the studies is full, until the driver has ended or some seconds have passed.

    No checkpoint can be kept then, so what is trained in the meantime may all be lost.
    """
    fill = run.around.enter_context(surroundings.small_disk(run.home))
    run.drive()
    run.wait_for(Moment.amid(random))
    with fill():
        run.strike()
        processes.until(lambda: run.launches[-1].poll() is not None, random.uniform(2, 20))
    run.allowed += EPOCHS
    code = run.launches[-1].wait(LIMIT)
    assert code in (0, 1), f"{code}:\n{run.said()}"
    assert "Traceback" not in run.said(), run.said()
    run.finish()


def terminated(run: Run, random: Random) -> None:
    """SIGTERM to the driver, as a batch system sends it; nothing is repeated but the epoch under way."""
    run.drive()
    if run.wait_for(Moment.draw(random)):
        run.strike(run.launches[-1].pid, number=signal.SIGTERM, with_workers=True)
        run.allowed += 1
        _check_interrupted(run, signal.SIGTERM)
    run.finish()


def interrupted_twice(run: Run, random: Random) -> None:
    """Ctrl-C, and once more up to two seconds later."""
    run.drive()
    if run.wait_for(Moment.draw(random)):
        run.strike(run.launches[-1].pid, number=signal.SIGINT, with_workers=True)
        run.allowed += DEATH
        processes.until(lambda: run.launches[-1].poll() is not None, random.uniform(0, 2))
        processes.kill(run.launches[-1].pid, signal.SIGINT)
        _check_interrupted(run, signal.SIGINT)
    run.finish()


def _check_interrupted(run: Run, number: signal.Signals) -> None:
    code = run.launches[-1].wait(LIMIT)
    begun = run.study.exists()  # before that, a signal ends Python as it ends any other process
    concluding = len(run.steps()) >= TRIALS * EPOCHS * STEPS  # a signal may come too late to change anything
    assert code == 130 or (not begun and code == -number) or (concluding and code == 0), f"{code}:\n{run.said()}"


def truncated(run: Run, random: Random) -> None:
    """`kill -9` of the driver, and its latest checkpoint is cut short."""
    _damaged(run, random, lambda content: content[: random.randrange(len(content))])


def corrupted(run: Run, random: Random) -> None:
    """`kill -9` of the driver, and one byte of its latest checkpoint is another one."""

    def flipped(content: bytes) -> bytes:
        at = random.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]

    _damaged(run, random, flipped)


def _damaged(run: Run, random: Random, damage: Callable[[bytes], bytes]) -> None:
    run.drive()
    run.wait_for(Moment.amid(random, 2 * EVERY))
    checkpoints = lambda: sorted((run.study / "checkpoints" / NAME).glob("*/*.checkpoint"))  # noqa: E731
    assert processes.until(lambda: bool(checkpoints()), LIMIT, pause=0.002), "no checkpoint was ever kept"
    run.strike(run.launches[-1].pid, with_workers=True)
    run.launches[-1].wait(LIMIT)
    latest = {path.parent: path for path in checkpoints()}
    for path in latest.values():
        path.write_bytes(damage(path.read_bytes()))
    run.allowed += EVERY + DEATH if latest else DEATH  # the trial goes on from the checkpoint before
    run.finish()


def clock(run: Run, random: Random) -> None:
    """The clock of driver and workers jumps by up to a day, forwards or back; then the driver is killed."""
    file = run.wrong_clock()
    run.drive()
    run.wait_for(Moment.amid(random))
    file.write_text(f"{random.choice((-1, 1)) * random.uniform(60, 86400):.3f}")
    if run.wait_for(Moment.draw(random, len(run.steps()) // STEPS)):
        run.strike(run.launches[-1].pid, with_workers=True)
        run.allowed += DEATH
        run.launches[-1].wait(LIMIT)
    run.finish()


def two_drivers(run: Run, random: Random) -> None:
    """Two drivers start at once: one runs the study, the other says so and trains nothing."""
    both = [run.drive()]
    time.sleep(random.choice((0, random.uniform(0, 0.3))))
    both.append(run.drive())
    for launch in both:
        launch.wait(LIMIT)
    codes = sorted(launch.returncode for launch in both)
    said = [run.said(launch) for launch in range(2)]
    assert codes == [0, 2], f"{codes}\n" + "\n".join(said)
    refused = said[[launch.returncode for launch in both].index(2)]
    assert "is already being run by process" in refused or "is already recorded" in refused, refused
    run.finish()


ALL: dict[str, Injury] = {
    "driver killed": driver,
    "worker killed": worker,
    "MLflow server killed": tracker,
    "PostgreSQL server killed": database,
    "node killed": node,
    "checkpoint cut short": truncated,
    "SIGTERM": terminated,
    "two drivers at once": two_drivers,
    "clock jumps": clock,
    "byte of a checkpoint flipped": corrupted,
    "Ctrl-C twice": interrupted_twice,
    "disk full": disk,
}
"""By the name they have in the table."""
