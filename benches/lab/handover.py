"""One process replaced by another under load, by either road, and what both of them took for it.

Enters: a lab, a peer, the driver's options. Leaves: the driver's figures with those of the processes. Must not touch: the
machine's own service manager; a small one stands here for the road through its descriptor store.
"""

import array
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from lab.peers import stop, wait_for

#: Longer than anything here takes.
PATIENCE = 120
#: What the successor logs when everything lives on.
GOES_ON = b"went on where the process before has stopped"
HANDED_OVER = b"everything is handed over"


class Manager:
    """As much of a service manager as keeps descriptors over a restart (sd_notify(3), FDSTORE=1 and BARRIER=1)."""

    def __init__(self, path):
        self.path, self.kept = path, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        size = array.array("i").itemsize
        while True:
            text, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16 * size))
            passed = array.array("i")
            for _, _, data in control:
                passed.frombytes(data[: len(data) - len(data) % size])
            said = dict(line.split("=", 1) for line in text.decode().splitlines())
            if "FDSTOREREMOVE" in said:
                self.let_go(said.get("FDNAME", "stored"))
            for descriptor in passed:
                if "FDSTORE" in said:
                    # Far from the numbers that a service is passed its descriptors at.
                    self.kept.append((said.get("FDNAME", "stored"), fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)))
                os.close(descriptor)

    def let_go(self, name):
        for kept in [kept for kept in self.kept if kept[0] == name]:
            self.kept.remove(kept)
            os.close(kept[1])

    def service(self, command: list) -> tuple:
        """The command that starts the service with all that is kept, and how a process of it is to be made."""
        moves = " ".join(f"{number}<&{descriptor}" for number, (_, descriptor) in enumerate(self.kept, 3))
        more = f'LISTEN_PID=$$ LISTEN_FDS={len(self.kept)} LISTEN_FDNAMES={":".join(name for name, _ in self.kept)}' if self.kept else ""
        script = f'exec {moves}; {more} exec "$0" "$@"' if self.kept else 'exec "$0" "$@"'
        command = ["bash", "-c", script, *command]
        return command, {"pass_fds": [descriptor for _, descriptor in self.kept], "env": os.environ | {"NOTIFY_SOCKET": str(self.path)}}


def measure(lab, peer, options: dict) -> dict:
    """A fresh process under load, replaced once."""
    store = peer.kind == "store"
    manager = Manager(lab.directory / f"notify-{time.monotonic_ns()}") if store else None
    port, config = lab.handed_over(peer)
    run = lambda *words: start(lab, manager, peer, [lab.underpass, "run", *words, config])  # noqa: E731
    old = run()
    driver = new = None
    try:
        wait_for(port, old)
        driver = lab.driver(f"127.0.0.1:{port}", options)
        if driver.stdout.readline() != b"now\n":
            raise RuntimeError(driver.stderr.read().decode() or "the driver ended")
        log = lab.directory / "peer.log"
        before, cpu, begun = log.stat().st_size, nanoseconds(old.pid), time.monotonic()
        if store:
            old.send_signal(signal.SIGUSR2)
            usage = ended(old)
            new = run()
        else:
            new = run("--take-over")
            usage = ended(old, new)
        said_by(log, before, new)
        took = time.monotonic() - begun
        new_cpu = nanoseconds(new.pid)
        out, complaints = driver.communicate(b"done\n", PATIENCE)
        if driver.returncode != 0:
            raise RuntimeError(complaints.decode())
        # Requests that failed, and what both processes counted.
        counted = [line for line in log.read_bytes()[before:].splitlines() if HANDED_OVER in line or GOES_ON in line]
        print(b"\n".join([*complaints.splitlines()[:20], *counted]).decode(), file=sys.stderr)
        return json.loads(out) | {
            "took_ms": took * 1000,
            "old_cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000 - cpu / 1e6,
            "new_cpu_ms": new_cpu / 1e6,
            "old_mib": usage.ru_maxrss / 1024,
            "new_mib": peak(new.pid),
        }
    finally:
        for process in (driver, new, old):
            if process and process.returncode is None:
                stop(process)


def start(lab, manager, peer, command: list) -> subprocess.Popen:
    more = {}
    if manager:
        command, more = manager.service(command)
    return lab.start(",".join(map(str, range(peer.workers))), command, **more)


def ended(process: subprocess.Popen, successor: subprocess.Popen | None = None):
    """What a process has used in all, once it has ended by itself."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not (successor and successor.poll() is not None):
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise RuntimeError(f"the old process ended with {process.returncode}")
            return usage
        time.sleep(0.001)
    raise RuntimeError("the old process does not end")


def said_by(log, since: int, process: subprocess.Popen):
    """Until the successor has said that it goes on."""
    end = time.monotonic() + PATIENCE
    while GOES_ON not in log.read_bytes()[since:]:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(log.read_bytes()[since:].decode()[-2000:])
        time.sleep(0.005)


def nanoseconds(pid: int) -> int:
    tasks = f"/proc/{pid}/task"
    return sum(int(open(f"{tasks}/{task}/schedstat").read().split()[0]) for task in os.listdir(tasks))


def peak(pid: int) -> float:
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
