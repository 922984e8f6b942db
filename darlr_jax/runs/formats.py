"""Tables as files for others: CSV for programs, LaTeX for papers.

Markdown, which README has, is `results.to_markdown`.
"""

from __future__ import annotations

import pandas as pd

from darlr_jax.runs.results import cell
from darlr_jax.runs.statistics import Interval

_DIGITS = 2  # behind the point, in a paper
_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"|": r"$|$", "±": r"$\pm$", "λ": r"$\lambda$", "Δ": r"$\Delta$"},
    **{"\N{MINUS SIGN}": r"$-$", "\N{EN DASH}": "--", "r̂": r"$\hat r$"},
}


def to_csv(table: pd.DataFrame) -> str:
    """One line a row; an interval becomes four columns: value, low, high and runs.

    Numbers are written in full, what is missing as an empty cell.
    """
    columns: dict[str, list[object]] = {}
    for name in table.columns:
        values = list(table[name])
        if not any(isinstance(value, Interval) for value in values):
            columns[str(name)] = values
            continue
        parts = [v if isinstance(v, Interval) else (None,) * 4 for v in values]
        for suffix, part in zip(("", " low", " high", " runs"),
                                zip(*parts, strict=True), strict=True):  # fmt: skip
            columns[f"{name}{suffix}"] = list(part)
    wide = {name: pd.Series(column, dtype=object) for name, column in columns.items()}
    return pd.DataFrame(wide).to_csv(index=False, lineterminator="\n")


def to_latex(table: pd.DataFrame, caption: str) -> str:
    r"""A `table*` of booktabs; text is on the left, numbers are on the right.

    Needs `\usepackage{booktabs}`. Every character that means something to LaTeX is
    escaped.
    """
    numeric = [
        pd.api.types.is_numeric_dtype(kind)
        or any(isinstance(value, Interval) for value in table[name])
        for name, kind in table.dtypes.items()
    ]
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{latex_text(caption)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        r"\toprule",
        _latex_row(str(name) for name in table.columns),
        r"\midrule",
        *(
            _latex_row(cell(value, _DIGITS) for value in row)
            for row in table.itertuples(index=False)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """`text` as LaTeX prints it."""
    text = text.replace("r̂", "\0")  # two characters that are one symbol
    return "".join(_LATEX.get(c, c) for c in text).replace("\0", _LATEX["r̂"])


def _latex_row(cells: object) -> str:
    return " & ".join(latex_text(text) for text in cells) + r" \\"  # type: ignore[attr-defined]
