"""Regenerates a table or figure of the paper, beside the published numbers.

    python -m experiments.reproduce --table=main --dataset=coat --data_dir=DIR \
        --seeds=0,1,2,3,4 --workdir=runs/reproduce

The plans are in darlr_jax/runs/plans.py. A row is one `experiments.train` of all seeds,
in a directory of its own under --workdir/DATASET that other tables use as well; rows
that are done are not run again. --dry_run says what would run, with which commands, and
for how long, as far as finished rows tell.

Then TABLE.md, .csv, .tex and .png are written to --workdir/DATASET/tables. A row that
failed stops the program: no table is made without it. So does one that has read other
data than the rest, as where a file was changed after some rows were done.

SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and --max_seconds end the row under way after its
epoch, with exit code 75; the same command continues. --norun_missing makes the table of
what there is, in which the other rows say how far they are.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from darlr_jax.config import ConfigError, parse_seeds
from darlr_jax.files import replacing
from darlr_jax.runs.comparison import Outcome, require_one_matrix
from darlr_jax.runs.directory import RunError, read_json, writing
from darlr_jax.runs.figures import draw_plan
from darlr_jax.runs.jobs import (
    Job,
    command,
    describe,
    estimate_seconds,
    metrics_of,
    plan_jobs,
    progress,
    require_same_data,
    side_by_side,
    total_seconds,
)
from darlr_jax.runs.plan_tables import plan_table, plan_texts
from darlr_jax.runs.plans import TABLES, Plan, choose_rows, make_plan
from darlr_jax.runs.plots import save_png
from darlr_jax.runs.preemption import (
    INTERRUPTED,
    REQUEUE,
    Interrupted,
    StopRequest,
    wait,
)
from darlr_jax.runs.progress import clock
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.results import fit_of
from experiments import cli

# As a program the flags are the process's own. Imported they stay private, because
# other programs have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == "__main__" else flags.FlagValues()
flags.adopt_module_key_flags(cli)  # so that --help lists them

TABLE = flags.DEFINE_string(
    "table", "main", f"Which one: {', '.join(TABLES)}.", flag_values=_FLAGS
)
SEEDS = flags.DEFINE_list(
    "seeds", ["0", "1", "2", "3", "4"], "Seeds of every row.", flag_values=_FLAGS
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    "runs/reproduce",
    "Parent of the run directories and tables.",
    flag_values=_FLAGS,
)
ROWS = flags.DEFINE_list(
    "rows", [], "Names of rows, if not all; see --dry_run.", flag_values=_FLAGS
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what would run, and run nothing.", flag_values=_FLAGS
)
SIDE_BY_SIDE = flags.DEFINE_integer(
    "side_by_side",
    1,
    "Rows that are trained in one program, where they differ in coefficients alone. On "
    "an accelerator more of them cost little.",
    lower_bound=1,
    flag_values=_FLAGS,
)
RUN_MISSING = flags.DEFINE_bool(
    "run_missing",
    True,
    "Run what is not done; otherwise write the table of what is.",
    flag_values=_FLAGS,
)
MAX_SECONDS = flags.DEFINE_float(
    "max_seconds",
    None,
    "Stop, as after SIGTERM, when so many seconds since the start are over.",
    lower_bound=0,
    flag_values=_FLAGS,
)
CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every",
    None,
    "As of experiments.train, for every row.",
    lower_bound=1,
    flag_values=_FLAGS,
)
PUBLISHED = flags.DEFINE_string(
    "published",
    str(pathlib.Path(__file__).parent.parent / "results" / "published"),
    "Folder of the published numbers.",
    flag_values=_FLAGS,
)


def main(argv: list[str]) -> None:
    """Flags -> plan -> runs -> files. Exits with 75 where it was asked to stop."""
    del argv
    seeds = parse_seeds(SEEDS.value)
    plan = make_plan(TABLE.value, cli.DATASET.value)
    if ROWS.value:
        plan = choose_rows(plan, ROWS.value)
    published = PublishedScores(cli.user_path(PUBLISHED.value))
    workdir = cli.user_path(WORKDIR.value)
    jobs = plan_jobs(plan, workdir, overrides=_overrides(), options=_options())
    cli.require_data_dir_is_read(jobs[0].config.dataset)
    _announce(plan, jobs, seeds)
    require_same_data(jobs)
    if DRY_RUN.value:
        return
    if RUN_MISSING.value:
        with StopRequest(MAX_SECONDS.value, on_signal=_acknowledge) as stop:
            try:
                run_jobs(jobs, seeds, stop, SIDE_BY_SIDE.value)
            except Interrupted as interrupted:
                cli.say(f"{interrupted}; the same command continues")
                sys.exit(REQUEUE)
    write_plan(plan, jobs, seeds, published, workdir)


def run_jobs(
    jobs: Sequence[Job], seeds: Sequence[int], stop: StopRequest, most: int = 1
) -> None:
    """Runs what is not finished, at most `most` rows at a time.

    Raises:
      Interrupted: `stop` asked, or somebody asked the rows under way.
      RunError: a row failed, or read other data than those that are done; those after
        it have not run.
    """
    missing = [job for job in jobs if not progress(job, seeds).finished]
    for group in side_by_side(missing, most):
        number = jobs.index(group[0]) + 1
        names = ", ".join(job.row.name for job in group)
        where = f"row {number} of {len(jobs)}, {names}"
        stop.check(f"before {where}")
        states = [progress(job, seeds) for job in group]
        epochs = group[0].config.training.epochs
        said = dict.fromkeys(state.describe(epochs) for state in states)
        cli.say(f"\n{where}: {', '.join(said)}")
        status = wait(_start(group), stop)
        if status in INTERRUPTED:
            raise Interrupted(f"{stop.reason or 'interrupted'}: stopped in {where}")
        if status != 0:
            raise RunError(
                f"{where} failed with exit code {status}, and no table is made without "
                f"it; what it said stands above: {describe(*group)}"
            )
        for job in group:
            progress(job, seeds)  # refuses a run of which seeds failed
        require_same_data(jobs)  # files may have changed since other rows were done


def write_plan(
    plan: Plan,
    jobs: Sequence[Job],
    seeds: Sequence[int],
    published: PublishedScores,
    workdir: pathlib.Path,
) -> None:
    """Writes the table in its three forms, and the picture; prints the table.

    Raises:
      RunError: a row failed, is malformed, or is paid by another test matrix.
    """
    outcomes = [_outcome(job, seeds) for job in jobs]
    truth = require_one_matrix({each.row.name: each.truth for each in outcomes})
    texts = plan_texts(plan_table(plan, outcomes, published, truth))
    target = workdir / plan.dataset / "tables" / plan.table
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            with replacing(target.with_suffix(suffix)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        picture = target.with_suffix(".png")
        figure = draw_plan(plan, outcomes, published, str(picture))
        if figure is not None:
            save_png(figure, picture)
    print(f"\n{texts['.md']}")
    made = [*texts, *([".png"] if figure is not None else [])]
    print(f"files: {target}{{{','.join(made)}}}")


def _announce(plan: Plan, jobs: Sequence[Job], seeds: Sequence[int]) -> None:
    """Says what each row is, how far it is and what it will take."""
    guesses = estimate_seconds(jobs, seeds)
    print(f"{plan.title}: {len(jobs)} rows of {len(seeds)} seeds")
    unique: dict[pathlib.Path, tuple[float, bool] | None] = {}
    for job, guess in zip(jobs, guesses, strict=True):
        state = progress(job, seeds).describe(job.config.training.epochs)
        time = "" if state == "done" else f", {_time(guess)}"
        print(f"  {job.row.name}: {state}{time}")
        if DRY_RUN.value:
            print(f"    {describe(job)}")
        unique[job.path] = guess
    for left_out in plan.left_out:
        print(f"  left out, the same here: {left_out}")
    known, unknown = total_seconds(unique.values())
    if not known and not unknown:
        return
    parts = [f"about {clock(known)}"] * (known > 0)
    parts += [f"{unknown} rows of unknown time: no row like them has run"] * bool(
        unknown
    )
    print(f"to do: {' and '.join(parts)}; world models and compilation come on top")


def _time(guess: tuple[float, bool] | None) -> str:
    if guess is None:
        return "time unknown"
    seconds, measured = guess
    return f"about {clock(seconds)}{'' if measured else ' (from another row)'}"


def _overrides() -> dict[str, object]:
    """What the flags set in every row."""
    if cli.METHOD.present:
        raise ConfigError(f"--method={cli.METHOD.value}: choose rows, by --rows")
    changes = cli.settings()
    for path in ("method", "dataset.name"):
        if path in changes:
            raise ConfigError(f"--set={path}=...: rows and --dataset decide it")
    return changes


def _options() -> list[str]:
    """Flags that every run gets as they are."""
    options = [f"--seeds={','.join(SEEDS.value)}"]
    for flag in (cli.DATA_DIR, cli.CACHE_DIR, CHECKPOINT_EVERY):
        if flag.value is not None:
            options.append(f"--{flag.name}={flag.value}")
    return options


def _outcome(job: Job, seeds: Sequence[int]) -> Outcome:
    state = progress(job, seeds).describe(job.config.training.epochs)
    metrics, fit = metrics_of(job, seeds), fit_of(job.path)
    return Outcome(job.row, job.config, metrics, state, fit, _ground_truth(job))


def _ground_truth(job: Job) -> str | None:
    file = job.path / "run.json"
    return read_json(file).get("ground_truth") if file.exists() else None


def _start(group: Sequence[Job]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(group[0], sys.executable, group[1:]))


def _acknowledge(name: str) -> None:
    cli.say(f"{name}: stopping after the epoch under way (SIGINT twice: now)")


if __name__ == "__main__":
    cli.run(main)
