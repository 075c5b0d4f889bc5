"""Draws what `query` measured as an SVG that a page can show: seconds on a logarithmic scale, by region and way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.figures import spread

if TYPE_CHECKING:
    from benchmarks.query import Outcome

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 860, 420, 60, 70, 50
_COLOURS = ("#b8b8b8", "#7a8ca3", "#d9822b", "#2b7bba")


def draw(project: str, title: str, outcomes: Sequence[Outcome]) -> str:
    """A group of bars for each region of the project's cells with all samples, at the distance of its last cell."""
    mine = [each for each in outcomes if each.cell.project == project and each.cell.share == 100]
    far = max((each.cell.distance for each in mine), key=lambda distance: distance.first_byte_s)
    shown = [each for each in mine if each.cell.distance == far and not each.void]
    values = [[spread([one.wall for one in taken]).median for taken in each.taken.values()] for each in shown]
    low = 10.0 ** math.floor(math.log10(min(map(min, values))))
    high = 10.0 ** math.ceil(math.log10(max(map(max, values))))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 22, f"Seconds to an answer, all samples of {title}", size=14),
        *_legend(list(shown[0].taken)),
        *_scale(low, high),
    ]
    group = (_WIDTH - _LEFT - 20) / len(shown)
    for place, (outcome, seconds) in enumerate(zip(shown, values, strict=True)):
        left, width = _LEFT + place * group + group * 0.1, group * 0.8 / len(seconds)
        lines.append(_text(left + group * 0.4, _HEIGHT - 18, f"{outcome.cell.percent:g} % of the genome", "middle"))
        for number, value in enumerate(seconds):
            top = _y(value, low, high)
            lines.append(_bar(left + number * width, top, width - 3, _HEIGHT - _BOTTOM - top, _COLOURS[number]))
            lines.append(_text(left + (number + 0.5) * width, top - 4, f"{value:.2g}", "middle"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _y(value: float, low: float, high: float) -> float:
    share = math.log10(value / low) / math.log10(high / low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _scale(low: float, high: float) -> list[str]:
    lines = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = _y(10.0**power, low, high)
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(_text(_LEFT - 6, y + 4, f"{10.0**power:g} s", "end"))
    return lines


def _legend(titles: Sequence[str]) -> list[str]:
    lines = []
    for number, title in enumerate(titles):
        left = _LEFT + number * 195
        lines += [_bar(left, 34, 12, 12, _COLOURS[number]), _text(left + 18, 44, title)]
    return lines


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
