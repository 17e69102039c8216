"""Draws the ratios of bench/run as an SVG: how much faster than default FUSE, on a scale where
twice as fast and half as fast are equally far from the line."""

import math
from xml.sax.saxutils import escape

COLOURS = {"fuse_tuned": "#9aa5b1", "gfapi": "#e0a030", "booster": "#2a7de1"}
LABELS = {"fuse_tuned": "FUSE, tuned", "gfapi": "libgfapi in the process", "booster": "booster"}
LEFT, WIDTH, TOP, BAR, GAP = 190, 640, 78, 13, 14
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(result: dict) -> str:
    rows = result["rows"]
    ratios = [[row[system] / row["fuse"] if row[system] else None for system in COLOURS]
              for row in rows]
    known = [r for group in ratios for r in group if r] + [0.5, 2]
    low, high = math.log(min(known) / 1.15), math.log(max(known) * 1.5)

    def x(ratio: float) -> float:
        return LEFT + (math.log(ratio) - low) / (high - low) * WIDTH

    block = BAR * len(COLOURS) + GAP
    height = TOP + block * len(rows) + 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 30}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="14" y="24" font-size="16">Speed against a FUSE mount with default options '
        '(FUSE = 1)</text>',
    ]
    for i, system in enumerate(COLOURS):
        at = 14 + i * 190
        out.append(f'<rect x="{at}" y="38" width="12" height="12" fill="{COLOURS[system]}"/>')
        out.append(f'<text x="{at + 18}" y="48">{LABELS[system]}</text>')
    for tick in TICKS:
        if not low <= math.log(tick) <= high:
            continue
        colour = "#333" if tick == 1 else "#ddd"
        out.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" '
                   f'y2="{height - 28}" stroke="{colour}"/>')
        out.append(f'<text x="{x(tick):.1f}" y="{height - 12}" text-anchor="middle">'
                   f'{tick:g}×</text>')
    for i, (row, group) in enumerate(zip(rows, ratios)):
        top = TOP + i * block
        out.append(f'<text x="{LEFT - 8}" y="{top + BAR * 2}" text-anchor="end">'
                   f'{escape(row["workload"])}</text>')
        for j, (system, ratio) in enumerate(zip(COLOURS, group)):
            y = top + j * BAR
            if ratio is None:
                continue
            start, end = sorted((x(1), x(ratio)))
            out.append(f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" '
                       f'height="{BAR - 2}" fill="{COLOURS[system]}"/>')
            label, anchor = (end + 4, "start") if ratio >= 1 else (start - 4, "end")
            out.append(f'<text x="{label:.1f}" y="{y + BAR - 3}" font-size="10" '
                       f'text-anchor="{anchor}">{ratio:.2f}</text>')
    out.append("</svg>\n")
    return "\n".join(out)
