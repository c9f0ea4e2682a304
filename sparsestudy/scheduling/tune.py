"""The executor: Ray Tune runs trials on reused workers until the search has none left.

A Tune experiment is a disposable attempt at finishing what the ledger lists: it lives in a temporary folder and is
never restored. Workers train; this process alone records. Epochs travel in parcels of about a second, because every
report costs a round trip through the driver during which the worker waits.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sparsestudy import snapshot
from sparsestudy.errors import ConflictError, SparseStudyError, TrackingError
from sparsestudy.files import replace
from sparsestudy.scheduling import checkpoints
from sparsestudy.scheduling.actors import places, spread
from sparsestudy.scheduling.progress import Progress
from sparsestudy.scheduling.retries import FailureClass
from sparsestudy.scheduling.search import StudySearch
from sparsestudy.scheduling.worker import ENDED, EPOCHS, METRIC, PARCEL, SNAPSHOT, WEIGHTS, TrialWorker
from sparsestudy.study import StudySpec
from sparsestudy.tracking.leases import Lease
from sparsestudy.trial import Failure, Measurement, TrialConfig, TrialState, trial_label

logger = logging.getLogger(__name__)
RENEW_SECONDS = 3.0
"""Between two renewals of the lease, at which a driver also learns that it is to stop."""


class _Bound:
    """Base of what is bound to this process. Tune pickles its parts for a restore that we never ask for."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return str, (f"{type(self).__name__} of a process that is gone",)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class LedgerSearcher(_Bound, Searcher):
    """Hands the search's suggestions to Tune; how trials end is `Recorder`'s business."""

    def __init__(self, search: StudySearch, slots: int, recorder: Recorder, kept: str) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._search, self._slots, self._recorder, self._kept = search, slots, recorder, kept

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, None while all slots are taken or trials wait, FINISHED when there are no more."""
        if self._search.live >= self._slots:
            return None
        asked: list[tuple[TrialConfig, int, int, int]] = []
        if not self._recorder.stopping.is_set():
            self._recorder.guarded(lambda: asked.extend(self._ask()))
        if not asked:
            over = self._recorder.stopping.is_set() or self._search.exhausted
            return str(Searcher.FINISHED) if over and not self._search.live else None
        ((config, attempt, recorded, parts),) = asked
        self._recorder.took(trial_id, config)
        spec = self._search.spec
        return {
            "trial": config.model_dump_json(),
            "checkpoints": checkpoints.task(self._kept, config.number, attempt, spec.checkpoints),
            "recorded": recorded,
            "metric": spec.search.objectives[0].per_epoch,
            "rungs": rungs(spec),
            "snapshot": spec.measures.snapshots != "none",
            "spread": spread(spec.resources),
            "parts": parts,
        }

    def _ask(self) -> list[tuple[TrialConfig, int, int, int]]:
        """The next configuration, its attempt, the epochs recorded of it, and the parts of its batches; or nothing."""
        answer = self._search.ask()
        if not answer:
            return []
        (config, attempt), search = answer, self._search
        return [(config, attempt, search.epochs(config.number), search.parts(config.number) if attempt > 1 else 1)]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing; see `Recorder`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Recorder(_Bound, Callback):
    """Writes what Tune reports into the ledger, snapshots into the study's folder, and keeps the progress.

    Args:
        search: The trials.
        lease: The right to record.
        progress: Kept up to date.
        folder: Of the study.
        kept: Path or URL below which checkpoints are kept.

    Attributes:
        stopping: Set when the study is being interrupted: trials that end now have not ended.
        error: Why it had to be interrupted: the ledger refused a write, or belongs to somebody else now.
    """

    def __init__(self, search: StudySearch, lease: Lease, progress: Progress, folder: Path, kept: str) -> None:
        self._search, self._lease, self._progress, self._folder = search, lease, progress, folder
        self._kept = kept
        self._numbers: dict[str, int] = {}
        self._renewed = time.monotonic()
        self.stopping = threading.Event()
        self.error: SparseStudyError | None = None

    def guarded(self, action: Callable[[], Any]) -> None:
        """Do it, or stop the study in good order: an error raised into Tune would end in Tune's own errors."""
        try:
            action()
        except SparseStudyError as error:
            self.error = self.error or error
            self.stopping.set()

    def took(self, tune_id: str, config: TrialConfig) -> None:
        """A trial was handed to Tune."""
        self._numbers[tune_id] = config.number
        self._progress.on_start(config.number, trial_label(config))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Keep the lease, hear whether somebody asks the study to stop, and think ahead while all workers train."""
        if self._search.live >= self._progress.slots and not self.stopping.is_set():
            # One is enough, unless two trials end at once; the fewer, the more each is based on.
            self.guarded(lambda: self._search.prepare(1))
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self.guarded(self._renew)
            self._renewed = time.monotonic()

    def _renew(self) -> None:
        if self._lease.renew() and not self.stopping.is_set():
            self.stopping.set()
            self._progress.phase = "stopping, as `sparsestudy stop` asked"

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a parcel."""
        parcel = [Measurement.from_dict(data) for data in json.loads(result.pop(PARCEL, "[]"))]
        number = self._numbers[trial.trial_id]
        if parcel:
            self.guarded(lambda: self._search.record(number, parcel))
            self._progress.on_epochs(number, parcel[-1].epoch + 1, len(parcel))
        if content := result.pop(SNAPSHOT, b""):
            self._keep(number, content)
        if content := result.pop(WEIGHTS, b""):
            self.guarded(partial(self._keep_weights, number, content))

    def _keep(self, number: int, content: bytes) -> None:
        # Before the trial's end is recorded, so that whoever learns of the end finds the file.
        try:
            snapshot.write(self._folder, number, content)
        except OSError as error:
            logger.warning("the snapshot of trial %d cannot be written: %s", number, error)

    def _keep_weights(self, number: int, content: bytes) -> None:
        path = weights_path(self._folder, self._lease.study, number)
        try:
            replace(path, content)
        except OSError as error:
            raise TrackingError(f"the weights cannot be written to {path}: {error.strerror}") from error

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record an end: complete, failed with an error of its own, or pruned by the scheduler."""
        ended = json.loads(trial.last_result.get(ENDED) or "{}")
        if "kind" in ended:
            self._failed(trial, FailureClass(ended.pop("class")), Failure(**ended))
        elif ended:
            if "no_snapshot" in ended:
                number = self._numbers[trial.trial_id]
                logger.warning("trial %d is complete, but has no snapshot: %s", number, ended["no_snapshot"])
            self._finish(trial, TrialState.COMPLETE)
        elif not self.stopping.is_set():
            self._finish(trial, TrialState.PRUNED)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the death of a worker."""
        path = Path(trial.error_file) if trial.error_file else None
        text = path.read_text(errors="replace") if path and path.exists() else "no traceback is available"
        message = "the worker process died; out of memory, killed, or crashed in native code"
        failure = Failure(kind="WorkerDied", message=message, traceback=text)
        if not self.stopping.is_set():  # else it may have died because it was told to, and waits for the next launch
            self._failed(trial, FailureClass.INFRASTRUCTURE, failure)

    def _failed(self, trial: Any, kind: FailureClass, failure: Failure) -> None:
        """Have a trial tried again, or record that it failed."""
        number, again = self._numbers[trial.trial_id], list[bool]()
        reason = f"{failure.kind}: {failure.message}"
        self.guarded(lambda: again.append(self._search.retry(number, kind, reason)))
        if again == [True]:
            logger.warning("trial %d will be tried again: %s", number, reason)
            self._progress.on_retry(number)
        elif again:
            self._finish(trial, TrialState.FAIL, failure)

    def _finish(self, trial: Any, state: TrialState, failure: Failure | None = None) -> None:
        number = self._numbers.pop(trial.trial_id)
        self.guarded(lambda: self._progress.on_finish(self._search.finish(number, state, failure)))
        if self.error is None:
            self._forget(number)

    def _forget(self, number: int) -> None:
        try:
            checkpoints.Shelf(url=f"{self._kept}/{number}", attempt=0).clear()
        except checkpoints.TROUBLE as error:
            logger.warning("the checkpoints of trial %d cannot be deleted: %s", number, error)


def weights_path(folder: Path, study: str, number: int) -> Path:
    """Where the weights of a trial that keeps them are; several studies may share a folder."""
    return folder / "weights" / study / f"{number}.safetensors"


class _StopWhenAsked(_Bound, Stopper):
    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stopping.is_set()


def rungs(spec: StudySpec) -> list[int]:
    """Epochs at which successive halving decides, in increasing order.

    Example:
        >>> spec = StudySpec.model_validate_json(
        ...     '{"name": "x", "regularizers": [{"name": "none"}], "training": {"epochs": 40},'
        ...     ' "stopping": {"rule": "asha", "grace_epochs": 4, "reduction_factor": 3}}'
        ... )
        >>> rungs(spec)
        [4, 12, 36]
    """
    if spec.stopping.rule == "none":
        return []
    found, rung = [], spec.stopping.grace_epochs
    while rung < spec.training.epochs:
        found.append(rung)
        rung *= spec.stopping.reduction_factor
    return found


def _scheduler(spec: StudySpec) -> TrialScheduler:
    if spec.stopping.rule == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr=EPOCHS,
        metric=METRIC,
        mode="max" if spec.search.objectives[0].direction == "maximize" else "min",
        max_t=spec.training.epochs,
        grace_period=spec.stopping.grace_epochs,
        reduction_factor=spec.stopping.reduction_factor,
    )


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A Ray cluster for the time of the block: the one at ``address``, or one of our own on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune's own files: the ledger replaces them.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "100000000"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    # The progress is ours to show, and failures are in the ledger with their tracebacks.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _patient_reuse() -> Iterator[None]:
    """Keep Tune from giving a freed worker to a trial whose own worker is still starting.

    Tune would throw the starting worker away. A worker takes seconds to import what it needs, so a study of shorter
    trials would go on throwing away every worker but one. The freed worker goes to the next trial instead.

    A worker that has been asked for is starting once it has its place on the cluster. One without a place may wait for
    that of the freed worker, for ever if the cluster has lost a node.
    """
    original = TuneController._maybe_reuse_cached_actor

    def reuse(self: Any, trial: Any) -> bool:
        own = self._trial_to_actor.get(trial)
        placed = own is not None and self._actor_manager.is_actor_started(own)
        starting = placed and trial not in self._resetting_trials
        return not starting and bool(original(self, trial))

    TuneController._maybe_reuse_cached_actor = reuse
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = original


def slots(spec: StudySpec) -> int:
    """How many trials of this study fit on the cluster at once.

    Raises:
        ConflictError: Not even one does.
    """
    needs, available = spec.resources, ray.cluster_resources()
    wanted = {"CPU": needs.cpus * needs.workers, "GPU": needs.gpus}
    nodes = [available] if spread(needs) else [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = sum(min(int(node.get(k, 0) / v + 1e-9) for k, v in wanted.items() if v) for node in nodes)
    if not fits:
        has = f"{available.get('CPU', 0):g} and {available.get('GPU', 0):g}"
        together = " on one machine" if len(nodes) > 1 else ""
        raise ConflictError(
            f"a trial needs {wanted['CPU']} CPUs and {wanted['GPU']:g} GPUs{together}, the cluster has {has}; "
            f"change resources in the study file"
        )
    return min(fits, needs.concurrent or fits)


def execute(
    search: StudySearch,
    lease: Lease,
    progress: Progress,
    folder: Path,
    kept: str,
    watch: Callable[[], None] | None = None,
) -> bool:
    """Run trials until the search has none left, or until SIGINT or SIGTERM.

    Args:
        search: What to run.
        lease: The right to record.
        progress: Kept up to date.
        folder: The study's folder, where snapshots are kept.
        kept: Path or URL below which checkpoints are kept.
        watch: Called several times a second.

    Returns:
        Whether it ran to the end; False if it was interrupted, in which case unfinished trials wait for the next
        launch.
    """
    spec = search.spec
    progress.slots = slots(spec)
    # All workers start at once; Tune's default is one after the other.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(progress.slots)
    recorder = Recorder(search, lease, progress, folder, kept)
    with (
        tempfile.TemporaryDirectory(prefix="sparsestudy-") as scratch,
        _patient_reuse(),
        _signals(recorder.stopping, progress),
    ):
        tuner = Tuner(
            tune.with_resources(TrialWorker, places(spec.resources)),
            tune_config=TuneConfig(
                search_alg=LedgerSearcher(search, progress.slots, recorder, kept),
                scheduler=_scheduler(spec),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=RunConfig(
                storage_path=scratch,
                # Tune would save every trial once more at its end, into a folder that only this machine has.
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[recorder, *([_Watch(watch)] if watch else [])],
                stop=_StopWhenAsked(recorder.stopping),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            recorder.guarded(search.abandon)
    if recorder.error is not None:
        raise recorder.error
    return not recorder.stopping.is_set()


class _Watch(_Bound, Callback):
    def __init__(self, watch: Callable[[], None]) -> None:
        self._watch = watch

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._watch()


@contextmanager
def _signals(stopping: threading.Event, progress: Progress) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the study to stop; the second ends the process at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        progress.phase = "stopping (once more to stop at once)"

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
