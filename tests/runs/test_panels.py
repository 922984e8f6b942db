"""panels.py: a picture with the panels that the metrics allow."""

from __future__ import annotations

import sys

import pytest

from darlr_jax.runs import panels
from darlr_jax.runs.directory import RunError
from darlr_jax.runs.panels import PANELS
from darlr_jax.runs.writers import MetricsWriter
from tests.runs.conftest import metrics_row, open_run

EVERYTHING = {name: 0.5 for panel in PANELS for name in (*panel.left, *panel.right)}


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
    assert panels.plot_curves(path) == path / "curves.png"
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    titles = [axis.get_title(loc="left") for axis in figures[0].axes]
    assert titles == [
        "True reward of an episode",
        "Length and penalty",
        "Entropy of the policies",
        "Policy losses",
    ]
    score = figures[0].axes[0]
    drawn, _ = score.lines  # means over two seeds, with a band of both
    assert list(drawn.get_ydata()) == [10 * e + 0.5 for e in range(1, 9)]
    assert len(score.collections) == 2
    assert [text.get_text() for text in score.get_legend().get_texts()] == [
        "users drawn",
        "all users",
    ]
    for axis in figures[0].axes:
        assert axis.get_xlabel() == "epoch"
        assert axis.get_ylabel() or axis.get_legend()


def plot_everything(path):
    with open_run(path) as run:
        MetricsWriter(run).write([metrics_row(seed, 1) | EVERYTHING for seed in (0, 1)])
    panels.plot_curves(path)


def test_all_panels(tmp_path, figures):
    plot_everything(tmp_path / "run")
    titles = {axis.get_title(loc="left") for axis in figures[0].axes} - {""}
    assert titles == {"True reward of an episode", *(p.title for p in PANELS)}
    lines = [line for axis in figures[0].axes for line in axis.get_lines()]
    assert len(lines) == 2 + sum(len(p.left) + len(p.right) for p in PANELS)


def test_a_share_has_the_axis_of_shares_and_a_second_line_is_dashed(tmp_path, figures):
    """What hardly moves must not look alive; one line may lie on another."""
    plot_everything(tmp_path / "run")
    axes = {axis.get_title(loc="left"): axis for axis in figures[0].axes}
    critics = axes["What the critics foresee"]
    assert critics.get_ylim() == (0.0, 1.0)
    assert [line.get_linestyle() for line in critics.lines] == ["-", "--"]


def test_without_matplotlib_one_line_says_what_to_do(write_run, monkeypatch, caplog):
    path = write_run()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert panels.plot_curves(path) is None
    assert "pip install 'darlr_jax[plots]'" in caplog.text
    assert not (path / "curves.png").exists()


def test_missing_metrics_are_an_error(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.csv"):
        panels.plot_curves(tmp_path)


@pytest.mark.parametrize(("epochs", "marker"), [(1, "o"), (2, "None")])
def test_a_single_epoch_can_be_seen(write_run, figures, epochs, marker):
    panels.plot_curves(write_run(epochs=epochs))
    lines = [line for axis in figures[0].axes for line in axis.lines]
    assert {line.get_marker() for line in lines} == {marker}


def test_epochs_are_whole_and_points_of_two_axes_apart(tmp_path, figures):
    plot_everything(tmp_path / "run")
    axes = figures[0].axes
    for axis in axes:
        assert all(float(tick).is_integer() for tick in axis.get_xticks())
    right = [axis for axis in axes if axis.yaxis.get_label_position() == "right"]
    assert right
    for axis in axes:
        styles = {line.get_fillstyle() for line in axis.lines}
        assert styles == {"none" if axis in right else "full"}
