# SPDX-License-Identifier: Apache-2.0
# Copyright the Chappe contributors
"""Draws a results file of bench/hot as SVG: what a delta costs, when the last one is there, what a poll takes.

Bars are medians, thin lines reach from the least to the greatest. Nothing but text is written, so that the picture
stays small and its changes can be read. Several files are taken together; --text puts their tables into a text.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from harness.hot_report import Report, Result, values_of
from harness.servers import TITLES

COLOURS = {
    **{"floor": "#9aa0a6", "nchan": "#e8a33d", "synapse": "#8a6fb0", "chappe-uring": "#1f77b4", "chappe-uv": "#5ba3d0"},
    **{"chappe-uring-f1": "#2a9d8f", "chappe-uring-f2": "#1f7a70", "chappe-uv-f1": "#7fc8bd", "chappe-uring-nolog": "#17517a"},
}
MARKS = ("<!-- results of bench/hot -->", "<!-- end of results -->")
WIDTH, LEFT, BAR, GAP, PLOT = 760, 210, 15, 26, 440

Panel = tuple[str, str, str, str]  # row, figure, title, unit
PANELS: list[Panel] = [
    ("fanout", "cpu", "CPU per delta", "µs"),
    ("fanout", "last", "last delta after", "ms"),
    ("fanout", "rss_poll", "user memory per parked poll", "kB"),
    ("probe", "probe_p99", "another request during a fan-out, 99th percentile", "ms"),
]


class Picture:
    """Collects shapes from the top downwards."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = 24.0

    def text(self, x: float, text: str, *, size: int = 12, anchor: str = "start", weight: str = "normal") -> None:
        """Write at the current height."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{self.y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(text)}</text>"
        )

    def bar(self, target: str, values: list[float], most: float, unit: str) -> None:
        """Draw one bar with its range."""
        middle = statistics.median(values)
        long, low, high = (PLOT * value / most for value in (middle, min(values), max(values)))
        top = self.y
        self.y += BAR - 4
        self.text(LEFT - 8, TITLES[target], size=11, anchor="end")
        self.parts.append(f'<rect x="{LEFT}" y="{top:.1f}" width="{max(long, 0.5):.1f}" height="{BAR - 3}" fill="{COLOURS[target]}"/>')
        centre = top + (BAR - 3) / 2
        self.parts.append(f'<path d="M{LEFT + low:.1f} {centre:.1f}H{LEFT + high:.1f}" stroke="#222" stroke-width="1"/>')
        digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
        self.text(LEFT + max(long, high) + 6, f"{middle:.{digits}f} {unit}", size=11)
        self.y = top + BAR

    def svg(self) -> str:
        """Return the picture."""
        height = math.ceil(self.y + 12)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        back = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        return "\n".join([head + ' font-family="sans-serif" fill="#222">', back, *self.parts, "</svg>"]) + "\n"


def _panel(picture: Picture, results: list[Result], panel: Panel) -> None:
    row, key, title, unit = panel
    wheres = sorted({r.item.where for r in results if r.item.row == row}, key=lambda where: int(where.split()[1]))
    shown = {where: {t: v for t in TITLES if (v := values_of(results, where, t, key))} for where in wheres}
    shown = {where: bars for where, bars in shown.items() if bars}
    if not shown:
        return
    picture.text(16, title, size=14, weight="bold")
    picture.y += 18
    for where, bars in shown.items():
        most = max(max(values) for values in bars.values()) * 1.15 or 1.0
        picture.text(16, f"{int(where.split()[1]):,} devices")
        for target, values in bars.items():
            picture.bar(target, values, most, unit)
        picture.y += GAP / 2
    picture.y += GAP / 2


def _open(picture: Picture, results: list[Result]) -> None:
    """Draw the open loop: p99 against the rate, both on logarithmic scales."""
    own = [r for r in results if r.item.row == "open" and r.figures]
    lines: dict[str, list[tuple[int, float]]] = {}
    for target in TITLES:
        rates = sorted({int(k[4:]) for r in own if r.item.target == target for k in r.figures if k.startswith("p99@")})
        points = [(rate, values_of(own, own[0].item.where, target, f"p99@{rate}")) for rate in rates]
        if points:
            lines[target] = [(rate, statistics.median(values)) for rate, values in points if values]
    if not lines:
        return
    picture.text(16, f"{own[0].item.size:,} devices, open loop: 99th percentile against deltas a second", size=14, weight="bold")
    every = [point for points in lines.values() for point in points]
    left, right = min(p[0] for p in every), max(max(p[0] for p in every), min(p[0] for p in every) + 1)
    low, high = max(0.1, min(1.0, *(p[1] for p in every))), max(200.0, *(p[1] for p in every))
    top, tall = picture.y + 16, 190

    def place(rate: float, ms: float) -> tuple[float, float]:
        across = (rate - left) / (right - left)
        up = math.log(max(ms, low) / low) / math.log(high / low)
        return 70 + across * (WIDTH - 260), top + tall * (1 - up)

    for ms in (1, 10, 100, 1000, 10000):
        if low <= ms <= high:
            y = place(left, ms)[1]
            dash = "" if ms == 100 else ' stroke-dasharray="2 3"'
            picture.parts.append(f'<path d="M70 {y:.1f}H{WIDTH - 190}" stroke="#999"{dash}/>')
            picture.y = y + 4
            picture.text(62, f"{ms} ms", size=11, anchor="end")
    for rate in sorted({p[0] for p in every}):
        picture.y = top + tall + 18
        picture.text(place(rate, low)[0], f"{rate // 1000}k", size=11, anchor="middle")
    for number, (target, points) in enumerate(lines.items()):
        path = "L".join("%.1f %.1f" % place(*point) for point in points)
        picture.parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[target]}" stroke-width="2"/>')
        picture.y = top + 14 + 18 * number
        picture.parts.append(f'<rect x="{WIDTH - 172}" y="{picture.y - 9:.1f}" width="12" height="10" fill="{COLOURS[target]}"/>')
        picture.text(WIDTH - 154, TITLES[target], size=11)
    picture.y = top + tall + 48


def draw(results: list[Result], about: list[str]) -> str:
    """Return the picture of some results."""
    picture = Picture()
    for line in about:
        if line.startswith(("machine", "versions", "date", "commit")):
            picture.text(16, line, size=10)
            picture.y += 14
    picture.y += 12
    for panel in PANELS:
        _panel(picture, results, panel)
    _open(picture, results)
    return picture.svg()


def read(paths: list[Path]) -> tuple[list[Result], list[str]]:
    """Read results files; rounds of different files are different rounds."""
    results: list[Result] = []
    about: list[str] = []
    for number, path in enumerate(paths):
        raw = json.loads(path.read_text())
        for one in raw["results"]:
            result = Result.read(one)
            result.round += number * 1000
            results.append(result)
        about += [line for line in raw["about"] if line not in about]
    return results, about


def put(text: str, between: str) -> str:
    """Return a text with something else between its marks."""
    begin, end = (text.index(mark) for mark in MARKS)
    return text[: begin + len(MARKS[0])] + "\n" + between + text[end:]


def main() -> int:
    """Draw, and perhaps write the tables into a text."""
    parser = argparse.ArgumentParser(prog="bench/chart", description="Draws results of bench/hot.")
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the chart")
    parser.add_argument("--text", type=Path, metavar="FILE", help=f"write the tables between {MARKS[0]} and {MARKS[1]}")
    options = parser.parse_args()
    results, about = read(options.results)
    if options.svg:
        options.svg.write_text(draw(results, about))
    if options.text:
        picture = ""
        if options.svg:
            place = os.path.relpath(options.svg, options.text.parent)
            picture = f"![CPU, times and memory of the loads below]({place})\n\n"
        options.text.write_text(put(options.text.read_text(), picture + Report(about, results).text()))
    if not options.svg and not options.text:
        print(Report(about, results).text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
