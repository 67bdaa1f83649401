"""`etl run` beside what a user would pick instead, and beside the machine's limit: seconds, peak memory, and which targets are met.

  python benches/compare/compare.py                        1 GiB of FaultData in 64 objects, five rounds, every peer, the release build
  python benches/compare/compare.py --mib 16 --rounds 1    a quick look
  … --entity LogRecord --peers duckdb,polars --only b,d    another entity, two peers, of the rest only (b) and (d)

etl's work, with jobs and contracts of the repository and default settings, each time into a silver folder of its own:
* a: clean data, plain, 64 objects in both layouts, 30 days, one country, into an empty silver
* b: as much data with 1 % of records to refuse, 5 % with shuffled keys, 5 % with unknown fields
* c: clean data into a silver that holds ten times the rows in the same partitions. Eleven times the data are made at once, for ids do not
  depend on the generator's seed; every eleventh object is new, the others have been loaded before
* d: (a) in gzip
* e: (a) in objects of 50 KB (only with --small)

Peers do (a), without checks: peers.py says which columns they read, and how they write. They read the same files, copied into one folder
under names that end in .json, with a line end behind the last record: without it DuckDB 2.0.0 at two threads loses records of files
that are larger than its buffers, or stops at bytes that are not there. Their packages are those of requirements.txt, in an environment that the first use makes.

Seconds are wall clock from exec to exit, of Python and the JVM too. All programs are kept to the same cores (--cores). Rounds are
interleaved, and each begins with another program. `values` are those of the contract's columns that are not null in what was written:
who has fewer than etl left some out (without the contract's versions, a renamed field is one of them).

The floor has two halves: floor.cpp, compiled here with simdjson (Debian: libsimdjson-dev), and the example `encode_floor` on etl's silver
of (a), if it is built; each prints its own seconds. So does libdeflate on the objects of (d), which was faster than isa-l there.
What failed is printed with the reason. With --mib 1024, (c) needs 20 GiB of disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import measure  # noqa: E402
from measure import MIB, Json  # noqa: E402

HERE = Path(__file__).resolve().parent
RULES = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas"), "--output", "json"]
OBJECTS = 64
SMALL = 50_000  # bytes of an object in (e)
OLD = 10  # rows that are there for each new one in (c)
MESS = ["--mess", "0.01", "--shuffled-keys", "0.05", "--unknown-fields", "0.05"]

NAMES = {
    "a": "etl (a): clean, empty silver",
    "b": "etl (b): mess, shuffled keys, unknown fields",
    "c": "etl (c): ten times the rows are there",
    "d": "etl (d): gzip",
    "e": "etl (e): objects of 50 KB",
    "duckdb": "DuckDB → Parquet",
    "duckdb-delta": "DuckDB → deltalake, partitioned Delta",
    "clickhouse": "ClickHouse (chdb) → Parquet",
    "polars": "Polars → Parquet",
    "sail": "Sail → partitioned Delta",
    "daft": "Daft → Parquet",
    "spark": "Spark → Parquet",
    "parse": "parse limit: simdjson On-Demand",
    "encode": "encoder's half: ArrowWriter",
    "inflate": "inflating (d): libdeflate",
}
PEERS = ["duckdb", "duckdb-delta", "clickhouse", "polars", "sail", "daft", "spark"]
SPEEDS = {"duckdb": 1.5, "duckdb-delta": 3.0, "spark": 15.0}  # least time of a peer, in etl's
FLOOR = 1.1  # most time of etl, in floors
SHARES = {"a": 1.0, "b": 0.8, "c": 0.5}  # of these targets, by work
GZIP, SMALL_SHARE, MEMORY = 1.3, 0.6, 1024


@dataclass
class Lab:
    """What is known so far; seconds and peaks by the keys of NAMES."""

    args: Namespace
    folder: Path
    columns: Json
    decoded: dict[str, int] = field(default_factory=dict)  # bytes, by etl's work
    expected: dict[str, Json] = field(default_factory=dict)  # counts of records, by etl's work
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    written: dict[str, Json] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def silver(self) -> Path:
        """What etl made of (a), for the encoder's half."""
        return self.folder / "silver"

    def median(self, name: str) -> float:
        return median(self.seconds[name])


# --- what has to be there -----------------------------------------------------------------------


def cache(name: str, source: Path) -> Path:
    """A place for what is made of a file, another one when that changes."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "silversmith"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"


def environment() -> Path:
    """The interpreter that has the peers' packages."""
    requirements = HERE / "requirements.txt"
    folder = cache("compare", requirements)
    interpreter = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing the peers into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        (folder / "complete").touch()
    return interpreter


def floor_program() -> Path:
    source = HERE / "floor.cpp"
    program = cache("floor", source)
    compiler = shutil.which("g++")
    if not program.exists():
        if not compiler:
            raise Failed("not compiled: there is no g++")
        flags = ["-std=c++17", "-O3", "-march=native", "-DSIMDJSON_THREADS_ENABLED=1", "-lsimdjson", "-pthread"]
        made = measure.run([compiler, str(source), "-o", str(program), *flags])
        if made.exit:
            raise Failed(f"not compiled; it needs simdjson's headers (Debian: libsimdjson-dev): {told(made)}")
    return program


def columns(entity: str) -> Json:
    """The newest contract's columns; peers.py says what their kinds are."""
    newest = max((measure.REPOSITORY / "schemas" / entity).glob("*.json"), key=lambda path: int(path.stem))
    contract = json.loads(newest.read_text("utf-8"))

    def kind(value: Json) -> Json:
        if "$ref" in value:
            value = contract["$defs"][value["$ref"].removeprefix("#/$defs/")]
        types = value.get("type", [])
        name = types if isinstance(types, str) else next((name for name in types if name != "null"), "json")
        if value.get("x-ref"):
            return "ref"
        if value.get("format") == "date-time":
            return "timestamp"
        if name == "object":
            return {"struct": fields(value)} if "properties" in value else "json"
        if name == "array":
            return {"list": kind(value["items"])} if "items" in value else "json"
        return name

    def fields(value: Json) -> Json:
        return {name: kind(inner) for name, inner in value["properties"].items()}

    return fields(contract)


# --- data ---------------------------------------------------------------------------------------


def generate(lab: Lab, work: str, mib: int, object_bytes: int, *more: str) -> Path:
    bronze = lab.folder / f"bronze-{work}"
    what = ["--entities", lab.args.entity, "--countries", "de", "--days", "30", "--delimiter", "newline", "--duplicates", "0"]
    given = {"--mess": "0", "--codec": "plain"} | dict(zip(more[::2], more[1::2], strict=True))
    sizes = ["--size", str(mib * MIB), "--object-bytes", str(object_bytes)]
    command = [str(measure.generator(lab.args)), "--out", str(bronze), *what, *sizes, *(word for pair in given.items() for word in pair)]
    measure.run(command).check()
    made = json.loads((lab.folder / f"bronze-{work}.manifest.json").read_text("utf-8"))["jobs"][0]
    lab.decoded[work], lab.expected[work] = made["bytes"]["decoded"], made["records"]
    return bronze


def objects(bronze: Path) -> list[Path]:
    return sorted(path for path in bronze.rglob("*") if path.is_file())


def make(lab: Lab, works: list[str]) -> None:
    whole = lab.args.mib * MIB // OBJECTS
    flat = lab.folder / "flat"
    flat.mkdir()
    for number, path in enumerate(objects(generate(lab, "a", lab.args.mib, whole))):
        copy = flat / f"{number:05}.json"
        shutil.copyfile(path, copy)
        with copy.open("ab") as file:
            file.write(b"\n")
    if "b" in works:
        generate(lab, "b", lab.args.mib, whole, *MESS)
    if "c" in works:
        make_old(lab, generate(lab, "c", lab.args.mib * (OLD + 1), whole))
    if "d" in works:
        generate(lab, "d", lab.args.mib, whole, "--codec", "gzip")
    if "e" in works:
        generate(lab, "e", lab.args.mib, SMALL)


def make_old(lab: Lab, bronze: Path) -> None:
    """Loads all objects of (c) but those that are to be new, and puts those in place of all."""
    new = lab.folder / "new"
    everything = objects(bronze)
    for path in everything[OLD // 2 :: OLD + 1]:
        to = new / path.relative_to(bronze)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    old = measure.run(etl(lab, bronze, lab.folder / "old")).json()["jobs"][0]["records"]["inserted"]
    shutil.rmtree(bronze)
    new.rename(bronze)
    rows = lab.expected["c"]["inserted"] - old
    lab.decoded["c"] = sum(path.stat().st_size for path in objects(bronze))
    lab.expected["c"] |= {"read": rows, "inserted": rows}


# --- programs, each run once a round ------------------------------------------------------------


class Failed(Exception):
    pass


def told(ended: measure.Ended) -> str:
    """Why a process failed: its last line that names an error, else its last line."""
    if ended.exit == -signal.SIGALRM:
        return "did not end within --limit"
    lines = [line.strip() for line in f"{ended.output}\n{ended.errors}".splitlines() if line.strip()]
    named = [line for line in lines if "Error:" in line or "Exception:" in line or "error:" in line]
    return f"ended with {ended.exit}: {(named or lines or ['it said nothing'])[-1][:300]}"


def etl(lab: Lab, bronze: Path, silver: Path) -> measure.Command:
    what = ["--entity", lab.args.entity, "--country", "de", "--bronze", str(bronze), "--silver", str(silver)]
    return [str(lab.args.etl), "run", *what, *RULES]


def step(lab: Lab, name: str, files: Path, out: Path) -> measure.Ended:
    given = {"files": str(files), "out": str(out), "columns": lab.columns, "database": "fleetdb_de"}
    bounds = {"threads": lab.args.cores, "limit": lab.args.limit}
    return measure.run([str(lab.args.python), str(HERE / "peers.py"), name, json.dumps(given | bounds)])


def checked(ended: measure.Ended) -> measure.Ended:
    if ended.exit:
        raise Failed(told(ended))
    return ended


def own_seconds(ended: measure.Ended) -> tuple[float, int]:
    """Of a program that prints its seconds on the last line."""
    return json.loads(checked(ended).output.splitlines()[-1])["seconds"], ended.peak


def count(lab: Lab, name: str, out: Path) -> None:
    if name not in lab.written:
        lab.written[name] = checked(step(lab, "count", lab.folder, out)).json()


def run_etl(lab: Lab, work: str) -> tuple[float, int]:
    silver = lab.folder / f"silver-{work}"
    if work == "c":
        measure.linked(lab.folder / "old", silver)
    os.sync()
    ended = checked(measure.run(etl(lab, lab.folder / f"bronze-{work}", silver)))
    counted = ended.json()["jobs"][0]["records"]
    if different := {name: (counted[name], number) for name, number in lab.expected[work].items() if counted[name] != number}:
        raise Failed(f"records that were counted and that there are: {different}")
    if work == "a":
        count(lab, work, silver / lab.args.entity)
    if work == "a" and not lab.silver.exists():
        silver.rename(lab.silver)
    else:
        shutil.rmtree(silver)
    return ended.seconds, ended.peak


def run_peer(lab: Lab, name: str) -> tuple[float, int]:
    out = lab.folder / "peer"
    out.mkdir()
    os.sync()
    try:
        ended = checked(step(lab, name, lab.folder / "flat", out / "out"))
        count(lab, name, out / "out")
    finally:
        shutil.rmtree(out)
    if lab.written[name]["rows"] != lab.expected["a"]["read"]:
        raise Failed(f"{lab.written[name]['rows']} rows of {lab.expected['a']['read']}")
    return ended.seconds, ended.peak


def run_parse(lab: Lab) -> tuple[float, int]:
    return own_seconds(measure.run([str(floor_program()), str(lab.args.cores), *map(str, objects(lab.folder / "flat"))]))


def run_encode(lab: Lab) -> tuple[float, int]:
    program = lab.args.etl.parent / "examples" / "encode_floor"
    if not program.exists():
        raise Failed("the example encode_floor is not built")
    return own_seconds(measure.run([str(program), str(lab.silver)]))


def run_inflate(lab: Lab) -> tuple[float, int]:
    return own_seconds(step(lab, "inflate", lab.folder / "bronze-d", lab.folder))


def programs(lab: Lab, works: list[str]) -> dict[str, Callable[[], tuple[float, int]]]:
    """What each gives is seconds and the peak memory in bytes."""
    runs = {work: partial(run_etl, lab, work) for work in works} | {name: partial(run_peer, lab, name) for name in lab.args.peers}
    if "floor" in lab.args.only:
        runs |= {"parse": partial(run_parse, lab), "encode": partial(run_encode, lab)}
    if "d" in works:
        runs["inflate"] = partial(run_inflate, lab)
    return runs


def measure_all(lab: Lab, works: list[str]) -> None:
    runs = programs(lab, works)
    order = list(runs)
    for number in range(lab.args.rounds):
        first = number % len(order)
        for name in order[first:] + order[:first]:
            if name in lab.failures:
                continue
            try:
                seconds, peak = runs[name]()
            except Failed as failure:
                lab.failures[name] = str(failure)
                continue
            lab.seconds[name].append(seconds)
            lab.peaks[name].append(peak)
            print(f"round {number + 1}: {NAMES[name]}: {seconds:.2f} s", file=sys.stderr, flush=True)


# --- what came out ------------------------------------------------------------------------------


def table(lab: Lab) -> str:
    rows = []
    for name in (name for name in NAMES if name in lab.seconds and name not in lab.failures):
        written = lab.written.get(name)
        values = f"{100 * written['values'] / lab.written['a']['values']:.1f} %" if written else "–"
        size = f"{written['bytes'] / MIB:.1f}" if written else "–"
        seconds = measure.several(lab.seconds[name], digits=2 if lab.median(name) > 1 else 3)
        peak = f"{max(lab.peaks[name]) / MIB:.0f}"
        rows.append([NAMES[name], seconds, peak, f"{lab.median(name) / lab.median('a'):.2f}", values, size])
    return measure.markdown(["who", "seconds", "peak memory, MiB", "in times of (a)", "values", "written, MiB"], rows)


def verdict(reached: float, wanted: float, at_least: bool = True, digits: int = 2) -> str:
    met = reached >= wanted if at_least else reached <= wanted
    return f"{reached:.{digits}f} of {wanted:.{digits}f}{'' if met else ' **missed**'}"


def targets(lab: Lab) -> str:
    """Speeds are relative to etl's on as many decoded bytes."""
    done = {name for name in lab.seconds if name not in lab.failures}

    def row(what: str, least: float, seconds: float) -> list[str]:
        def cell(work: str) -> str:
            speed = seconds / lab.decoded["a"] * lab.decoded[work] / lab.median(work)
            return verdict(speed, least * SHARES[work])

        return [what, *(cell(work) if work in done else "–" for work in SHARES)]

    rows = [row(f"time of {NAMES[name]} ÷ etl's, at least", least, lab.median(name)) for name, least in SPEEDS.items() if name in done]
    if {"parse", "encode"} <= done:
        rows.append(row("the floor (both halves) ÷ etl's, at least", 1 / FLOOR, lab.median("parse") + lab.median("encode")))
    if {"d", "inflate"} <= done:
        more = lab.median("d") - lab.median("a")
        rows.append(["(d) − (a), in times of inflating, at most", verdict(more / lab.median("inflate"), GZIP, at_least=False), "", ""])
    if "e" in done:
        share = lab.decoded["e"] / lab.median("e") / (lab.decoded["a"] / lab.median("a"))
        rows.append(["throughput of (e) ÷ (a), at least", verdict(share, SMALL_SHARE), "", ""])
    peaks = [verdict(max(lab.peaks[work]) / MIB, MEMORY, at_least=False, digits=0) if work in done else "–" for work in SHARES]
    return measure.markdown(["target", "(a)", "(b)", "(c)"], [*rows, ["peak memory, MiB, below", *peaks]])


def report(lab: Lab) -> None:
    size = lab.decoded["a"] / MIB
    cores = lab.args.cores
    print(f"\n{lab.args.entity}: {size:.0f} MiB, {lab.expected['a']['read']} records, {lab.args.rounds} rounds on {cores} cores\n")
    if "a" not in lab.failures and lab.seconds["a"]:
        print(f"{table(lab)}\n\n{targets(lab)}")
    for name, reason in lab.failures.items():
        print(f"\nfailed: {NAMES[name]}: {reason}")


def main() -> None:
    some = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser = measure.arguments(__doc__ or "", rounds=5)
    parser.add_argument("--mib", type=int, default=1024, help="MiB of plain bronze")
    parser.add_argument("--entity", default="FaultData")
    parser.add_argument("--peers", type=some, default=PEERS, help=f"some of {','.join(PEERS)} [default: all]")
    parser.add_argument("--only", type=some, default=["b", "c", "d", "floor"], help="beside (a), some of b,c,d,floor [default: all]")
    parser.add_argument("--small", action="store_true", help="also (e)")
    parser.add_argument("--cores", type=int, default=2, help="for every program")
    parser.add_argument("--limit", type=int, default=900, help="seconds until a peer is ended")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    args = parser.parse_args()
    if unknown := [*set(args.peers).difference(PEERS), *set(args.only).difference(["b", "c", "d", "floor"])]:
        parser.error(f"there is no {', '.join(unknown)}")
    measure.require(args.etl, measure.generator(args))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    args.python = environment()
    works = ["a", *(work for work in ("b", "c", "d") if work in args.only), *(["e"] if args.small else [])]
    with measure.scratch(args) as folder:
        lab = Lab(args, folder, columns(args.entity))
        make(lab, works)
        measure_all(lab, works)
        report(lab)


if __name__ == "__main__":
    main()
