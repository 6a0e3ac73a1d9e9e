"""The goals: each a figure of a run held against a limit.

Enters: results, by row, peer and round. Leaves: lines of the table of goals. Must not touch: how things are measured.
"""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Goal:
    """`peer`'s figure in `row`, or how many times that of `over` it is, must be at most `limit`."""

    what: str
    row: str
    peer: str
    key: str
    limit: float
    #: A peer of the same row, or `(row, peer)` of another.
    over: object = None
    unit: str = ""

    def rows(self) -> set:
        return {self.row, self.over[0]} if isinstance(self.over, tuple) else {self.row}

    def value(self, results: dict):
        """Figure of ours, figure of theirs (or None), and what is held against the limit; None when not measured."""
        ours = by_round(results, self.row, self.peer, self.key)
        if not ours:
            return None
        if self.over is None:
            return median(ours), None, median(ours)
        row, peer = self.over if isinstance(self.over, tuple) else (self.row, self.over)
        theirs = by_round(results, row, peer, self.key)
        if not theirs:
            return None
        # In turns: each round is a pair, and the median of the pairs is the figure.
        pairs = [one / other for one, other in zip(ours, theirs)] if len(ours) == len(theirs) else []
        return median(ours), median(theirs), median(pairs) if pairs else median(ours) / median(theirs)


def by_round(results: dict, row: str, peer: str, key: str) -> list:
    if key == "added":
        return added(results.get(row, {}), peer)
    return [figures[key] for figures in results.get(row, {}).get(peer, []) if figures]


def added(row: dict, peer: str) -> list:
    """The delay at p50 over the raw WebSocket's, round by round."""
    rounds = zip(row.get(peer, []), row.get("raw", []))
    return [ours["p50_ms"] - raw["p50_ms"] for ours, raw in rounds if ours and raw]


GOALS = (
    Goal("idle, SSE h1", "idle", "sse", "kib", 4.0, unit="KiB"),
    Goal("idle, SSE h1, to sockjs-node", "idle", "sse", "kib", 0.20, "sockjs-events"),
    Goal("idle, SSE h1, to haproxy", "idle", "sse", "kib", 1.0, "haproxy"),
    Goal("idle, waiting long poll", "idle", "poll", "kib", 4.5, unit="KiB"),
    Goal("idle, waiting long poll, to engine.io", "idle", "poll", "kib", 0.20, "engine-poll"),
    Goal("idle, SSE over HTTP/2, 100 a connection", "idle", "sse-h2", "kib", 4.5, unit="KiB"),
    Goal("idle, tunnel, to haproxy", "idle", "tunnel", "kib", 1.0, "haproxy"),
    Goal("storm, SSE h1, to gradual", "storm", "sse", "kib", 1.25, ("idle", "sse")),
    Goal("storm, long poll, to gradual", "storm", "poll", "kib", 1.25, ("idle", "poll")),
    Goal("tick CPU, SSE, to nginx", "tick", "sse", "us", 1.25, "nginx"),
    Goal("tick CPU, long poll, to SSE", "tick", "poll", "us", 1.5, "sse"),
    Goal("tick CPU, tunnel, to nginx", "tick", "tunnel", "us", 1.15, "nginx"),
    Goal("tick, delay added at p50, SSE, to nginx", "tick", "sse", "added", 1.25, "nginx"),
    Goal("tick, delay added at p50, long poll, to nginx", "tick", "poll", "added", 1.25, "nginx"),
    Goal("flood CPU, SSE", "flood", "sse", "s_per_million", 0.25, unit="s"),
    Goal("flood CPU, long poll", "flood", "poll", "s_per_million", 0.25, unit="s"),
    Goal("flood CPU, SSE, to engine.io", "flood", "sse", "s_per_million", 0.12, "engine-poll"),
    Goal("flood CPU, SSE, to sockjs xhr", "flood", "sse", "s_per_million", 0.15, "sockjs-poll"),
    Goal("flood, messages lost, SSE", "flood", "sse", "lost", 0, unit="messages"),
    Goal("flood, messages lost, long poll", "flood", "poll", "lost", 0, unit="messages"),
    Goal("flood CPU, tunnel, to nginx", "flood", "tunnel", "s_per_million", 1.5, "nginx"),
    Goal("echo CPU, SSE and POST, to nginx", "echo", "sse", "us", 2.0, "nginx"),
    Goal("echo CPU, long poll and POST, to nginx", "echo", "poll", "us", 2.5, "nginx"),
    Goal("CPU of a session opened and closed, SSE, to nginx", "connect", "sse", "cpu_ms", 1.25, "nginx"),
    Goal("plain proxying, small GETs, to nginx", "small", "tunnel", "us", 1.25, "nginx"),
    Goal("plain proxying, 100 MB bodies, to nginx", "big", "tunnel", "s_per_gb", 1.25, "nginx"),
)


def lines(results: dict) -> list:
    """Goal by goal: what, figure, limit, met, command."""
    table = []
    for goal in GOALS:
        value = goal.value(results)
        if value is None:
            continue
        ours, theirs, held = value
        shown = f"{ours:.3g} / {theirs:.3g} = **{held:.2f}**" if theirs is not None else f"**{ours:.3g}** {goal.unit}"
        limit = f"≤ {goal.limit:g}" + (" ×" if theirs is not None else f" {goal.unit}")
        rows = " ".join(sorted(goal.rows()))
        table.append((goal.what, shown, limit, "met" if held <= goal.limit else "**missed**", f"`benches/run {rows}`"))
    return table
