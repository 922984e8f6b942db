"""Runs of other seeds, otherwise one experiment: what the run of them all has written.

Seeds know nothing of each other, so it does not matter which of them shared a program,
or a machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from darlr_jax.runs.directory import (
    OF_THE_RUN,
    Identity,
    RunDirectory,
    RunError,
    load_identity,
    read_json,
)
from darlr_jax.runs.results import fit_of, load_metrics, require_whole
from darlr_jax.runs.writers import MetricsWriter, Row


class Piece(NamedTuple):
    """A finished run."""

    run: RunDirectory
    identity: Identity
    record: dict[str, Any]  # run.json

    @property
    def epochs(self) -> int:
        """All of them."""
        return self.identity.config.training.epochs


def read_pieces(paths: Sequence[str | os.PathLike[str]]) -> list[Piece]:
    """The runs in some directories, once it is clear that they are pieces of one.

    Raises:
      RunError: there are fewer than two; one of them is missing, malformed, failed or
        not finished; they are of other experiments, or share a seed.
    """
    if len(paths) < 2:
        raise RunError(f"{len(paths)} run given: there is nothing to merge below two")
    pieces = [_read_piece(path) for path in paths]
    seen: dict[int, Piece] = {}
    for piece in pieces:
        _require_same(pieces[0], piece)
        for seed in piece.identity.seeds:
            if seed in seen:
                raise RunError(f"{piece.run.path}: seed {seed} is in "
                               f"{seen[seed].run.path} too; leave one out")  # fmt: skip
            seen[seed] = piece
    return pieces


def whole_identity(pieces: Sequence[Piece]) -> Identity:
    """What the run of all seeds is, these by rising number."""
    seeds = sorted(seed for piece in pieces for seed in piece.identity.seeds)
    return pieces[0].identity._replace(seeds=seeds)


def fits_of(pieces: Sequence[Piece]) -> int:
    """How many fits of their world model the pieces have learned from."""
    return len({fit_of(piece.run.path) for piece in pieces})


def joined_rows(pieces: Sequence[Piece]) -> Iterator[list[Row]]:
    """The rows of every epoch, as the run of all seeds has them.

    Their seconds are those of all pieces together.
    """
    of_pieces = [_by_epoch(piece) for piece in pieces]
    for epoch in range(1, pieces[0].epochs + 1):
        parts = [rows[epoch] for rows in of_pieces]
        # Each row of a piece has the seconds of all its seeds.
        seconds = round(sum(float(part[0]["seconds"]) for part in parts), 4)
        rows = sorted((row for part in parts for row in part), key=lambda r: r["seed"])
        yield [{**row, "seconds": seconds} for row in rows]


def joined_history(pieces: Sequence[Piece]) -> dict[str, Any]:
    """What run.json of the run of all seeds says of the sessions of its pieces."""
    sessions, warnings = [], []
    for piece in pieces:
        last = {n: v for n, v in piece.record.items() if n not in OF_THE_RUN}
        sessions += [*last.pop("earlier_sessions", []), last]
        warnings += piece.record["warnings"]
    return {
        "earlier_sessions": sorted(sessions, key=lambda session: session["started"]),
        "warnings": sorted(warnings, key=lambda w: (w["epoch"], w["seed"])),
    }


def _read_piece(path: str | os.PathLike[str]) -> Piece:
    run = RunDirectory(path)
    if not run.config_file.exists():
        raise RunError(f"{path}: no run directory (it has no config.json)")
    if not (run.metrics_jsonl.exists() and run.checkpoints.exists()):
        raise RunError(
            f"{path}: has no metrics.jsonl or no checkpoints; a copy without them, as "
            "those of results/raw, cannot be merged"
        )
    require_whole(path)
    piece = Piece(run, load_identity(path), read_json(run.run_file))
    done = int(load_metrics(path)["epoch"].max())
    if (status := run.status()) != "finished" or done != piece.epochs:
        raise RunError(
            f"{path}: is {status}, {done} of {piece.epochs} epochs; continue it first"
        )
    return piece


def _require_same(first: Piece, piece: Piece) -> None:
    """Refuses a run that differs in more than its seeds."""
    expected = first.identity._replace(seeds=piece.identity.seeds)
    differences = piece.identity.differences(expected)
    if piece.epochs != first.epochs:
        differences.append(f"training.epochs: {first.epochs!r} -> {piece.epochs!r}")
    if differences:
        raise RunError(
            f"{piece.run.path}: another experiment than {first.run.path} "
            f"({'; '.join(differences)}); nothing but seeds may differ"
        )


def _by_epoch(piece: Piece) -> dict[int, list[Row]]:
    rows: dict[int, list[Row]] = {}
    for row in MetricsWriter(piece.run).rows():
        rows.setdefault(int(row["epoch"]), []).append(row)
    return rows
