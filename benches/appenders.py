"""Many small writers at once: 64 processes append to one table, each with its share of one source's objects (`etl run --shard i/64`).

  python benches/appenders.py                                     64 processes, three rounds, the release build
  python benches/appenders.py --writers 8 --rounds 1 --etl …      a quick look with another build

The bronze is LogRecord of the generator (`cargo build --release --example bronze`), without mess: objects of 16 KiB that arrive on one
day, with records of some more days; 1 % of the records come twice. In each round all processes start together on a new silver folder that
has its tables and nothing in them. Afterwards the table must have as many rows and the same keys as one run of one process leaves, and
no key twice; and silver must have one commit per process that reported one.

What is measured, in seconds, of each process that had something to commit
* latency: its wall clock from start to end, less the median of an `etl run` of the same source that finds nothing to do, measured alone.
  So it is reading, staging, waiting for the other writers and for a core, and committing, without starting and listing.
* claim to version: from its claim of the objects to its version of silver, by the times of the two log files.
* intent to version: the last part of that, once its turn has come.
A writer that gives way for good (exit 4) is counted, and a last run does its work before the check.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import measure
from measure import Command, Ended, Json

ENTITY = "LogRecord"
CONTENDED = 4


@dataclass(frozen=True)
class Round:
    latencies: list[float]
    commits: list[tuple[float, float]]
    gave_way: int
    idle: int
    span: float
    problems: list[str]


def run_command(args: Namespace, folder: Path, silver: Path, *more: str) -> Command:
    rules = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas")]
    places = ["--bronze", str(folder / "bronze"), "--silver", str(silver)]
    return [str(args.etl), "run", "--entity", ENTITY, "--country", "de", *places, *rules, "--output", "json", *more]


def keys(silver: Path) -> Json:
    """Rows, distinct keys and a sum over their hashes, by deltalake and DuckDB in a process of their own."""
    script = f"""
import duckdb, json
from deltalake import DeltaTable
rows = DeltaTable({str(silver / ENTITY)!r}).to_pyarrow_table(columns=["database", "id"])
found = duckdb.sql("SELECT count(*), count(DISTINCT (database, id)), sum(hash(database, id)::HUGEINT)::VARCHAR FROM rows")
print(json.dumps(found.fetchall()[0]))
"""
    return measure.run([sys.executable, "-c", script]).json()


def commit_times(silver: Path) -> list[tuple[float, float]]:
    """Per batch of silver the seconds from its claim to its version, and from its intent."""
    times: dict[str, dict[str, float]] = {"claim": {}, "intent": {}}
    for entry in (silver / "_etl" / "ledger" / ENTITY / "fleetdb_de" / "log").iterdir():
        ((kind, what),) = json.loads(entry.read_text("utf-8"))["what"].items()
        if kind in times:
            times[kind][what["id" if kind == "claim" else "claim"]] = entry.stat().st_mtime
    found = []
    for version in measure.versions(silver / ENTITY):
        batch = next(measure.actions(version))["commitInfo"].get("etlBatch")
        if batch:
            end = version.stat().st_mtime
            found.append((end - times["claim"][batch], end - times["intent"][batch]))
    return found


def one_round(args: Namespace, folder: Path, serial: Json, nothing: float) -> Round:
    silver = measure.linked(folder / "empty", folder / "silver")
    os.sync()  # what was written before is not this run's work
    shards = [["--shard", f"{number + 1}/{args.writers}"] for number in range(args.writers)]
    ended = measure.run_all([run_command(args, folder, silver, *shard) for shard in shards], args.at_once)
    gave_way = [one for one in ended if one.exit == CONTENDED]
    done = [one for one in ended if one.exit != CONTENDED]
    active = [one for one in done if one.json()["outcome"] == "committed"]
    commits = commit_times(silver)
    problems = [] if len(commits) == len(active) else [f"{len(active)} processes committed, silver has {len(commits)} commits"]
    if gave_way:
        measure.run(run_command(args, folder, silver)).check()
    found = keys(silver)
    if found != serial or found[0] != found[1]:
        problems.append(f"rows, keys and their sum are {found}; one process leaves {serial}")
    shutil.rmtree(silver)
    span = max(one.end for one in ended) - min(one.begin for one in ended)
    return Round([one.seconds - nothing for one in active], commits, len(gave_way), len(done) - len(active), span, problems)


def prepare(args: Namespace, folder: Path, bronze_maker: Path) -> tuple[Json, float]:
    """What one process leaves, and how long a process takes that has nothing to do; `empty` has the tables."""
    wanted = ["--entities", ENTITY, "--countries", "de", "--records", str(args.records), "--mess", "0"]
    small = ["--object-bytes", "16KiB", "--days", str(args.days), "--year-root-share", "0"]
    measure.run([str(bronze_maker), "--out", str(folder / "bronze"), *wanted, *small]).check()
    measure.run(run_command(args, folder, folder / "empty", "--to", "1970-01-01")).check()
    alone = measure.run(run_command(args, folder, folder / "serial"))
    listed = alone.json()["jobs"][0]["files"]["new"]
    again: list[Ended] = [measure.run(run_command(args, folder, folder / "serial")) for _ in range(10)]
    if any(one.json()["outcome"] != "nothing_to_do" for one in again):
        raise SystemExit("a second run found something to do")
    nothing = median(one.seconds for one in again)
    serial = keys(folder / "serial")
    print(f"{args.records:,} records in {listed:,} objects; one process: {serial[0]:,} rows in {alone.seconds:.2f} s")
    print(f"a process with nothing to do: {nothing:.3f} s")
    return serial, nothing


def options() -> ArgumentParser:
    assert __doc__
    parser = measure.arguments(__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--at-once", type=int, help="processes at a time [default: all]")
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--days", type=int, default=1, help="days on which the objects arrive")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    return parser


def main() -> int:
    args = options().parse_args()
    bronze_maker = measure.generator(args)
    measure.require(args.etl, bronze_maker)
    rounds = []
    with measure.scratch(args) as folder:
        serial, nothing = prepare(args, folder, bronze_maker)
        for number in range(args.rounds):
            one = one_round(args, folder, serial, nothing)
            rounds.append(one)
            ended = f"{len(one.latencies)} committed, {one.idle} had nothing to do, {one.gave_way} gave way"
            print(f"round {number + 1}: {one.span:.2f} s; {ended}", *one.problems, sep="; ", flush=True)
    latencies = [value for one in rounds for value in one.latencies]
    if not latencies:
        raise SystemExit("no process committed anything")
    commits = [times for one in rounds for times in one.commits]
    whole, last = ([times[part] for times in commits] for part in (0, 1))
    measured = {"latency": latencies, "claim to version": whole, "intent to version": last}
    rows = [[what, *(f"{measure.quantile(found, share):.3f}" for share in (0.5, 0.9, 0.99, 1))] for what, found in measured.items()]
    print("\n" + measure.markdown(["seconds", "median", "p90", "p99", "greatest"], rows))
    at_once = args.at_once or args.writers
    print(f"""
Of the {len(latencies)} processes that committed, {at_once} of {args.writers} at a time, on {os.cpu_count()} cores; rounds: {len(rounds)}.
latency: from the start of a process to its end, less {nothing:.3f} s of one with nothing to do. claim, intent to version: from the ledger's
entry of the batch to silver's commit.""")
    wrong = sum(bool(one.problems) for one in rounds)
    gave_way = sum(one.gave_way for one in rounds)
    verdict = f"WRONG in {wrong} rounds" if wrong else "those of one process in every round"
    print(f"{gave_way} gave way. Rows and keys are {verdict}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
