"""Bars, as SVG written by hand.

Enters: results. Leaves: SVG documents. Must not touch: files.
"""

from html import escape
from statistics import median

from lab.peers import PEER

#: name: row, figure, title, number's form
PLOTS = {
    "idle": ("idle", "kib", "Memory of an idle session, KiB (less is better)", "{:.1f}"),
    "tick": ("tick", "us", "CPU for one message a second to each of 1,000 sessions, µs a message (less is better)", "{:.0f}"),
    "delay": ("tick", "p50_ms", "Delay from the backend to the client, ms at p50 (less is better)", "{:.3f}"),
}

OURS, THEIRS = "#2563a8", "#a3acb8"
WIDTH, LABELS, BAR, GAP = 860, 360, 20, 8


def plots(results: dict) -> dict:
    """The plots for which there are figures, by name."""
    drawn = {}
    for name, (row, key, title, form) in PLOTS.items():
        values = {peer: [one[key] for one in figures if one] for peer, figures in results.get(row, {}).items()}
        values = {peer: median(numbers) for peer, numbers in values.items() if numbers}
        if values:
            drawn[name] = bars(title, values, form)
    return drawn


def bars(title: str, values: dict, form: str) -> str:
    """One bar for each peer; ours in colour."""
    height, most = 50 + len(values) * (BAR + GAP) + 8, max(values.values())
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="15" font-weight="bold" fill="#1f2733">{escape(title)}</text>',
    ]
    for place, (peer, value) in enumerate(values.items()):
        y = 50 + place * (BAR + GAP)
        length = max(1, value / most * (WIDTH - LABELS - 90))
        colour = OURS if PEER[peer].program == "underpass" else THEIRS
        label = escape(PEER[peer].label.replace("`", ""))
        out += [
            f'<text x="{LABELS - 10}" y="{y + 15}" text-anchor="end" fill="#1f2733">{label}</text>',
            f'<rect x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
            f'<text x="{LABELS + length + 8:.1f}" y="{y + 15}" fill="#1f2733">{form.format(value)}</text>',
        ]
    return "\n".join([*out, "</svg>", ""])
