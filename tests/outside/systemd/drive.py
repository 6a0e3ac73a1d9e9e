"""What tests/outside/systemd/run tries, beside a systemd that has the shipped unit: a backend, clients of every kind, and orders
to the service manager. Only Python's own library. Ends with 0 when nothing was lost."""

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

RESTARTS = int(sys.argv[1]) if len(sys.argv) > 1 else 12
PORT = 8080
CONFIG = "/etc/underpass/underpass.toml"
EACH = 4  # clients of each kind
QUICK = 0.005  # seconds between two messages
PATIENCE = 60  # seconds in which anything must have happened


def say(text):
    print(text, flush=True)


class Failed(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failed(text)


def until(condition, text):
    end = time.monotonic() + PATIENCE
    while not condition():
        check(time.monotonic() < end, f"waited in vain: {text}")
        time.sleep(0.01)


# === WebSockets, as RFC 6455 has them ===


def read_exactly(reader, count):
    data = reader.read(count)
    if data is None or len(data) < count:
        raise EOFError("the end of the connection")
    return data


def read_frame(reader):
    first, second = read_exactly(reader, 2)
    length = second & 127
    if length == 126:
        (length,) = struct.unpack(">H", read_exactly(reader, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", read_exactly(reader, 8))
    mask = read_exactly(reader, 4) if second & 128 else b""
    payload = read_exactly(reader, length)
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return first & 15, payload


def frame(payload, kind=1, masked=False):
    check(len(payload) < 126, "messages here are short")
    head = bytes([128 | kind, len(payload) | (128 if masked else 0)])
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def read_head(reader):
    lines = []
    while True:
        line = reader.readline()
        if not line:
            raise EOFError("the end of the connection")
        if line == b"\r\n":
            return lines
        lines.append(line.decode("latin-1").rstrip("\r\n"))


# === the backend ===


class Conversation:
    """One WebSocket of the backend: it says d1, d2, …, and must hear u1, u2, …"""

    def __init__(self, path):
        self.path, self.sent, self.heard, self.wrong, self.ended = path, 0, 0, None, None
        self.talking = True


class Backend:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 9000), backlog=256)
        self.conversations = {}
        self.openings = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = connection.makefile("rb")
        lines = read_head(reader)
        path = lines[0].split()[1]
        key = next(line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        connection.sendall(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        conversation = Conversation(path)
        self.conversations[path] = conversation
        self.openings += 1
        threading.Thread(target=self.talk, args=(connection, conversation), daemon=True).start()
        try:
            while True:
                kind, payload = read_frame(reader)
                if kind == 8:
                    conversation.ended = struct.unpack(">H", payload[:2])[0] if payload else 1005
                    conversation.talking = False
                    connection.sendall(frame(payload, kind=8))
                    return
                if kind == 9:
                    connection.sendall(frame(payload, kind=10))
                if kind == 1:
                    expected = f"u{conversation.heard + 1}"
                    if payload.decode() != expected:
                        conversation.wrong = conversation.wrong or f"{path}: heard {payload!r}, not {expected}"
                    conversation.heard += 1
        except (OSError, EOFError):
            conversation.ended = conversation.ended or 1006
            conversation.talking = False

    @staticmethod
    def talk(connection, conversation):
        try:
            while conversation.talking:
                conversation.sent += 1
                connection.sendall(frame(f"d{conversation.sent}".encode()))
                time.sleep(QUICK)
        except OSError:
            pass


# === clients ===


class Client:
    """It must hear d1, d2, … and says u1, u2, … until it is told to be quiet."""

    def __init__(self, path):
        self.path, self.heard, self.said = path, 0, 0
        # Requests that had to be made again: told so, and on a connection that was lost.
        self.told_again, self.cut = 0, 0
        self.wrong, self.quiet, self.over, self.error = None, False, False, None

    def hear(self, text):
        if text != f"d{self.heard + 1}":
            self.wrong = self.wrong or f"{self.path}: heard {text!r} behind d{self.heard}"
        self.heard += 1

    def run(self, work):
        def guarded():
            try:
                work()
            except Exception as error:  # whatever it is, it is told at the end
                if not self.over:
                    self.error = self.error or f"{self.path}: {type(error).__name__}: {error}"

        threading.Thread(target=guarded, daemon=True).start()


class Tunnel(Client):
    """A WebSocket that is passed through: one connection, for ever."""

    def __init__(self, path):
        super().__init__(path)
        self.connection = socket.create_connection(("127.0.0.1", PORT))
        self.connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost:{PORT}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        self.reader = self.connection.makefile("rb")
        check(" 101 " in read_head(self.reader)[0], "a tunnel was refused")
        self.closed = None
        self.run(self.read)
        self.run(self.write)

    def read(self):
        while True:
            kind, payload = read_frame(self.reader)
            if kind == 8:
                self.closed = struct.unpack(">H", payload[:2])[0]
                raise EOFError(f"closed with {self.closed}")
            if kind == 1:
                self.hear(payload.decode())

    def write(self):
        while True:
            if self.quiet:
                time.sleep(0.1)
                continue
            self.said += 1
            self.connection.sendall(frame(f"u{self.said}".encode(), masked=True))
            time.sleep(QUICK)


class Session(Client):
    """A session, and requests that are made again, as a client of the protocol makes them."""

    def __init__(self, path):
        super().__init__(path)
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        connection.request("POST", f"{path}?underpass=open")
        answer = connection.getresponse()
        text = answer.read()
        check(answer.status == 200, f"opening was answered {answer.status}: {text[:200]!r}")
        self.url = "/" + json.loads(text)["session"]["url"].lstrip("./")
        self.run(self.read)
        self.run(self.write)

    def ask(self, connection, method, url, body=None):
        """The answer, or None where it has to be asked again; with that the time to wait is over."""
        try:
            connection.request(method, url, body)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException):
            # The connection, not the session. In the gap of a restart nobody may be there to answer.
            connection.close()
            self.cut += 1
            time.sleep(0.01)
            return None
        if answer.status in (503, 502):
            self.told_again += 1
            answer.read()
            time.sleep(0.01)
            return None
        if answer.status not in (200, 204):
            raise Failed(f"{method} {url[-40:]} was answered {answer.status}: {answer.read()[:200]!r}")
        return answer

    def write(self):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        while True:
            if self.quiet:
                # What is not acknowledged is kept, and at a limit the backend is not read any more.
                answer = self.ask(connection, "POST", f"{self.url}/ack?after={self.heard}")
                if answer is not None:
                    answer.read()
                time.sleep(0.1)
                continue
            number = self.said + 1
            answer = self.ask(connection, "POST", f"{self.url}/send?seq={number}&after={self.heard}&as=text", f"u{number}")
            if answer is None:
                continue
            try:
                next_number = json.loads(answer.read())["next"]
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                continue
            check(next_number == number + 1, f"the answer to u{number} expects {next_number}")
            self.said = number
            time.sleep(QUICK)


class Polled(Session):
    def read(self):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        while True:
            answer = self.ask(connection, "GET", f"{self.url}/poll?after={self.heard}&wait=5")
            if answer is None:
                continue
            try:
                told = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                continue
            check("lost" not in told, f"lost {told.get('lost')}")
            check(told["from"] == self.heard, f"begins behind {told['from']}, not {self.heard}")
            for text in told["messages"]:
                self.hear(text)
            check("close" not in told, f"closed: {told.get('close')}")


class Streamed(Session):
    def read(self):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        while True:
            answer = self.ask(connection, "GET", f"{self.url}/sse?after={self.heard}")
            if answer is None:
                continue
            check(answer.status == 200, "the session has ended")
            try:
                while self.event(answer):
                    pass
            except (OSError, http.client.HTTPException):
                connection.close()

    def event(self, answer):
        number, kind, data = None, None, []
        while True:
            line = answer.readline().decode()
            if not line:
                return False
            line = line.rstrip("\n")
            if not line:
                break
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                data.append(value)
        check(kind not in ("close", "lost", "superseded"), f"{kind}: {data}")
        if kind is None and data:
            check(number == self.heard + 1, f"number {number} behind {self.heard}")
            self.hear("\n".join(data))
        return True


# === orders ===


def systemctl(*arguments, may_fail=False):
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode != 0 and not may_fail:
        log = subprocess.run(["journalctl", "-u", "underpass", "-n", "40", "-o", "cat"], capture_output=True, text=True)
        raise Failed(f"systemctl {' '.join(arguments)}: {done.stderr}\n{log.stdout}")
    return done.stdout.strip()


def show(name):
    return systemctl("show", "underpass", "--value", f"--property={name}")


def journal():
    done = subprocess.run(["journalctl", "-u", "underpass", "-o", "cat"], capture_output=True, text=True)
    return done.stdout


def configure(more=""):
    with open(CONFIG, "w") as file:
        file.write(f'listen = "127.0.0.1:{PORT}"\nupstream = "ws://127.0.0.1:9000"\nadmin = "127.0.0.1:8081"\n{more}\n')


def metric(sample):
    connection = http.client.HTTPConnection("127.0.0.1", 8081, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == sample), None)


def all_well(clients):
    for client in clients:
        check(client.error is None, client.error)
        check(client.wrong is None, client.wrong)


def progress(clients, backend, text, count=50):
    """Each of them says and hears something new."""
    before = [(client, client.heard, client.said) for client in clients]
    lagging = lambda: [c.path for c, heard, said in before if c.heard < heard + count or c.said < said + count]
    end = time.monotonic() + PATIENCE
    while lagging():
        all_well(clients)
        check(time.monotonic() < end, f"{text}: nothing new at {lagging()}")
        time.sleep(0.01)


def start_clients(part):
    kinds = {"tunnel": Tunnel, "poll": Polled, "sse": Streamed}
    return [kind(f"/{part}/{name}{number}") for name, kind in kinds.items() for number in range(EACH)]


def restarts(backend):
    clients = start_clients("restarts")
    progress(clients, backend, "before a restart")
    openings, gaps = backend.openings, []
    for number in range(RESTARTS):
        pid = show("MainPID")
        begun = time.monotonic()
        systemctl("restart", "underpass")
        gaps.append(time.monotonic() - begun)
        check(show("MainPID") != pid, "it is the same process")
        progress(clients, backend, f"restart {number + 1}")
    for client in clients:
        client.quiet = True
    conversations = [backend.conversations[client.path] for client in clients]
    until(lambda: all(b.heard >= c.said for b, c in zip(conversations, clients)), "the last messages")
    all_well(clients)
    for conversation in conversations:
        check(conversation.wrong is None, conversation.wrong)
        check(conversation.ended is None, f"{conversation.path}: the backend's connection ended ({conversation.ended})")
    check(backend.openings == openings, "the backend was dialled again")
    check(metric('underpass_handover_total{result="restarted"}') == 1, "the metrics do not tell of it")
    up, down = sum(client.said for client in clients), sum(client.heard for client in clients)
    say(
        f"{RESTARTS} restarts, {len(clients)} clients: {up} messages up, {down} down, none lost, none twice; "
        f"`systemctl restart` took {min(gaps):.2f} to {max(gaps):.2f} s; "
        f"{sum(c.told_again for c in clients)} requests were told to come again, {sum(c.cut for c in clients)} lost their connection"
    )
    return clients


def mended(backend, clients):
    """A restart with a wrong configuration: it fails until the file is right, and then everything lives on."""
    configure("nonsense = 1")
    systemctl("restart", "underpass", may_fail=True)
    check(show("ActiveState") != "active", "it started with a wrong configuration")
    time.sleep(3)
    configure()
    until(lambda: show("ActiveState") == "active", "the start with the right configuration")
    for client in clients:
        client.quiet = False
    progress(clients, backend, "once the configuration was right")
    say("a wrong configuration, mended after 3 s: nothing lost")


def stop(backend, clients):
    for client in clients:
        client.over = True
    systemctl("stop", "underpass")
    check(show("Result") == "success", f"the stop: {show('Result')}")
    conversations = [backend.conversations[client.path] for client in clients]
    until(lambda: all(one.ended for one in conversations), "the end of the backend's connections")
    codes = sorted({one.ended for one in conversations})
    check(codes == [1001], f"the backend was told {codes}")
    systemctl("start", "underpass")
    check(metric('underpass_handover_total{result="restarted"}') == 0, "a start behind a stop has thawed something")
    say(f"a stop drains: {len(conversations)} connections of the backend ended with 1001, and nothing came back")


def crash(backend):
    clients = start_clients("crash")
    progress(clients, backend, "before the crash")
    # So that something was in the store before.
    systemctl("restart", "underpass")
    progress(clients, backend, "after a restart")
    for client in clients:
        client.over = True
    pid = show("MainPID")
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: show("MainPID") not in ("0", pid) and show("ActiveState") == "active", "the start after the crash")
    check(metric('underpass_handover_total{result="restarted"}') == 0, "something stale was thawed")
    session = next(client for client in clients if isinstance(client, Session))
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
    connection.request("GET", f"{session.url}/poll?after=0&wait=0")
    answer = connection.getresponse()
    check(b"unknown_session" in answer.read(), f"a session came back ({answer.status})")
    say("a crash: nothing stale came back")


def main():
    backend = Backend()
    configure()
    systemctl("start", "underpass")
    clients = restarts(backend)
    mended(backend, clients)
    stop(backend, clients)
    crash(backend)


try:
    main()
except Failed as failed:
    say(f"FAILED: {failed}")
    say(journal()[-6000:])
    sys.exit(1)
