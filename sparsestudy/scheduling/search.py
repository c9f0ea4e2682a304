"""The search: what to try next, asked of an Optuna study in memory that is rebuilt from the ledger at every launch.

The ledger is the truth. Every suggestion is a WAITING trial there before anybody trains it, and every end is recorded
there before the search learns of it, so that the death of this process loses nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from sparsestudy.scheduling import samplers
from sparsestudy.scheduling.distributions import to_distribution
from sparsestudy.scheduling.retries import FailureClass, parts, pause_before_retry
from sparsestudy.space import ARM, Choice, Domain, Integer, Scalar, SearchSpace, Uniform
from sparsestudy.study import StudySpec, derive_seed
from sparsestudy.tracking.leases import Lease
from sparsestudy.tracking.ledger import Ledger
from sparsestudy.trial import SPARSITY, Failure, Measurement, Trial, TrialConfig, TrialState, headlines

Configure = Callable[[int, Mapping[str, Scalar], int], TrialConfig]
"""(number, parameters, seed) -> what to train."""


class StudySearch:
    """Asks and tells one study under one lease.

    Args:
        spec: The study.
        space: Its space.
        configure: Turns a point of the space into a configuration.
        lease: The right to drive the study.
    """

    def __init__(self, spec: StudySpec, space: SearchSpace, configure: Configure, lease: Lease) -> None:
        self.spec, self.space, self._configure, self._lease = spec, space, configure, lease
        self._ledger: Ledger = lease.ledger
        self._attempts: dict[int, int] = {}
        self._live: dict[int, optuna.trial.Trial] = {}
        self._resting: dict[int, tuple[float, optuna.trial.Trial]] = {}
        self._deadline = time.monotonic() + 60 * spec.budget.minutes if spec.budget.minutes else None
        self.requeued = self._ledger.requeue_running(lease, "its driver died")
        if spec.search.sampler == "grid":
            self._add_points()
        trials = self._trials()
        self._waiting: list[tuple[TrialConfig, optuna.trial.Trial]] = []
        self._study = self._rebuild(trials)
        self._taken = Counter(trial.config.arm for trial in trials)
        self._known = len(self._study.get_trials(deepcopy=False))

    @property
    def total(self) -> int:
        """How many trials the study has when it is done."""
        return self.spec.search.trials or len(self.space.grid()) * self.spec.search.seeds

    @property
    def live(self) -> int:
        """How many trials are being trained."""
        return len(self._live)

    @property
    def exhausted(self) -> bool:
        """Whether `ask` will never yield another trial in this launch."""
        spent = self._deadline is not None and time.monotonic() > self._deadline
        return spent or (not self._waiting and not self._resting and self._known >= self.total)

    def ask(self) -> tuple[TrialConfig, int] | None:
        """Start the next trial: one to be tried again or that was interrupted if there is any, else a new suggestion.

        Returns:
            Its configuration and the number of the attempt, or None if `exhausted` or if all that is left are trials
            that have to wait before they are tried again.
        """
        if self.exhausted:
            return None
        ready = [number for number, (when, _) in self._resting.items() if when <= time.monotonic()]
        if ready:
            config = self._ledger.trial(self._lease.study_id, ready[0]).config
            _, trial = self._resting.pop(ready[0])
        elif not self._waiting and self._known >= self.total:
            return None
        else:
            config, trial = self._waiting.pop(0) if self._waiting else self._new()
        attempt = self._ledger.start(self._lease, config.number)
        self._live[config.number], self._attempts[config.number] = trial, attempt
        return config, attempt

    def prepare(self, ahead: int) -> None:
        """Make one suggestion ahead of its time, unless ``ahead`` are ready, so that `ask` need not make it.

        It is a WAITING trial until it is asked for, so that a death loses nothing. It is made with what is known now;
        a sampler that learns counts it among the trials under way from now on, before and after a restart.
        """
        if not self.exhausted and len(self._waiting) + len(self._resting) < ahead and self._known < self.total:
            self._waiting.append(self._new())

    def epochs(self, number: int) -> int:
        """How many epochs of a trial are recorded."""
        return self._ledger.trial(self._lease.study_id, number).epochs

    def record(self, number: int, measurements: Sequence[Measurement]) -> None:
        """Record epochs of a running trial."""
        self._ledger.record(self._lease, number, self._attempts[number], measurements)

    def finish(self, number: int, state: TrialState, failure: Failure | None = None) -> Trial:
        """Record the end of a running trial and tell the search.

        The objective of a PRUNED trial is recorded at the epoch it reached, and never counts as a final value.

        Returns:
            The trial as recorded.
        """
        trajectory = self._ledger.trajectory(self._lease.study_id, number)
        found = headlines(trajectory, self.spec.measures.main) if trajectory else {}
        values = [found[o.metric] for o in self.spec.search.objectives if o.metric in found]
        missing = [o.metric for o in self.spec.search.objectives if o.metric not in found]
        if state is TrialState.COMPLETE and missing:
            why = (
                "the measured layers are dead"
                if missing[0].endswith(SPARSITY)
                else "no convolution or linear layer ran"
            )
            failure = Failure(kind="UndefinedObjective", message=f"{missing[0]} is undefined: {why}")
            state = TrialState.FAIL
        if state is TrialState.FAIL:
            values = []
        self._ledger.finish(self._lease, number, state, values=values, headlines=found, failure=failure)
        trial = self._live.pop(number)
        if state is TrialState.COMPLETE:
            self._study.tell(trial, values)
        elif state is TrialState.PRUNED:
            if len(values) == 1:
                trial.report(values[0], trajectory[-1].epoch)
            self._study.tell(trial, state=OptunaState.PRUNED)
        else:
            self._study.tell(trial, state=OptunaState.FAIL)
        return self._ledger.trial(self._lease.study_id, number)

    def retry(self, number: int, failure: FailureClass, reason: str) -> bool:
        """Put a running trial whose attempt failed back, to be asked for again in this launch, if policy has it so.

        Args:
            number: The trial.
            failure: What kind of failure it was.
            reason: What happened; recorded as the outcome of the attempt.

        Returns:
            Whether it will be tried again. If not, nothing was done.
        """
        earlier = self._ledger.outcomes(self._lease.study_id, number)
        before = sum(outcome.startswith(f"{failure}: ") for outcome in earlier)
        pause = pause_before_retry(failure, before, self.spec.budget.retries)
        if pause is None:
            return False
        self._ledger.requeue_running(self._lease, f"{failure}: {reason}", number)
        self._resting[number] = (time.monotonic() + pause, self._live.pop(number))
        return True

    def parts(self, number: int) -> int:
        """In how many parts a trial's batches are to be computed, after what became of earlier attempts."""
        return parts(self._ledger.outcomes(self._lease.study_id, number))

    def abandon(self) -> list[int]:
        """Put running trials back to WAITING, to be trained at the next launch; returns their numbers."""
        self._live.clear()
        return self._ledger.requeue_running(self._lease, "interrupted")

    # Helpers

    def _add_points(self) -> None:
        """Points of the grid that are not recorded: all of them at first, later those of arms that were added."""
        known = [trial.config.parameters for trial in self._trials()]
        spelled = {json.dumps(parameters, sort_keys=True) for parameters in known}
        points = [point for point in self.space.grid() if json.dumps(point, sort_keys=True) not in spelled]
        fresh = [point for point in points for _ in range(self.spec.search.seeds)]
        if fresh:
            configs = [self._config(number, point) for number, point in enumerate(fresh, len(known))]
            self._ledger.add_trials(self._lease, configs)

    def _new(self) -> tuple[TrialConfig, optuna.trial.Trial]:
        search, number = self.spec.search, self._known
        replicate = number % search.seeds
        if replicate:  # another seed of the configuration before it
            self._study.enqueue_trial(self._study.get_trials(deepcopy=False)[number - replicate].params)
        elif search.arms == "balanced" and len(self.space.arms) > 1:
            # Arms take turns; one that was added later catches up first.
            self._study.enqueue_trial({ARM: min(self.space.arms, key=lambda arm: self._taken[arm])})
        seed = self.spec.training.seed
        self._study.sampler = samplers.make(search.sampler, self._names, seed, number, search.seeds)
        trial = self._study.ask()
        assert trial.number == number, (trial.number, number)
        config = self._config(number, self._suggest(trial))
        self._ledger.add_trials(self._lease, [config])
        self._known += 1
        self._taken[config.arm] += 1
        return config, trial

    def _config(self, number: int, parameters: Mapping[str, Scalar]) -> TrialConfig:
        # A searched seed is the trial's seed itself, so that a trial can be repeated and replicates can be asked for.
        searched = parameters.get("training.seed")
        seed = derive_seed(self.spec.training.seed, "trial", number) if searched is None else int(str(searched))
        return self._configure(number, parameters, seed)

    @property
    def _names(self) -> list[str]:
        return [ARM, *(p.name for p in self.space.parameters)]

    def _suggest(self, trial: optuna.trial.Trial) -> dict[str, Scalar]:
        def ask(name: str, domain: Domain) -> Scalar:
            if isinstance(domain, Uniform):
                return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
            if isinstance(domain, Integer):
                return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
            return trial.suggest_categorical(name, domain.values)

        return self.space.suggest(ask)

    def _trials(self) -> list[Trial]:
        return self._ledger.trials(self._lease.study_id)

    def _rebuild(self, trials: Sequence[Trial]) -> optuna.Study:
        objectives = self.spec.search.objectives
        # No sampler draws anything here: what waits has its values already.
        plain = optuna.samplers.RandomSampler()
        study = optuna.create_study(directions=[o.direction for o in objectives], sampler=plain)
        for trial in trials:
            distributions = self._distributions(trial.config.parameters)
            parameters = {name: trial.config.parameters[name] for name in distributions}
            if trial.state is TrialState.WAITING:
                study.enqueue_trial(parameters)
                waiting = study.ask()
                assert waiting.number == trial.number, (waiting.number, trial.number)
                assert self._suggest(waiting) == trial.config.parameters, trial.config.parameters
                self._waiting.append((trial.config, waiting))
                continue
            pruned = trial.state is TrialState.PRUNED and len(trial.values) == 1
            study.add_trial(
                create_trial(
                    state=OptunaState[trial.state.name],
                    params=parameters,
                    distributions=distributions,
                    values=list(trial.values) if trial.state is TrialState.COMPLETE else None,
                    intermediate_values={trial.epochs - 1: trial.values[0]} if pruned else {},
                )
            )
        return study

    def _distributions(self, parameters: Mapping[str, Scalar]) -> dict[str, BaseDistribution]:
        arm = str(parameters[ARM])
        found = {p.name: to_distribution(p.domain) for p in self.space.active(arm)}
        return {ARM: to_distribution(Choice(values=self.space.arms)), **found} if len(self.space.arms) > 1 else found
