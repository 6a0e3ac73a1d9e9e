"""The programs that are measured: started fresh for every measurement, pinned to one CPU, stopped by their process id.

Enters: a peer's name. Leaves: a running process group, its process ids, where it listens. Must not touch: load.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
PEERS = HERE / "peers"

#: The peer has CPU 0, or as many as it has workers; backend and driver share CPU 1.
LOAD_CPU = "1"


@dataclass(frozen=True)
class Peer:
    """A way through a program: what is started, how the driver speaks to it, how it is called in tables."""

    program: str
    kind: str
    label: str
    tls: bool = False
    #: Written in Node; its load is smaller, where ours would take it minutes.
    bridge: bool = False
    #: Threads that serve, each with a CPU.
    workers: int = 1


PEER = {
    "raw": Peer("backend", "ws", "backend itself, WebSocket"),
    "nginx": Peer("nginx", "ws", "nginx, WebSocket through"),
    "haproxy": Peer("haproxy", "ws", "haproxy, WebSocket through"),
    "tunnel": Peer("underpass", "ws", "underpass, WebSocket through"),
    "sse": Peer("underpass", "sse", "underpass, SSE"),
    "sse-ack": Peer("underpass", "sse-ack", "underpass, SSE that acknowledges, as the browser client does"),
    "stream": Peer("underpass", "stream", "underpass, octet stream"),
    "poll": Peer("underpass", "poll", "underpass, long poll"),
    "carried": Peer("underpass", "carried", "underpass, `ws` transport"),
    "tunnel-2": Peer("underpass", "ws", "underpass with two workers, WebSocket through", workers=2),
    "sse-2": Peer("underpass", "sse", "underpass with two workers, SSE", workers=2),
    "sse-tls": Peer("underpass", "sse", "underpass, SSE over TLS 1.3", tls=True),
    "sse-h2": Peer("underpass", "sse-h2", "underpass, SSE over HTTP/2 and TLS, 100 a connection", tls=True),
    "sockjs-events": Peer("sockjs", "sockjs-events", "sockjs-node, eventsource", bridge=True),
    "sockjs-poll": Peer("sockjs", "sockjs-poll", "sockjs-node, xhr polling", bridge=True),
    # Honest clients beside an attack (benches/load/src/modes/attacks.rs).
    "calm": Peer("underpass", "sse", "nobody attacks"),
    "slow-headers": Peer("underpass", "sse", "500 slow headers"),
    "slow-bodies": Peer("underpass", "sse", "500 slow bodies"),
    "preface": Peer("underpass", "sse", "300 halted HTTP/2 prefaces (all over TLS)", tls=True),
    "windows": Peer("underpass", "sse", "1,000 HTTP/2 streams with shut windows (all over TLS)", tls=True),
    "unread": Peer("underpass", "sse", "200 streams that are not read"),
    "hoard": Peer("underpass", "sse", "2,000 idle connections"),
    "opens": Peer("underpass", "sse", "500 openings a second, left behind"),
    "failing": Peer("underpass", "sse", "1,000 failing requests a second"),
    "json": Peer("underpass", "sse", "40 senders of 350,000 empty messages"),
    "handshakes": Peer("underpass", "sse", "200 handshakes without an answer"),
    # Whose process is replaced under load, and by which road.
    "take-over": Peer("underpass", "take-over", "take-over: the successor asks"),
    "store": Peer("underpass", "store", "restart: the service manager keeps it"),
    "take-over-2": Peer("underpass", "take-over", "take-over, two workers on both cores", workers=2),
    "store-2": Peer("underpass", "store", "restart, two workers on both cores", workers=2),
    # All transports in one load.
    "soak": Peer("underpass", "ws", "underpass", workers=2),
    # In a browser: what its page's WebSocket is made to take.
    "page-raw": Peer("backend", "native", "backend itself, native WebSocket"),
    "page-tunnel": Peer("underpass", "native", "underpass, native WebSocket through"),
    "page-ws": Peer("underpass", "ws", "underpass, client by `ws`"),
    "page-sse": Peer("underpass", "sse", "underpass, client by `sse`"),
    "page-bare": Peer("underpass", "bare", "underpass, a `fetch` and an EventSource by hand, without the client"),
    "page-stream": Peer("underpass", "stream", "underpass, client by `stream`"),
    "page-poll": Peer("underpass", "poll", "underpass, client by `poll`"),
    "script": Peer("underpass", "script", "`/_underpass/client.js`"),
    "engine-poll": Peer("engine", "engine-poll", "engine.io, polling", bridge=True),
}


class Lab:
    """Where peers run: binaries, a scratch directory, the backend."""

    def __init__(self, directory: Path, target: Path, realtime: bool):
        self.directory = directory
        self.underpass = Path(os.environ.get("UNDERPASS", target / "release/underpass"))
        self.load = target / "release/load"
        self.realtime = realtime and shutil.which("chrt") is not None
        certificate(directory)
        self.backend_port = free_port()
        self.backend = self.start(LOAD_CPU, [self.load, "backend", "--address", f"127.0.0.1:{self.backend_port}"])
        wait_for(self.backend_port, self.backend)

    def start(self, cpu: str, command: list, **more) -> subprocess.Popen:
        """A pinned process; with real-time priority where that is allowed, so that other work delays nothing."""
        before = ["chrt", "--rr", "1"] if self.realtime else []
        log = open(self.directory / "peer.log", "ab")
        command = [*before, "taskset", "-c", cpu, *map(str, command)]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **more)

    @contextlib.contextmanager
    def running(self, peer: Peer, grace: str = "60s"):
        """The peer's address and process ids, as long as the block lasts."""
        if peer.program == "backend":
            yield f"127.0.0.1:{self.backend_port}", [self.backend.pid]
            return
        port, tls = free_port(), free_port()
        cpus = ",".join(map(str, range(peer.workers)))
        process = self.start(cpus, self.command(peer, port, tls, grace), cwd=PEERS)
        try:
            wait_for(port, process)
            # Workers of nginx are its children; taskset and chrt replace themselves by what they start.
            yield f"127.0.0.1:{tls if peer.tls else port}", [process.pid, *children(process.pid)]
        finally:
            stop(process)

    def command(self, peer: Peer, port: int, tls: int, grace: str) -> list:
        values = {"port": port, "tls": tls, "backend": self.backend_port, "dir": self.directory, "grace": grace}
        program = peer.program
        if program == "nginx":
            return ["nginx", "-e", self.directory / "nginx.log", "-c", self.filled("nginx.conf", values)]
        if program == "haproxy":
            return ["haproxy", "-db", "-f", self.filled("haproxy.cfg", values)]
        if program == "underpass":
            self.admin_port = free_port()
            config = self.filled("underpass.toml", values | {"admin": self.admin_port, "workers": peer.workers})
            return [self.underpass, "run", config]
        return ["node", f"{program}.js", port, self.backend_port]

    def handed_over(self, peer: Peer) -> tuple:
        """The port and the configuration of a process that is to be replaced; both processes have the same."""
        port = free_port()
        values = {"port": port, "tls": free_port(), "backend": self.backend_port, "dir": self.directory, "grace": "60s"}
        config = self.filled("underpass.toml", values | {"admin": free_port(), "workers": peer.workers})
        config.write_text(config.read_text() + f'\n[handover]\nsocket = "{self.directory}/handover-{port}.sock"\n')
        return port, config

    def driver(self, address: str, options: dict) -> subprocess.Popen:
        """The driver, to be talked with."""
        command = ["taskset", "-c", LOAD_CPU, self.load, "drive", "--address", address]
        for name, value in options.items():
            command += [f"--{name}", value]
        before = ["chrt", "--rr", "1"] if self.realtime else []
        pipe = subprocess.PIPE
        return subprocess.Popen([*before, *map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe)

    def filled(self, name: str, values: dict) -> Path:
        text = (PEERS / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.directory / name
        path.write_text(text)
        return path

    def browse(self, peer: Peer, address: str, messages: int = 0, seconds: int = 0) -> str:
        """Runs a browser through a page of the peer; its one line of JSON. At ordinary priority: it is no small program."""
        script = HERE / "lab/client.mjs"
        return output(["taskset", "-c", LOAD_CPU, "node", script, peer.kind, address, messages, seconds], 120)

    def drive(self, peer: Peer, address: str, pids: list, **options) -> str:
        """Runs the driver; its one line of JSON."""
        command = ["taskset", "-c", LOAD_CPU, self.load, "drive", "--kind", peer.kind, "--address", address]
        command += ["--backend", f"127.0.0.1:{self.backend_port}", "--pids", ",".join(map(str, pids))]
        if peer.tls:
            command += ["--ca", self.directory / "site.pem"]
        for name, value in options.items():
            command += [f"--{name}", value]
        if self.realtime:
            command = ["chrt", "--rr", "1", *command]
        return output(command, 90)

    def close(self):
        stop(self.backend)


def directory_of_builds() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def build(target: Path):
    """Builds what is ours."""
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}
    for package in (ROOT, HERE / "load"):
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=package, env=environment, check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen):
    """Until the port is listened on."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            time.sleep(0.2)
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"{process.args[-3:]} does not listen on {port}; see peer.log of the scratch directory")


def output(command: list, timeout: float) -> str:
    """What the driver says on standard output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"the driver ended with {done.returncode}")
    return done.stdout


def children(pid: int) -> list:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def stop(process: subprocess.Popen):
    """Ends the process and its own children, at once: there is nothing to save."""
    for pid in [process.pid, *children(process.pid)] if process.poll() is None else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def certificate(directory: Path):
    """A certificate for localhost that the driver trusts."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", directory / "site.key", "-out", directory / "site.pem", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
