"""report.py: a page that stands alone, of runs with and without the newer files."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import pathlib
import re
import sys

import numpy as np
import pandas as pd
import pytest

from darlr_jax.config import replace
from darlr_jax.evaluation.calibration import calibration_report
from darlr_jax.evaluation.errors import variance_shares
from darlr_jax.evaluation.estimates import Estimates, estimate_errors
from darlr_jax.presets import preset
from darlr_jax.runs import pages
from darlr_jax.runs.directory import RunDirectory, RunError, write_json
from darlr_jax.runs.groups import read_group
from darlr_jax.runs.jobs import directory_name
from darlr_jax.runs.plan_tables import whole_tables
from darlr_jax.runs.plans import make_plan, row_config
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.report import results_report, run_report
from darlr_jax.runs.writers import MetricsWriter
from experiments import make_tables
from experiments.diagnosis import plain
from tests.runs.conftest import metrics_row, open_run
from tests.simulation.worlds import invented_world_model, tiny, tiny_dataset

ROOT = pathlib.Path(__file__).parent.parent.parent
PUBLISHED = PublishedScores(ROOT / "results" / "published")
VOID = {"meta", "br", "hr"}
ATTACK = "</style><script>alert('x')</script>&\"'"


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and collects them and their addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [
            values[n] for n in ("src", "href", "xlink:href") if n in values
        ]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def update_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def run(write_run):
    """A run whose every text would do harm if it were not escaped."""
    path = write_run("darlr")
    update_json(
        RunDirectory(path).run_file,
        command=["python", ATTACK],
        ground_truth=ATTACK,
        warnings=[ATTACK, {"kind": ATTACK}],
        versions={ATTACK: "1"},
        data={ATTACK: "abc"},
    )
    rows = [{"epoch": e, "held_out_mse": 2.0 / (1 + e), "loss": None} for e in range(3)]
    (path / "world_model.json").write_text(json.dumps({"epochs": rows}))
    return path


def test_a_page_stands_alone_and_nests(run):
    pytest.importorskip("matplotlib")
    text = run_report(run, PUBLISHED)
    page = Page(text)
    assert "script" not in page.tags
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert all(f"#{target}" not in text or target in page.ids
               for target in re.findall(r"url\(#([^)]*)\)", text))  # fmt: skip
    assert "default-src 'none'" in text
    assert text.count("alert(&#x27;x&#x27;)") >= 6


def test_the_page_of_an_unfinished_run_says_so(run):
    config = json.loads((run / "config.json").read_text())
    config["training"] = config["training"] | {"epochs": 200}
    update_json(run / "config.json", **config)
    update_json(RunDirectory(run).run_file, status="interrupted")
    assert "The run has 8 of 200 epochs." in run_report(run, PUBLISHED)


@pytest.mark.parametrize("name", ["calibration", "estimates"])
def test_a_file_without_its_parts_is_named(run, name):
    file = run / f"{name}.json"
    file.write_text("{}")
    with pytest.raises(RunError, match=rf"{name}\.json: has no .*; bring back a copy"):
        run_report(run, PUBLISHED)


def test_what_the_page_of_a_run_says(run):
    text = run_report(run, PUBLISHED)
    assert "darlr on coat" in text
    assert "<b>45.50</b><span> [45.00, 46.00]</span>" in text  # 10 * epoch + seed
    assert "published (one seed)" not in text  # its dataset differs from the preset's
    assert "of 8 epochs" not in text  # it is whole
    assert "Nothing is changed of the preset" not in text
    assert text.count("<li><b class='alarm'>") == 2  # the two warnings of run.json


def test_panels_are_those_of_the_columns(run):
    pytest.importorskip("matplotlib")
    text = run_report(run, PUBLISHED)
    assert ">Entropy of the policies<" in text
    assert ">Error by epoch of the fit<" in text
    assert ">Whom the selector picks<" not in text  # no such column here
    assert "Whom the selector picks (effective_users_picked)" in text


def test_without_matplotlib_the_page_says_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = run_report(run, PUBLISHED)
    assert "matplotlib is not installed" in text
    assert "<svg" not in text


def test_the_page_of_a_group(run, write_run):
    pytest.importorskip("matplotlib")
    write_run("mbpo", method="mbpo")
    group = read_group(run.parent)._replace(name="coat <1>")
    text = results_report(group, whole_tables(group, PUBLISHED), PUBLISHED, "mbpo")
    page = Page(text)
    assert "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert "<title>coat &lt;1&gt;</title>" in text
    assert all(re.fullmatch(r"[\w.-]+", name) for name in page.ids)
    assert "2 of 2" not in text  # the same scores: no seed is ahead
    assert "<td>0 of 2</td>" in text


def test_the_page_of_a_group_of_one_plan_has_its_table_alone(tmp_path):
    pytest.importorskip("matplotlib")
    plan = make_plan("roler", "coat")
    for row in plan.rows:
        config = row_config(row, "coat", {"training.epochs": 1})
        with open_run(tmp_path / directory_name(row), config) as run:
            MetricsWriter(run).write([metrics_row(seed, 1) for seed in (0, 1)])
    group = read_group(tmp_path)
    text = results_report(group, whole_tables(group, PUBLISHED), PUBLISHED, "mbpo")
    assert f"<h2>{plan.title}</h2>" in text
    assert "<h2>Table</h2>" not in text
    assert "No picture" not in text
    assert make_tables._paired_tables(group, PUBLISHED) == {}


def test_no_picture_of_nothing_is_no_want_of_matplotlib(monkeypatch):
    pytest.importorskip("matplotlib")
    assert pages.figure(None, "x", "of nothing") == ""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib is not installed" in pages.figure(None, "x", "of nothing")


@pytest.mark.parametrize(
    ("method", "window", "shown"),
    [("mbpo", 1, 16.93), ("mbpo", 4, 12.04), ("darlr", 4, None)],
)
def test_beside_a_run_stands_what_was_published_at_its_exit_window(
    tmp_path, method, window, shown
):
    config = replace(preset("kuairec", method), {"environment.exit_window": window})
    with open_run(tmp_path / "run", config) as run:
        writer = MetricsWriter(run)
        for epoch in range(1, 201):
            writer.write([metrics_row(seed, epoch) for seed in (0, 1)])
    text = run_report(run.path, PUBLISHED)
    assert ("published (one seed)" in text) == (shown is not None)
    if shown is not None:
        assert f"<b>{shown}</b>" in text
        assert f"ours is {1005.5 - shown:+.2f} from it" in text


def test_a_run_without_warnings_is_judged_by_todays_rules(run):
    record = json.loads(RunDirectory(run).run_file.read_text())
    del record["warnings"]
    RunDirectory(run).run_file.write_text(json.dumps(record))
    text = run_report(run, PUBLISHED)
    assert "No rule holds in 8 epochs. Judged: collapsed policy (recommender)" in text
    assert "(not of this method, or not recorded): diverging critic (recom" in text
    assert "The run recorded no warnings; these rules are today&#x27;s." in text
    lines = RunDirectory(run).metrics_csv.read_text().splitlines()
    place = lines[0].split(",").index("recommender_entropy")
    cells = [line.split(",") for line in lines]
    for row in cells[1:]:
        row[place] = "0.001"
    text = "\n".join(",".join(row) for row in cells) + "\n"
    RunDirectory(run).metrics_csv.write_text(text)
    RunDirectory(run).metrics_jsonl.unlink()  # it tells other numbers
    text = run_report(run, PUBLISHED)
    assert "collapsed policy (recommender)" in text
    assert "seed 1 from epoch 5: policy entropy 0.001 nats; to change: raise" in text


def fail(run, *seeds):
    """Marks seeds as failed in epoch 4, as a run does: their rows end before."""
    record = [
        {"seed": seed, "epoch": 4, "term": "loss", "value": "inf", "state": "there"}
        for seed in seeds
    ]
    update_json(RunDirectory(run).run_file, failed_seeds=record)
    header, *lines = RunDirectory(run).metrics_csv.read_text().splitlines(True)
    cells = [(line, line.split(",")) for line in lines]
    kept = [line for line, (seed, epoch, *_) in cells
            if int(seed) not in seeds or int(epoch) < 4]  # fmt: skip
    RunDirectory(run).metrics_csv.write_text("".join([header, *kept]))
    RunDirectory(run).metrics_jsonl.unlink(missing_ok=True)


def test_a_run_of_which_seeds_failed_says_so_first(run):
    fail(run, 1)
    text = run_report(run, PUBLISHED)
    assert "1 of 2 seeds failed; numbers of the others are no result." in text
    assert "Seed 1: loss is inf in epoch 4; its state: there." in text
    assert text.index("seeds failed") < text.index("<div class='cards'>")
    assert "1 seed, 8 epochs" in text
    with pytest.raises(RunError, match="1 of 2 seeds failed"):
        read_group(run.parent)  # a table takes no such run


def test_a_run_of_which_all_seeds_failed_has_no_page(run):
    fail(run, 0, 1)
    with pytest.raises(RunError, match="no seed is left that has not failed"):
        run_report(run, PUBLISHED)


def test_a_run_that_failed_says_so(run):
    update_json(RunDirectory(run).run_file, status="failed")
    assert "The run failed; its numbers are no result." in run_report(run, PUBLISHED)
    with pytest.raises(RunError, match="the run failed"):
        read_group(run.parent)


def test_what_a_run_has_not_recorded_is_said(run):
    (run / "world_model.json").unlink()
    text = run_report(run, PUBLISHED)
    for name in ("world_model.json", "calibration.json", "estimates.json"):
        assert f"<p class='absent'>{name}: not recorded (" in text
    assert "Dynamic uncertainty (uncertainty_first, uncertainty_repeat)" in text
    assert "<td>peak memory, host</td><td class='value'>not recorded</td>" in text
    group = read_group(run.parent)
    text = results_report(group, [], PUBLISHED, "mbpo")
    assert "<p class='absent'>calibration.json: not recorded (" in text


def test_costs_are_those_of_all_sessions(run):
    update_json(
        RunDirectory(run).run_file,
        run_seconds=30.0,
        compile_seconds=None,
        side_by_side=3,
        peak_memory_mib={"host": 2048.4, "device": None},
        earlier_sessions=[{"run_seconds": 70.0, "compile_seconds": 5.0}, {}],
    )
    text = run_report(run, PUBLISHED)
    for name, value in {
        "epochs, all sessions": "100.0 s",
        "compilation, all sessions": "5.0 s",
        "an epoch, median": "0.5 s",
        "transitions": "1,600, 400 a second",  # 100 an epoch, two seeds in 0.5 s
        "shared by": "up to 3 runs in one program; an epoch is the share of this one, "
        "other seconds are of all",
        "peak memory, host": "2,048 MiB",
        "peak memory, device": "not recorded",
    }.items():
        assert f"<td>{name}</td><td class='value'>{value}</td>" in text


def test_provenance_is_of_the_sessions_that_trained(run):
    """The command was given once more when nothing was left to do."""
    trained = [
        {
            "run_seconds": 9.0,
            "device": {"count": 1, "platform": "gpu", "kind": kind},
            "commit": commit * 40,
            "versions": {"jax": version},
            "started": f"the {place} time",
            "ended": f"the {place} end",
        }
        for kind, commit, version, place in (
            *(("abacus", "a", "1.0", "first"), ("slide rule", "b", "2.0", "second")),
        )
    ]
    update_json(RunDirectory(run).run_file, run_seconds=None, earlier_sessions=trained,
                commit="c" * 40, started="later")  # fmt: skip
    text = run_report(run, PUBLISHED)
    subtitle = f"abacus; slide rule, commit {'a' * 10}; {'b' * 10}, started the first"
    assert subtitle in text
    for name, value in {
        "device": "1 gpu abacus; 1 gpu slide rule",
        "commit": f"{'a' * 40}; {'b' * 40}",
        "versions": "jax 1.0; jax 2.0",
        "started": "the first time",
        "ended": "the second end",
    }.items():
        assert f"<td>{name}</td><td class='value'>{value}</td>" in text
    assert "c" * 40 not in text


# --- calibration and estimates --------------------------------------------------------

DATASET = tiny_dataset(tiny().dataset)
ESTIMATORS = (
    *("own estimate", "nearest users (ROLeR)", "mean of all users"),
    "selected users",
)


def write_calibration(run, dataset=DATASET):
    report = calibration_report(dataset, invented_world_model(DATASET))
    write_json(RunDirectory(run).calibration, plain(report))


def write_estimates(run, same_unit=True):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 12, 90), rng.integers(0, 10, 90)
    values = {name: rng.uniform(1, 5, 90) for name in ESTIMATORS}
    estimates = Estimates(users, items, rng.integers(0, 9, 90), values)
    units = dict.fromkeys(values, same_unit)
    made = estimate_errors(estimates, DATASET.true_reward, np.arange(12), units)
    report = {"epoch": 8, "users": 1234, "seeds": [0, 1], "recommended": made}
    report |= {"other": made, "by_seed": [made["overall"]] * 2}
    write_json(RunDirectory(run).estimates, plain(report))
    return made["overall"]


def test_calibration_and_estimates_are_shown(run):
    pytest.importorskip("matplotlib")
    write_calibration(run)
    overall = write_estimates(run)
    text = run_report(run, PUBLISHED)
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    for title in (
        *(">Calibration of the mean<", ">Calibration of the variance<", ">Coverage<"),
        *(">logged rows of the item<", ">true reward of the cell<"),
        ">recommendations of the cell<",
    ):
        assert title in text
    assert "<td>true matrix (analysis)</td><td>120 of 120</td>" in text
    assert "After epoch 8, 1,234 users played one training episode each" in text
    mae = f"{overall['selected users']['mae']:.2f}"
    assert f"<td>selected users</td><td>90</td><td>{mae}</td>" in text
    assert f"<td>{mae}, {mae}</td>" in text  # of each seed
    order = [text.index(f"<td>{name}</td>") for name in ESTIMATORS]
    assert order == sorted(order)
    assert "calibration.json: not recorded" not in text
    assert "Every user has 30 logged rows." in text
    truth = variance_shares(DATASET.true_reward)["interaction"]
    assert f"{100 * truth:.1f} % interaction.</p>" in text


def test_a_variance_that_nothing_was_taught_is_not_shown(run):
    """Files of older versions have it all the same."""
    pytest.importorskip("matplotlib")
    write_calibration(run)
    file = run / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["world_model"]["loss"] = "propensity"
    file.write_text(json.dumps(config), "utf-8")
    text = run_report(run, PUBLISHED)
    assert ">Calibration of the mean<" in text
    assert ">Calibration of the variance<" not in text and ">Coverage<" not in text


def test_in_another_unit_rankings_are_shown(run):
    pytest.importorskip("matplotlib")
    log = dataclasses.replace(DATASET.log, rewards=2 * DATASET.log.rewards)
    write_calibration(run, dataclasses.replace(DATASET, log=log))
    write_estimates(run, same_unit=False)
    text = run_report(run, PUBLISHED)
    Page(text)
    assert ">rank correlation<" in text
    assert "<td>selected users</td><td>90</td><td>n/a</td>" in text


def test_tables_are_shown_without_matplotlib(run, monkeypatch):
    write_calibration(run)
    write_estimates(run)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = run_report(run, PUBLISHED)
    assert "<td>selected users</td>" in text
    assert "matplotlib is not installed" in text


def test_zeros_have_no_logarithm(write_run):
    """Whoever is her own only reference has no P'_U in any epoch."""
    path = write_run("darlr_self", method="darlr_self")
    metrics = pd.read_csv(path / "metrics.csv")
    metrics[["uncertainty_first", "uncertainty_repeat"]] = 0.0
    metrics.to_csv(path / "metrics.csv", index=False)
    (path / "metrics.jsonl").unlink()
    assert "P'_U" in run_report(path, PUBLISHED).replace("&#x27;", "'")


def kinds_of_runs():
    """A committed run of each kind: its method, its metrics and its files."""
    kinds = {}
    for path in sorted((ROOT / "results" / "raw").glob("*/*")):
        method = json.loads(RunDirectory(path).config_file.read_text())["method"]
        with open(RunDirectory(path).metrics_csv) as file:
            header = file.readline()
        kind = method, header, *sorted(file.name for file in path.iterdir())
        kinds.setdefault(kind, path)
    return kinds.values()


@pytest.mark.parametrize(
    "path", kinds_of_runs(), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_committed_runs_have_pages(path):
    Page(run_report(path, PUBLISHED))
