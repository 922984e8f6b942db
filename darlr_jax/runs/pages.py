"""HTML that stands alone: a page, and what it is made of.

A page refers to nothing outside itself, and a policy in its head forbids it to. Texts
are escaped here, but for the body of a page, which is HTML already.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from darlr_jax.runs import plots
from darlr_jax.runs.results import cell

_STYLE = """
:root { color: #1c2430; background: #fff; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; margin: 0; } h2 { margin-top: 2.6rem; font-size: 1.25rem;
  border-bottom: 1px solid #d8dee6; padding-bottom: .25rem; }
.sub { color: #5a6675; margin: .2rem 0 1.6rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid #d8dee6; border-radius: .5rem; padding: .7rem 1rem; }
.card.main { background: #f2f6fb; border-color: #9db8d8; }
.card b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }
.card span { color: #5a6675; font-size: .85rem; display: block; }
.panels { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
figure { margin: 0; } figcaption { color: #5a6675; font-size: .85rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .82rem; }
.wide { overflow-x: auto; }
td, th { padding: .25rem .6rem; border-bottom: 1px solid #e6ebf1; text-align: left;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
td.note { white-space: normal; min-width: 14rem; }
td.value { white-space: normal; word-break: break-all; }
.alarm { color: #a63a00; }
ul.findings { list-style: none; padding: 0; } .findings li { margin: .5rem 0; }
.findings b { display: block; }
.absent { color: #5a6675; background: #f5f7fa; padding: .5rem .9rem;
  border-left: 4px solid #b8c2cf; }
.wide { margin: 1rem 0; }
.warning { background: #fff5ec; border-left: 4px solid #d55e00; padding: .5rem .9rem; }
pre { background: #f5f7fa; padding: .7rem; font-size: .82rem;
  white-space: pre-wrap; word-break: break-word; }
summary { cursor: pointer; color: #2a5b92; }
"""
_NO_MATPLOTLIB = "<p class='warning'>No picture: matplotlib is not installed.</p>"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str]) -> str:
    """The whole document; `body` are its elements."""
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{esc(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def note(text: str) -> str:
    """A paragraph beneath what it explains."""
    return f"<p class='sub'>{esc(text)}</p>"


def figure(drawn: Any | None, name: str, caption: str) -> str:
    """A picture, called as no other of the page; of None, why there is none.

    Nothing where there was nothing to draw.
    """
    if drawn is None:
        return "" if plots.installed() else _NO_MATPLOTLIB
    told = f"<svg role='img' aria-label='{esc(caption)}' "
    svg = plots.to_svg(drawn, name).replace("<svg ", told, 1)
    return f"<figure>{svg}<figcaption>{esc(caption)}</figcaption></figure>"


def table(rows: pd.DataFrame) -> str:
    """A table, each value as `results.cell` shows it."""
    header = "".join(f"<th>{esc(str(name))}</th>" for name in rows.columns)
    lines = (
        "".join(
            f"<td{' class=note' * (name == 'what')}>{esc(cell(value, 2))}</td>"
            for name, value in zip(rows.columns, row, strict=True)
        )
        for row in rows.itertuples(index=False)
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='wide'><table><tr>{header}</tr>{body}</table></div>"


def pairs(facts: Mapping[str, Any]) -> str:
    """Names and values, a line each."""
    rows = "".join(
        f"<tr><td>{esc(str(name))}</td><td class='value'>{esc(plain(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{rows}</table>"


def plain(value: Any) -> str:
    """A value of JSON in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {part}" for name, part in value.items())
    return str(value)


def esc(text: str) -> str:
    """The text as HTML."""
    return html.escape(text, quote=True)
