"""Charts as SVG that any reader of XML takes."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.charts import bars, shares_below, ticks_of

SVG = "{http://www.w3.org/2000/svg}"


def heights(svg: str) -> list[float]:
    """Of the bars, which are the rectangles that are neither background nor legend."""
    return [float(r.attrib["height"]) for r in ElementTree.fromstring(svg).iter(f"{SVG}rect")
            if r.attrib["height"] not in ("100%", "10")]  # fmt: skip


def test_bars_are_as_high_as_their_values_and_none_leaves_a_gap() -> None:
    svg = bars("a < b", ["x", "y"], {"one": [10.0, None], "two & three": [20.0, 40.0]}, "%")
    one, two, three = heights(svg)
    assert two == pytest.approx(2 * one, abs=0.2)
    assert three == pytest.approx(4 * one, abs=0.2)
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"a < b", "two & three", "x", "y", "20"} <= set(texts)


def test_curves_rise_to_the_right_and_stay_inside() -> None:
    svg = shares_below("t", {"one": [-0.5, 0.1, 0.2, 3.0], "none": []}, "s")
    (line,) = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 5
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert all(56 <= x <= 704 and 40 <= y <= 300 for x, y in points)


def test_nothing_to_draw_is_an_empty_chart() -> None:
    for svg in (bars("t", [], {}, "%"), bars("t", ["x"], {"one": [0.0]}, "%"), shares_below("t", {}, "s")):
        assert ElementTree.fromstring(svg).tag == f"{SVG}svg"


@given(st.floats(-1e4, 1e4), st.just(0.0) | st.floats(1e-3, 1e4))
def test_ticks_are_few_evenly_spaced_and_cover_the_span(low: float, span: float) -> None:
    ticks = ticks_of(low, low + span)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= low + span - 1e-9
    steps = [after - before for before, after in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
