import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from common.cli.view import Card, ViewOptions, finish_view, write_page
from common.errors import InputError
from common.view3d import bare_figure, proportions

HOSTILE = "</script><img src=x onerror=alert(1)>"


def dots(points):
    x, y, z = np.asarray(points, np.float32).T
    return go.Scatter3d(x=x, y=y, z=z, mode="markers")


def content(path):
    """What the page shows, as its script reads it."""
    found = re.findall(r'<script id="content" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_the_page_holds_every_card_and_needs_no_network(tmp_path):
    cards = [
        Card(
            "one", [dots([[0, 0, 0], [1, 2, 4]])], {"gap_ev": 4.5, "missing": float("nan"), "novel": True}, b"\x89PNG"
        ),
        Card("two", (), {"smiles": "C=C", "empty": "", "none": None}, "<svg/>", "no bonds"),
    ]
    write_page(tmp_path / "page.html", "Molecules", "a run", cards)
    page = (tmp_path / "page.html").read_text()
    # plotly's own code mentions addresses; the page around it must load nothing, and its policy allows nothing.
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=\s*[\"']?\s*(https?:|//)", page)
    shown = content(tmp_path / "page.html")["cards"]
    assert [card["title"] for card in shown] == ["one", "two"]
    assert shown[0]["facts"] == {"gap_ev": 4.5, "novel": True}
    assert shown[1]["facts"] == {"smiles": "C=C"}
    assert shown[0]["picture"].startswith("data:image/png;base64,")
    assert shown[1]["picture"].startswith("data:image/svg+xml;base64,")
    assert shown[0]["traces"][0]["x"]["dtype"] == "f4"
    assert shown[1]["traces"] == []
    assert shown[1]["note"] == "no bonds"


def test_names_from_anywhere_stay_text(tmp_path):
    cards = [Card(HOSTILE, (), {HOSTILE: HOSTILE}, None, HOSTILE)]
    write_page(tmp_path / "page.html", f"{HOSTILE} {{{{content}}}}", HOSTILE, cards)
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in page
    assert content(tmp_path / "page.html")["cards"][0]["title"] == HOSTILE
    assert "<h1>&lt;/script&gt;" in page
    assert "{{content}}</h1>" in page, "what was put in is not filled in again"


def test_the_longest_side_of_a_scene_is_one():
    found = proportions([dots([[0, 0, 0], [1, 0, 0]]), dots([[0, 2, 0], [0, 0, 0]])])
    assert found["aspectratio"]["y"] == 1
    assert found["aspectratio"]["x"] == 0.5
    assert 0 < found["aspectratio"]["z"] < 0.01
    assert bare_figure([dots([[0, 0, 0], [3, 1, 1]])]).layout.scene.aspectratio.x == 1
    assert bare_figure([]).layout.scene.aspectratio.x is None


def test_a_page_lies_in_its_run_or_where_it_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    cards = [Card("one", ())]
    assert finish_view(ViewOptions(), [tmp_path / "run"], "T", cards, 5)["shown"] == 1
    assert (tmp_path / "run" / "view.html").exists()
    assert "run: 1 of 5 samples" in (tmp_path / "run" / "view.html").read_text()
    assert "1 of 5 samples" in capsys.readouterr().out
    finish_view(ViewOptions(json=True), [tmp_path / "mine.sdf"], "T", cards, 1)
    assert (tmp_path / "runs" / "mine-view.html").exists()
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="does not exist"):
        finish_view(ViewOptions(output=str(tmp_path / "no" / "a.html")), [tmp_path], "T", cards, 1)


def test_the_browser_is_opened_only_where_asked(tmp_path, monkeypatch, caplog):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) > 1)
    finish_view(ViewOptions(json=True), [tmp_path], "T", [], 0)
    assert opened == []
    finish_view(ViewOptions(json=True, open=True), [tmp_path], "T", [], 0)
    assert opened == [(tmp_path / "view.html").as_uri()]
    assert "no browser could be opened" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 0}, "got --count 0"), ({"count": 5000}, "expected 1 to"), ({"output": "a.png"}, "ends in .html")],
)
def test_impossible_pages_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ViewOptions(**options).check()
