"""What a hand does on a plotly map, and what an eye sees of it."""
from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

# The pixel of point i of the map, and the point that stands most alone (so that a click cannot mean another)
PLACE = """([graph, i]) => { const g = document.querySelector(graph), l = g._fullLayout, r = g.getBoundingClientRect(), t = g._fullData[0];
  return [r.left + l._size.l + l.xaxis.d2p(t.x[i]), r.top + l._size.t + l.yaxis.d2p(t.y[i])]; }"""
ALONE = """([graph, allowed]) => { const g = document.querySelector(graph), l = g._fullLayout, t = g._fullData[0], n = t.x.length;
  const p = Array.from({length: n}, (_, i) => [l.xaxis.d2p(t.x[i]), l.yaxis.d2p(t.y[i])]), size = i => (t.marker.size.length ? t.marker.size[i] : t.marker.size) / 2;
  let best = -1, gap = -Infinity;
  for (const i of allowed) {
    const own = Math.min(...p.map((q, j) => j === i ? Infinity : Math.hypot(q[0] - p[i][0], q[1] - p[i][1]) - size(j)));
    if (own > gap) { gap = own; best = i; } }
  return best; }"""


def place(page, graph: str, point: int) -> tuple[float, float]:
    return tuple(page.evaluate(PLACE, [graph, point]))


def most_alone(page, graph: str, allowed: list[int]) -> int:
    return page.evaluate(ALONE, [graph, allowed])


def click_point(page, graph: str, point: int) -> None:
    x, y = place(page, graph, point)
    page.mouse.move(x - 1, y)
    page.mouse.move(x, y)
    page.mouse.click(x, y)


def lasso(page, graph: str, point: int, radius: float) -> None:
    "Draw a circle around a point, inside the map"
    x, y = place(page, graph, point)
    box = page.locator(graph).first.bounding_box()
    x = min(max(x, box["x"] + radius + 8), box["x"] + box["width"] - radius - 8)
    y = min(max(y, box["y"] + radius + 8), box["y"] + box["height"] - radius - 8)
    ring = [(x + radius * math.cos(2 * math.pi * t / 24), y + radius * math.sin(2 * math.pi * t / 24)) for t in range(25)]
    page.mouse.move(*ring[0])
    page.mouse.down()
    for corner in ring[1:]: page.mouse.move(*corner)
    page.mouse.up()


def colors_seen(locator) -> int:
    "How many clearly different colours a part of the page shows"
    pixels = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")) // 32
    values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return int((counts > 15).sum())
