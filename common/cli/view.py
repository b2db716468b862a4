"""What the verb `view` of both commands shares: one offline page of samples that are turned with the mouse."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import atomic_writer, check_place
from common.cli.app import CommonOptions
from common.cli.options import option
from common.errors import InputError

if TYPE_CHECKING:
    from plotly.basedatatypes import BaseTraceType

logger = logging.getLogger(__name__)

MAX_SAMPLES = 1000
_TEMPLATE = Path(__file__).with_name("view.html")
_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class ViewOptions(CommonOptions):
    """Options of `view` in both domains."""

    count: int = option(48, "samples on the page, the first ones", at_least=1, at_most=MAX_SAMPLES)
    output: str = option("", "HTML file (default: RUN/view.html; runs/NAME-view.html for a file)")
    open: bool = option(False, "open the page in the browser")

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if self.output and Path(self.output).suffix.lower() not in (".html", ".htm"):
            raise InputError(f"got --output {self.output}, expected a file that ends in .html")
        if self.output:
            check_place(self.output)


@dataclass(frozen=True)
class Card:
    """One sample on the page.

    Attributes:
        title: a line, such as a SMILES or a class.
        traces: what is seen in space; empty where nothing can be shown, and `note` says why.
        facts: name -> value, shown under the scene; numbers can be sorted by, None is left out.
        thumbnail: a small picture, PNG bytes or SVG text; None for none.
        note: a remark in place of the scene or under it.
    """

    title: str
    traces: Sequence[BaseTraceType]
    facts: Mapping[str, str | float | bool | None] = field(default_factory=dict)
    thumbnail: bytes | str | None = None
    note: str = ""


def write_page(path: Path, title: str, subtitle: str, cards: Sequence[Card], *, turntable: bool = False) -> None:
    """Write the page: one file that needs no network, with plotly's code inside.

    Args:
        path: the HTML file; it appears whole or not at all.
        title, subtitle: above the samples.
        cards: the samples.
        turntable: see `common.view3d.scene_layout`.
    """
    from plotly.offline import get_plotlyjs

    from common.view3d import scene_layout

    content = {"cards": [_card(card) for card in cards], "layout": scene_layout(turntable)}
    parts = {
        "title": html.escape(title),
        "subtitle": html.escape(subtitle),
        "content": _script_safe(json.dumps(content, allow_nan=False)),
        "plotly": get_plotlyjs(),
    }
    # In one pass, so that nothing is looked for in what was put in.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _TEMPLATE.read_text(encoding="utf-8"))
    with atomic_writer(path) as file:
        file.write(page)


def finish_view(
    options: ViewOptions,
    sources: Sequence[Path],
    title: str,
    cards: Sequence[Card],
    total: int,
    *,
    turntable: bool = False,
) -> dict[str, Any]:
    """Write the page where it belongs, say so, open it if asked; returns what `--json` prints.

    Args:
        options: of the verb.
        sources: the run directories and files that were shown, at least one; the page belongs to the first.
        title: above the samples.
        cards: the samples on the page.
        total: how many there are in all.
        turntable: see `common.view3d.scene_layout`.
    """
    source = sources[0]
    default = source / "view.html" if source.is_dir() else Path("runs", f"{source.stem}-view.html")
    path = Path(options.output) if options.output else default
    if not options.output:
        path.parent.mkdir(parents=True, exist_ok=True)
    shown = f"{len(cards)} of {total}" if total > len(cards) else str(total)
    others = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    write_page(path, title, f"{source}{others}: {shown} samples", cards, turntable=turntable)
    if not options.json:
        print(f"{shown} samples: {path}")
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        logger.warning("no browser could be opened; the page is %s", path)
    return {"output": str(path), "shown": len(cards), "samples": total, "bytes": path.stat().st_size}


def _card(card: Card) -> dict[str, Any]:
    import plotly.graph_objects as go

    from common.view3d import proportions

    facts = {}
    for name, value in card.facts.items():
        if isinstance(value, float):
            value = float(f"{value:.{_DIGITS}g}") if value == value and abs(value) != float("inf") else None
        if value is not None and value != "":
            facts[name] = value
    # As a figure's JSON, in which arrays are short binary text instead of lists of digits.
    traces = json.loads(str(go.Figure(data=list(card.traces)).to_json()))["data"]
    return {
        "title": card.title,
        "facts": facts,
        "note": card.note,
        "picture": _data_uri(card.thumbnail),
        "proportions": proportions(card.traces) if card.traces else {},
        "traces": [{key: value for key, value in trace.items() if key != "uid"} for trace in traces],
    }


def _data_uri(picture: bytes | str | None) -> str:
    if picture is None:
        return ""
    kind, content = ("png", picture) if isinstance(picture, bytes) else ("svg+xml", picture.encode())
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _script_safe(text: str) -> str:
    """JSON that no name inside it can end the script of."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
