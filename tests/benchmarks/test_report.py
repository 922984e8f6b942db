"""The page is what the records say."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from benchmarks import report, tables
from darlr_jax.config import ConfigError

SESSION = {
    "commit": "0123456789+dirty",
    "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "started": "2026-11-24T01:00:00+00:00",
    "command": "python -m benchmarks.phases",
    "processor": "A Processor",
    "cores": 2,
    "memory_gib": 23.5,
    "load": 0.25,
}
SETTING = {
    "dataset": "coat",
    "method": "darlr",
    "tracker": "transformer",
    "users": 290,
    "items": 300,
    "k_sel": 15,
    "environments": 100,
    "max_turn": 30,
    "num_seeds": 1,
}
FIGURES = {
    "seconds": 0.25,
    "spread": 0.051,
    "calls": 3,
    "first_seconds": 0.3,
    "unit": "transitions",
    "units": 3000.0,
    "units_per_second": 12_000.0,
    "compile_seconds": 12.5,
    "memory_mib": {"arguments": 3.0, "results": 0.0, "temporary": 13.2},
    "work": {"operations": 8e9, "exponentials": 3e7, "bytes": 1e6},
    "floor_seconds": 0.05,
    "bound_by": "operations",
    "ratio": 5.0,
}
PHASES = {
    "session": SESSION,
    "setting": SETTING,
    "rates": {"operations": 2e11, "exponentials": 5e9, "bytes": 5.5e10},
    "phases": {"training": FIGURES, "update": FIGURES | {"seconds": 1.5}},
    "evaluation_share": 0.0123,
    "host_peak_mib": 1234.5,
    "device_peak_mib": None,
}
GROWTH = {
    "session": SESSION | {"load": 1.75},
    "over": "users",
    "value": 3000,
    "setting": SETTING | {"method": "mbpo", "k_sel": None},
    "transition_microseconds": 83.25,
    "figures": FIGURES,
}
RUN = {
    "import_seconds": 2.0,
    "trace_seconds": 3.5,
    "compile_seconds": 20.25,
    "host_peak_mib": 900.0,
}
EPOCHS = {
    "session": SESSION | {"load": 0.5},
    "setting": SETTING,
    "transitions_per_second": 11_500.4,
    "epoch_seconds": 8.75,
    "spread": 0.03,
    "selector_picks_per_second": 172_506.0,
    "world_model_samples_per_second": 250_000.0,
    "evaluation_episodes_per_second": 8_000.0,
    "tables_seconds": 0.5,
    "compile_seconds": 24.25,
    "host_peak_mib": 1_600.0,
    "device_peak_mib": None,
}
COMPILATION = {
    "session": SESSION,
    "setting": SETTING,
    "cold": RUN,
    "warm": RUN | {"compile_seconds": 0.75},
}


def stored(tmp_path, **pieces):
    for name, records in pieces.items():
        tables.write(tmp_path / "cpu" / f"{name}.json", records)
    return tables.section(tables.load(tmp_path))


def test_committed_pages_are_the_generated_ones():
    for page, text in report.generated().items():
        committed = page.read_text("utf-8")
        assert committed == tables.replace_between(committed, text)


def test_committed_results_tell_where_they_are_from():
    for file in report.RESULTS.glob("*/*.json"):
        for record in tables.read(file):
            assert set(SESSION) <= set(record["session"])
            assert report.place(record) == file.parent.name


def test_nothing_measured_is_said(tmp_path):
    assert tables.section(tables.load(tmp_path)).startswith("Nothing has been measured")


def test_training_table(tmp_path):
    page = stored(tmp_path, coat_darlr=[PHASES])
    row = (
        "| coat, 290 x 300 | `darlr` | transformer | 15 | 100 x 30 | 1 | 12,000 | 5 % "
        "| 5.0 | operations | 1.2 % | 1,234 | \N{EN DASH} |"
    )
    assert row in page
    assert "**Growth**" not in page


def test_phase_table_has_every_phase(tmp_path):
    page = stored(tmp_path, coat_darlr=[PHASES])
    measured = "5 % | 5.0 | operations | 13 |"
    second = f"12,000 transitions | {measured}"
    assert f"| coat | `darlr` | training | 250.0 ms | {second}" in page
    assert f"| coat | `darlr` | update | 1.5 s | {second}" in page


def test_whole_epochs_stand_on_both_pages(tmp_path):
    plain = {"method": "mbpo", "tracker": "average", "k_sel": None}
    faster = EPOCHS | {
        "setting": SETTING | plain,
        "transitions_per_second": 170_000.0,
        "selector_picks_per_second": None,
    }
    page = stored(tmp_path, epochs_a=[EPOCHS], epochs_b=[faster], coat_darlr=[PHASES])
    row = (
        "| coat, 290 x 300 | `darlr` | transformer | 15 | 100 x 30 | 1 | 11,500 | 3 % "
        "| 172,506 | 8,000 | 250,000 | 24.2 s | 1,600 | \N{EN DASH} |"
    )
    other = (
        "| coat, 290 x 300 | `mbpo` | average | \N{EN DASH} | 100 x 30 | 1 | 170,000"
    )
    assert page.index(other) < page.index(row)
    first_page = tables.speeds(tables.load(tmp_path))
    assert row in first_page and other in first_page
    assert "load of the machine at the start of a piece 0.5 to 0.5" in first_page
    assert "Phases" not in first_page
    assert tables.speeds([]).startswith("Nothing has been measured")


def test_growth_and_compilation_tables(tmp_path):
    page = stored(tmp_path, growth_users=[GROWTH, GROWTH], compile_coat=[COMPILATION])
    row = (
        "| coat | `mbpo` | users 3,000 | 83.25 | 12,000 | 5 % | 5.0 | operations | 13 |"
    )
    assert page.count(row) == 2
    assert "| coat | `darlr` | 3.5 s | 20.2 s | 3.5 s | 750.0 ms | 2.0 s |" in page


def test_machine_is_named_with_load_and_commit(tmp_path):
    page = stored(tmp_path, a=[PHASES], b=[GROWTH])
    assert "A Processor, 2 cores, 24 GiB; device cpu x 1; jax 0.10.2, numpy" in page
    assert "commit 0123456 with changes; 2026-11-24;" in page
    assert "0.2 to 1.8" in page
    assert "| 2026-11-24 | 200.0 G | 5.0 G | 55.0 G |" in page


def test_rates_are_those_of_a_day_from_lowest_to_highest(tmp_path):
    """A machine of one name is not equally fast on all days."""
    faster = {"operations": 2.5e11, "exponentials": 4e9, "bytes": 5.5e10}
    later = SESSION | {"started": "2026-11-25T01:00:00+00:00"}
    slow = {"operations": 1e11, "exponentials": 1e9, "bytes": 2e10}
    page = stored(
        tmp_path,
        a=[PHASES | {"session": later, "rates": slow}],
        b=[PHASES],
        c=[PHASES | {"rates": faster}],
    )
    rows = (
        "| 2026-11-24 | 200.0 to 250.0 G | 4.0 to 5.0 G | 55.0 G |\n"
        "| 2026-11-25 | 100.0 G | 1.0 G | 20.0 G |\n"
    )
    assert rows in page


def test_every_table_is_rectangular(tmp_path):
    page = stored(tmp_path, a=[PHASES], b=[GROWTH], c=[COMPILATION])
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1


def test_text_goes_between_the_markers():
    page = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    expected = f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter\n"
    assert tables.replace_between(page, "new\n") == expected
    assert tables.replace_between(expected, "new\n") == expected


@pytest.mark.parametrize("page", ["", tables.BEGIN, tables.END + tables.BEGIN])
def test_page_without_markers_is_refused(page):
    with pytest.raises(ValueError, match="writes from here"):
        tables.replace_between(page, "new")


@pytest.mark.parametrize("pieces", [report.PIECES, report.ON_ACCELERATOR])
def test_pieces_have_names_of_their_own(pieces):
    names = [piece.name for piece in pieces]
    assert len(set(names)) == len(names)
    assert report.chosen(False, None, pieces) == list(pieces)


def test_pieces_are_chosen():
    quick = {piece.name for piece in report.chosen(True, None)}
    assert {"coat_mbpo", "coat_darlr", "kuairec_roler", "kuairand_darlr"} <= quick
    assert len(quick) < len(report.chosen(False, None)) == len(report.PIECES)
    assert [p.name for p in report.chosen(False, ["coat_mbpo"])] == ["coat_mbpo"]
    with pytest.raises(ConfigError, match="--only: names no piece; leave it out"):
        report.chosen(False, [])
    with pytest.raises(ConfigError, match="did you mean 'coat_mbpo'"):
        report.chosen(False, ["coat_mbp"])
    with pytest.raises(ConfigError, match="growth_users_darlr: takes longer; leave -"):
        report.chosen(True, ["coat_mbpo", "growth_users_darlr"])
    (example,) = re.findall(r"--only=(\S+)", report.__doc__)
    assert len(report.chosen(False, example.split(","))) == 2


def test_failing_piece_does_not_cost_the_others(tmp_path, monkeypatch):
    good = report.Piece("good", ())
    bad = report.Piece("bad", ())
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "run", lambda p: [PHASES] if p is good else None)
    assert report.measure_all([bad, good]) == ["bad"]
    assert [path.name for path in tmp_path.glob("cpu/*")] == ["good.json"]
    assert tables.read(tmp_path / "cpu" / "good.json") == [PHASES]


def test_output_of_a_piece_is_read_line_by_line(monkeypatch):
    lines = "\n".join(json.dumps(record) for record in (GROWTH, PHASES))
    code = f"print({lines!r})"
    monkeypatch.setattr(report, "_command", lambda piece: ["python3", "-c", code])
    assert report.run(report.Piece("piece", ())) == [GROWTH, PHASES]
    monkeypatch.setattr(report, "_command", lambda piece: ["python3", "-c", "1/0"])
    assert report.run(report.Piece("piece", ())) is None


def test_device_names_a_folder():
    session = SESSION | {"device": {"kind": "NVIDIA H200 (x)"}}
    assert report.place({"session": session}) == "nvidia-h200-x"


def test_pages_are_written_from_what_is_there(tmp_path, monkeypatch):
    tables.write(tmp_path / "cpu" / "a.json", [PHASES])
    tables.write(tmp_path / "cpu" / "b.json", [EPOCHS])
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for name in ("PAGE", "FIRST_PAGE"):
        page = tmp_path / name
        page.write_text(f"{tables.BEGIN}\n{tables.END}\n", "utf-8")
        monkeypatch.setattr(report, name, page)
    report.write_pages()
    assert "### cpu" in (tmp_path / "PAGE").read_text("utf-8")
    first = (tmp_path / "FIRST_PAGE").read_text("utf-8")
    assert "11,500" in first and "### cpu" not in first


def test_what_is_there_stays_whole_where_the_disk_is_full(tmp_path, monkeypatch):
    records = tmp_path / "results" / "cpu" / "a.json"
    tables.write(records, [PHASES])
    pages = [tmp_path / name for name in ("PAGE", "FIRST_PAGE")]
    for page in pages:
        page.write_text(f"{tables.BEGIN}\n{tables.END}\n", "utf-8")
        monkeypatch.setattr(report, page.name, page)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    before = {path: path.read_bytes() for path in (records, *pages)}

    def write_half(path, text, *_):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", write_half)
    for write in (report.write_pages, lambda: tables.write(records, [GROWTH])):
        with pytest.raises(OSError, match="No space left"):
            write()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path: path.read_bytes() for path in left} == before
