"""Two kinds of chart as SVG text: groups of bars, and curves of how much of a set lies below a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, PLOT_BOTTOM = 720, 300
LEFT, RIGHT, TOP = 56, 16, 40
LEGEND_COLUMNS, LEGEND_ROW = 3, 18
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")
"""Okabe and Ito's, which the colour-blind tell apart; a ninth series begins again."""
MOST_POINTS = 200


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], unit: str) -> str:
    """Bars side by side, a colour a series.

    Args:
        title: above the chart.
        groups: names along the horizontal axis.
        series: per name one value, 0 or more, for each group; None leaves a gap.
        unit: of the values.
    """
    ticks = ticks_of(
        0.0, max((value for values in series.values() for value in values if value is not None), default=0)
    )
    parts = _frame(title, ticks, unit)
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = 0.8 * slot / max(1, len(series))
    for at, group in enumerate(groups):
        parts.append(_text(LEFT + (at + 0.5) * slot, PLOT_BOTTOM + 16, group, "middle"))
        for number, values in enumerate(series.values()):
            value = values[at]
            if value is None:
                continue
            x, height = LEFT + (at + 0.1) * slot + number * width, value / ticks[-1] * (PLOT_BOTTOM - TOP)
            y = PLOT_BOTTOM - height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.92:.1f}" height="{height:.1f}"'
                f' fill="{_colour(number)}"/>'
            )
            parts.append(_text(x + width * 0.46, y - 3, f"{value:.3g}", "middle", size=9))
    return _svg(parts, list(series))


def shares_below(title: str, series: Mapping[str, Sequence[float]], unit: str) -> str:
    """Curves that rise from 0 to 100 %: the share of a series' values that are at most as large as the abscissa.

    Args:
        title: above the chart.
        series: values by name. The axis runs from the smallest 1st to the largest 99th percentile; what lies beyond
            is drawn at its ends.
        unit: of the values.
    """
    ordered = {name: sorted(values) for name, values in series.items() if values}
    ends = [values[(len(values) - 1) * part // 100] for values in ordered.values() for part in (1, 99)]
    across = ticks_of(min(0.0, *ends), max(ends)) if ends else ticks_of(0.0, 0.0)
    parts = _frame(title, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0], "%")
    for tick in across:
        parts.append(_text(_x(tick, across), PLOT_BOTTOM + 16, f"{tick:.4g} {unit}", "middle"))
    for number, values in enumerate(ordered.values()):
        steps = min(MOST_POINTS, len(values))
        points = [
            f"{_x(values[max(0, round(step / steps * len(values)) - 1)], across):.1f}"
            f",{PLOT_BOTTOM - step / steps * (PLOT_BOTTOM - TOP):.1f}"
            for step in range(steps + 1)
        ]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{_colour(number)}" stroke-width="2"/>')
    return _svg(parts, list(ordered))


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers, evenly spaced, from at most `low` to at least `high`; 2 to 9 of them."""
    span = high - low or 1.0
    scale = 10.0 ** math.floor(math.log10(span / 6))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= span / 6)
    first = math.floor(low / step)
    return [number * step for number in range(first, max(math.ceil(high / step), first + 1) + 1)]


def _x(value: float, ticks: Sequence[float]) -> float:
    inside = min(max(value, ticks[0]), ticks[-1])
    return LEFT + (inside - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - LEFT - RIGHT)


def _frame(title: str, ticks: Sequence[float], unit: str) -> list[str]:
    """Title, and the vertical axis with a line for each tick."""
    parts = [_text(WIDTH / 2, 20, title, "middle", size=14)]
    for tick in ticks:
        y = PLOT_BOTTOM - (PLOT_BOTTOM - TOP) * (tick - ticks[0]) / (ticks[-1] - ticks[0])
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:.4g} {unit}", "end"))
    return parts


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, text: str, anchor: str, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _svg(parts: Sequence[str], names: Sequence[str]) -> str:
    legend = []
    for number, name in enumerate(names):
        x = LEFT + number % LEGEND_COLUMNS * (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS
        y = PLOT_BOTTOM + 40 + number // LEGEND_COLUMNS * LEGEND_ROW
        legend.append(f'<rect x="{x:.1f}" y="{y - 9}" width="10" height="10" fill="{_colour(number)}"/>')
        legend.append(_text(x + 14, y, name, "start"))
    height = PLOT_BOTTOM + 36 + math.ceil(len(names) / LEGEND_COLUMNS) * LEGEND_ROW
    body = "\n".join((*parts, *legend))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' font-family="sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
