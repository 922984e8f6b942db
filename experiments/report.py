"""Writes one self-contained HTML page of a run, or of a group of runs.

    python -m experiments.report --run=runs/coat_darlr
    python -m experiments.report --results=results/raw/coat

The page of a run is RUN/report.html; that of a group, whose folder holds run
directories, is GROUP/report.html. --output names another file. Pictures need the extra
`plots`; without it the page says so.
"""

from __future__ import annotations

import pathlib

from absl import flags

from darlr_jax.config import ConfigError, nearest_name
from darlr_jax.files import replacing
from darlr_jax.runs.directory import writing
from darlr_jax.runs.groups import Group, read_group
from darlr_jax.runs.plan_tables import whole_tables
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.report import results_report, run_report
from experiments import cli

# As a program the flags are the process's own. Imported they stay private, because
# other programs have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == "__main__" else flags.FlagValues()

RUN = flags.DEFINE_string("run", None, "A run directory.", flag_values=_FLAGS)
RESULTS = flags.DEFINE_string(
    "results", None, "A folder of run directories.", flag_values=_FLAGS
)
OUTPUT = flags.DEFINE_string("output", None, "The file to write.", flag_values=_FLAGS)
AGAINST = flags.DEFINE_string(
    "against",
    "mbpo",
    "Run of the folder that the others are paired with.",
    flag_values=_FLAGS,
)
PUBLISHED = flags.DEFINE_string(
    "published",
    str(pathlib.Path(__file__).parent.parent / "results" / "published"),
    "Folder of the published numbers.",
    flag_values=_FLAGS,
)


def main(argv: list[str]) -> None:
    """Flags -> page -> file, which it names."""
    del argv
    cli.require_runs_alone()
    if bool(RUN.value) == bool(RESULTS.value):
        raise ConfigError("give either --run=DIR or --results=DIR")
    if RUN.value and AGAINST.present:
        raise ConfigError(f"--against={AGAINST.value}: pairs runs of --results=DIR")
    published = PublishedScores(cli.user_path(PUBLISHED.value))
    folder = cli.user_path(RUN.value or RESULTS.value or "")
    if RUN.value:
        page = run_report(folder, published)
    else:
        group = read_group(folder)
        tables = whole_tables(group, published)
        page = results_report(group, tables, published, against(group))
    target = cli.user_path(OUTPUT.value or str(folder / "report.html"))
    with writing(target), replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{target} ({len(page.encode()) / 1000:,.0f} kB)")


def against(group: Group) -> str:
    """The run that the others are paired with; where it is not there, nothing is.

    Raises:
      ConfigError: --against was given, and there is no such run.
    """
    names = [run.name for run in (*group.methods, *group.others)]
    if AGAINST.present and AGAINST.value not in names:
        raise ConfigError(
            f"--against={AGAINST.value}: no such run in {group.name}; "
            f"{nearest_name(AGAINST.value, names)}"
        )
    return AGAINST.value


if __name__ == "__main__":
    cli.run(main)
