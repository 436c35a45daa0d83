"""`make attack`: what SECURITY.md promises, tried on this machine; bounded, on the loopback alone.

Kills writers at random, sends what no client sends, crowds the server, takes its memory away, and
prints what became of each as a table. Exit status 1 where a promise does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # Forks of a program with threads of its own would hang.
sys.path.insert(0, str(Path(__file__).parent / "Python"))
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from contrastdiagnosis.bundle.bundle import (  # noqa: E402
    CONCEPTS_FILE,
    PIXELS_FOLDER,
    default_bundle_folder,
    load_bundle,
    save_bundle,
    sha256,
)
from contrastdiagnosis.bundle.pruning import prune_bundle  # noqa: E402
from contrastdiagnosis.cases.pixels import CasePixels, PixelStore  # noqa: E402
from contrastdiagnosis.files.output import write_file  # noqa: E402
from contrastdiagnosis.imaging.patch import PatchGeometry  # noqa: E402
from contrastdiagnosis.imaging.phantom import DEMO_NODULES, make_phantom  # noqa: E402
from contrastdiagnosis.protocol.pruning_file import Pruning, pruning_text  # noqa: E402
from contrastdiagnosis.service.requests import request_body  # noqa: E402
from contrastdiagnosis_training.runs.loop import save_checkpoint  # noqa: E402
from engine.crowd import Crowd, opened, post_head  # noqa: E402
from engine.readme import run_serve_block  # noqa: E402
from engine.running import Running, send_changed_bodies  # noqa: E402

LARGE = 60_000_000
ANSWER_S = 5.0
CROWD_S = 2.0
HANG_S = 20.0


@dataclass(frozen=True)
class Size:
    """How much is tried."""

    kills: int = 100
    silent: int = 500
    slow: int = 64
    bodies: int = 10_000
    raw: int = 2_000
    growth: float = 1.05
    """Of the server's memory at most."""


SMALL = Size(kills=1, silent=10, slow=4, bodies=30, raw=30, growth=1.5)
"""So few requests still fill what is kept for the next ones."""


@dataclass(frozen=True)
class Result:
    """A line of the table."""

    what: str
    told: str
    holds: bool


Write = Callable[[int], None]
Check = Callable[[int], None]
"""Looks at what is there after a kill; its argument is the number of writings that had ended."""


def killed(name: str, write: Write, check: Check, kills: int, seed: int = 0) -> Result:
    """Kills a process that writes without end, at a random moment, so many times."""
    chance, wrong, ended = random.Random(seed), [], 0
    begun = time.perf_counter()
    write(0)
    check(1)
    one_s = time.perf_counter() - begun
    for _ in range(kills):
        prediction, writing = os.pipe()
        child = os.fork()
        if child == 0:
            for number in count():
                write(number)
                os.write(writing, b".")
        os.close(writing)
        time.sleep(chance.uniform(0, 3 * one_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(prediction, "rb") as stream:
            done = len(stream.read())
        ended += done
        try:
            check(done)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}"[:150])
    told = f"{kills} kills, {ended} writings had ended, {len(wrong)} losses"
    return Result(name, told + "".join(f"; {line}" for line in wrong[:2]), not wrong)


def kill_writers(size: Size, folder: Path) -> Iterator[Result]:
    """Every kind of writing."""
    yield from kill_bundles(size, folder)
    yield from kill_files(size, folder)


def kill_bundles(size: Size, folder: Path) -> Iterator[Result]:
    """Rewriting, pruning and filling of a copy of the shipped bundle."""
    own = OwnBundle(folder)
    yield killed("a bundle is rewritten", own.rewrite, own.is_sound, size.kills)
    yield killed("pictures are filled in", own.fill, own.is_filled, size.kills)
    yield killed("a bundle is pruned", own.prune, own.is_pruned, size.kills)


class OwnBundle:
    """A copy of the shipped bundle with a picture that a user added."""

    def __init__(self, folder: Path) -> None:
        self.place, self.out = folder / "bundle", folder / "pruned"
        self.pruning = folder / "pruning.json"
        shutil.copytree(default_bundle_folder(), self.place)
        self.bundle = load_bundle(self.place)
        self.cases = [case.case_id for case in self.bundle.library.cases]
        self.store = PixelStore(self.place / PIXELS_FOLDER)
        self._put(self.cases[-1], 0)
        self.rewrite(0)  # By this version: a head of another has other bytes.
        assert self.bundle.concepts is not None
        first = self.bundle.concepts.atlas[0]
        removed = ((first.concept, first.number),)
        head = sha256(self.place / CONCEPTS_FILE)
        self.pruning.write_text(pruning_text(Pruning(head, removed, {})))

    def _put(self, case_id: str, tone: int) -> None:
        shape = PatchGeometry().shape
        solid, grey = np.ones(shape, bool), np.full(shape, tone / 255, np.float32)
        self.store.write(case_id, CasePixels(grey, solid, solid))

    def rewrite(self, number: int) -> None:
        """In place, with another version."""
        bundle = self.bundle
        info, matched = replace(bundle.info, version=str(number)), bundle.indicator.matched
        save_bundle(
            self.place, info, bundle.network, bundle.library, np.asarray(matched), bundle.concepts
        )

    def is_sound(self, done: int) -> None:
        """The last version or the one that was begun, with the user's picture."""
        version = load_bundle(self.place).info.version
        if done and int(version) not in (done - 1, done):
            raise ValueError(f"after {done} writings the bundle is {version}")
        if self.store.read(self.cases[-1]).intensity.any():
            raise ValueError("the user's picture is another")

    def fill(self, number: int) -> None:
        """The picture of one of eight cases."""
        self._put(self.cases[number % 8], number % 256)

    def is_filled(self, done: int) -> None:
        """Every picture whole."""
        for number in range(min(done, 8)):
            if np.unique(self.store.read(self.cases[number]).intensity).size != 1:
                raise ValueError("a picture is mixed")
        load_bundle(self.place)

    def prune(self, number: int) -> None:
        """Into another folder."""
        prune_bundle(self.bundle, self.pruning, self.out)

    def is_pruned(self, done: int) -> None:
        """The new bundle whole, if it is there; the old one as it was."""
        load_bundle(self.place)
        if done or (self.out / "bundle.json").exists():
            load_bundle(self.out)


def kill_files(size: Size, folder: Path) -> Iterator[Result]:
    """A report, a checkpoint, settings."""
    kinds: dict[str, tuple[Path, Callable[[Path, int], None], Callable[[Path], int]]] = {
        "a report is written": (folder / "report.html", _write_report, _read_report),
        "a checkpoint is written": (folder / "checkpoint.pt", _write_state, _read_state),
        "settings are written": (folder / "settings.json", _write_settings, _read_settings),
    }
    for name, (file, write, read) in kinds.items():

        def is_last(done: int, file: Path = file, read: Callable[[Path], int] = read) -> None:
            number = read(file)
            if done and number not in (done - 1, done):
                raise ValueError(f"after {done} writings it is number {number}")

        yield killed(name, lambda n, file=file, write=write: write(file, n), is_last, size.kills)


def _write_report(file: Path, number: int) -> None:
    write_file(file, f"<html>{number} ".encode() * 200_000)


def _read_report(file: Path) -> int:
    numbers = set(file.read_text().replace("<html>", "").split())
    if len(numbers) != 1 or file.stat().st_size < 1_000_000:
        raise ValueError("a mixed or cut report")
    return int(numbers.pop())


def _write_state(file: Path, number: int) -> None:
    save_checkpoint(file, {"epoch": number, "weights": torch.full((2_000_000,), float(number))})


def _read_state(file: Path) -> int:
    state = torch.load(file, weights_only=True)
    if not (state["weights"] == state["epoch"]).all():
        raise ValueError("a mixed checkpoint")
    return int(state["epoch"])


def _write_settings(file: Path, number: int) -> None:
    write_file(file, json.dumps({"number": number, "rest": "x" * 5000}).encode())


def _read_settings(file: Path) -> int:
    return int(json.loads(file.read_text())["number"])


def crowd_server(size: Size, folder: Path) -> Iterator[Result]:
    """Another client's diagnosis while many are silent or slow."""
    clients, tokens = folder / "clients", {}
    for name in ("reader", "crowd"):
        command = [sys.executable, "-m", "contrastdiagnosis", "clients", "add", name]
        done = subprocess.run(
            [*command, "--file", str(clients)], capture_output=True, text=True, check=True
        )
        tokens[name] = done.stdout.strip()
    # Each another point: the engine remembers what it was asked.
    bodies = iter(_phantom_bodies(20))
    options = ["--device", "cpu", "--clients", clients]
    with Running(options, token=tokens["reader"]) as server:
        alone = sorted(_seconds(server, next(bodies)) for _ in range(7))[3]
        with Crowd(server, tokens["crowd"], size.silent, size.slow) as crowd:
            time.sleep(1)
            crowded = max(_seconds(server, next(bodies)) for _ in range(10))
            slow_s, silent_s = crowd.last_end_s(crowd.slow), crowd.last_end_s(crowd.silent)
        later = crowded - alone
        yield Result(
            f"{size.silent} silent connections and {size.slow} slow uploads",
            f"another's diagnosis {later:.2f} s later than alone ({alone:.2f} s); the slow were"
            f" ended after {slow_s:.0f} s, the silent after {silent_s:.0f} s",
            later <= CROWD_S and slow_s < HANG_S and silent_s < HANG_S,
        )


def _seconds(server: Running, body: bytes) -> float:
    begun = time.perf_counter()
    status, answer = server.ask("POST", "/diagnose", body)
    if status != 200:
        raise RuntimeError(answer)
    return time.perf_counter() - begun


def _phantom_bodies(number: int) -> list[bytes]:
    volume, center = make_phantom().volume, DEMO_NODULES[0].center_ras_mm
    return [request_body(volume, np.add(center, n / 5)) for n in range(number)]


def send_nonsense(size: Size, folder: Path) -> Iterator[Result]:
    """Changed bodies and raw bytes; no failure, no hang, no growth."""
    with Running(["--device", "cpu"]) as server:
        # What is loaded once and kept, by everything that will be sent.
        send_changed_bodies(server, max(size.bodies // 10, 50))
        list(_raw_answers(server, max(size.raw // 10, 30), 1))
        before = server.memory_mb()
        statuses = send_changed_bodies(server, size.bodies)
        failed = sum(n for status, n in statuses.items() if status >= 500)
        yield Result(f"{size.bodies} changed bodies", f"answers {statuses}", not failed)
        answers = list(_raw_answers(server, size.raw, 0))
        hung, failed = answers.count("hung"), sum(a.startswith("5") for a in answers)
        kinds = {kind: answers.count(kind) for kind in dict.fromkeys(answers)}
        yield Result(f"{size.raw} raw requests", f"answers {kinds}", not hung and not failed)
        growth = server.memory_mb() / before
        alive = server.ask("GET", "/health")[0] == 200
        told = f"{before:.0f} MB before, {growth:.3f} of it after; alive: {alive}"
        yield Result("memory of the server", told, growth <= size.growth and alive)


def _raw_answers(server: Running, number: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    requests = [_raw_request(chance, server.token) for _ in range(number)]
    with ThreadPoolExecutor(32) as pool:
        yield from pool.map(lambda sent: _raw_answer(server, sent), requests)


def _raw_request(chance: random.Random, token: str) -> bytes:
    """Bytes that begin like a request, or like nothing."""
    noise = chance.randbytes(chance.choice([0, 1, 10, 1000, 70_000]))
    sound = post_head(token, chance.choice([0, 5, 10**9, len(noise)])) + noise
    odd = [
        b"GET /" + b"x" * chance.choice([10, 70_000]) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * chance.choice([10, 5000]) + b"\r\n",
        b"POST /diagnose HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"POST /maps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://elsewhere/health HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01" + noise,
        noise,
    ]
    whole = chance.choice([sound, chance.choice(odd)])
    cut = chance.randrange(len(whole) + 1)
    return chance.choice([whole, whole[:cut], whole[:cut] + noise + whole[cut:]])


def _raw_answer(server: Running, sent: bytes) -> str:
    """Status of the answer, "none" for a closed connection, "hung" for neither."""
    told = b""
    with opened(server) as connection:
        connection.settimeout(HANG_S)
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        try:
            while part := connection.recv(65536):
                told += part
        except TimeoutError:
            return "hung"
        except ConnectionError:
            pass
    return told.split()[1].decode() if told.startswith(b"HTTP/") else "none"


def take_memory(size: Size, folder: Path) -> Iterator[Result]:
    """A large body where hardly any memory is left (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    (body,) = _phantom_bodies(1)
    with Running(["--device", "cpu"]) as server:
        _seconds(server, body)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        limit = int(status.partition("VmSize:")[2].split()[0]) * 1024 + 100_000_000
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
        begun = time.perf_counter()
        try:
            told = str(server.ask("POST", "/diagnose", body + bytes(LARGE - len(body)))[0])
        except OSError:
            told = f"exit {server.process.wait(HANG_S)}"
        seconds = time.perf_counter() - begun
        holds = seconds < ANSWER_S and not told.startswith("500")
        yield Result("60 MB with 100 MB of memory left", f"{told} after {seconds:.1f} s", holds)


def follow_readme(size: Size, folder: Path) -> Iterator[Result]:
    """README's commands on a machine with a proxy."""
    if not shutil.which("curl"):
        return
    (folder / "readme").mkdir()
    ran = run_serve_block(folder / "readme")
    told = f"exit {ran.code}; the proxy was {'' if ran.reached_proxy else 'not '}reached"
    yield Result("README's block with http_proxy", told, not ran.code and not ran.reached_proxy)


PARTS: dict[str, Callable[[Size, Path], Iterator[Result]]] = {
    "kills": kill_writers,
    "crowd": crowd_server,
    "nonsense": send_nonsense,
    "memory": take_memory,
    "readme": follow_readme,
}


def main() -> int:
    """Tries, prints; 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--small", action="store_true", help="a few of each, as the tests do")
    parser.add_argument("--json", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    size, results = SMALL if arguments.small else Size(), []
    for part in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            for result in PARTS[part](size, Path(folder)):
                results.append(result)
                print(f"{'holds' if result.holds else 'FAILS':6} {result.what}: {result.told}")
                sys.stdout.flush()
    if arguments.json:
        write_file(arguments.json, json.dumps([vars(r) for r in results], indent=1).encode())
    return int(not all(result.holds for result in results))


if __name__ == "__main__":
    sys.exit(main())
