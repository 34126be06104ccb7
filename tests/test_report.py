"""The report: untrusted text stays text, the page needs nothing else, and the figures are there."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.compare import Score
from benchmarks.metrics import Interval
from benchmarks.report import Effect, Method, Report, Samples, render
from mfenv.distributions import UNIFORM, normalise
from mfenv.labels import DIMENSIONS

HOSTILE = (
    "<script>alert('x')</script><img src=http://evil.example/x onerror=\"y\">"
    " & \x00\x1b[2J\ud800 ]]>"
)
CHINESE = "转发微博 [泪] 真的假的？"
STEPS, WARM = 6, 2


def score(name, mean, half=0.01):
    return Score(
        name=name,
        kl=Interval(mean, mean - half, mean + half),
        per_dimension=np.full(8, mean),
        per_window=np.full(3, mean),
        excess=mean - 0.01,
        squared_error=-0.0021,
    )


def make(text=HOSTILE, **changes):
    shares = normalise(np.random.default_rng(0).integers(1, 9, size=(2, STEPS - WARM, 23)))
    fields = {
        "title": text,
        "topic": text,
        "language": "zh",
        "warmup": WARM,
        "real": np.tile(UNIFORM, (STEPS, 1)),
        "methods": [Method(text, shares, [(1, text), (2, "")])],
        "scores": [score(text, 0.031), score("persistence", 0.028)],
        "floor": replace(
            score("noise floor", 0.012), kl=Interval(0.012, math.nan, math.nan), excess=0.0
        ),
        "facts": {"Data": {text: text}},
        "command": f"mfenv simulate {text}",
        "samples": [Samples(3, {"real": [text, ""], text: [CHINESE, text]})],
        "effects": [
            Effect(
                method=text,
                name=text,
                step=2,
                labels=["belief/doubt"],
                without=[0.2],
                with_it=[0.35],
                difference=[Interval(0.15, 0.1, 0.2)],
                shares=shares,
            )
        ],
        "notes": [text],
    }
    return Report(**{**fields, **changes})


def parse(page):
    """The page as a tree; it is written so that an XML parser can read it."""
    assert page.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def test_hostile_text_stays_text_everywhere():
    page = render(make())
    tree = parse(page)
    page.encode("utf-8")  # a lone surrogate could not be written to a file
    tags = {element.tag for element in tree.iter()}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "a", "base", "form"}
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name not in ("href", "src", "action", "srcset", "xlink:href")
            assert "javascript:" not in value
    # It is shown, in every place, as the text that it is.
    shown = "".join(tree.itertext())
    assert shown.count("<script>alert('x')</script>") >= 12
    assert "\x00" not in page
    assert "\x1b" not in page
    assert tree.find(".//blockquote").text.startswith("<script>alert('x')</script><img src=http")


def test_the_page_needs_no_other_resource():
    page = render(make("plain"))
    policy = parse(page).find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"https?://|//[a-z]|url\(|@import|@font-face", page)


def test_chinese_has_fonts_and_its_language():
    page = render(make(CHINESE))
    tree = parse(page)
    assert "Noto Sans CJK SC" in tree.find(".//style").text
    marked = [e for e in tree.iter() if e.get("lang") == "zh" and e.text == CHINESE]
    assert len(marked) >= 3  # topic, reactions, mean field


def test_every_dimension_and_figure_is_shown():
    tree = parse(render(make("mf")))
    headings = [e.text for e in tree.findall(".//div[@class='dimensions']//h3")]
    assert headings == [d.name.replace("_", " ") for d in DIMENSIONS]
    panels = tree.findall(".//div[@class='dimensions']//svg")
    # One panel for a dimension of two labels, one for each label of the others.
    assert len(panels) == sum(1 if len(d.labels) == 2 else len(d.labels) for d in DIMENSIONS)
    rows = {
        "".join(tr[0].itertext()): ["".join(td.itertext()) for td in tr[1:]]
        for tr in tree.find(".//table").iter("tr")
    }
    assert rows["mf"][0] == "0.031 0.021 to 0.041"
    assert rows["mf"][2] == "−0.0021"
    assert rows["persistence"][1] == "0.018"
    assert rows["noise floor"][0] == "0.012"
    text = "".join(tree.itertext())
    assert "persistence is closest" in text
    assert "does not tell them apart" in text  # the intervals overlap
    assert "+15.0 10.0 to 20.0" in text
    assert "repost without words" in text


def test_a_clear_winner_is_not_called_a_tie():
    page = render(make("mf", scores=[score("mf", 0.02, 0.001), score("persistence", 0.03, 0.001)]))
    assert "does not tell them apart" not in page
    assert "<strong>mf</strong> is closest" in page


def test_lines_follow_the_shares():
    # Shares of "counter" rise from 0 to 1: the drawn line must rise, within its panel.
    shares = np.tile(UNIFORM, (1, 8, 1))
    shares[0, :, 1] = np.linspace(0, 1, 8)
    shares[0, :, 0] = 1 - shares[0, :, 1]
    report = make("mf", real=np.tile(UNIFORM, (10, 1)), methods=[Method("mf", shares)], effects=[])
    panel = parse(render(report)).find(".//div[@class='dimensions']//svg")
    line = panel.find("polyline[@class='c1']").get("points")
    points = np.array([[float(x) for x in p.split(",")] for p in line.split()])
    assert len(points) == 8
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) < 0).all()  # SVG's y points down
    assert points.min() >= 0
    warm = panel.find("rect[@class='warm']")
    assert float(warm.get("x")) + float(warm.get("width")) < points[0, 0]


@pytest.mark.parametrize("empty", ["samples", "effects", "notes", "methods", "scores"])
def test_parts_can_be_absent(empty):
    changes = {empty: []}
    if empty == "methods":
        changes["effects"] = []
    parse(render(make("x", **changes)))


def test_the_same_report_gives_the_same_bytes():
    assert render(make()) == render(make())
