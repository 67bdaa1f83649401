"""The same run from a bucket and from local disk: how much of the throughput is left at 0, 20 and 100 ms a request, and what it asks for.

  python benches/s3.py                            256 MiB of FaultData in 64 objects, 1,000 objects of 50 KB, five rounds, the release build
  python benches/s3.py --mib 16 --rounds 1 …      a quick look

Bronze is the generator's; the bucket is `examples/s3_server` on loopback, in memory, one process for all rounds of a latency (`cargo build
--release --examples`). Each run starts with an empty silver, on disk or in the bucket. Wall clock from exec to exit. The server runs on the
same cores: its own CPU time, divided by the cores, is subtracted, and both figures are shown. Ways take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from argparse import Namespace
from collections import defaultdict
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import measure

LATENCIES = [0, 20, 100]
RULES = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas")]


def generate(args: Namespace, out: Path, records: int, object_bytes: int) -> None:
    sizes = ["--records", str(records), "--object-bytes", str(object_bytes)]
    made = [str(measure.generator(args)), "--out", str(out), "--entities", "FaultData", "--countries", "de", "--mess", "0", *sizes]
    measure.run(made).check()


@contextmanager
def server(args: Namespace, buckets: Path, latency: int) -> Iterator[str]:
    """It ends with its standard input."""
    command = [str(args.server), "--latency-ms", str(latency), "--dir", str(buckets)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        url = process.stdout.readline().removeprefix("listening ").strip()
        try:
            yield url
        finally:
            process.stdin.close()


def stats(url: str) -> measure.Json:
    with urllib.request.urlopen(f"{url}/_stats") as answer:
        return json.load(answer)


def run(args: Namespace, bronze: str, silver: str) -> measure.Ended:
    places = ["--bronze", bronze, "--silver", silver]
    return measure.run([str(args.etl), "run", "--entity", "FaultData", "--country", "de", *places, *RULES, "--output", "json"]).check()


def use(url: str) -> None:
    os.environ.update(AWS_ENDPOINT_URL_S3=url, AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")


def large(args: Namespace, folder: Path) -> list[list[str]]:
    """Wall clock and what is left of it without the server's share, by way."""
    buckets = folder / "buckets"
    bronze = buckets / "lake" / "bronze"
    generate(args, bronze, args.mib * 1900, args.mib * (1 << 20) // 64)
    stored = sum(path.stat().st_size for path in bronze.rglob("*") if path.is_file())
    wall: dict[str, list[float]] = defaultdict(list)
    own: dict[str, list[float]] = defaultdict(list)
    asked: dict[str, measure.Json] = {}
    for number in range(args.rounds):
        silver = folder / "silver"
        os.sync()
        ended = run(args, str(bronze), str(silver))
        wall["disk"].append(ended.seconds)
        own["disk"].append(ended.seconds)
        shutil.rmtree(silver)
        for latency in LATENCIES:
            way = f"bucket, {latency} ms"
            with server(args, buckets, latency) as url:
                use(url)
                before = stats(url)["cpu_seconds"]
                ended = run(args, "s3://lake/bronze", f"s3://lake/silver-{number}")
                served = stats(url)["cpu_seconds"] - before
            wall[way].append(ended.seconds)
            own[way].append(ended.seconds - served / (os.cpu_count() or 1))
            asked[way] = ended.json()["jobs"][0]
    disk = median(own["disk"])
    print(f"\n{stored / measure.MIB:.0f} MiB stored in {sum(1 for path in bronze.rglob('*') if path.is_file())} objects, {args.rounds} rounds")
    rows = []
    for way, seconds in wall.items():
        job = asked.get(way, {})
        requests = job.get("requests", {})
        total = sum(requests.get(kind, 0) for kind in ("list", "get", "head", "put", "delete"))
        per_gib = f"{total * 1024 * measure.MIB / stored:.0f}" if total else "–"
        gets = f"{requests['get'] / job['files']['read']:.2f}" if total else "–"
        rows.append([way, measure.several(seconds), measure.several(own[way]), f"{disk / median(own[way]):.2f}", per_gib, gets])
    return rows


def small(args: Namespace, folder: Path) -> list[str]:
    """Requests for 1,000 small objects, and then for a run with nothing to do."""
    buckets = folder / "small"
    bronze = buckets / "lake" / "bronze"
    generate(args, bronze, 100_000, 50_000)
    objects = sum(1 for path in bronze.rglob("*") if path.is_file())
    lines = []
    with server(args, buckets, 0) as url:
        use(url)
        for name in ("first run", "nothing to do"):
            ended = run(args, "s3://lake/bronze", "s3://lake/silver")
            job = ended.json()["jobs"][0]
            requests = job["requests"]
            counted = ", ".join(f"{requests[kind]} {kind}" for kind in ("list", "get", "head", "put", "delete"))
            lines.append(f"{objects} objects of about 50 KB, {name}: {counted}; ${job['requests_usd']:.5f}; {ended.seconds:.2f} s")
    return lines


class Watch:
    """A relay before the server, which notes a process's CPU time when its first request for an object of bronze passes."""

    def __init__(self, server: str) -> None:
        self.upstream = urlsplit(server)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.pid = 0
        self.cpu: float | None = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client, _ = self.socket.accept()
            server = socket.create_connection((self.upstream.hostname, self.upstream.port))
            threading.Thread(target=self.pass_on, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, False), daemon=True).start()

    def pass_on(self, source: socket.socket, sink: socket.socket, asked: bool) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                if asked and self.cpu is None and part.startswith(b"GET ") and b"/bronze/database" in part.split(b"?", 1)[0].split(b" ")[1]:
                    # The clock of another process, as clock_getcpuclockid(3) makes its number.
                    self.cpu = time.clock_gettime((~self.pid << 3) | 2)
                sink.sendall(part)
        sink.close()


def before_first(args: Namespace, folder: Path) -> str:
    """Own CPU time until the first GET of bronze: tables and ledger are there, and there is a new object."""
    buckets = folder / "first"
    bronze = buckets / "lake" / "bronze"
    generate(args, bronze, 2_000, 50_000)
    objects = sorted(path for path in bronze.rglob("*") if path.is_file())
    took = []
    with server(args, buckets, 0) as url:
        use(url)
        run(args, "s3://lake/bronze", "s3://lake/silver")
        for number in range(max(args.rounds, 9)):
            body = objects[0].read_bytes()
            key = f"{objects[0].relative_to(buckets)}-{number}"
            put = urllib.request.Request(f"{url}/{key}", data=body, method="PUT")
            urllib.request.urlopen(put).close()
            watch = Watch(url)
            places = ["--bronze", "s3://lake/bronze", "--silver", "s3://lake/silver"]
            command = [str(args.etl), "run", "--entity", "FaultData", "--country", "de", *places, *RULES]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"AWS_ENDPOINT_URL_S3": watch.url}) as process:
                watch.pid = process.pid
            assert process.returncode == 0 and watch.cpu is not None
            took.append(watch.cpu * 1000)
    return f"own CPU time before the first GET of bronze: {measure.several(took)} ms"


def main() -> None:
    parser = measure.arguments(__doc__ or "", rounds=5)
    parser.add_argument("--mib", type=int, default=256, help="MiB of plain bronze")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    parser.add_argument("--server", type=Path, help="the example `s3_server` [default: beside the program]")
    args = parser.parse_args()
    args.server = args.server or args.etl.parent / "examples" / "s3_server"
    measure.require(args.etl, measure.generator(args), args.server)
    with measure.scratch(args) as folder:
        rows = large(args, folder)
        head = ["way", "seconds", "without the server's share", "of disk's throughput", "requests per GiB", "GETs per object"]
        print(measure.markdown(head, rows))
        print("\n".join(small(args, folder)))
        print(before_first(args, folder))


if __name__ == "__main__":
    main()
