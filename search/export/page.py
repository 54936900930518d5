"""Small pieces of HTML; everything that is not `Markup` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as escaped text; names come from strangers."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` stands for `class`."""
    given = "".join(
        f' {key.rstrip("_")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    return Markup("".join(text(child) for child in children))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Markup:
    """A table whose first column names the row."""
    titles = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    titles = tag("thead", titles) if any(head) else Markup()
    body = join(
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    inner = tag("table", titles, tag("tbody", body), **attributes)
    return tag("div", inner, class_="scroll")


STYLE = """
:root { --ink:#1f2a24; --muted:#66736b; --line:#dfe5df; --leaf:#0b6e4f; --soft:#eef4f0;
  --paper:#fff; --ground:#f6f8f5; --warn:#c8791b; }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif }
main { max-width:960px; margin:0 auto; padding:40px 24px 72px }
header p { color:var(--muted); margin:.2em 0 0; overflow-wrap:anywhere }
h1 { font-size:2rem; line-height:1.2; margin:0; letter-spacing:-.01em; overflow-wrap:anywhere }
h2 { font-size:1.15rem; margin:0 0 .8em }
section { background:var(--paper); border:1px solid var(--line); border-radius:12px;
  padding:22px 24px; margin-top:20px }
section > p { margin:.2em 0 1em; color:var(--muted); max-width:70ch }
section > p:last-child { margin-bottom:0 }
.warnings { border-color:var(--warn) }
section > p.warning { color:var(--ink) }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(200px,1fr)); gap:16px;
  margin-top:26px }
.card { background:var(--paper); border:1px solid var(--line); border-radius:12px;
  padding:16px 18px }
.card .what { color:var(--muted); font-size:.86rem }
.card .value { font-size:1.65rem; font-weight:650; letter-spacing:-.01em; margin:.1em 0;
  font-variant-numeric:tabular-nums }
.card .from { color:var(--muted); font-size:.86rem; font-variant-numeric:tabular-nums }
.card.first { background:var(--leaf); border-color:var(--leaf); color:#fff }
.card.first .what, .card.first .from { color:#d5e9df }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th, td { text-align:right; padding:.5em .4em .5em 1em; border-bottom:1px solid var(--line);
  white-space:nowrap }
th:first-child, td:first-child { text-align:left; padding-left:0 }
.heat { font-size:.84rem }
.heat td, .heat thead th { padding:.34em .36em; border-bottom-color:#fff }
.heat thead th { white-space:nowrap }
.heat tbody th { padding:.34em .5em .34em 0; max-width:13em; overflow:hidden;
  text-overflow:ellipsis; font-family:ui-monospace,"Cascadia Mono","Liberation Mono",monospace }
.words td, .words th { text-align:left; white-space:normal; overflow-wrap:anywhere;
  vertical-align:top }
.words th { min-width:7.5em }
thead th { color:var(--muted); font-weight:500; font-size:.86rem; white-space:normal;
  vertical-align:bottom }
tbody th { font-weight:500 }
tbody tr:last-child > * { border-bottom:0 }
svg { display:block; width:100%; height:auto }
.bars { display:grid; grid-template-columns:minmax(90px,max-content) 1fr max-content;
  gap:5px 14px; align-items:center; font-size:.9rem }
.bars .name { overflow:hidden; text-overflow:ellipsis; white-space:nowrap; max-width:22rem;
  font-family:ui-monospace,"Cascadia Mono","Liberation Mono",monospace; font-size:.84rem }
.bars .count { color:var(--muted); text-align:right; font-variant-numeric:tabular-nums }
.bar { height:13px; background:var(--soft); border-radius:4px; overflow:hidden }
.bar i { display:block; height:100%; background:var(--leaf); border-radius:4px 0 0 4px }
.bar i.whole { background:#9fb8ac }
pre { background:#17211c; color:#e7f0ea; border-radius:8px; padding:14px 16px; overflow-x:auto;
  font:.86rem/1.55 ui-monospace,"Cascadia Mono","Liberation Mono",monospace; margin:0 0 .9em }
code { font-family:ui-monospace,"Cascadia Mono","Liberation Mono",monospace; font-size:.9em }
.good { color:var(--leaf); font-weight:600 }
footer { color:var(--muted); font-size:.86rem; margin-top:24px }
@media print { body { background:#fff } section, .card { break-inside:avoid } }
"""


def document(title: str, *body: object) -> str:
    """A whole page that loads nothing from anywhere."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = join(
        (
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            tag("title", title),
            tag("style", Markup(STYLE)),
        )
    )
    page = tag("html", tag("head", head), tag("body", tag("main", *body)), lang="en")
    return f"<!doctype html>\n{page}\n"
