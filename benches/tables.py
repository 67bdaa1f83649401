"""What many small files cost a table, and what `etl compact` makes of them.

  python benches/tables.py growth                              tables of 1,000, 10,000 and 100,000 commits, the release build
  python benches/tables.py growth --sizes 1000 --without-checkpoint
  python benches/tables.py reading                             10,000 files of 100 KB, by DuckDB and by Sail
  python benches/tables.py optimize --files 3500 --days 30     beside deltalake's optimize.compact() and optimize.z_order()

Needs the packages of tests/python/requirements.txt; Sail is in the environment that benches/compare makes, and left out where that is
not there. etl makes each table by a run over one small bronze object. All other files are put beside that one directly, encoded as etl
encodes them and with the same statistics, `--rows` rows each, and are named by commits as etl writes them. The ledger knows of the first
commit only. Ids are scattered: those of every file span the same range. Each day is a partition.

What is measured, each in a process of its own unless it says otherwise
* growth: one file with a commit. Whole processes, the Python ones with their imports: `etl status`, `etl run` with nothing new in bronze,
  `etl run` with one new object of `--rows` records, whose keys are compared with the table's, and deltalake opening the table and listing
  its files; then `etl compact --force`, and the same again. A checkpoint, by deltalake, comes 25 commits before the last one, or there
  is none.
* reading: a table as it is, compacted, and compacted with `cluster_by: [id]`. A scan of all rows with six of the columns, and lookups
  of a key and its day: seconds, and the bytes that the process asks the kernel for, in cache or not. These are of the query alone; the log
  is read before. DuckDB has its extension delta if that is installed, else read_parquet on those files that the log's partitions and
  statistics of the id do not rule out. What reading the log costs is told of deltalake.
* optimize: `etl compact --force` as a whole process, deltalake's call alone: imports and opening the table are not counted, and it writes
  zstd at level 1 into files of the same size, as etl does. MB/s are of the live bytes before, by wall clock and by seconds of CPU (user and
  system), which is MB/s for each core that is busy. Peak memory is of the process. Programs take turns.

After each change the table must hold the same rows: their number, a sum over all contract columns, and every row in its day's partition.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from argparse import Namespace
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import measure
from compare.compare import HERE as COMPARE
from compare.compare import cache
from measure import MIB
from upsert import CONTRACT

Json = Any

JOB = """entity: Bench
mode: append
key: [id]
event_time: at
partition_by: [database, event_date]
table: {{file: {file}, row_group: {row_group}}}
"""
CLUSTERS = {"plain": "", "id": "cluster_by: [id]\n", "z_order": "cluster_by: {z_order: [device, at]}\n"}
TAIL = 25  # commits after the checkpoint
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
GOALS = {  # of reading: how much less than of small files
    ("lookup", "clustered", "read"): 5.0,
    ("scan", "compacted", "seconds"): 3.0,
    ("scan", "clustered", "seconds"): 3.0,
}


@dataclass(frozen=True)
class Shape:
    files: int
    rows: int
    days: int


@dataclass(frozen=True)
class Lab:
    args: Namespace
    folder: Path
    compacts: bool  # whether the program has the verb

    def etl(self, verb: str, silver: Path, *more: str, job: str = "plain") -> measure.Command:
        places = {"silver": silver, "jobs": self.folder / f"jobs-{job}", "schemas": self.folder / "schemas"}
        if verb != "compact":
            places |= {"bronze": bronze_of(silver)}
        flags = [part for name, value in places.items() for part in (f"--{name}", str(value))]
        return [str(self.args.etl), verb, "--entity", "Bench", "--country", "de", *flags, "--output", "json", *more]


def bronze_of(silver: Path) -> Path:
    return silver.with_name(f"{silver.name}-bronze")


def step(name: str, interpreter: Path | str = sys.executable, **parameters: Json) -> measure.Ended:
    script = Path(__file__).with_name("tables_steps.py")
    return measure.run([str(interpreter), str(script), name, json.dumps(parameters, default=str)]).check()


# --- tables -------------------------------------------------------------------------------------


def prepare(args: Namespace, folder: Path) -> Lab:
    """The jobs: they differ in how a compaction clusters."""
    compacts = not measure.run([str(args.etl), "compact", "--help"]).exit
    for name, cluster in CLUSTERS.items():
        jobs = folder / f"jobs-{name}"
        jobs.mkdir()
        (jobs / "Bench.yaml").write_text(JOB.format(file=args.file, row_group=args.row_group) + (cluster if compacts else ""), "utf-8")
    (folder / "schemas" / "Bench").mkdir(parents=True)
    (folder / "schemas" / "Bench" / "1.json").write_text(json.dumps(CONTRACT, indent=2), "utf-8")
    if not compacts:
        print(f"{args.etl.name} has no verb `compact`: it is left out")
    return Lab(args, folder, compacts)


def build(lab: Lab, name: str, shape: Shape, each: int) -> Path:
    """A silver folder with the table; `each` files are named by a commit."""
    silver = lab.folder / name
    insert(lab, silver, shape, 0)
    checkpoint = not lab.args.without_checkpoint
    built = step("build", table=silver / "Bench", shape=asdict(shape), each=each, checkpoint=checkpoint, tail=TAIL)
    found = live(silver)
    if found["files"] != shape.files:
        raise SystemExit(f"{found['files']} files in the table instead of {shape.files}")
    log = sum(path.stat().st_size for path in (silver / "Bench" / "_delta_log").iterdir())
    print(
        f"{shape.files:,} files of {found['bytes'] / shape.files / 1e3:,.1f} KB ({found['bytes'] / MIB:,.0f} MiB), "
        f"{shape.files * shape.rows:,} rows, {min(shape.days, shape.files)} days, version {found['version']:,}, "
        f"log of {log / MIB:,.1f} MiB, {'with' if checkpoint else 'without'} a checkpoint; made in {built.seconds:.0f} s",
        flush=True,
    )
    return silver


def insert(lab: Lab, silver: Path, shape: Shape, file: int) -> measure.Ended:
    """A run over one more object, of the records of a file with this number."""
    step("bronze", bronze=bronze_of(silver), shape=asdict(shape), file=file)
    os.sync()
    ended = measure.run(lab.etl("run", silver))
    inserted = ended.json()["jobs"][0]["records"]["inserted"]
    if inserted != shape.rows:
        raise SystemExit(f"{shape.rows} records written, {inserted} inserted")
    return ended


def live(silver: Path) -> Json:
    return step("live", table=silver / "Bench").json()


def check(silver: Path) -> Json:
    return step("check", table=silver / "Bench").json()


def copied(silver: Path, name: str) -> Path:
    measure.linked(bronze_of(silver), bronze_of(silver.with_name(name)))
    return measure.linked(silver, silver.with_name(name))


def same(what: str, silver: Path, expected: Json) -> None:
    found = check(silver)
    if found != expected:
        raise SystemExit(f"{what}: rows, checksum and rows elsewhere are {found}, not {expected}")


@dataclass(frozen=True)
class Compacted:
    """A compaction by either program; bytes are those of the data files that were live before."""

    seconds: float
    cpu: float
    peak: int
    before: Json
    after: Json
    told: Json

    def speed(self, seconds: float) -> float:
        return int(self.before["bytes"]) / 1e6 / seconds


def compact(lab: Lab, silver: Path, job: str) -> Compacted:
    before = live(silver)
    os.sync()
    used = cpu_of_children()
    ended = measure.run(lab.etl("compact", silver, "--force", job=job))
    cpu = cpu_of_children() - used
    (told,) = (table for table in ended.json()["tables"] if table["table"] == "Bench")
    after = live(silver)
    if told["files_added"] - told["files_removed"] != after["files"] - before["files"]:
        raise SystemExit(f"compact says {told}, but there were {before} and are {after}")
    return Compacted(ended.seconds, cpu, ended.peak, before, after, told)


def optimize(lab: Lab, silver: Path, name: str, **parameters: Json) -> Compacted:
    before = live(silver)
    os.sync()
    ended = step(name, table=silver / "Bench", target=size(lab.args.file), **parameters)
    told = ended.json()
    return Compacted(told["seconds"], told["cpu"], ended.peak, before, live(silver), told)


def cpu_of_children() -> float:
    """Seconds of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size(text: str) -> int:
    number, unit = text.split()
    return int(number) * SIZES[unit]


# --- growth -------------------------------------------------------------------------------------


@dataclass
class Growth:
    """Seconds and peaks by what was measured, before and after the compaction."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, what: str, seconds: float, peak: int) -> None:
        self.seconds[what].append(seconds)
        self.peaks[what].append(peak)
        print(f"{what}: {seconds:.2f} s, peak {peak / MIB:,.0f} MiB", flush=True)

    def cell(self, what: str) -> str:
        if what not in self.seconds:
            return "–"
        return f"{median(self.seconds[what]):.2f} s, {max(self.peaks[what]) / MIB:,.0f} MiB"


def growth(lab: Lab) -> None:
    results = {}
    for files in lab.args.sizes:
        results[files] = grown(lab, Shape(files, lab.args.rows or 50, lab.args.days or 200))
    whats = list(dict.fromkeys(what for result in results.values() for what in result.seconds))
    head = ["seconds and peak memory, files:", *(f"{files:,}" for files in results)]
    print("\n" + measure.markdown(head, [[what, *(result.cell(what) for result in results.values())] for what in whats]))
    print(f"\nMedians of {lab.args.rounds} rounds and their greatest peak; once each: a run with a new object, and the compaction.")


def grown(lab: Lab, shape: Shape) -> Growth:
    result = Growth()
    silver = build(lab, f"silver-{shape.files}", shape, each=1)
    look(lab, result, silver, shape.files, "")
    new = insert(lab, silver, shape, shape.files)
    result.add("etl run, one new object", new.seconds, new.peak)
    if lab.compacts:
        expected = check(silver)
        found = compact(lab, silver, "plain")
        result.add("etl compact --force", found.seconds, found.peak)
        print(f"compacted in versions {found.told['versions']}: {found.after['files']} files of {found.after['bytes'] / MIB:,.1f} MiB")
        same("compact", silver, expected)
        look(lab, result, silver, found.after["files"], ", compacted")
        new = insert(lab, silver, shape, shape.files + 1)
        result.add("etl run, one new object, compacted", new.seconds, new.peak)
    if not lab.args.keep:
        shutil.rmtree(silver)
    return result


def look(lab: Lab, result: Growth, silver: Path, files: int, suffix: str) -> None:
    for _ in range(lab.args.rounds):
        status = measure.run(lab.etl("status", silver))
        found = status.json()["jobs"][0]
        if found["silver"]["files"] != files or not found["settled"]:
            raise SystemExit(f"the table has {files} files, but its status is {found}")
        result.add(f"etl status{suffix}", status.seconds, status.peak)
        run = measure.run(lab.etl("run", silver))
        if run.json()["jobs"][0]["records"]["read"]:
            raise SystemExit(f"there is nothing new, but the run read it:\n{run.output}")
        result.add(f"etl run, nothing new{suffix}", run.seconds, run.peak)
        opened = step("live", table=silver / "Bench")
        result.add(f"deltalake: process{suffix}", opened.seconds, opened.peak)
        told = opened.json()
        result.add(f"deltalake: DeltaTable(…) alone{suffix}", told["open"], opened.peak)
        result.add(f"deltalake: DeltaTable(…) and its files{suffix}", told["seconds"], opened.peak)


# --- reading ------------------------------------------------------------------------------------


def reading(lab: Lab) -> None:
    args = lab.args
    shape = Shape(args.files, args.rows or 2700, args.days or 30)
    tables = {"small files": build(lab, "silver", shape, each=100)}
    expected = check(tables["small files"])
    if lab.compacts:
        for job, name in {"plain": "compacted", "id": "clustered"}.items():
            silver = tables[name] = copied(tables["small files"], name)
            found = compact(lab, silver, job)
            print(f"{name}: {found.after['files']} files of {found.after['bytes'] / MIB:,.0f} MiB in {found.seconds:.1f} s", flush=True)
            same(name, silver, expected)
    wanted = step("keys", shape=asdict(shape), lookups=args.lookups).json()
    opened = {name: live(silver) for name, silver in tables.items()}
    readers = {name: interpreter for name, interpreter in interpreters().items() if name in args.readers}
    costs: dict[tuple[str, str, str], list[Json]] = defaultdict(list)
    answers: dict[str, Json] = {}
    for number in range(args.rounds):
        order = list(tables)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            for reader, interpreter in readers.items():
                for query in ("lookup", "scan"):
                    told = step(
                        f"{reader}_{query}", interpreter, table=tables[name] / "Bench", threads=os.cpu_count() or 1, wanted=wanted
                    ).json()
                    costs[reader, query, name] += told["costs"]
                    if answers.setdefault(query, told["found"]) != told["found"]:
                        raise SystemExit(f"{reader}, {query}, {name}: {told['found']} instead of {answers[query]}")
    if [key for key, _ in wanted] != answers["lookup"]:
        raise SystemExit(f"looked up {wanted}, found {answers['lookup']}")
    report_reading(lab, opened, costs)


def interpreters() -> dict[str, Path]:
    """Of each reader; Sail's as compare.py makes it, if it did."""
    peers = cache("compare", COMPARE / "requirements.txt")
    found = {"duckdb": Path(sys.executable)}
    if (peers / "complete").exists():
        found["sail"] = peers / "bin" / "python"
    else:
        print("Sail is left out: benches/compare/compare.py has not installed it yet")
    return found


def report_reading(lab: Lab, opened: dict[str, Json], costs: dict[tuple[str, str, str], list[Json]]) -> None:
    def typical(reader: str, query: str, name: str, what: str) -> float:
        return float(median(cost[what] for cost in costs[reader, query, name]))

    rows, ratios = [], []
    names = list(opened)
    for reader, query in dict.fromkeys((reader, query) for reader, query, _ in costs):
        for name in names:
            found = costs[reader, query, name]
            seconds = measure.several((cost["seconds"] for cost in found), 3)
            cpu = f"{typical(reader, query, name, 'cpu'):.3f}"
            rows.append([f"{reader}, {query}, {name}", seconds, cpu, f"{typical(reader, query, name, 'read') / 1e6:,.2f}"])
        for name in names[1:]:
            cells = []
            for what in ("seconds", "cpu", "read"):
                ratio = typical(reader, query, names[0], what) / typical(reader, query, name, what)
                goal = GOALS.get((query, name, what))
                met = "" if goal is None else f" (goal {goal:.0f}: {'met' if ratio >= goal else '**missed**'})"
                cells.append(f"{ratio:.2f}{met}")
            ratios.append([f"{reader}, {query}, {name}", *cells])
    print("\n" + measure.markdown(["", "seconds", "CPU seconds", "MB read"], rows))
    if ratios:
        print("\n" + measure.markdown(["small files divided by", "seconds", "CPU seconds", "bytes read"], ratios))
    logs = [
        [name, f"{one['files']:,}", f"{one['bytes'] / MIB:,.0f}", f"{one['seconds']:.3f}", f"{one['read'] / 1e6:,.2f}"]
        for name, one in opened.items()
    ]
    print("\n" + measure.markdown(["deltalake: opening and listing", "files", "MiB", "seconds", "MB read of the log"], logs))
    print(f"\nMedians of {lab.args.rounds} rounds, with {lab.args.lookups} lookups each; the least and the greatest in brackets.")


# --- optimize -----------------------------------------------------------------------------------

PROGRAMS = {
    "etl, compact": lambda lab, silver: compact(lab, silver, "plain"),
    "deltalake, compact": lambda lab, silver: optimize(lab, silver, "compact"),
    "etl, z-order": lambda lab, silver: compact(lab, silver, "z_order"),
    "deltalake, z-order": lambda lab, silver: optimize(lab, silver, "z_order", columns=["device", "at"]),
}


def beside_optimize(lab: Lab) -> None:
    shape = Shape(lab.args.files, lab.args.rows or 2700, lab.args.days or 30)
    silver = build(lab, "silver", shape, each=100)
    expected = check(silver)
    programs = {name: program for name, program in PROGRAMS.items() if lab.compacts or not name.startswith("etl")}
    results: dict[str, list[Compacted]] = defaultdict(list)
    for number in range(lab.args.rounds):
        order = list(programs)
        first = number % len(order)
        for name in order[first:] + order[:first]:
            copy = copied(silver, "copy")
            one = programs[name](lab, copy)
            same(name, copy, expected)
            shutil.rmtree(copy)
            shutil.rmtree(bronze_of(copy))
            results[name].append(one)
            print(f"round {number + 1}: {name}: {one.seconds:.2f} s, peak {one.peak / MIB:,.0f} MiB", flush=True)
    report_optimize(lab, {name: results[name] for name in programs})


def report_optimize(lab: Lab, results: dict[str, list[Compacted]]) -> None:
    rows = []
    for name, found in results.items():
        after = [f"{median(one.after[what] for one in found) / unit:,.0f}" for what, unit in (("files", 1), ("bytes", MIB))]
        rows.append(
            [
                name,
                measure.several(one.seconds for one in found),
                measure.several((one.speed(one.seconds) for one in found), 1),
                measure.several((one.speed(one.cpu) for one in found), 1),
                measure.several((one.peak / MIB for one in found), 0),
                *after,
            ]
        )
    print("\n" + measure.markdown(["", "seconds", "MB/s", "MB/s per core", "peak MiB", "files after", "MiB after"], rows))
    ratios = []
    for what in ("compact", "z-order"):
        ours, theirs = results.get(f"etl, {what}"), results[f"deltalake, {what}"]
        if ours:
            times = [median(one.seconds for one in theirs) / median(one.seconds for one in ours)]
            times.append(median(one.cpu for one in theirs) / median(one.cpu for one in ours))
            times.append(median(one.peak for one in theirs) / median(one.peak for one in ours))
            ratios.append([what, *(f"{ratio:.2f}" for ratio in times)])
    if ratios:
        print("\n" + measure.markdown(["deltalake divided by etl", "time", "CPU time", "peak memory"], ratios))
    before = max(one.told["before"] for name, found in results.items() if name.startswith("deltalake") for one in found) / MIB
    print(f"""
Medians of {lab.args.rounds} rounds, with the least and the greatest in brackets. MB/s per core: bytes by seconds of CPU. Above 1, etl
needs less. etl's time is that of its process, deltalake's the call alone; {before:,.0f} MiB of its peak were there before the call.""")


# --- what is to be measured ---------------------------------------------------------------------


def main() -> int:
    assert __doc__
    some = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    numbers = lambda text: [int(part) for part in some(text)]  # noqa: E731
    parser = measure.arguments(__doc__)
    parser.add_argument("what", choices=WHATS)
    parser.add_argument("--sizes", type=numbers, default=[1000, 10_000, 100_000], help="growth: files of the tables")
    parser.add_argument("--files", type=int, default=10_000, help="reading and optimize: files of the table")
    parser.add_argument("--rows", type=int, help="of a file [default: 50 for growth, else 2,700, which are 100 KB]")
    parser.add_argument("--days", type=int, help="partitions [default: 200 for growth, else 30]")
    parser.add_argument("--without-checkpoint", action="store_true")
    parser.add_argument("--readers", type=some, default=["duckdb", "sail"], help="some of duckdb,sail [default: all]")
    parser.add_argument("--lookups", type=int, default=5, help="of a process")
    parser.add_argument("--file", default="128 MiB", help="the job's size of a file")
    parser.add_argument("--row-group", default="32 MiB", help="the job's size of a row group")
    args = parser.parse_args()
    if unknown := set(args.readers) - {"duckdb", "sail"}:
        parser.error(f"there is no {', '.join(unknown)}")
    measure.require(args.etl)
    with measure.scratch(args) as folder:
        WHATS[args.what](prepare(args, folder))
    return 0


WHATS = {"growth": growth, "reading": reading, "optimize": beside_optimize}

if __name__ == "__main__":
    sys.exit(main())
