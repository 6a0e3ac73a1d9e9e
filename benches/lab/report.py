"""The tables: on the terminal, and between two marks of docs/PERFORMANCE.md.

Enters: results. Leaves: Markdown, and the plots beside it. Must not touch: what stands outside the marks.
"""

import datetime
import platform
import subprocess
from statistics import median

from lab import goals as held
from lab import plot
from lab.peers import PEER, PEERS, ROOT
from lab.rows import ROWS

DOCUMENT = ROOT / "docs/PERFORMANCE.md"
PLOTS = ROOT / "docs/performance"
BEGIN, END = "<!-- benches/run writes from here -->", "<!-- to here -->"


def tables(results: dict) -> str:
    """A table for each row."""
    return "\n".join(table(name, peers) for name, peers in results.items())


def table(name: str, peers: dict) -> str:
    row = ROWS[name]
    head = ["peer", *(heading for _, heading, _ in row.columns)]
    rounds = max((len(figures) for figures in peers.values()), default=0)
    load = ", ".join(f"{key} {value:,}" for key, value in row.full.items())
    bridges = "".join(f"; bridges: {key} {value:,}" for key, value in row.bridge.items())
    bridges += "".join(f"; {PEER[peer].label}: {' '.join(f'{key} {value:,}' for key, value in more.items())}" for peer, more in row.single.items() if "attack" not in more)
    out = [f"### {row.title}", "", f"`benches/run {name}`: {load}{bridges}{'; ' if load else ''}{rounds} round(s) in turns.", ""]
    out += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for peer, figures in peers.items():
        cells = [cell(form, [one.get(key) for one in figures if one]) for key, _, form in row.columns]
        # Plain requests go through the same peers, past their WebSockets.
        label = PEER[peer].program if row.mode in ("small", "big") else PEER[peer].label
        out.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*out, ""])


def cell(form: str, values: list) -> str:
    """Median [least..most]."""
    if not values:
        return "failed"
    if None in values:
        return "not measured"
    middle = form.format(median(values))
    least, most = form.format(min(values)), form.format(max(values))
    return middle if least == most else f"{middle} [{least}..{most}]"


def goals(results: dict) -> str:
    """The table of goals, as far as they were measured."""
    lines = held.lines(results)
    if not lines:
        return ""
    out = ["| figure | measured (ours / theirs = ratio) | goal | | command |", "|---|---|---|---|---|"]
    return "\n".join([*out, *(f"| {' | '.join(line)} |" for line in lines), ""])


def write(results: dict, lab):
    """Puts the tables between the marks, and the plots beside the document."""
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, svg in plot.plots(results).items():
        (PLOTS / f"{name}.svg").write_text(svg)
    before, rest = DOCUMENT.read_text().split(BEGIN)
    after = rest.split(END)[1]
    between = "\n\n".join([machine(lab), "## Goals", goals(results), pictures(results), "## All figures", tables(results)])
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{between}\n{END}{after}")


def pictures(results: dict) -> str:
    return "\n\n".join(f"![{name}](performance/{name}.svg)" for name in plot.plots(results))


def machine(lab) -> str:
    """When, where and what was measured."""
    packages = ("engine.io", "sockjs", "ws")
    versions = {
        "underpass": said(lab.underpass, "--version").removeprefix("underpass "),
        "commit": said("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "nginx": said("nginx", "-v").rsplit("/", 1)[-1],
        "haproxy": said("haproxy", "-v").split()[2],
        "node": said("node", "--version").removeprefix("v"),
        **{name: said("node", "-p", f"require('{PEERS}/node_modules/{name}/package.json').version") for name in packages},
        "rustc": said("rustc", "--version").split()[1],
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    cores = said("nproc", "--all")
    return (
        f"Measured {datetime.date.today()} on {cores} cores ({processor()}), Linux {platform.release()}"
        f"{', measured processes with real-time priority' if lab.realtime else ''}. {listed}."
    )


def said(*command) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def processor() -> str:
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
