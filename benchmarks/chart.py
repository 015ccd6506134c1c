"""A bar chart as SVG: two kinds of figures don't justify a plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

_COLOURS = {"ours": "#00897b", "floor": "#90a4ae", "sdk": "#e57373"}
_BAR, _LEFT, _WIDTH = 16, 190, 420


def bars(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a chart with a bar for each client of each row, on a logarithmic scale.

    :param rows: row -> client -> figure.
    """
    figures = [figure for row in rows.values() for figure in row.values() if figure > 0]
    least = 10 ** math.floor(math.log10(min(figures)))
    span = math.log10(max(figures) / least)
    y, parts = 30, [_text(10, 18, title, "bold")]
    for row, by_client in rows.items():
        for number, (client, figure) in enumerate(by_client.items()):
            width = max(1.0, _WIDTH * math.log10(max(figure, least) / least) / span)
            if number == 0:
                parts.append(_text(10, y + 12, row))
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR - 3}" '
                f'fill="{_COLOURS[client]}"/>'
            )
            parts.append(_text(round(_LEFT + width) + 6, y + 11, f"{client} {figure:.3g}"))
            y += _BAR
        y += 8
    size = f'width="{_LEFT + _WIDTH + 110}" height="{y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
        f'<rect {size} fill="white"/>{"".join(parts)}</svg>\n'
    )


def _text(x: int, y: int, text: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{escape(text)}</text>'
