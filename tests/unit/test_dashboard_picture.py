"""The picture of the dashboard shows every panel, and what it was given."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET

import pytest

from tests.operated import ROOT
from tools.dashboard import WATCHED as DRAWN
from tools.dashboard import panels
from tools.dashboard_picture import Series, picture, shown

PICTURE = ROOT / "docs" / "img" / "dashboard.svg"
TITLES = [panel.title for _, panel in panels(DRAWN)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0025, "s", "2.5 ms"),
        (0.0, "s", "0 s"),
        (90.0, "s", "1.5 min"),
        (-7200.0, "s", "-2 h"),
        (0.25, "percentunit", "25 %"),
        (1_500_000.0, "bytes", "1.5 MB"),
        (12.0, "cps", "12 /s"),
        (7.0, "short", "7"),
    ],
)
def test_a_value_is_shown_for_people(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def drawn(**given: list[Series]) -> str:
    answers = [(panel, given.get(panel.title.replace(" ", "_"), [])) for row in DRAWN for panel in row.panels]
    return picture(answers, 0.0, 120.0, "a <test>")


def test_it_is_svg_with_every_panel() -> None:
    texts = [each.text for each in ET.fromstring(drawn()).iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in TITLES] == TITLES
    assert texts[0] == "a <test>"
    assert texts.count("none") == sum(panel.none == "none" for _, panel in panels(DRAWN))


def test_a_number_has_the_color_of_its_step() -> None:
    calm, wild = (drawn(Stuck=[Series("", ((110.0, value),))]) for value in (0.0, 3.0))
    assert calm.count("#d9822b") == 0
    assert wild.count("#d9822b") == 1
    assert ">3</text>" in wild
    assert ">3</text>" not in drawn(Stuck=[Series("", ((10.0, 3.0),))]), "it is not so any more"


def test_a_curve_is_as_high_as_its_values_and_broken_where_there_are_none() -> None:
    svg = drawn(Open_runs=[Series("watched", ((0.0, 0.0), (1.0, 4.0), (60.0, 2.0), (61.0, 4.0)))])
    [path] = re.findall(r'<path d="([^"]*)" fill="none"', svg)
    assert path.count("M") == 2
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    assert heights[1] == heights[3] < heights[2] < heights[0]
    assert "watched: 4" in svg


def test_the_picture_in_the_documentation_has_the_panels_of_today() -> None:
    texts = [html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", PICTURE.read_text())]
    assert [text for text in texts if text in TITLES] == TITLES, "run make watch DRAW=1"
