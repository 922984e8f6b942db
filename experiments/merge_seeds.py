"""Makes one run of finished runs that differ in nothing but their seeds.

    python -m experiments.train --seeds=0,1 --workdir=runs/seeds_0_1     # one machine
    python -m experiments.train --seeds=2,3,4 --workdir=runs/seeds_2_3_4  # another one
    python -m experiments.merge_seeds --runs=runs/seeds_0_1,runs/seeds_2_3_4 \
        --workdir=runs/synthetic_darlr

What is in --workdir then is a run like any other: its checkpoint holds the states of
all seeds, run.json the sessions of all pieces, and what is measured at the end of a run
is measured of all of them. --dataset and what belongs to it the runs say themselves;
--data_dir and --cache_dir are as for `experiments.train`.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from darlr_jax.config import ConfigError
from darlr_jax.files import remove_abandoned, replacing
from darlr_jax.runs.directory import (
    Identity,
    RunDirectory,
    RunError,
    read_json,
    write_json,
    writing,
)
from darlr_jax.runs.pieces import (
    Piece,
    fits_of,
    joined_history,
    joined_rows,
    read_pieces,
    whole_identity,
)
from darlr_jax.runs.symptoms import score_name
from darlr_jax.runs.writers import MetricsWriter, Row
from experiments import cli

if TYPE_CHECKING:
    from darlr_jax.data.dataset import Dataset
    from darlr_jax.experiment import Experiment

# As a program the flags are the process's own. Imported they stay private, because
# other programs have flags of the same names.
_FLAGS = flags.FLAGS if __name__ == "__main__" else flags.FlagValues()
flags.adopt_module_key_flags(cli)  # so that --help lists them

RUNS = flags.DEFINE_list("runs", [], "The run directories.", flag_values=_FLAGS)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run of all seeds.", flag_values=_FLAGS
)
_PROGRAM = "experiments.merge_seeds"


def main(argv: list[str]) -> None:
    """Flags -> pieces -> the run of all seeds."""
    del argv
    cli.require_runs_alone(reads_data=True)
    if WORKDIR.value is None:
        raise ConfigError("--workdir: where the run of all seeds is to be")
    workdir = cli.user_path(WORKDIR.value)
    if workdir.exists() and not _was_merged(workdir):
        raise RunError(f"{workdir}: exists already; choose another --workdir")
    pieces = read_pieces([cli.user_path(path) for path in RUNS.value])
    config = pieces[0].identity.config
    cli.require_data_dir_is_read(config.dataset)
    cli.configure_jax()
    dataset = cli.prepare_dataset(config.dataset)
    merge(pieces, dataset, workdir, cli.cache_directory())


def merge(
    pieces: Sequence[Piece],
    dataset: Dataset,
    workdir: pathlib.Path,
    cache_dir: pathlib.Path,
) -> None:
    """Writes the run of all seeds, whole or not at all, and ends it as any other.

    Args:
      pieces: finished runs of one experiment.
      dataset: the data that they were made of.
      workdir: where to; it does not exist, or is what an earlier call has written.
      cache_dir: of fitted world models.

    Raises:
      RunError: the data are others, a checkpoint cannot be read, the run cannot be
        written, or `workdir` has another one.
    """
    from experiments import session

    identity = whole_identity(pieces)
    if dataset.sources != identity.data:
        raise RunError(f"{pieces[0].run.path}: was made of other data than these")
    if not workdir.exists():
        # Of a merge that was killed: as large as a checkpoint, and hidden from `ls`.
        remove_abandoned(workdir.parent, name=workdir.name)
        states = _joined_states(
            pieces, session.prepare(dataset, identity.config, cache_dir).experiment
        )
        with writing(workdir), replacing(workdir) as temporary:
            _write(temporary, identity, pieces, states)
        del states  # or they would be there twice, with those of the session
    elif (done := RunDirectory(workdir).epochs_done()) != pieces[0].epochs:
        raise RunError(
            f"{workdir}: has {done} epochs, the runs {pieces[0].epochs}; choose "
            "another --workdir"
        )
    cli.say(f"{workdir}: seeds {', '.join(map(str, identity.seeds))}")
    if (fits := fits_of(pieces)) > 1:
        cli.say(
            f"{workdir}: its seeds have learned from {fits} fits of the world model, "
            "which differ by rounding; world_model.json is of the first run's"
        )
    session.train(
        {str(workdir): identity.config},
        dataset,
        identity.seeds,
        cache_dir=cache_dir,
        resume="must",
        overwrite=False,
        checkpoint_every=1,
        program=_PROGRAM,
    )


def _was_merged(workdir: pathlib.Path) -> bool:
    """Whether the run in `workdir` is of this program, which ends it if need be."""
    record = RunDirectory(workdir).run_file
    return record.exists() and _PROGRAM in read_json(record).get("command", [])


def _write(
    path: pathlib.Path, identity: Identity, pieces: Sequence[Piece], states: Any
) -> None:
    from darlr_jax.runs.checkpoint import Checkpointer

    with RunDirectory.open(
        path,
        identity.config,
        seeds=identity.seeds,
        command=["python", "-m", _PROGRAM, *sys.argv[1:]],
        data_hashes=identity.data,
    ) as run:
        run.update(**joined_history(pieces))
        if pieces[0].run.world_model.exists():
            write_json(run.world_model, read_json(pieces[0].run.world_model))
        writer = MetricsWriter(run)
        for rows in joined_rows(pieces):
            writer.write(rows)
        with Checkpointer(run.checkpoints, identity=identity) as checkpoints:
            checkpoints.save(states, pieces[0].epochs, _score(rows))


def _joined_states(pieces: Sequence[Piece], experiment: Experiment) -> Any:
    """The last states of all pieces `[S]`, by rising seed."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from darlr_jax.experiment import init_seeds
    from darlr_jax.runs.checkpoint import Checkpointer

    states = []
    for piece in pieces:
        example = init_seeds(experiment, piece.identity.seeds)
        with (
            piece.run.reading(),
            Checkpointer(piece.run.checkpoints, identity=piece.identity) as stored,
        ):
            states.append(stored.restore(example, piece.epochs))
    order = np.argsort([seed for piece in pieces for seed in piece.identity.seeds])
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *states)


def _score(rows: Sequence[Row]) -> float | None:
    """What the best epoch is chosen by, of the rows of one."""
    name = score_name(rows[0])
    if name is None:
        return None
    return sum(float(row[name]) for row in rows) / len(rows)


if __name__ == "__main__":
    cli.run(main)
