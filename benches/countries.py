"""Runs five countries side by side, one process each, against the same five processes one after another.

  python benches/countries.py                                     200,000 records a country, three rounds, the release build
  python benches/countries.py --records 2000 --rounds 1 --etl …   a quick look with another build

The bronze is LogRecord of the generator (`cargo build --release --example bronze`), without mess. In each round both ways start with
an empty silver folder, in turns. What is measured is the wall clock from the start of the first process to the end of the last one.
Each process uses as many threads as the program takes by itself, unless `--threads` says otherwise: on a machine with few cores one
country alone already keeps them busy. Afterwards both ways must have left the same rows, by tests/python/same.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from statistics import median

import measure
from measure import Command

ENTITY = "LogRecord"
COUNTRIES = ["de", "fr", "it", "es", "uk"]
WAYS = {"one after another": 1, "side by side": len(COUNTRIES)}


def run_command(args: Namespace, country: str, bronze: Path, silver: Path) -> Command:
    rules = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas")]
    threads = ["--threads", str(args.threads)] if args.threads else []
    places = ["--bronze", str(bronze), "--silver", str(silver)]
    return [str(args.etl), "run", "--entity", ENTITY, "--country", country, *places, *rules, *threads, "--output", "json"]


def measured(args: Namespace, bronze: Path, silver: Path, at_once: int) -> float:
    os.sync()  # what was written before is not this run's work
    ended = measure.run_all([run_command(args, country, bronze, silver) for country in COUNTRIES], at_once)
    for country, one in zip(COUNTRIES, ended, strict=True):
        records = one.json()["jobs"][0]["records"]
        if records["read"] < args.records or not records["inserted"]:
            raise SystemExit(f"{country}: {records}, of {args.records} records")
    return max(one.end for one in ended) - min(one.begin for one in ended)


def main() -> int:
    assert __doc__
    parser = measure.arguments(__doc__)
    parser.add_argument("--records", type=int, default=200_000, help="per country")
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    args = parser.parse_args()
    bronze_maker = measure.generator(args)
    measure.require(args.etl, bronze_maker)
    seconds: dict[str, list[float]] = defaultdict(list)
    with measure.scratch(args) as folder:
        bronze = folder / "bronze"
        wanted = ["--entities", ENTITY, "--countries", ",".join(COUNTRIES), "--records", str(args.records), "--mess", "0"]
        made = measure.run([str(bronze_maker), "--out", str(bronze), *wanted])
        made.check()
        same = measure.REPOSITORY / "tests" / "python" / "same.py"
        for number in range(args.rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                seconds[way].append(measured(args, bronze, folder / way, WAYS[way]))
                print(f"round {number + 1}: {way}: {seconds[way][-1]:.2f} s", flush=True)
            compared = measure.run([sys.executable, str(same), *(str(folder / way) for way in WAYS)])
            print(f"round {number + 1}: {compared.check().output.strip()}", flush=True)
            for way in WAYS:
                shutil.rmtree(folder / way)
    print("\n" + measure.markdown([f"{len(COUNTRIES)} countries", "seconds"], [[way, measure.several(seconds[way])] for way in WAYS]))
    one_by_one, together = (median(seconds[way]) for way in WAYS)
    print(f"\nSide by side takes {together / one_by_one:.2f} of the time of one after another, on {os.cpu_count()} cores.")
    print("Medians, with the least and the greatest in brackets.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
