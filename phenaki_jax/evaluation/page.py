"""One HTML page that needs nothing else: tables, curves as SVG, contact sheets as PNG inside it."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 240, 64, 12, 12, 34
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #cbd5e0; padding: .3rem .7rem; text-align: left; vertical-align: top; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; }
figcaption { color: #4a5568; } img { max-width: 100%; image-rendering: pixelated; } .bad { color: #c53030; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
"""

Curves = Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, y)


def page(title: str, parts: Sequence[str]) -> str:
    """An HTML document of parts that `table`, `curves`, `picture` and their like have made."""
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts)
            + "\n</body></html>\n")


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, bad: bool = False) -> str:
    return f'<p{" class=bad" if bad else ""}>{html.escape(text)}</p>'


def table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    cells = lambda tag, values: "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)
    return (f"<table><thead><tr>{cells('th', columns)}</tr></thead><tbody>"
            + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</tbody></table>")


def terms(values: Mapping[str, Any]) -> str:
    """A list of names and what they are."""
    shown = lambda value: value if isinstance(value, str) else json.dumps(value)
    return "<dl>" + "".join(f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(shown(value))}</dd>"
                            for name, value in values.items()) + "</dl>"


def picture(image: np.ndarray, caption: str) -> str:
    """uint8 [Y, X, 3] -> the picture within the page."""
    from PIL import Image
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    data = base64.b64encode(stream.getvalue()).decode()
    return (f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>")


def curves(caption: str, along: str, lines: Curves) -> str:
    """Lines over one axis, as SVG. along: what x is. Points that are no numbers are left out."""
    lines = {name: [(x, y) for x, y in points if np.isfinite(x) and np.isfinite(y)] for name, points in lines.items()}
    points = [point for of_one in lines.values() for point in of_one]
    if not points:
        return ""
    (x0, x1), (y0, y1) = (_span([point[axis] for point in points]) for axis in (0, 1))
    across = lambda x: LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    up = lambda y: HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    drawn = [f'<line x1="{LEFT}" y1="{up(y):.1f}" x2="{WIDTH - RIGHT}" y2="{up(y):.1f}" stroke="#e2e8f0"/>'
             f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>' for y in _ticks(y0, y1)]
    drawn += [f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.4g}</text>'
              for x in _ticks(x0, x1)]
    for number, (name, of_one) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in of_one)
        drawn += [f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>']
        drawn += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in of_one]
    names = "".join(f'<span style="color:{COLOURS[number % len(COLOURS)]}">— {html.escape(name)}</span> '
                    for number, name in enumerate(lines))
    return (f'<figure><svg role="img" width="{WIDTH}" height="{HEIGHT}" font-size="11" fill="#4a5568">'
            + "".join(drawn) + f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(along)}'
            f"</text></svg><figcaption>{html.escape(caption)}: {names}</figcaption></figure>")


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between two."""
    step = 10.0 ** np.floor(np.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about + 1)
    return [float(tick) for tick in np.arange(np.ceil(low / step), np.floor(high / step + 1e-9) + 1) * step]
