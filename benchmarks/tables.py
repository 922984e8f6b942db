"""Measured records -> the tables of docs/speed.md and README.md.

Nothing is measured here.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from darlr_jax.files import replacing

BEGIN = "<!-- benchmarks.report writes from here -->"
END = "<!-- to here -->"
_NOTHING = "Nothing has been measured yet: `make bench-quick`."

_NONE = "\N{EN DASH}"

Record = dict[str, Any]  # a line of JSON of a benchmark


class Results(NamedTuple):
    """What was measured on one machine."""

    place: str  # name of the folder, of the device
    records: dict[str, list[Record]]  # name of a piece -> its lines

    def having(self, field: str) -> list[Record]:
        """The lines that have a field, in the order of their pieces' names."""
        lines = (line for name in sorted(self.records) for line in self.records[name])
        return [line for line in lines if field in line]


def load(folder: pathlib.Path) -> list[Results]:
    """The results under `folder`, a folder a machine, a file a piece."""
    places = sorted(path for path in folder.glob("*") if path.is_dir())
    return [
        Results(
            place.name,
            {file.stem: read(file) for file in sorted(place.glob("*.json"))},
        )
        for place in places
    ]


def read(file: pathlib.Path) -> list[Record]:
    """The lines of a piece, as `write` has left them."""
    lines: list[Record] = json.loads(file.read_text("utf-8"))
    return lines


def write(file: pathlib.Path, records: Sequence[Record]) -> None:
    """Writes the lines of a piece, to be read by people too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(records, indent=1) + "\n", "utf-8")


def replace_between(page: str, text: str) -> str:
    """`page` with `text` between the two markers.

    Raises:
      ValueError: the page does not have both of them, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} before {END}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def section(results: Iterable[Results]) -> str:
    """All tables, a part a machine."""
    parts = [_part(result) for result in results if result.records]
    return "\n".join(parts) if parts else _NOTHING + "\n"


def speeds(results: Iterable[Results]) -> str:
    """Whole epochs on a CPU, and the machine."""
    chosen = [result for result in results if result.place == "cpu"]
    epochs = "".join(_epochs(result) for result in chosen)
    return f"{epochs}\n{_machine_of_epochs(chosen[0])}" if epochs else f"{_NOTHING}\n"


def _machine_of_epochs(results: Results) -> str:
    """The paragraph beneath them: of their pieces alone."""
    pieces = {
        name: lines
        for name, lines in results.records.items()
        if any("epoch_seconds" in line for line in lines)
    }
    return _machine(results._replace(records=pieces))


def _part(results: Results) -> str:
    tables = (
        ("What a machine does in a second", _rates(results)),
        ("Whole epochs", _epochs(results)),
        ("Training", _training(results)),
        ("Phases", _phases(results)),
        ("Compilation", _compilation(results)),
        ("Growth", _growth(results)),
    )
    shown = [f"**{title}**\n\n{table}" for title, table in tables if table]
    return "\n".join([f"### {results.place}\n\n{_machine(results)}", *shown])


def _machine(results: Results) -> str:
    """One paragraph: machine, versions, commit, days, load."""
    sessions = [line["session"] for line in results.having("session")]
    last = sessions[-1]
    loads = [session["load"] for session in sessions]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(last["versions"].items()))
    commits = sorted({str(session["commit"])[:7] for session in sessions})
    dirty = any("+dirty" in str(session["commit"]) for session in sessions)
    days = sorted({session["started"][:10] for session in sessions})
    device = last["device"]
    return (
        f"{last['processor']}, {last['cores']} cores, {last['memory_gib']:.0f} GiB; "
        f"device {device['kind']} x {device['count']}; {versions}; commit "
        f"{', '.join(commits)}{' with changes' if dirty else ''}; {', '.join(days)}; "
        f"load of the machine at the start of a piece {min(loads):.1f} to "
        f"{max(loads):.1f}.\n"
    )


def _rates(results: Results) -> str:
    """The rates of each day's pieces, whose floors are each from its own."""
    days: dict[str, list[Record]] = {}
    for line in results.having("rates"):
        days.setdefault(line["session"]["started"][:10], []).append(line["rates"])
    names = ("operations", "exponentials", "bytes")
    return table(
        ("day", "float32 operations", "exponentials", "bytes read or written"),
        [
            (day, *(_range([rate[name] / 1e9 for rate in days[day]]) for name in names))
            for day in sorted(days)
        ],
    )


def _range(values: Sequence[float]) -> str:
    """Billions, lowest to highest; one figure where they agree."""
    low, high = f"{min(values):,.1f}", f"{max(values):,.1f}"
    return f"{low} G" if low == high else f"{low} to {high} G"


def _training(results: Results) -> str:
    rows = []
    for line in results.having("phases"):
        figures = line["phases"].get("training")
        if figures is not None:
            rows.append(
                (
                    *_setting(line),
                    f"{figures['units_per_second']:,.0f}",
                    *_measured(figures),
                    _share(line["evaluation_share"]),
                    f"{line['host_peak_mib']:,.0f}",
                    _whole(line["device_peak_mib"]),
                )
            )
    names = ("transitions/s", *_MEASURED, "evaluation", "host MiB", "device MiB")
    return table((*_SETTING, *names), rows)


def _epochs(results: Results) -> str:
    """Rows from the fastest to the slowest."""
    lines = results.having("epoch_seconds")
    rows = [
        (
            *_setting(line),
            f"{line['transitions_per_second']:,.0f}",
            f"{100 * line['spread']:.0f} %",
            _whole(line["selector_picks_per_second"]),
            _whole(line["evaluation_episodes_per_second"]),
            _whole(line["world_model_samples_per_second"]),
            _seconds(line["compile_seconds"]),
            _whole(line["host_peak_mib"]),
            _whole(line["device_peak_mib"]),
        )
        for line in sorted(lines, key=lambda line: -line["transitions_per_second"])
    ]
    names = (
        *("transitions/s", "spread", "picks/s", "evaluation episodes/s"),
        *("world-model pairs/s", "compilation", "host MiB", "device MiB"),
    )
    return table((*_SETTING, *names), rows)


def _phases(results: Results) -> str:
    rows = []
    for line in results.having("phases"):
        for name, figures in line["phases"].items():
            speed = f"{figures['units_per_second']:,.0f} {figures['unit']}"
            memory = f"{figures['memory_mib']['temporary']:,.0f}"
            seconds = _seconds(figures["seconds"])
            rows.append(
                (*_name(line), name, seconds, speed, *_measured(figures), memory)
            )
    names = ("phase", "a call", "a second", *_MEASURED, "temporary MiB")
    return table(("size", "method", *names), rows)


def _compilation(results: Results) -> str:
    rows = []
    for line in results.having("cold"):
        cold, warm = line["cold"], line["warm"]
        seconds = [
            _seconds(run[name])
            for run in (cold, warm)
            for name in ("trace_seconds", "compile_seconds")
        ]
        rows.append((*_name(line), *seconds, _seconds(warm["import_seconds"])))
    names = ("trace, cold", "compile, cold", "trace, warm", "compile, warm", "imports")
    return table(("size", "method", *names), rows)


def _growth(results: Results) -> str:
    rows = []
    for line in results.having("over"):
        figures = line["figures"]
        rows.append(
            (
                *_name(line),
                f"{line['over']} {line['value']:,}",
                f"{line['transition_microseconds']:,.2f}",
                f"{figures['units_per_second']:,.0f}",
                *_measured(figures),
                f"{figures['memory_mib']['temporary']:,.0f}",
            )
        )
    names = ("grown", "µs a transition", "transitions/s", *_MEASURED, "temporary MiB")
    return table(("size", "method", *names), rows)


_SETTING = ("size", "method", "tracker", "K_sel", "sessions x turns", "seeds")
_MEASURED = ("spread", "x floor", "bound by")


def _name(line: Record) -> tuple[str, str]:
    return line["setting"]["dataset"], f"`{line['setting']['method']}`"


def _setting(line: Record) -> tuple[str, ...]:
    setting = line["setting"]
    users, items = f"{setting['users']:,}", f"{setting['items']:,}"
    return (
        f"{setting['dataset']}, {users} x {items}",
        f"`{setting['method']}`",
        setting["tracker"],
        _NONE if setting["k_sel"] is None else str(setting["k_sel"]),
        f"{setting['environments']} x {setting['max_turn']}",
        str(setting["num_seeds"]),
    )


def _measured(figures: Record) -> tuple[str, str, str]:
    return (
        f"{100 * figures['spread']:.0f} %",
        f"{figures['ratio']:.1f}",
        figures["bound_by"],
    )


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _whole(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{1e3 * value:,.1f} ms" if value < 1 else f"{value:,.1f} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    if not rows:
        return ""
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
