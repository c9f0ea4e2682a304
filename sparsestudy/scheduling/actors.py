"""Processes on several machines that train one trial after another together: actors in the places of a trial.

Tune reserves all places of a trial at once, or none, and gives them back when the trial's worker ends, and with them
whatever runs there: two half-started trials cannot wait for each other, and nothing is left behind. That is why the
ranks are plain actors, and not those of Ray Train, which reserves places of its own from within a trial.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.tune import PlacementGroupFactory
from ray.util import get_node_ip_address
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sparsestudy.scheduling.rank import Report, Seat, failed, join
from sparsestudy.scheduling.ranks import Ranks, death
from sparsestudy.study import ResourcesSpec


def places(resources: ResourcesSpec) -> dict[str, float] | PlacementGroupFactory:
    """What Tune reserves for a trial: one place, or one for each of its workers, and none for the one that waits.

    Example:
        >>> places(ResourcesSpec(cpus=2, workers=3))
        {'CPU': 6, 'GPU': 0}
        >>> places(ResourcesSpec(cpus=2, workers=2, placement="cluster")).bundles
        [{'CPU': 2.0}, {'CPU': 2.0}]
    """
    if not spread(resources):
        return {"CPU": resources.cpus * resources.workers, "GPU": resources.gpus}
    one = {"CPU": resources.cpus, **({"GPU": 1} if resources.gpus else {})}
    return PlacementGroupFactory([{}, *[one] * resources.workers], strategy="PACK")


def spread(resources: ResourcesSpec) -> bool:
    """Whether the processes of a trial may be on several machines."""
    return resources.workers > 1 and resources.placement == "cluster"


class ActorRanks(Ranks):
    """Actors in the placement group of the actor that makes them; each sees one GPU, if any. They end when it does."""

    _actors: tuple[Any, ...] = ()

    def _spawn(self) -> None:
        group = get_current_placement_group()
        assert group is not None, "not in a trial of Tune"
        actors = []
        for rank, needs in enumerate(group.bundle_specs):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            options = {"num_cpus": needs.get("CPU", 0), "num_gpus": needs.get("GPU", 0), "scheduling_strategy": place}
            actors.append(_Rank.options(**options).remote())  # type: ignore[attr-defined]
        self._actors = tuple(actors)
        try:
            meeting = ray.get(actors[0].meeting.remote())
        except RayActorError:
            self._fail(death(0, self.size, "has ended"))
        for rank, actor in enumerate(actors):
            actor.join.remote(rank, self.size, self.device, meeting, self.patience + 60)

    def _send(self, request: str, arguments: tuple[Any, ...]) -> None:
        self._waiting = {actor.report.remote(request, arguments): rank for rank, actor in enumerate(self._actors)}

    def _receive(self, seconds: float) -> dict[int, Report]:
        ready, _ = ray.wait(list(self._waiting), num_returns=1, timeout=seconds)
        found = {}
        for answer in ready:
            rank = self._waiting.pop(answer)
            try:
                found[rank] = ray.get(answer)
            except RayActorError:
                found[rank] = death(rank, self.size, "has ended")
        return found

    def _beats(self) -> list[int]:
        counts = ray.wait([actor.beats.remote() for actor in self._actors], num_returns=self.size, timeout=5.0)[0]
        with contextlib.suppress(RayActorError):  # its answer to what was asked will tell
            return ray.get(counts) if len(counts) == self.size else []
        return []

    def _kill(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = ()


@ray.remote(concurrency_groups={"watch": 1}, max_restarts=0)
class _Rank:
    """One rank: does what it is asked, and meanwhile says how far it has come."""

    def __init__(self) -> None:
        self._count = 0
        self._seat: Seat | None = None
        self._refusal: Report | None = None

    def meeting(self) -> str:
        """Where the ranks can meet: a port of this machine that is free now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{get_node_ip_address()}:{probe.getsockname()[1]}"

    def join(self, rank: int, size: int, device: str, meeting: str, patience: float) -> None:
        """Meet the other ranks; that it failed is what the next request is answered with."""
        try:
            self._seat = Seat(join(rank, size, device, meeting, self._beat, patience))
        except Exception as error:
            self._refusal = failed(error)

    def report(self, request: str, arguments: tuple[Any, ...]) -> Report:
        """See `sparsestudy.scheduling.rank.Seat.report`."""
        if self._seat is None:
            assert self._refusal is not None
            return self._refusal
        return self._seat.report(request, arguments)

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def beats(self) -> int:
        """How often it has gone on."""
        return self._count

    def _beat(self) -> None:
        self._count += 1
