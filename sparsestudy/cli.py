"""The command line: the verbs of `sparsestudy.operations`, and how they look in a terminal.

Exit codes: 0 done, 1 failed, 2 wrong input and nothing was started, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparsestudy.errors import ConflictError, NotFoundError, SparseStudyError, SpecError

if TYPE_CHECKING:
    from sparsestudy.operations import Outcome, Study
    from sparsestudy.scheduling.progress import Progress
    from sparsestudy.selecting import Selection
    from sparsestudy.trial import Trial

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Studies of regularisers and per-layer activation sparsity, for networks that overfit.",
)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 200  # nobody's window: a table in a pipe should not be folded at 80 columns

Document = Literal["study", "relation"]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).")]
Name = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a recorded study; `list` shows them.")]
Overrides = Annotated[
    list[str] | None, typer.Option("-s", "--set", metavar="PATH=VALUE", help="Override, e.g. training.epochs=5.")
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the console script passes it on."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        result = app(args=arguments, standalone_mode=False)
    except (SpecError, ConflictError, NotFoundError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        return 2
    except SparseStudyError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to continue")
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, had enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: wrong options
            errors.print(f"[bold red]error:[/] {escape(error.format_message())}; see --help")
            return 2
        raise
    return result if isinstance(result, int) else 0


def entry() -> None:
    """The console script."""
    # As Ctrl-C, so that a study told to end while it starts or concludes gives its lease back and shuts Ray down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


@app.command()
def run(
    file: File,
    overrides: Overrides = None,
    new: Annotated[bool, typer.Option("--new", help="Start over beside a recorded study of that name.")] = False,
) -> int:
    """Run a study; continue it if it was interrupted."""
    from sparsestudy import operations

    with _display() as watch:
        outcome = operations.run(file, overrides or (), new=new, watch=watch)
    again = " ".join(["sparsestudy run", shlex.quote(str(file)), *(f"-s {shlex.quote(o)}" for o in overrides or ())])
    _print_outcome(outcome, again)
    return 130 if outcome.interrupted else 0


@app.command()
def resume(name: Name) -> int:
    """Continue a recorded study without its file."""
    from sparsestudy import operations

    with _display() as watch:
        outcome = operations.resume(name, watch=watch)
    _print_outcome(outcome, f"sparsestudy resume {shlex.quote(name)}")
    return 130 if outcome.interrupted else 0


@app.command()
def stop(
    name: Name, wait: Annotated[float, typer.Option(help="Seconds to wait until it has; 0 only asks.", min=0)] = 120
) -> int:
    """Ask whoever runs a study, on any machine, to stop in good order."""
    from sparsestudy import steering

    def say(drivers: Sequence[str]) -> None:
        console.print(f"asked {escape(', '.join(drivers))} to stop")

    found = steering.stop(name, wait=wait, asked=say)
    stands = f"{found.finished} of {_count(found.trials, 'trial')} finished"
    if not found.stopped and wait:
        errors.print(f"it has not stopped in {wait:.0f} s; if it is dead, others may run the study within a minute")
        return 1
    said = "stopped" if found.drivers and found.stopped else "it will stop" if found.drivers else "nobody runs it"
    console.print(f"{said}; {stands}, nothing is lost. To go on: sparsestudy resume {escape(shlex.quote(name))}")
    return 0


@app.command()
def retry(
    name: Name,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="TRIAL...", help="Numbers of failed trials.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed trials.")] = False,
) -> None:
    """Try failed trials again, with the same parameters and seed, when the study goes on."""
    from sparsestudy import steering

    waiting = steering.retry(name, numbers or (), failed=failed)
    listed = ", ".join(str(number) for number in waiting)
    console.print(f"{_count(len(waiting), 'trial')} to try again: {listed}")
    console.print(f"to go on: sparsestudy resume {escape(shlex.quote(name))}")


@app.command()
def validate(file: File, overrides: Overrides = None) -> None:
    """Check a study file and say everything that is wrong with it."""
    from sparsestudy import operations

    plan = operations.plan(file, overrides or ())
    console.print(
        f"{escape(str(file))}: valid; {_count(plan.trials, 'trial')} over {_count(len(plan.space.arms), 'arm')}"
    )


@app.command()
def plan(
    file: File,
    overrides: Overrides = None,
    timing: Annotated[bool, typer.Option(help="Time a few steps of each arm for the estimate.")] = True,
) -> None:
    """Show what a study would do and cost; start nothing."""
    from sparsestudy import operations, planning

    planned = operations.plan(file, overrides or ())
    estimate = planning.estimate(planned) if timing else None
    _print_plan(planned, estimate)


@app.command()
def schema(
    of: Annotated[
        Document, typer.Argument(metavar="[study|relation]", help="Study files, or relation.json.")
    ] = "study",
) -> None:
    """Print the JSON Schema of study files, for editors, or of relation.json, for whoever reads it."""
    from sparsestudy import operations

    found = operations.json_schema() if of == "study" else operations.relation_schema()
    print(json.dumps(found, indent=2, ensure_ascii=False))


@app.command()
def select(
    study: Name,
    again: Annotated[bool, typer.Option("--again", help="Choose anew; the test split is looked at once more.")] = False,
) -> int:
    """Choose the configuration to ship: finalists on fresh seeds, one winner, one look at the test split."""
    from sparsestudy import selecting

    with _display() as watch:
        found = selecting.select(study, again=again, watch=watch)
    if not found.record:
        console.print(f"interrupted; go on with: sparsestudy select {shlex.quote(study)}")
        return 130
    _print_selection(found)
    return 0


@app.command()
def sync(
    study: Name,
    to: Annotated[str | None, typer.Option(metavar="URI", help="Another MLflow store than the study's own.")] = None,
) -> None:
    """Make MLflow have all that the ledger has: what it lacks, or everything anew."""
    from sparsestudy import syncing

    with console.status("reading the ledger") as status:
        found = syncing.sync(study, to=to, watch=lambda said: status.update(escape(said)))
    console.print(escape(f"MLflow at {found.uri}: {found.said}; {found.seconds:.1f} s"))


@app.command()
def analyze(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Recorded studies, or an experiment.")],
    mlflow: Annotated[str | None, typer.Option(metavar="URI", help="Read an MLflow experiment, not a study.")] = None,
    names: Annotated[Path | None, typer.Option(metavar="FILE", help="What its metrics are called (YAML).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the files of an experiment go.")] = None,
) -> None:
    """Fit how sparsity relates to overfitting, and say which claims are supported, refuted or undecided."""
    from sparsestudy import analyzing

    if mlflow is None and (names or out):
        raise ConflictError("--names and --out are for an MLflow experiment: add --mlflow URI")
    if mlflow is not None and len(studies) > 1:
        raise ConflictError(f"--mlflow takes one experiment, got {len(studies)}")
    if mlflow is None:
        found = analyzing.analyze(studies)
    else:
        found = analyzing.analyze_mlflow(mlflow, studies[0], names=names, out=out)
    relation = found.relation
    if relation.reason:
        console.print(f"nothing can be said: {escape(relation.reason)}")
    console.print(
        f"{_count(relation.trials, 'trial')} of {_count(relation.configurations, 'configuration')} in "
        f"{_count(len(relation.arms), 'arm')}; {len(relation.excluded)} left out"
    )
    for verdict in relation.verdicts:
        console.print(f"[bold]{verdict.status}[/bold]  {escape(verdict.claim)}\n    {escape(verdict.said)}")
        if verdict.further:
            more = ", ".join(f"{arm} {count}" for arm, count in verdict.further.items())
            console.print(
                f"    further configurations (of an arm that has but one, trials) that would settle it: {escape(more)}"
            )
    for path in found.files:
        console.print(f"written  {path}")


@app.command()
def explain(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A regulariser or measure; none: all.")] = None,
) -> None:
    """List all regularisers and measures, or print the card of one: formula, source, pitfalls, parameters."""
    from sparsestudy import operations

    if name is not None:
        for title, text in operations.explain(name):
            console.print(f"[bold]{escape(title)}[/bold]\n{escape(text)}\n")
        return
    for kind, cards in operations.catalogue().items():
        table = Table(kind, "", box=None, header_style="bold")
        for known, text in cards.items():
            table.add_row(escape(known), escape(text.splitlines()[0]))
        console.print(table)


@app.command("list")
def list_() -> None:
    """List recorded studies."""
    from sparsestudy import operations

    names = operations.studies()
    if not names:
        console.print(f"no studies in {operations.home()}; start one with: sparsestudy run FILE")
        return
    table = Table("study", "trials", "state", "started", "question", box=None, header_style="bold")
    for name in names:
        with operations.open_study(name) as study:
            states = study.states()
            done = sum(n for state, n in states.items() if state.finished)
            table.add_row(
                escape(name),
                f"{done}/{_total(study)}",
                _where(study),
                f"{datetime.fromtimestamp(study.record.created):%Y-%m-%d %H:%M}",
                escape(study.spec.question),
            )
    console.print(table)


@app.command()
def status(name: Name) -> None:
    """Show where a study stands."""
    from sparsestudy import operations
    from sparsestudy.analysis import report

    with operations.open_study(name) as study:
        counts = study.states()
        console.print(f"[bold]{escape(name)}[/]  {_where(study)}")
        if study.spec.question:
            console.print(escape(study.spec.question))
        states = ", ".join(f"{counts[state]} {state.lower()}" for state in counts) or "none yet"
        console.print(f"trials: {states}; {_total(study)} planned")
        if study.record.driver:
            console.print(f"run by {study.record.driver}")
        console.print(escape(report.summary(study.spec, study.trials())))


@app.command()
def trials(
    name: Name, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the trials of a study."""
    from sparsestudy import operations

    with operations.open_study(name) as study:
        if as_json:
            for trial in study.trials():
                print(json.dumps(_plain(study, trial), ensure_ascii=False))
            return
        console.print(_trial_table(study, study.trials()))


@app.command()
def best(name: Name) -> None:
    """Show the best trials of a study, with the sparsity of every layer, and where the best configuration is."""
    from sparsestudy import operations
    from sparsestudy.analysis import report, table

    with operations.open_study(name) as study:
        ranked = table.ranking(study.spec, study.trials())
        console.print(escape(report.summary(study.spec, study.trials())))
        if ranked:
            console.print(_best_table(study.spec, ranked[:10]))
            if (study.folder / "best.yaml").exists():
                console.print(f"configuration: {study.folder / 'best.yaml'}")


@app.command()
def show(name: Name, number: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.")]) -> None:
    """Show one trial: its configuration, how it went, and how it ended."""
    from sparsestudy import operations

    with operations.open_study(name) as study:
        _print_trial(study, study.trial(number), study.trajectory(number))


@app.command()
def ui(name: Name, port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000) -> int:
    """Serve the MLflow pages of a study on this machine until Ctrl-C."""
    from sparsestudy import operations

    command, environment = operations.ui_command(name, port)
    console.print(f"MLflow pages of {escape(name)}: http://127.0.0.1:{port}  (Ctrl-C ends)")
    # A group of its own: MLflow starts the server as a child and does not end it when it is itself ended.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


# How things look


@contextmanager
def _display() -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(Text("reading the study"), console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_panel(progress))


class _Lines:
    """Plain lines: one when something finished, at most every two seconds."""

    def __init__(self) -> None:
        self._printed = (-1, "")
        self._at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = (progress.finished, progress.phase)
        if now == self._printed or (time.monotonic() - self._at < 2 and now[1] == self._printed[1]):
            return
        self._printed, self._at = now, time.monotonic()
        parts = [f"[{progress.study}] {progress.phase}", _counts(progress), _pace(progress)]
        if progress.best is not None:
            parts.append(f"best {progress.describe_best()}")
        print("; ".join(part for part in parts if part), flush=True)


def _counts(progress: Progress) -> str:
    counts = [f"{n} {state.lower()}" for state, n in sorted(progress.states.items())]
    if progress.running:
        counts.append(f"{len(progress.running)} running")
    return f"{progress.finished}/{progress.total} trials" + (f" ({', '.join(counts)})" if counts else "")


def _pace(progress: Progress) -> str:
    left = progress.seconds_left
    pace = f"{progress.epochs_per_second:.1f} epochs/s, {_duration(progress.elapsed)} elapsed"
    return pace + (f", about {_duration(left)} left" if left is not None and progress.running else "")


def _panel(progress: Progress) -> Group:
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=progress.total, completed=progress.finished, width=30)
    head.add_row(Text(progress.study, style="bold"), bar, _counts(progress), Text(progress.phase, style="dim"))
    running = Table.grid(padding=(0, 2))
    for number, (label, done) in sorted(progress.running.items()):
        bar = ProgressBar(total=progress.epochs, completed=done, width=20)
        running.add_row(f"  trial {number}", bar, f"{done}/{progress.epochs}", Text(label, overflow="ellipsis"))
    foot = Text(_pace(progress), style="dim")
    best_line = Text(f"best  {progress.describe_best()}" if progress.best else "best  none yet")
    return Group(head, running, best_line, foot)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _duration(seconds: float | None) -> str:
    """Seconds as people say them: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds or 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _print_selection(found: Selection) -> None:
    from sparsestudy.analysis.front import reasons
    from sparsestudy.words import called

    record, test = found.record, found.record["test"]
    metric = called(record["metric"], record["task"])
    table = Table("trial", "search", "selection: mean", "95 % bound", "probability best", box=None, header_style="bold")
    for row in record["finalists"]:
        bound = "–" if row["bound"] is None else f"{row['bound']:.4g}"
        best = "–" if row["probability_best"] is None else f"{row['probability_best']:.0%}"
        table.add_row(str(row["trial"]), f"{row['search']:.4g}", f"{row['mean']:.4g}", bound, best)
    console.print(table)
    for reason in reasons(record):
        console.print(reason)
    if not found.fresh:
        console.print("this is the recorded choice; nothing was trained or looked at again (--again chooses anew)")
    console.print(
        f"winner: trial {record['winner']} by {record['rule']}; test {metric} {test['mean']:.4g} over "
        f"{_count(len(test['scores']), 'fresh seed')}, optimism of the search {record['optimism']:+.4g}"
    )
    if record["registered"]:
        console.print(f"MLflow  model {record['registered']['model']!r}, alias champion")
    console.print(f"winner  {found.folder}  (best.yaml, weights.safetensors, README.md)")


def _print_outcome(outcome: Outcome, again: str) -> None:
    if outcome.ranking:
        console.print(_best_table(outcome.spec, outcome.ranking[:10]))
    console.print(escape(outcome.summary))
    console.print()
    console.print(f"page             {outcome.report}")
    if outcome.ranking:
        console.print(f"best.yaml        {outcome.best}")
    console.print(f"table            {outcome.folder / 'trials.parquet'}")
    console.print(f"browse MLflow    sparsestudy ui {escape(outcome.study)}")
    console.print(f"took             {_duration(outcome.seconds)}")
    if not outcome.delivered:
        command = f"sparsestudy sync {shlex.quote(outcome.study)}"
        errors.print(f"[yellow]MLflow lacks part of this study; nothing is lost, to deliver it: {escape(command)}[/]")
    if outcome.interrupted:
        done = sum(trial.state.finished for trial in outcome.trials)
        console.print(f"[bold]stopped[/] after {done} trials; nothing is lost. To go on: [bold]{escape(again)}[/]")


def _best_table(spec: Any, ranked: Sequence[Trial]) -> Table:
    from sparsestudy.trial import short_names, trial_label
    from sparsestudy.words import called, task_of

    prefix, task = "best/sparsity/", task_of(ranked)
    layers = [k.removeprefix(prefix) for k in ranked[0].headlines if k.startswith(prefix) and k != f"{prefix}mean"]
    short = short_names(layers)
    table = Table("trial", "configuration", box=None, header_style="bold")
    for objective in spec.search.objectives:
        table.add_column(called(objective.metric, task), justify="right")
    table.add_column("gap/loss", justify="right")
    for layer in layers:
        table.add_column(f"S {short[layer]}", justify="right")
    for trial in ranked:
        table.add_row(
            str(trial.number),
            escape(trial_label(trial.config)),
            *(f"{value:.4g}" for value in trial.values),
            _cell(trial.headlines.get("best/gap/loss")),
            *(_cell(trial.headlines.get(prefix + layer)) for layer in layers),
        )
    table.caption = f"S: {spec.measures.main} sparsity of a layer at the epoch of lowest validation loss"
    table.caption_justify = "left"
    return table


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"


def _trial_table(study: Study, listed: Sequence[Trial]) -> Table:
    from sparsestudy.trial import trial_label
    from sparsestudy.words import called, task_of

    table = Table("trial", "state", "epochs", box=None, header_style="bold")
    for objective in study.spec.search.objectives:
        table.add_column(called(objective.metric, task_of(listed)), justify="right")
    table.add_column("configuration")
    for trial in listed:
        missing = len(study.spec.search.objectives) - len(trial.values)
        why = f"  {trial.failure.kind}: {trial.failure.message}" if trial.failure else ""
        table.add_row(
            str(trial.number),
            str(trial.state),
            str(trial.epochs),
            *(f"{value:.4g}" for value in trial.values),
            *[""] * missing,
            escape(trial_label(trial.config) + why),
        )
    return table


def _plain(study: Study, trial: Trial) -> dict[str, Any]:
    objectives = [o.metric for o in study.spec.search.objectives]
    failure = {"kind": trial.failure.kind, "message": trial.failure.message} if trial.failure else None
    return {
        "number": trial.number,
        "state": str(trial.state),
        "epochs": trial.epochs,
        "values": dict(zip(objectives, trial.values, strict=False)),
        "parameters": trial.config.parameters,
        "seed": trial.config.seed,
        "headlines": dict(trial.headlines),
        "failure": failure,
        "run_id": trial.run_id,
    }


def _print_trial(study: Study, trial: Trial, trajectory: Sequence[Any]) -> None:
    from sparsestudy.trial import short_names, trial_label
    from sparsestudy.words import called

    console.print(f"[bold]trial {trial.number}[/]  {escape(trial_label(trial.config))}")
    seconds = f", {_duration(trial.finished - trial.started)}" if trial.finished and trial.started else ""
    counts = f"{_count(trial.epochs, 'epoch')}, {_count(trial.attempts, 'attempt')}"
    console.print(f"{trial.state}, {counts}{seconds}, seed {trial.config.seed}")
    for key, value in trial.config.parameters.items():
        console.print(f"  {escape(key)} = {escape(str(value))}")
    if trial.run_id:
        console.print(f"MLflow run {trial.run_id}")
    if trial.failure:
        console.print(f"[red]{escape(trial.failure.kind)}: {escape(trial.failure.message)}[/]")
        console.print(escape(trial.failure.traceback.rstrip()))
    if not trajectory:
        return
    main_measure = study.spec.measures.main
    layers = list(trajectory[0].statistics.get("validation", {}))
    score = called("validation accuracy", trial.config.task)
    table = Table("epoch", "train loss", "validation loss", score, box=None, header_style="bold")
    for short in short_names(layers).values():
        table.add_column(f"S {short}", justify="right")
    step = max(1, len(trajectory) // 20)
    for m in [*trajectory[::step], *([trajectory[-1]] if (len(trajectory) - 1) % step else [])]:
        series = m.series(main_measure)
        numbers = (m.train_loss, m.validation_loss, m.validation_accuracy, *(series.get(layer) for layer in layers))
        table.add_row(str(m.epoch), *(_cell(number) for number in numbers))
    console.print(table)


def _print_plan(planned: Any, estimate: Any) -> None:
    spec = planned.spec
    sizes = ", ".join(f"{name} {size}" for name, size in planned.sizes.items())
    console.print(f"[bold]{escape(spec.name)}[/]  {escape(spec.question)}")
    spread = f"numbers of mean {planned.label_mean:.4g}, standard deviation {planned.label_std:.4g}"
    labels = f"{planned.classes} classes" if planned.classes else f"{spread} to predict"
    console.print(f"data     {spec.data.name}: {labels}, examples {list(planned.input_shape)}, {sizes}")
    console.print(f"model    {spec.model.name}: {planned.weights:,} parameters")
    table = Table("layer", "activations", box=None, header_style="bold")
    for layer in planned.layers:
        table.add_row(layer.name, "x".join(map(str, layer.shape)))
    console.print(table)
    arms = Table("arm", "methods", "searched parameters", box=None, header_style="bold")
    for arm, methods in planned.templates.items():
        own = [p.name for p in planned.space.parameters if p.arm == arm]
        arms.add_row(escape(arm), " + ".join(m["method"] for m in methods.values()), escape(", ".join(own)) or "none")
    console.print(arms)
    shared = [p.name for p in planned.space.parameters if p.arm is None]
    each = f", {spec.search.seeds} seeds a configuration" if spec.search.seeds > 1 else ""
    console.print(f"search   {spec.search.sampler}, {planned.trials} trials of {spec.training.epochs} epochs{each}")
    if shared:
        console.print(f"         in every arm: {escape(', '.join(shared))}")
    for note in planned.notes():
        console.print(f"note     {note}")
    console.print(f"MLflow   {planned.mlflow_rows():,} metric rows in {planned.trials + 1} runs")
    if estimate is not None:
        for arm, seconds in estimate.seconds_per_epoch.items():
            console.print(f"epoch    {1000 * seconds:.0f} ms  {escape(arm)}")
        console.print(f"time     about {_duration(estimate.seconds)} with {estimate.concurrent} trials at once")


def _total(study: Study) -> int:
    return study.spec.search.trials or len(study.trials())


def _where(study: Study) -> str:
    if study.record.driver:
        return "running"
    states = study.states()
    done = sum(n for state, n in states.items() if state.finished)
    return "done" if done and done >= _total(study) else "unfinished"
