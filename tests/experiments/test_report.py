"""experiments.report: flags that would be ignored are refused."""

from __future__ import annotations

import pytest
from absl import flags
from absl.testing import flagsaver

from darlr_jax.config import ConfigError, replace
from darlr_jax.presets import preset
from darlr_jax.runs.writers import MetricsWriter
from experiments import report
from tests.runs.conftest import metrics_row, open_run


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Runs the program with flags on a folder of two runs."""
    for method in ("mbpo", "darlr"):
        config = replace(preset("coat", method), {"training.epochs": 1})
        with open_run(tmp_path / "runs" / method, config) as run:
            MetricsWriter(run).write([metrics_row(seed, 1) for seed in (0, 1)])
    monkeypatch.setenv("HOME", str(tmp_path))

    def start(*more):
        for name in report._FLAGS:
            report._FLAGS[name].unparse()
        with flagsaver.flagsaver():
            arguments = ["report", "--results=~/runs", *more]
            flags.FLAGS(report._FLAGS(arguments, known_only=True))
            report.main([])
        return tmp_path / "runs" / "report.html"

    return start


def test_the_page_of_a_group_in_a_home_folder(program):
    assert "darlr" in program().read_text()
    assert "darlr" in program("--against=darlr").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--against=darl", "--against=darl: no such run in runs; did you mean 'darlr'"),
        ("--dataset=nonsense", "--dataset: the runs say it themselves"),
        ("--epochs=3", "--epochs: the runs say it themselves"),
        ("--data_dir=data", "--data_dir: nothing is read but the runs"),
    ],
)
def test_what_would_be_ignored_is_refused(program, tmp_path, argument, message):
    with pytest.raises(ConfigError, match=message):
        program(argument)
    assert not (tmp_path / "runs" / "report.html").exists()
