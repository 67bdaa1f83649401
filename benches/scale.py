"""One batch on a Spark cluster of one and of two workers, beside the local engine.

  python benches/scale.py --records 400000 --rounds 3

Needs the environment of the Spark servers that `bash tests/run` makes (ETL_TEST_SPARK names it) and a JDK. A worker is a process of one
core and 2 GiB (Spark's `local-cluster` mode: real executors with real shuffles between them, all on this machine). A round is a run of
each into an empty silver, in turns; the server is started before and asked something first, and what is told is the wall time of
`etl run` from exec to exit. On a machine with two cores the driver and etl take part of what two workers have.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from measure import MIB, REPOSITORY, arguments, generator, require, scratch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A Connect server with so many workers, until it is closed."""

    def __init__(self, workers: int, folder: Path) -> None:
        environment = Path(os.environ["ETL_TEST_SPARK"])
        home = (environment / "spark-home").read_text().strip()
        pinned = (REPOSITORY / "tests/python/spark.txt").read_text()
        packages = next(line.removeprefix("# packages: ") for line in pinned.splitlines() if line.startswith("# packages: "))
        self.port = free_port()
        settings = {
            "spark.jars.ivy": str(environment / "ivy"),
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.ui.enabled": "false",
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            "spark.sql.catalogImplementation": "in-memory",
            "spark.sql.shuffle.partitions": "4",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executor.memory": "1536m",
        }
        command = [f"{home}/bin/spark-submit", "--master", f"local-cluster[{workers},1,2048]", "--driver-memory", "2g"]
        command += ["--packages", packages, "--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
        for name, value in settings.items():
            command += ["--conf", f"{name}={value}"]
        folder.mkdir(parents=True)
        log = (folder / "log").open("w")
        env = {**os.environ, "SPARK_HOME": home, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(folder / "work")}
        # Executors end with the group.
        self.process = subprocess.Popen(
            [*command, "--name", "etl", "spark-internal"], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        until = time.monotonic() + 240
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def run(etl: Path, bronze: Path, silver: Path, entity: str, more: list[str]) -> tuple[float, dict[str, object]]:
    shutil.rmtree(silver, ignore_errors=True)
    command = [str(etl), "run", "--output", "json", "--entity", entity, "--country", "de", "--bronze", str(bronze), "--silver", str(silver)]
    begun = time.monotonic()
    done = subprocess.run(command + more, cwd=REPOSITORY, capture_output=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        raise SystemExit(f"{more}: {done.stderr.decode()[-2000:]}")
    return seconds, json.loads(done.stdout)["jobs"][0]


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--entity", default="FaultData")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: that of the program's build]")
    args = parser.parse_args()
    require(args.etl, generator(args))
    with scratch(args) as folder:
        bronze = folder / "bronze"
        made = [str(generator(args)), "--out", str(bronze), "--manifest", str(folder / "manifest.json"), "--records", str(args.records)]
        made += ["--entities", args.entity, "--countries", "de", "--mess", "0.01", "--codec", "plain", "--delimiter", "newline"]
        subprocess.run([*made, "--object-bytes", "16MiB", "--seed", "1"], check=True, stdout=subprocess.DEVNULL)
        size = sum(file.stat().st_size for file in bronze.rglob("*") if file.is_file())
        print(f"{args.records} records of {args.entity}, {size / MIB:.0f} MiB, {os.cpu_count()} cores")
        times: dict[str, list[float]] = {}
        rows = set()
        for turn in range(args.rounds):
            for workers in (1, 2):
                cluster = Cluster(workers, folder / f"spark-{turn}-{workers}")
                try:
                    more = ["--engine", "spark", "--remote", f"sc://127.0.0.1:{cluster.port}"]
                    # The first statements of a JVM are slow whatever they do.
                    for name in ("first", "then"):
                        seconds, job = run(args.etl, bronze, folder / "silver", args.entity, more)
                        times.setdefault(f"spark, {workers} workers, {name}", []).append(seconds)
                        rows.add(job["records"]["inserted"])  # type: ignore[index]
                        print(f"  {workers} workers, {name}: {seconds:.1f} s, {job['cluster']}", flush=True)
                finally:
                    cluster.close()
            for threads in (1, 2):
                seconds, job = run(args.etl, bronze, folder / "silver", args.entity, ["--threads", str(threads)])
                times.setdefault(f"local, {threads} threads", []).append(seconds)
                rows.add(job["records"]["inserted"])  # type: ignore[index]
        for name, seconds in times.items():
            middle = median(seconds)
            print(f"{name}: {middle:.1f} s ({', '.join(f'{each:.1f}' for each in seconds)}), {size / MIB / middle:.1f} MiB/s")
        if len(rows) != 1:
            raise SystemExit(f"not all runs brought the same rows: {rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
