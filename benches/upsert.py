"""Upserts 1 % of the keys of a table, by `etl run` and by deltalake's `merge`, side by side.

  python benches/upsert.py                                   10,000,000 rows, three rounds, the release build
  python benches/upsert.py --rows 200000 --rounds 1 --etl …  a quick look with another build

Needs the packages of tests/python/requirements.txt. The table has nine narrow columns and lies in 30 day partitions; a change keeps
its record's day. Two shapes: `random` changes keys of all days, `clustered` as many keys of one day. In each round all programs
start, in turns, from the same copy of the same silver folder. Afterwards both tables must hold what the changes make of it.

What is measured
* etl: one process from start to end, one `etl run` of a job of mode upsert over one new bronze batch: listing and parsing JSON,
  contract, ledger, quarantine table and the report included.
* script: one Python process from start to end that does what a person would write instead: DuckDB reads the same JSON with its columns
  given, and deltalake merges it. No contract, no ledger.
* merge: the call alone, with a literal predicate on the partitions. Its source is an Arrow table that is in memory already, so it parses
  no JSON; importing the package and opening the table are not counted either.
* peak memory: of each process as a whole, by the kernel.
* bytes: the sizes of the files that the new Delta commits add and remove, of all tables of the silver folder. etl writes zstd at
  level 1, merge deltalake's default.

With `--ids scattered` the keys of every day span the same range, so no file can be left out by its statistics; with `rising` a day's
keys follow those of the day before. Both are told that a key's day is fixed: merge by the days, etl by the job.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import measure
from measure import MIB, Traffic

Json = Any

SHAPES = ["random", "clustered"]
PROGRAMS = ["etl", "merge", "script"]
JOB = """entity: Bench
mode: upsert
key: [id]
event_time: at
event_time_is_fixed: true
partition_by: [database, event_date]
"""
CONTRACT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Bench, version 1",
    "type": "object",
    "required": ["id", "at", "value"],
    "properties": {
        "id": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "device": {"type": "string"},
        "kind": {"type": "string"},
        "value": {"type": "number"},
        "count": {"type": "integer"},
        "latitude": {"type": "number"},
        "longitude": {"type": "number"},
        "active": {"type": "boolean"},
    },
}


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak: int
    traffic: Traffic
    told: Json


def step(name: str, **parameters: Json) -> measure.Ended:
    return measure.python("upsert_steps.py", name, json.dumps(parameters, default=str))


def etl(args: Namespace, folder: Path, bronze: Path, silver: Path) -> measure.Ended:
    places = {"bronze": bronze, "silver": silver, "jobs": folder / "jobs", "schemas": folder / "schemas"}
    flags = [part for name, value in places.items() for part in (f"--{name}", str(value))]
    return measure.run([str(args.etl), "run", "--entity", "Bench", "--country", "de", *flags, "--output", "json"])


def prepare(args: Namespace, folder: Path) -> dict[str, Json]:
    """The table, and per shape the changes and what they make of it."""
    (folder / "jobs").mkdir()
    (folder / "jobs" / "Bench.yaml").write_text(JOB, "utf-8")
    (folder / "schemas" / "Bench").mkdir(parents=True)
    (folder / "schemas" / "Bench" / "1.json").write_text(json.dumps(CONTRACT, indent=2), "utf-8")
    common = {"rows": args.rows, "ids": args.ids}
    base = step("base", bronze=folder / "base", **common).json()
    ended = etl(args, folder, folder / "base", folder / "silver")
    inserted = ended.json()["jobs"][0]["records"]["inserted"]
    if inserted != args.rows:
        raise SystemExit(f"{args.rows} records written, {inserted} inserted")
    print(f"base: {args.rows:,} rows of {base['bytes'] / MIB:,.0f} MiB JSON in {ended.seconds:.1f} s, peak {ended.peak / MIB:,.0f} MiB")
    shutil.rmtree(folder / "base")
    shapes = {}
    for shape in SHAPES:
        places = {"bronze": folder / shape, "source": folder / f"{shape}.parquet"}
        made = step("update", shape=shape, keys=args.rows // 100, objects=args.objects, **places, **common).json()
        days, size = len(made["dates"]), made["bytes"] / MIB
        print(f"{shape}: {args.rows // 100:,} keys, days: {days}, {size:,.1f} MiB JSON in {args.objects} objects", flush=True)
        shapes[shape] = made
    return shapes


def measured(args: Namespace, folder: Path, shape: str, made: Json, program: str) -> Measured:
    copy = measure.linked(folder / "silver", folder / "copy")
    since = measure.heads(copy)
    os.sync()  # what was written before is not this run's work
    if program == "etl":
        ended = etl(args, folder, folder / shape, copy)
        seconds, told = ended.seconds, ended.json()["jobs"][0]
        changed = told["records"]["updated"]
    elif program == "script":
        ended = step("script", table=copy / "Bench", bronze=folder / shape, dates=made["dates"])
        told = ended.json()
        seconds, changed = ended.seconds, told["metrics"]["num_target_rows_updated"]
    else:
        ended = step("merge", table=copy / "Bench", source=folder / f"{shape}.parquet", dates=made["dates"])
        told = ended.json()
        seconds, changed = told["seconds"], told["metrics"]["num_target_rows_updated"]
    if changed != args.rows // 100:
        raise SystemExit(f"{program}, {shape}: {changed} rows updated instead of {args.rows // 100}: {told}")
    found = step("check", table=copy / "Bench").json()
    if found != made["expected"]:
        raise SystemExit(f"{program}, {shape}: rows, keys and checksum are {found}, not {made['expected']}")
    traffic = measure.traffic(copy, since)
    shutil.rmtree(copy)
    return Measured(seconds, ended.peak, traffic, told)


def report(results: dict[tuple[str, str], list[Measured]]) -> None:
    def sizes(found: list[Measured], what: str) -> str:
        files = median(getattr(one.traffic, what) for one in found)
        return f"{median(getattr(one.traffic, f'{what}_bytes') for one in found) / MIB:,.1f} MiB in {files:.0f}"

    rows, ratios = [], []
    for shape in SHAPES:
        for program in PROGRAMS:
            found = results[shape, program]
            seconds = measure.several(one.seconds for one in found)
            peak = measure.several((one.peak / MIB for one in found), 0)
            rows.append([f"{shape}, {program}", seconds, peak, sizes(found, "added"), sizes(found, "removed")])
        medians = [[median(column) for column in zip(*map(costs, results[shape, program]), strict=True)] for program in PROGRAMS]
        for name, theirs in zip(PROGRAMS[1:], medians[1:], strict=True):
            ratios.append([f"{shape}, {name}", *(f"{their / our:.2f}" for our, their in zip(medians[0], theirs, strict=True))])
    print("\n" + measure.markdown(["", "seconds", "peak MiB", "files added", "files removed"], rows))
    print("\n" + measure.markdown(["divided by etl", "time", "peak memory", "bytes added"], ratios))
    merges = [one.told for (_, program), found in results.items() if program == "merge" for one in found]
    imports, opening, before = (median(told[what] for told in merges) for what in ("import", "open", "before"))
    print(f"""
Medians, with the least and the greatest in brackets. Above 1, etl needs less. etl's time is that of its process and includes the JSON.
merge's time is the call alone: it reads an Arrow table in memory and parses no JSON. Not counted for merge: {imports:.2f} s of imports and
{opening:.2f} s of opening the table; {before / MIB:,.0f} MiB of its peak were there before the call.
After each run the table held the expected rows, keys and sum over all contract columns.""")


def costs(one: Measured) -> tuple[float, float, float]:
    return one.seconds, one.peak, one.traffic.added_bytes


def main() -> int:
    assert __doc__
    parser = measure.arguments(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--objects", type=int, default=4, help="bronze objects of the new batch")
    parser.add_argument("--ids", choices=["scattered", "rising"], default="scattered")
    args = parser.parse_args()
    if args.rows < 1000:
        parser.error("--rows must be at least 1000")
    measure.require(args.etl)
    results: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    with measure.scratch(args) as folder:
        shapes = prepare(args, folder)
        for number in range(args.rounds):
            for shape, made in shapes.items():
                for program in PROGRAMS if number % 2 == 0 else reversed(PROGRAMS):
                    one = measured(args, folder, shape, made, program)
                    results[shape, program].append(one)
                    print(f"round {number + 1}: {shape}, {program}: {one.seconds:.2f} s, peak {one.peak / MIB:,.0f} MiB", flush=True)
    report(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
