"""`make plot`: costs drawn beside their figures: an import and parity by lines, commands and idleness by logs."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

from benchmarks.history import imported
from benchmarks.many import COUNTS, EACH, measured
from benchmarks.measures import bench, binaries, generate
from benchmarks.proof import proved

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000, 5_000_000)
COLOURS = ("#2266aa", "#bb5522")
WIDE, HIGH, LEFT, TOP = 640, 240, 60, 30


def main(only: list[str]) -> None:
    """Measures and writes import, parity and many, .svg and .json, beside this file; `only`: `many`, or nothing.

    Raises SystemExit for another word.
    """
    if only not in ([], ["many"]):
        raise SystemExit(f"no such plot: {' '.join(only)}; there is many")
    if not only:
        by_lines()
    by_logs()


def by_logs() -> None:
    """Measures commands over 100 to 10,000 logs and a bridge that runs over them, and writes many.svg and many.json."""
    found: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        found[str(count)] = {name: round(value, 3) for name, value in measured(binaries()[0], count).items()}
        print(count, found[str(count)], file=sys.stderr)
    here = Path(__file__).parent
    (here / "many.json").write_text(json.dumps(found, indent=1) + "\n")
    (here / "many.svg").write_text(drawn_by_logs(found))


LINES = ((("import_s", "start_s", "status_s", "files_s", "doctor_s", "parity_s"), "seconds of a command", 10.0),
         (("idle_percent", "sweep_percent"), "percent of a core, idle; a bare sweep", 10.0),
         (("resident_mb",), "MB of memory", 300.0))  # fmt: skip
"""What each of the charts by logs shows: the figures, the chart's title, and the top of its scale."""


def drawn_by_logs(found: dict[str, dict[str, float]]) -> str:
    """Three charts one above the other: seconds of each command, percent of a core while idle, and megabytes."""
    parts, high = list[str](), 180
    counts = [int(count) for count in found]

    def x(count: int) -> float:
        return LEFT + (log10(count) - log10(counts[0])) / log10(counts[-1] / counts[0]) * (WIDE - LEFT - 130)

    for down, (names, title, least) in enumerate(LINES):
        top = TOP + down * (high + 70)
        known = [name for name in names if all(name in figures for figures in found.values())]
        most = max([least, *(figures[name] for figures in found.values() for name in known)])
        for share in (0, 0.5, 1):
            y = top + high - share * high
            parts.append(f'<line x1="{LEFT}" x2="{WIDE - 130}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:g}</text>')
        ends: list[float] = []
        for name, colour in zip(known, (*COLOURS, "#338844", "#884499", "#777777", "#bb2266"), strict=False):
            points = [(x(int(count)), top + high * (1 - figures[name] / most)) for count, figures in found.items()]
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points]
            at = points[-1][1] + 4
            while any(abs(at - other) < 13 for other in ends):
                at -= 13
            ends.append(at)
            said = name.removesuffix("_s").replace("_", " ")
            parts.append(f'<text x="{WIDE - 120}" y="{at:.1f}" fill="{colour}">{said}</text>')
        for count in counts:
            parts.append(f'<text x="{x(count):.1f}" y="{top + high + 16}" text-anchor="middle">{count:,}</text>')
        parts.append(f'<text x="{LEFT}" y="{top + high + 34}">{title}, by logs of {EACH} lines</text>')
    tall = len(LINES) * (high + 70) + TOP
    box = f'viewBox="0 0 {WIDE} {tall}" font-family="sans-serif" font-size="12"'
    white = f'<rect width="{WIDE}" height="{tall}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{white}\n' + "\n".join(parts) + "\n</svg>\n"


def by_lines() -> None:
    """Measures an import and parity of 10,000 to 5,000,000 lines, and writes import and parity, .svg and .json."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {"import": {}, "parity": {}}
    with tempfile.TemporaryDirectory(prefix="bridge-plot-") as folder:
        for size in SIZES:
            source = Path(folder) / "source.log"
            generate(source, size)
            for binary in binaries():
                name = f"{binary.flavour} {'.'.join(map(str, binary.version))}"
                with bench(binary) as trial:
                    trial.log.hardlink_to(source)
                    rate, memory = imported(trial, size)
                    _note(found["import"], name, size, size / rate, memory)
                    seconds, _, memory = proved(trial, size)
                    _note(found["parity"], name, size, seconds, memory)
    here = Path(__file__).parent
    for what, rows in found.items():
        (here / f"{what}.json").write_text(json.dumps(rows, indent=1) + "\n")
        (here / f"{what}.svg").write_text(drawn(rows, "an import" if what == "import" else what))


def _note(found: dict[str, list[dict[str, float]]], name: str, size: int, seconds: float, memory: float) -> None:
    row = {"lines": size, "seconds": round(seconds, 3), "peak_mb": round(memory, 1)}
    found.setdefault(name, []).append(row)
    print(name, row, file=sys.stderr)


def drawn(found: dict[str, list[dict[str, float]]], what: str) -> str:
    """Two charts one above the other: seconds, both scales logarithmic, and megabytes."""
    decades = [(-1, "0.1"), (0, "1"), (1, "10"), (2, "100")]
    seconds = _chart(f"seconds of {what}", found, 0, lambda row: log10(row["seconds"]), (-1, 2), decades)
    tens = [(n, str(n)) for n in (0, 40, 80, 120)]
    memory = _chart(f"peak MB of {what}", found, HIGH + 50, lambda row: row["peak_mb"], (0, 120), tens)
    names = "".join(
        f'<text x="{LEFT + 10 + 150 * i}" y="18" fill="{COLOURS[i % 2]}">{name}</text>' for i, name in enumerate(found)
    )
    high = 2 * HIGH + 120
    box = f'viewBox="0 0 {WIDE} {high}" font-family="sans-serif" font-size="12"'
    white = f'<rect width="{WIDE}" height="{high}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{white}\n{names}\n{seconds}{memory}</svg>\n'


def over_time(samples: Sequence[dict[str, float]]) -> str:
    """What a soak took while it ran, in three charts: memory, descriptors and threads, entries; by minutes."""
    charts = (("MB of memory", ("memory_mb",)), ("descriptors, threads", ("descriptors", "threads")),
              ("entries in the stream, messages waiting", ("stream_entries", "waiting")))  # fmt: skip
    last, high, parts = samples[-1]["seconds"], 150, list[str]()

    def x(seconds: float) -> float:
        return LEFT + seconds / last * (WIDE - LEFT - 30)

    for down, (title, names) in enumerate(charts):
        top = TOP + down * (high + 60)
        known = [sample for sample in samples if all(sample[name] == sample[name] for name in names)]
        most = max(sample[name] for sample in known for name in names) * 1.1 or 1.0
        for share in (0, 0.5, 1):
            y = top + high - share * high
            parts.append(f'<line x1="{LEFT}" x2="{WIDE - 30}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{most * share:,.0f}</text>')
        for name, colour in zip(names, COLOURS, strict=False):
            points = " ".join(
                f"{x(sample['seconds']):.1f},{top + high * (1 - sample[name] / most):.1f}" for sample in known
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{LEFT}" y="{top + high + 34}">{title}; {last / 60:.0f} minutes</text>')
    box = f'viewBox="0 0 {WIDE} {3 * (high + 60) + TOP}" font-family="sans-serif" font-size="12"'
    white = f'<rect width="{WIDE}" height="{3 * (high + 60) + TOP}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{white}\n' + "\n".join(parts) + "\n</svg>\n"


def _chart(title: str, found: dict[str, list[dict[str, float]]], down: int, value: Any, span: tuple[float, float],
           ticks: Sequence[tuple[float, str]]) -> str:  # fmt: skip
    def x(lines: float) -> float:
        return LEFT + (log10(lines) - 4) / (log10(5_000_000) - 4) * (WIDE - LEFT - 30)

    def y(at: float) -> float:
        return TOP + down + HIGH - (at - span[0]) / (span[1] - span[0]) * HIGH

    parts = [f'<text x="{LEFT}" y="{TOP + down + HIGH + 34}">{title}, by lines</text>']
    for at, label in ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDE - 30}" y1="{y(at):.1f}" y2="{y(at):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(at) + 4:.1f}" text-anchor="end">{label}</text>')
    for lines, label in ((1e4, "10,000"), (1e5, "100,000"), (1e6, "1,000,000"), (5e6, "5,000,000")):
        parts.append(f'<text x="{x(lines):.1f}" y="{y(span[0]) + 16:.1f}" text-anchor="middle">{label}</text>')
    for i, rows in enumerate(found.values()):
        points = " ".join(f"{x(row['lines']):.1f},{y(value(row)):.1f}" for row in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[i % 2]}" stroke-width="2"/>')
        for point in points.split():
            cx, cy = point.split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="3" fill="{COLOURS[i % 2]}"/>')
    return "\n".join(parts) + "\n"
