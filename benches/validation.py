"""Runs a job under its contract and under one that only says what the columns are: what validation costs beyond decoding.

  python benches/validation.py                                   256 MiB of FaultData, seven rounds, the release build
  python benches/validation.py --mib 16 --rounds 1 --etl …       a quick look with another build

The bronze is the generator's (`cargo build --release --example bronze`), plain, without mess. The second contract is the first one without
the keywords that only refuse: enum, pattern, bounds of numbers and lengths, required but for the job's key and event time. Types and the
formats that make columns stay. In each round both runs start with an empty silver folder, in turns; both must insert the same records.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import measure
from measure import Json

REFUSING = {"enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"}
ALONE, WITH = "decoding alone", "with validation"


def stripped(schema: Json, needed: set[str]) -> Json:
    """The schema without what only refuses; names of properties are no keywords."""
    if isinstance(schema, list):
        return [stripped(item, needed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for word, value in schema.items():
        if word in ("properties", "$defs"):
            kept[word] = {name: stripped(inner, needed) for name, inner in value.items()}
        elif word == "required":
            kept[word] = [name for name in value if name in needed]
        elif word not in REFUSING:
            kept[word] = stripped(value, needed)
    return kept


def needed(entity: str) -> set[str]:
    """The job's key and event time."""
    job = (measure.REPOSITORY / "jobs" / f"{entity}.yaml").read_text("utf-8")
    found = re.findall(r"^(?:key|event_time):\s*(.+)$", job, re.MULTILINE)
    return {name.strip(" []") for line in found for name in line.split("#")[0].split(",")}


def main() -> int:
    assert __doc__
    parser = measure.arguments(__doc__, rounds=7)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--entity", default="FaultData")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    args = parser.parse_args()
    maker = measure.generator(args)
    measure.require(args.etl, maker)
    seconds: dict[str, list[float]] = defaultdict(list)
    with measure.scratch(args) as folder:
        bronze, silver, schemas = folder / "bronze", folder / "silver", folder / "schemas"
        wanted = ["--entities", args.entity, "--countries", "de", "--size", f"{args.mib}MiB", "--mess", "0", "--codec", "plain"]
        measure.run([str(maker), "--out", str(bronze), *wanted]).check()
        shutil.copytree(measure.REPOSITORY / "schemas", schemas)
        for version in (schemas / args.entity).glob("*.json"):
            version.write_text(json.dumps(stripped(json.loads(version.read_text("utf-8")), needed(args.entity))), "utf-8")
        ways = {ALONE: schemas, WITH: measure.REPOSITORY / "schemas"}
        inserted = set()
        for number in range(args.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                os.sync()  # what was written before is not this run's work
                places = ["--bronze", bronze, "--silver", silver, "--schemas", ways[way], "--jobs", measure.REPOSITORY / "jobs"]
                sources = ["--entity", args.entity, "--country", "de", "--output", "json"]
                ended = measure.run([str(args.etl), "run", *sources, *map(str, places)])
                inserted.add(ended.json()["jobs"][0]["records"]["inserted"])
                seconds[way].append(ended.seconds)
                shutil.rmtree(silver)
        if len(inserted) != 1:
            raise SystemExit(f"the two contracts do not let the same records in: {inserted}")
    print(measure.markdown(["", "seconds"], [[way, measure.several(seconds[way])] for way in ways]))
    print(f"\n{inserted.pop():,} records; validation adds {median(seconds[WITH]) / median(seconds[ALONE]) - 1:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
