"""plots.py: pictures in pages."""

from __future__ import annotations

import re

import pytest

from darlr_jax.runs import plots


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
