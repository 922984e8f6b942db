"""report.py, diagnostics.py: a page that stands alone, and alarms worked by hand."""

from __future__ import annotations

import html.parser
import json
import math
import pathlib
import re
import sys

import pandas as pd
import pytest

from darlr_jax.runs.diagnostics import diagnose
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.published import PublishedScores
from darlr_jax.runs.report import results_report, run_report

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


def test_what_the_page_of_a_run_says(run):
    text = run_report(run, PUBLISHED)
    assert "darlr on coat" in text
    assert "<b>45.50</b><span> [45.00, 46.00]</span>" in text  # 10 * epoch + seed
    assert "<b>78.04</b>" in text and "ours is -32.54 from it" in text
    assert "The run has 8 of 200 epochs." in text
    assert "Nothing is changed of the preset" not in text  # its dataset differs
    assert "collapse of the recommender" in text


def test_panels_are_those_of_the_columns(run):
    pytest.importorskip("matplotlib")
    text = run_report(run, PUBLISHED)
    assert ">Entropy of the policies<" in text
    assert ">World model<" in text
    assert ">Whom the selector picks<" not in text  # no such column here


def test_without_matplotlib_the_page_says_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = run_report(run, PUBLISHED)
    assert "matplotlib is not installed" in text
    assert "<svg" not in text


def test_the_page_of_a_group(run, write_run):
    pytest.importorskip("matplotlib")
    text = results_report("coat <1>", [run, write_run("mbpo", method="mbpo")],
                          PUBLISHED, "mbpo")  # fmt: skip
    page = Page(text)
    assert "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert "<title>coat &lt;1&gt;</title>" in text
    assert "2 of 2" not in text  # the same scores: no seed is ahead
    assert "<td>0 of 2</td>" in text


def test_a_failed_run_has_no_page(run):
    failure = {"seed": 1, "epoch": 3, "term": "loss", "value": "inf", "state": ""}
    update_json(RunDirectory(run).run_file, failed_seeds=[failure])
    with pytest.raises(RunError, match="1 of 2 seeds failed"):
        run_report(run, PUBLISHED)
    update_json(RunDirectory(run).run_file, failed_seeds=[], status="failed")
    with pytest.raises(RunError, match="the run failed"):
        run_report(run, PUBLISHED)


# --- diagnostics ----------------------------------------------------------------------

EPOCHS = range(1, 9)


def curves(**columns):
    table = pd.DataFrame({"seed": 0, "epoch": EPOCHS, "NX_0_R_tra": 50.0})
    return table.assign(**columns)


def alarms(**columns):
    findings = {f.name: f.alarm for f in diagnose(curves(**columns))}
    return findings


def rising(start, end):
    return [start + (end - start) * (epoch - 1) / 7 for epoch in EPOCHS]


@pytest.mark.parametrize(
    ("length", "penalty", "alarm"),
    [
        (rising(30, 10), rising(0.1, 0.3), True),
        (rising(30, 10), rising(0.3, 0.1), False),  # the penalty does not drive it
        (rising(30, 28), rising(0.1, 0.3), False),  # hardly shorter
    ],
)
def test_premature_termination(length, penalty, alarm):
    found = alarms(NX_0_len_tra=length, penalty=penalty)
    assert found == {"premature termination": alarm}


@pytest.mark.parametrize(
    ("inflation", "score", "alarm"),
    [
        (rising(0.1, 0.9), rising(50, 40), True),
        (rising(0.1, 0.9), rising(50, 60), False),  # the true score gains
        (rising(0.1, 0.15), rising(50, 40), False),  # hardly inflated
        (rising(0.1, -0.9), rising(50, 40), False),  # the references answer low
    ],
)
def test_reward_hacking(inflation, score, alarm):
    found = alarms(inflation=inflation, NX_0_all_users_R_tra=score)
    assert found == {"reward hacking by the selector": alarm}


@pytest.mark.parametrize("agent", ["recommender", "selector"])
@pytest.mark.parametrize(("end", "alarm"), [(500.0, True), (20.0, False)])
def test_critic_divergence(agent, end, alarm):
    found = alarms(**{f"{agent}_value_loss": rising(10, end)})
    assert found == {f"divergence of the {agent}'s critic": alarm}


@pytest.mark.parametrize(("end", "alarm"), [(0.0, True), (2.0, False)])
def test_entropy_collapse(end, alarm):
    entropy = [4.0] * 4 + [end] * 4
    assert alarms(selector_entropy=entropy) == {
        "collapse of the selector's entropy": alarm
    }


def test_numbers_of_a_finding():
    loss = [8.0, 8.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0]
    (finding,) = diagnose(curves(recommender_value_loss=loss))
    assert finding.text == "value loss 6 at the end, 2 at its best"


def test_a_single_epoch_is_its_own_quarter():
    one = curves(recommender_entropy=4.0, recommender_value_loss=math.pi).head(1)
    assert [finding.alarm for finding in diagnose(one)] == [False, False]
