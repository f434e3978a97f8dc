#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run build/dormouse-bench, compare its medians with the promises, draw its samples: see docs/benchmarks.md.

    tests/bench/native.py [OPTIONS OF dormouse-bench]      all of it
    tests/bench/native.py --report FILE                    only check and draw what was measured before

Exit code: 0 if all promises are kept, 1 if one is missed or was not measured.
"""

import html
import json
import math
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(TOP, "build/bench")
TO_MS = {"us": 0.001, "ms": 1}
GOAL = "make bench"


def load_promises():
    """Those of the native benchmark, by the name of their series."""
    with open(os.path.join(TOP, "tests/bench/promises.json"), encoding="utf-8") as f:
        return {name: p for name, p in json.load(f).items() if GOAL in p["checked_by"]}


def number(value, unit):
    return f"{value:.3f}" if unit == "ratio" else f"{value:.1f}"


def check(result, promises):
    """Print promise, measured value and whether it is kept. Returns the names of the missed ones."""
    series = {s["name"]: s for s in result["series"]}
    missed = []
    print(f"{'':26} {'promise':>9} {'p50':>9} {'p99':>9} {'':5}")
    for name, promise in promises.items():
        s = series.get(name)
        kept = s is not None and s["unit"] == promise["unit"] and s["p50"] <= promise["limit"]
        if not kept:
            missed.append(name)
        p50, p99 = (number(s[k], s["unit"]) for k in ("p50", "p99")) if s else ("-", "-")
        word = "ok" if kept else "MISSED" if s else "NOT MEASURED"
        print(f"{name:26} {promise['limit']:>9} {p50:>9} {p99:>9} {promise['unit']:5} {word}")
    for name, value in result["facts"].items():
        print(f"{name:26} {'':>9} {value:9.1f}")
    return missed


# --- the picture ------------------------------------------------------------------------------

ROW, LEFT, RIGHT, TOP_PX, PLOT = 34, 190, 170, 74, 620
INK, SOFT, GRID, DOT, PROMISE = "#1f2328", "#656d76", "#e4e7eb", "#2f6fde", "#c2410c"


class Axis:
    """Milliseconds on a logarithmic scale."""

    def __init__(self, values):
        self.low = math.floor(math.log10(min(values)))
        self.high = math.ceil(math.log10(max(values)))

    def x(self, ms):
        return LEFT + PLOT * (math.log10(ms) - self.low) / (self.high - self.low)

    def ticks(self):
        return [10.0**n for n in range(self.low, self.high + 1)]


def text(x, y, content, size=12, colour=INK, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{html.escape(content)}</text>'


def line(x1, y1, x2, y2, colour, width=1.0, dash=""):
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def draw_row(axis, y, s, promise):
    """One series: a dot for each sample, spread by its place in the series; the median; the promise."""
    scale = TO_MS[s["unit"]]
    middle = y + ROW / 2
    out = [text(LEFT - 12, middle + 4, s["name"].rsplit("_", 1)[0], anchor="end"), f"<title>{html.escape(s['what'])}</title>"]
    for i, sample in enumerate(s["samples"]):
        offset = (i * 7 % 11 - 5) / 5 * (ROW / 2 - 8)
        x = axis.x(max(sample, 1e-9) * scale)
        out.append(f'<circle cx="{x:.1f}" cy="{middle + offset:.1f}" r="2.4" fill="{DOT}" fill-opacity="0.35"/>')
    median = axis.x(s["p50"] * scale)
    out.append(line(median, y + 4, median, y + ROW - 4, INK, 2.5))
    label = f"{s['p50'] * scale:.3g} / {s['p99'] * scale:.3g} ms"
    if promise:
        at = axis.x(promise["limit"] * scale)
        out.append(line(at, y + 2, at, y + ROW - 2, PROMISE, 2, "4 3"))
        label += f"  (≤ {promise['limit'] * scale:g})"
    out.append(text(LEFT + PLOT + 12, middle + 4, label, 12, INK if promise else SOFT))
    return f"<g>{''.join(out)}</g>"


def draw(result, promises):
    """An SVG of all series that are times."""
    series = [s for s in result["series"] if s["unit"] in TO_MS]
    machine = result["machine"]
    values = [v * TO_MS[s["unit"]] for s in series for v in s["samples"]]
    values += [p["limit"] * TO_MS[p["unit"]] for p in promises.values() if p["unit"] in TO_MS]
    axis = Axis([v for v in values if v > 0])
    height, width = TOP_PX + ROW * len(series) + 44, LEFT + PLOT + RIGHT + 30
    bottom = TOP_PX + ROW * len(series)
    where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, KVM: {machine['backend']}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(20, 26, "dormouse-bench: each dot a sample, bar the median, dashes the promise", 15),
        text(20, 46, f"{where}; guest {result['memory_mib']} MiB", 12, SOFT),
        text(LEFT + PLOT + 12, TOP_PX - 8, "p50 / p99 (promise)", 12, SOFT),
    ]
    for ms in axis.ticks():
        x = axis.x(ms)
        out += [line(x, TOP_PX, x, bottom, GRID), text(x, bottom + 18, f"{ms:g} ms", 12, SOFT, "middle")]
    for i, s in enumerate(series):
        out.append(draw_row(axis, TOP_PX + i * ROW, s, promises.get(s["name"])))
    return "\n".join(out + ["</svg>", ""])


def main(arguments):
    path = os.path.join(OUT, "native.json")
    measured = 0
    if arguments[:1] == ["--report"] and len(arguments) == 2:
        path = arguments[1]
    else:
        os.makedirs(OUT, exist_ok=True)
        program = os.path.join(TOP, "build/dormouse-bench")
        # A failed subcommand leaves the others' results, and its own promises unmeasured.
        measured = subprocess.run([program, "--json", path, *arguments, "all"], check=False).returncode
        if measured not in (0, 1):
            return measured
        print()
    with open(path, encoding="utf-8") as f:
        result = json.load(f)
    promises = load_promises()
    missed = check(result, promises)
    if any(s["unit"] in TO_MS for s in result["series"]):
        picture = os.path.splitext(path)[0] + ".svg"
        with open(picture, "w", encoding="utf-8") as f:
            f.write(draw(result, promises))
        print(f"\nsamples: {os.path.relpath(path)}   picture: {os.path.relpath(picture)}")
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed or measured else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
