"""The few pieces of HTML that the report is made of; every text is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .2em .8em; text-align: right; }
th { border-bottom: 1px solid #888; } th:first-child, td:first-child { text-align: left; white-space: pre-wrap; }
tr:nth-child(even) td { background: #f6f6f6; } caption { text-align: left; font-weight: 600; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; } .card { width: 190px; font-size: 13px; }
.card img { background: #fff; border: 1px solid #ddd; } .right { color: #17803d; } .wrong { color: #b3261e; }
.note { color: #555; } img.plot { max-width: 100%; } footer { margin-top: 3em; color: #555; font-size: 13px; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def section(name: str, title: str, parts: Sequence[str]) -> str:
    """A headed section that can be linked to."""
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of STYLE."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a caption."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<caption>{escape(title)}</caption>\n<tr>{cells}</tr>\n{body}\n</table>"


def plot(uri: str, description: str) -> str:
    """A full-width picture."""
    return f'<p><img class="plot" src="{uri}" alt="{escape(description)}"></p>'


def card(uri: str, size: int, description: str, lines: Sequence[tuple[str, str]]) -> str:
    """A picture with lines of (text, class) under it."""
    text = "".join(f'<div class="{escape(kind)}">{escape(line)}</div>' for line, kind in lines)
    picture = f'<img src="{uri}" width="{size}" height="{size}" alt="{escape(description)}">'
    return f'<div class="card">{picture}{text}</div>'


def cards(items: Sequence[str]) -> str:
    """Cards side by side."""
    return '<div class="cards">\n' + "\n".join(items) + "\n</div>"
