"""What all pictures share: an empty figure, and its way into a file or a page.

The one module that knows matplotlib, which is an optional extra.
"""

from __future__ import annotations

import io
import pathlib
import re
from typing import Any

from absl import logging

from darlr_jax.files import replacing

_COORDINATES = r' (?:d|x|y|x1|x2|y1|y2|transform|points)="[^"]*"'  # of elements of SVG


def installed() -> bool:
    """Whether there is a matplotlib to draw with."""
    return _figure_class() is not None


def new_figure(width: float, height: float, name: str) -> Any | None:
    """An empty figure of so many inches.

    None, with a warning that `name` is not drawn, where matplotlib is not installed.
    """
    figure = _figure_class()
    if figure is None:
        logging.warning(
            "%s is not drawn: matplotlib is missing (pip install 'darlr_jax[plots]')",
            name,
        )
        return None
    return figure(figsize=(width, height), layout="constrained")


def save_png(figure: Any, path: pathlib.Path) -> None:
    """Writes `figure` in place of `path`."""
    _mark_single_points(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def to_svg(figure: Any, name: str) -> str:
    """`figure` as an `<svg>` element to stand in a page, with text as text.

    Its ids begin with `name`, so that no two pictures of a page share one.
    """
    import matplotlib

    _mark_single_points(figure)
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        io.StringIO() as stream,
    ):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
    text = text[text.index("<svg") :]
    # A tenth of a point is fine enough for lines; numbers that are read stay whole.
    text = re.sub(
        _COORDINATES, lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), text
    )
    text = re.sub(r"\n +", "\n", text)  # a page is read through a browser
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)


def _figure_class() -> Any | None:
    try:
        from matplotlib.figure import Figure  # no pyplot: it holds state of the process
    except ImportError:
        return None
    return Figure


def _mark_single_points(figure: Any) -> None:
    """A line of one point, as after one epoch, cannot be seen without a marker.

    Each of two axes has its point in the middle: the right one's is a ring.
    """
    for axis in figure.axes:
        ring = axis.yaxis.get_label_position() == "right"
        look = {"fillstyle": "none", "markersize": 11} if ring else {}
        for line in axis.lines:
            if len(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set(marker="o", **look)
