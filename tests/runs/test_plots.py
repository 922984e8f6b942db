"""plots.py: a picture with the panels that the metrics allow."""

from __future__ import annotations

import re
import sys

import pytest

from darlr_jax.runs import plots
from darlr_jax.runs.directory import RunDirectory, RunError
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import metrics_row

EVERYTHING = {
    "estimate": 3.0,
    "shaped_reward": 2.9,
    "penalty": 0.01,
    "entropy_bonus": 0.1,
    "selector_entropy": 4.0,
    "similarity": 0.5,
    "diversity": 0.6,
    "inflation": 0.1,
    "effective_users_picked": 20.0,
    "knn_overlap": 0.2,
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, to look into."""
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    save = figure.Figure.savefig

    def remember(self, *arguments, **keywords):
        drawn.append(self)
        return save(self, *arguments, **keywords)

    monkeypatch.setattr(figure.Figure, "savefig", remember)
    return drawn


def test_panels_whose_columns_exist(write_run, figures):
    path = write_run()
    (path / "curves.png").write_text("older")
    assert plots.plot_curves(path) == path / "curves.png"
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [axis.get_title() for axis in figures[0].axes] == [
        "NX_0: reward of an episode",
        "Losses",
        "Entropy of the policies",
    ]
    score = figures[0].axes[0]
    assert len(score.lines) == 4  # two seeds, their mean, all users
    assert list(score.lines[2].get_ydata()) == [10 * e + 0.5 for e in range(1, 9)]
    assert len(score.get_legend().get_texts()) == 3
    for axis in figures[0].axes:
        assert axis.get_xlabel() == "epoch"
        assert axis.get_ylabel()


def test_all_panels(tmp_path, figures):
    run = RunDirectory(tmp_path)
    MetricsWriter(run).write([metrics_row(seed, 1) | EVERYTHING for seed in (0, 1)])
    plots.plot_curves(tmp_path)
    titles = [axis.get_title() for axis in figures[0].axes if axis.get_title()]
    assert len(titles) == 6
    drawn = {
        line.get_label() for axis in figures[0].axes[1:] for line in axis.get_lines()
    }
    assert drawn == {*EVERYTHING, "recommender_policy_loss", "recommender_entropy"}


def test_numbers_of_a_page_are_whole():
    """Lines may be rounded; what stands at an axis must not be."""
    pytest.importorskip("matplotlib")
    figure = plots.new_figure(4.0, 3.0, "a")
    axis = figure.subplots()
    axis.plot([0, 1], [0.0123, 0.0178])
    axis.set_yticks([0.0125, 0.0175])
    axis.set_title("0.12345")
    text = plots.to_svg(figure, "a")
    for number in ("0.0125", "0.0175", "0.12345"):
        assert f">{number}<" in text
    assert not re.search(r' d="[^"]*\.\d\d', text)


def test_without_matplotlib_one_line_says_what_to_do(write_run, monkeypatch, caplog):
    path = write_run()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plots.plot_curves(path) is None
    assert "pip install 'darlr_jax[plots]'" in caplog.text
    assert not (path / "curves.png").exists()


def test_missing_metrics_are_an_error(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.csv"):
        plots.plot_curves(tmp_path)


@pytest.mark.parametrize(("epochs", "marker"), [(1, "o"), (2, "None")])
def test_a_single_epoch_can_be_seen(write_run, figures, epochs, marker):
    plots.plot_curves(write_run(epochs=epochs))
    lines = [line for axis in figures[0].axes for line in axis.lines]
    assert {line.get_marker() for line in lines} == {marker}
