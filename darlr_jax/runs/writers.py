"""Metrics of a run as it goes: one row per seed and epoch, as CSV and as JSON lines."""

from __future__ import annotations

import json
import math
import operator
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from darlr_jax.files import flush, replacing
from darlr_jax.runs.columns import MODES
from darlr_jax.runs.directory import RunDirectory, RunError, read_text

Row = Mapping[str, float | int]

_REMEDY = "one of the two is damaged: restore it, or start anew with --overwrite"

# Published metrics first, in this order; the rest follow by name.
_METRICS = ("R_tra", "len_tra", "R_each", "CV", "CV_turn", "MCD")


def metric_rows(
    metrics: Mapping[str, np.ndarray],
    seeds: Mapping[int, int],
    epoch: int,
    seconds: float,
) -> list[Row]:
    """One row a seed.

    Args:
      metrics: values `[S]`, `env_steps` among them.
      seeds: position in S -> seed, of the seeds that get a row.
      epoch: which one.
      seconds: what the epoch took for all seeds together.
    """
    published = [f"{mode}_{metric}" for mode in MODES for metric in _METRICS]
    published += [f"{mode}_all_users_R_tra" for mode in MODES]
    names = [name for name in published if name in metrics]
    names += sorted(set(metrics) - {"epoch", "env_steps"} - set(names))
    rows: list[Row] = []
    for position, seed in seeds.items():
        row: dict[str, float | int] = {"seed": seed, "epoch": epoch}
        row["env_steps"] = int(metrics["env_steps"][position])
        row["seconds"] = round(seconds, 4)
        row |= {name: float(metrics[name][position]) for name in names}
        rows.append(row)
    return rows


class MetricsWriter:
    """Appends to metrics.csv and metrics.jsonl, which hold the same rows.

    The columns are those of the first row, in its order. Not-a-number is an empty cell
    in the one file and null in the other. What is written is handed to the operating
    system at once, all seeds of an epoch together, so that readers see whole epochs; it
    is on the disk when `write` returns, before a checkpoint of the epoch is begun.
    """

    def __init__(self, run: RunDirectory):
        """Writes to the files of `run`.

        Rows that they hold already must be dealt with first, by `truncate_after`.
        """
        self._csv = run.metrics_csv
        self._jsonl = run.metrics_jsonl
        self._columns: list[str] | None = None
        self._last_epoch: int | None = None

    def write(self, rows: Sequence[Row]) -> None:
        """Appends the rows of one epoch.

        Args:
          rows: one for each seed, each with `seed`, `epoch` and the same other columns.

        Raises:
          RunError: columns are missing or new, or the epoch is not a later one.
        """
        if self._columns is None:
            self._start(rows[0])
        assert self._columns is not None
        for row in rows:
            _require_columns(self._csv, row, self._columns)
        epochs = {int(row["epoch"]) for row in rows}
        last = -math.inf if self._last_epoch is None else self._last_epoch
        if len(epochs) != 1 or min(epochs) <= last:
            raise RunError(
                f"{self._csv}: rows of one epoch after {last} expected, "
                f"got epochs {sorted(epochs)}"
            )
        texts = [[_text(row[name]) for name in self._columns] for row in rows]
        _append(self._csv, [",".join(cells) for cells in texts])
        _append(self._jsonl, [_json_line(self._columns, cells) for cells in texts])
        self._last_epoch = epochs.pop()

    def rows(self) -> list[dict[str, float]]:
        """The rows that the files hold, undefined numbers as nan.

        Raises:
          RunError: a line is malformed.
        """
        file = self._jsonl
        return [_numbers(_json_row(line, file)) for line in _whole_lines(file)]

    def truncate_after(self, epoch: int) -> None:
        """Drops the rows of later epochs, and a last line that was cut short.

        Call it before the first `write` to a run that is resumed from the checkpoint of
        `epoch`; 0 drops everything.

        Raises:
          RunError: the files do not reach up to `epoch`, or a line is malformed.
        """
        header, *lines = _whole_lines(self._csv) or [""]
        columns = header.split(",")
        kept = [line for line in lines if self._epoch_of(line, columns) <= epoch]
        last = self._epoch_of(kept[-1], columns) if kept else 0
        json_kept = [
            line
            for line in _whole_lines(self._jsonl)
            if _json_epoch(line, self._jsonl) <= epoch
        ]
        if last != epoch or len(json_kept) != len(kept):
            raise RunError(
                f"{self._csv}: ends at epoch {last} ({len(kept)} rows, and "
                f"{len(json_kept)} in {self._jsonl.name}) but the checkpoint is of "
                f"epoch {epoch}; start anew with --overwrite"
            )
        if kept:
            _require_same(self._csv, [header, *kept], json_kept)
        _rewrite(self._csv, [header, *kept] if kept else [])
        _rewrite(self._jsonl, json_kept)
        self._columns = columns if kept else None
        self._last_epoch = last if kept else None

    def _start(self, row: Row) -> None:
        for file in (self._csv, self._jsonl):
            if file.exists() and file.stat().st_size:
                raise RunError(
                    f"{file}: holds rows already; truncate_after comes first"
                )
        if list(row)[:2] != ["seed", "epoch"]:
            raise RunError("metrics: the first columns must be seed and epoch")
        _append(self._csv, [",".join(row)])
        self._columns = list(row)

    def _epoch_of(self, line: str, columns: list[str]) -> int:
        cells = line.split(",")
        if len(cells) == len(columns) and "epoch" in columns:
            text = cells[columns.index("epoch")]
            if text.isdecimal():
                return int(text)
        raise RunError(f"{self._csv}: malformed line {line!r}")


def require_agreement(run: RunDirectory, lines: Sequence[str]) -> None:
    """Refuses metrics.csv where metrics.jsonl, if it is there, has other rows.

    A digit that was damaged in one of them is told from the other. A session that was
    killed between the two may have left a row less, or more, in the second.

    Args:
      run: of the two files.
      lines: header and rows of metrics.csv.

    Raises:
      RunError: a row differs; or it is missing, before the last epoch.
    """
    if not run.metrics_jsonl.exists():
        return  # results/raw has the one alone
    header, *rows = lines
    others = _whole_lines(run.metrics_jsonl)
    _require_same(run.metrics_csv, lines, others)
    epoch = header.split(",").index("epoch")
    if len({row.split(",")[epoch] for row in rows[len(others) :]}) > 1:
        raise RunError(
            f"{run.metrics_jsonl}: {len(others)} rows, {len(rows)} in "
            f"{run.metrics_csv.name}; {_REMEDY}"
        )


def _require_same(
    csv: pathlib.Path, lines: Sequence[str], others: Sequence[str]
) -> None:
    """Compares a header and rows with those of metrics.jsonl, as far as both go."""
    header, *rows = lines
    columns = header.split(",")
    for number, (row, other) in enumerate(zip(rows, others, strict=False), start=2):
        cells = row.split(",")
        if len(cells) != len(columns) or _json_line(columns, cells) != other:
            raise RunError(
                f"{csv}, line {number}: metrics.jsonl has another row there; {_REMEDY}"
            )


def _require_columns(csv: pathlib.Path, row: Row, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in row]
    extra = [name for name in row if name not in columns]
    if missing or extra:
        raise RunError(
            f"{csv}: missing columns {missing}, new columns {extra}: other code "
            "measures other things; choose another --workdir, or --overwrite"
        )


def _text(value: float | int) -> str:
    """A number as both formats spell it; the empty text for not-a-number."""
    try:
        return str(int(operator.index(value)))  # type: ignore[arg-type]  # ints alone
    except TypeError:
        number = float(value)
    if math.isinf(number):
        return "1e999" if number > 0 else "-1e999"  # JSON has no other word for it
    return "" if math.isnan(number) else repr(number)


def _json_line(columns: Sequence[str], cells: Sequence[str]) -> str:
    pairs = zip(columns, cells, strict=True)
    fields = (f"{json.dumps(name)}: {cell or 'null'}" for name, cell in pairs)
    return "{" + ", ".join(fields) + "}"


def _json_row(line: str, file: pathlib.Path) -> dict[str, float | None]:
    """The row in a line of metrics.jsonl, `file`, which an error names."""
    try:
        row: dict[str, float | None] = json.loads(line)
        int(row["epoch"] or 0)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: malformed line {line!r}") from error
    return row


def _json_epoch(line: str, file: pathlib.Path) -> int:
    return int(_json_row(line, file)["epoch"] or 0)


def _numbers(row: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if x is None else x for name, x in row.items()}


def _append(file: pathlib.Path, lines: Sequence[str]) -> None:
    with open(file, "a", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))
    flush(file)


def _rewrite(file: pathlib.Path, lines: Sequence[str]) -> None:
    with replacing(file) as temporary:
        _append(temporary, lines)


def _whole_lines(file: pathlib.Path) -> list[str]:
    """The lines of `file` that end as lines do; none where there is no file."""
    if not file.exists():
        return []
    text = read_text(file)
    return text[: text.rfind("\n") + 1].splitlines()
