"""What is measured: rows, each with its peers, the driver's options, and the figures of it.

Enters: nothing. Leaves: tables of plain data. Must not touch: processes.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One table of the report."""

    title: str
    mode: str
    peers: tuple
    #: Options of the driver: for the full run, and what differs for the quick one.
    full: dict
    quick: dict
    #: Columns: key of the driver's JSON, heading, format.
    columns: tuple
    rounds: int = 3
    #: Options that differ by peer: what is cheap for us takes a bridge minutes.
    bridge: dict = field(default_factory=dict)
    #: Options of single peers.
    single: dict = field(default_factory=dict)
    #: The sidecar's `session.grace`.
    grace: str = "60s"


THROUGH = ("nginx", "haproxy", "tunnel")
OURS = ("sse", "stream", "poll", "carried")
#: With the client that acknowledges what it reads.
ANSWERED = ("sse", "sse-ack", "stream", "poll", "carried")
ATTACKS = ("calm", "slow-headers", "slow-bodies", "preface", "windows", "unread", "hoard", "opens", "failing", "json", "handshakes")
HEIRS = ("take-over", "store", "take-over-2", "store-2")
HANDOVER = (
    ("p50_ms", "gap p50 ms", "{:.0f}"),
    ("p99_ms", "p99", "{:.0f}"),
    ("most_ms", "at most", "{:.0f}"),
    ("calm_p99_ms", "p99 without", "{:.1f}"),
    ("accept_ms", "a new connection waits, at most, ms", "{:.0f}"),
    ("calm_accept_ms", "without", "{:.1f}"),
    ("old_cpu_ms", "CPU ms, old", "{:.0f}"),
    ("new_cpu_ms", "new", "{:.0f}"),
    ("old_mib", "peak MiB, old", "{:.1f}"),
    ("new_mib", "new", "{:.1f}"),
    ("lost", "lost", "{:.0f}"),
    ("wrong", "doubled or out of order", "{:.0f}"),
    ("ended", "sessions ended", "{:.0f}"),
)
BRIDGES = ("sockjs-events", "sockjs-poll", "engine-poll")

ROWS = {
    "idle": Row(
        "Idle: memory of an open session, as the slope between a quarter and all of them",
        "idle",
        (*THROUGH, *OURS, "sse-tls", "sse-h2", *BRIDGES),
        {"count": 4000},
        {"count": 1600},
        (("kib", "KiB RSS a session", "{:.2f}"), ("base_mib", "base MiB", "{:.1f}"), ("cpu_ms", "CPU ms an opening", "{:.3f}")),
        bridge={"count": 2000},
    ),
    "wide": Row(
        "Idle: as many sessions as one process may have files for",
        "idle",
        ("haproxy", "sse", "poll", "tunnel", "sse-h2"),
        {"count": 9000},
        {"count": 9000},
        (("kib", "KiB RSS a session", "{:.2f}"), ("all_mib", "MiB in all", "{:.1f}")),
        rounds=1,
        # A hundred streams share the client's file, so that only the backend's counts.
        single={"sse-h2": {"count": 18_000}},
    ),
    "storm": Row(
        "Storm: memory of a session after all opened at once",
        "storm",
        ("nginx", "haproxy", "tunnel", *OURS, "sse-tls", "sse-h2"),
        {"count": 4000},
        {"count": 1600},
        (("kib", "KiB RSS a session", "{:.2f}"),),
    ),
    "tick": Row(
        "Tick: one 64-byte message a second to each session",
        "tick",
        ("raw", *THROUGH, *OURS, *BRIDGES),
        {"count": 1000, "seconds": 5},
        {"count": 1000, "seconds": 2},
        (("us", "CPU µs a message", "{:.1f}"), ("p50_ms", "p50 ms", "{:.3f}"), ("p99_ms", "p99 ms", "{:.2f}"), ("came", "came", "{:.2f}")),
        rounds=4,
    ),
    "flood": Row(
        "Flood: 10 clients, 64-byte messages, as fast as they go",
        "flood",
        ("raw", *THROUGH, *ANSWERED, *BRIDGES),
        {"count": 10, "messages": 200_000, "size": 64},
        {"count": 10, "messages": 100_000, "size": 64},
        (("s_per_million", "CPU s a million", "{:.3f}"), ("messages_per_s", "messages/s", "{:,.0f}"), ("lost", "lost", "{:.0f}")),
        bridge={"messages": 20_000},
    ),
    "flood-1k": Row(
        "Flood: 10 clients, 1 KiB messages",
        "flood",
        (*THROUGH, *ANSWERED, *BRIDGES),
        {"count": 10, "messages": 40_000, "size": 1024},
        {"count": 10, "messages": 20_000, "size": 1024},
        (("s_per_million", "CPU s a million", "{:.3f}"), ("messages_per_s", "messages/s", "{:,.0f}"), ("lost", "lost", "{:.0f}")),
        bridge={"messages": 5_000},
    ),
    "flood-64k": Row(
        "Flood: 10 clients, 64 KiB messages",
        "flood",
        (*THROUGH, *OURS, *BRIDGES),
        {"count": 10, "messages": 2_000, "size": 65536},
        {"count": 10, "messages": 1_000, "size": 65536},
        (("s_per_million", "CPU s a million", "{:.1f}"), ("messages_per_s", "messages/s", "{:,.0f}"), ("lost", "lost", "{:.0f}")),
        bridge={"messages": 200},
    ),
    "echo": Row(
        "Echo: 16 clients send, wait for the echo, send again",
        "echo",
        ("raw", *THROUGH, *ANSWERED, *BRIDGES),
        {"count": 16, "seconds": 2},
        {"count": 16, "seconds": 1},
        (("us", "CPU µs a round trip", "{:.1f}"), ("per_s", "round trips/s", "{:,.0f}"), ("p50_ms", "p50 ms", "{:.2f}"), ("p99_ms", "p99 ms", "{:.2f}")),
    ),
    "cores": Row(
        "Cores: the echo with one worker on one core, and with two workers on both, which the load shares",
        "echo",
        ("sse", "sse-2", "tunnel", "tunnel-2"),
        {"count": 16, "seconds": 2},
        {"count": 16, "seconds": 1},
        (("us", "CPU µs a round trip", "{:.1f}"), ("per_s", "round trips/s", "{:,.0f}"), ("p50_ms", "p50 ms", "{:.2f}")),
    ),
    "connect": Row(
        "Connect: open, first message, gone; 16 at a time",
        "connect",
        ("raw", *THROUGH, *OURS, *BRIDGES),
        {"messages": 3000},
        {"messages": 1500},
        (("cpu_ms", "CPU ms a session", "{:.4f}"), ("per_s", "sessions/s", "{:,.0f}")),
        bridge={"messages": 1000},
        # A session outlives its client by the grace; its end is counted, so it must come soon.
        grace="2s",
    ),
    "small": Row(
        "Plain proxying: small GETs on 16 connections that stay open",
        "small",
        ("nginx", "haproxy", "tunnel"),
        {"count": 16, "messages": 4000},
        {"count": 16, "messages": 2000},
        (("us", "CPU µs a request", "{:.1f}"), ("per_s", "requests/s", "{:,.0f}")),
    ),
    "big": Row(
        "Plain proxying: 100 MB bodies on 2 connections",
        "big",
        ("nginx", "haproxy", "tunnel"),
        {"count": 2, "messages": 8},
        {"count": 2, "messages": 4},
        (("s_per_gb", "CPU s a GB", "{:.3f}"),),
    ),
    "behind": Row(
        "Behind a flood: 4000 messages of 64 bytes to each session, all read; its memory at the end, and when it is quiet again",
        "behind",
        ("nginx", "haproxy", "tunnel", *ANSWERED),
        {"count": 500, "messages": 4000, "size": 64, "seconds": 8},
        {"count": 200, "messages": 4000, "size": 64, "seconds": 8},
        (("full_kib", "KiB RSS a session at the end", "{:.0f}"), ("kib", "later", "{:.1f}"), ("alive", "alive", "{:.0f}")),
        rounds=1,
        # What a client that never acknowledges was written is kept for one and a half times the grace.
        single={"sse": {"seconds": 45}},
        grace="20s",
    ),
    "behind-1m": Row(
        "Behind a flood: 4 messages of 1 MiB to each session, all read",
        "behind",
        ("nginx", "haproxy", "tunnel", "sse-ack", "stream", "poll", "carried"),
        {"count": 50, "messages": 4, "size": 1_048_576, "seconds": 8},
        {"count": 30, "messages": 4, "size": 1_048_576, "seconds": 8},
        (("full_kib", "KiB RSS a session at the end", "{:.0f}"), ("kib", "later", "{:.1f}"), ("alive", "alive", "{:.0f}")),
        rounds=1,
        grace="20s",
    ),
    "slow": Row(
        "Slow readers: 100 clients that do not read, 64 MiB for each offered by the backend",
        "slow",
        (*THROUGH, *OURS, "sockjs-events", "engine-poll"),
        {"count": 100, "messages": 65_536, "size": 1024, "seconds": 3},
        {"count": 50, "messages": 65_536, "size": 1024, "seconds": 2},
        (("kib", "KiB RSS a client", "{:.0f}"), ("taken_kib", "KiB taken from the backend", "{:.0f}")),
        rounds=1,
    ),
    "hostile": Row(
        "Hostile: 8 honest clients echo over SSE and one opens sessions, alone and then beside an attack",
        "hostile",
        ATTACKS,
        {"count": 8, "seconds": 10},
        {"count": 8, "seconds": 3},
        (
            ("calm_p50_ms", "echo p50 ms", "{:.2f}"),
            ("p50_ms", "beside it", "{:.2f}"),
            ("calm_p99_ms", "echo p99 ms", "{:.2f}"),
            ("p99_ms", "beside it", "{:.2f}"),
            ("calm_open_ms", "opening p99 ms", "{:.1f}"),
            ("open_ms", "beside it", "{:.1f}"),
            ("failed", "honest failures", "{:.0f}"),
            ("before_mib", "RSS before, MiB", "{:.1f}"),
            ("most_mib", "at most", "{:.1f}"),
            ("begun", "attempts", "{:,.0f}"),
        ),
        rounds=1,
        single={name: {"attack": name} for name in ATTACKS},
        grace="60s",
    ),
    "handover": Row(
        "Hand-over: 9,000 sessions, half by SSE and half by polls, half of each busy, while the process is replaced",
        "handover",
        HEIRS,
        {"count": 9000, "seconds": 5},
        {"count": 1000, "seconds": 2},
        HANDOVER,
    ),
    "handover-1k": Row(
        "Hand-over: the same with 1,000 sessions",
        "handover",
        HEIRS,
        {"count": 1000, "seconds": 5},
        {"count": 1000, "seconds": 2},
        HANDOVER,
    ),
    "client": Row(
        "The browser client in headless Chromium: 64-byte messages of one socket, all checked to come in order",
        "client",
        ("page-raw", "page-tunnel", "page-ws", "page-sse", "page-bare", "page-stream", "page-poll"),
        {"messages": 50_000, "seconds": 2},
        {"messages": 20_000, "seconds": 1},
        (
            ("down_per_s", "messages/s down", "{:,.0f}"),
            ("up_per_s", "messages/s up", "{:,.0f}"),
            ("echo_per_s", "round trips/s", "{:,.0f}"),
            ("p50_ms", "p50 ms", "{:.1f}"),
            ("p99_ms", "p99 ms", "{:.1f}"),
        ),
    ),
    "script": Row(
        "The browser client's script, as it is served; Brotli is what a proxy or a CDN would make of it",
        "client",
        ("script",),
        {},
        {},
        (("bytes", "bytes", "{:,.0f}"), ("gzip", "gzip", "{:,.0f}"), ("brotli", "brotli", "{:,.0f}")),
        rounds=1,
    ),
}
