"""How small silver's Parquet is: beside DuckDB's for the same rows, and what other encodings, levels and orders of rows would make of it.

  python benches/encodings.py                              150,000 records of each entity that arrive in one day, the release build
  python benches/encodings.py size --days 30               only the comparison with DuckDB, with many small files
  … bakeoff --entities LogRecord --levels 1,3 --json FILE  only the encodings, of one entity at two levels; every figure into FILE

Needs the packages of tests/python/requirements.txt and the example `bronze`. Each entity's bronze is clean, and `etl run` loads it into a
fresh silver with the repository's jobs and contracts. The generator's values are random and know nothing of each other. So `LogRecord*`
and `StatusData*` stand beside its entities, made here: vehicles that move, and values that change little by little, uploaded some records
at a time.

What is measured
* size: compressed bytes of the columns' chunks, from the footers, so that the same columns can be compared: those of the contract alone,
  and all columns of silver's files. DuckDB's COPY writes the same rows in the same order, zstd at its default level: once everything into
  one file (`one`), and once each of silver's files into a file of its own (`each`). Partition columns are in neither. `files` counts
  whole files, so also footers and page indexes.
* bakeoff: the rows of the table's largest file, which is what one `partition_writer` wrote, again as one row group by pyarrow, with pages
  as etl has them: each column in each encoding that its type has, at each level, in each order of rows (arrival, key, device and then event
  time). Columns are encoded one by one; of a nested column each leaf counts, and its seconds are shared among leaves by their bytes.
  Seconds are CPU seconds of pyarrow, the least of all rounds. `arrow-rs` is the library etl writes with, here through deltalake: all
  columns of the same rows at once. deltalake cannot name the leaves of nested columns: there they keep their dictionaries.

Choices of an encoding for each column
* current: as `partition_writer` has them.
* proposed: a dictionary, but where most of the first rows' values differ, PLAIN for numbers with fractions, and the delta encoding of the
  type for the rest. Every reader that has met today's files reads these.
* split: as proposed, with BYTE_STREAM_SPLIT for all numbers and timestamps of which most differ. Spark 4.1 cannot read it.
* best: whatever is the smallest, column by column.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import measure
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import ColumnProperties, WriterProperties, write_deltalake
from measure import MIB, Json, markdown

GENERATED = ["Device", "Diagnostic", "FaultData", "LogRecord", "StatusData", "Trip", "User"]
MOVING = ["LogRecord*", "StatusData*"]
STEPS = ["size", "bakeoff"]
RULES = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas"), "--output", "json"]

# As src/silver/write.rs has them.
STEADY = ["_source_offset", "_source_length", "_schema_version", "year", "month", "day"]
ORDER = "_order"
PAGE_ROWS = 8192

DICTIONARY = "dictionary"
PLAIN = "PLAIN"
PACKED = "DELTA_BINARY_PACKED"
SPLIT = "BYTE_STREAM_SPLIT"
LENGTHS = "DELTA_LENGTH_BYTE_ARRAY"
FRONT = "DELTA_BYTE_ARRAY"
RUNS = "RLE"
ENCODINGS = {
    "BYTE_ARRAY": [DICTIONARY, PLAIN, LENGTHS, FRONT],
    "INT32": [DICTIONARY, PLAIN, PACKED, SPLIT],
    "INT64": [DICTIONARY, PLAIN, PACKED, SPLIT],
    "DOUBLE": [DICTIONARY, PLAIN, SPLIT],
    "BOOLEAN": [PLAIN, RUNS],
}
ALL = [DICTIONARY, PLAIN, PACKED, SPLIT, LENGTHS, FRONT, RUNS]
PAGES = [PAGE_ROWS, 20_000, 131_072]
# The share of distinct values among the first rows from which a dictionary does not pay.
MANY, MANY_TEXTS = 0.6, 0.9


@dataclass(frozen=True)
class Silver:
    """An entity's table, new."""

    name: str
    entity: str
    files: list[Path]
    rows: int
    bronze: int  # bytes


@dataclass(frozen=True)
class Leaf:
    path: str  # as Parquet has it
    column: str
    kind: str
    physical: str
    distinct: float  # distinct values per row of the first page's rows


@dataclass(frozen=True)
class Cost:
    bytes: float = 0
    write: float = 0
    read: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.write + other.write, self.read + other.read)


@dataclass(frozen=True)
class Tried:
    """What one leaf took."""

    entity: str
    order: str
    level: int
    page: int
    leaf: Leaf
    encoding: str
    cost: Cost


Choose = Callable[[Leaf], str]


# --- data ---------------------------------------------------------------------------------------


def job(entity: str) -> tuple[list[str], str | None]:
    """Its key, and its event time."""
    text = (measure.REPOSITORY / "jobs" / f"{entity}.yaml").read_text("utf-8")
    key, time_of = re.search(r"^key: \[(.+?)\]", text, re.M), re.search(r"^event_time: (\w+)", text, re.M)
    assert key
    return [name.strip() for name in key[1].split(",")], time_of[1] if time_of else None


def contract(entity: str) -> list[str]:
    """The newest version's columns."""
    newest = max((measure.REPOSITORY / "schemas" / entity).glob("*.json"), key=lambda path: int(path.stem))
    return list(json.loads(newest.read_text("utf-8"))["properties"])


def silver(args: Namespace, folder: Path, name: str) -> Silver:
    entity = name.removesuffix("*")
    bronze, out = folder / f"{name}-bronze", folder / f"{name}-silver"
    if name in MOVING:
        moving(entity, bronze, args.records)
    else:
        clean = ["--codec", "plain", "--delimiter", "newline", "--mess", "0", "--duplicates", "0", "--countries", "de", "--seed", "1"]
        what = ["--entities", entity, "--records", str(args.records), "--days", str(args.days)]
        places = ["--out", str(bronze), "--manifest", str(folder / f"{name}.json")]
        measure.run([str(measure.generator(args)), *clean, *what, *places]).check()
    size = sum(path.stat().st_size for path in bronze.rglob("*") if path.is_file())
    places = ["--bronze", str(bronze), "--silver", str(out)]
    measure.run([str(args.etl), "run", "--entity", entity, "--country", "de", *places, *RULES]).check()
    shutil.rmtree(bronze)
    table, files = out / entity, {}
    for action in (action for version in measure.versions(table) for action in measure.actions(version)):
        if add := action.get("add"):
            files[add["path"]] = table / unquote(add["path"])
        if remove := action.get("remove"):
            files.pop(remove["path"], None)
    paths = sorted(files.values())
    return Silver(name, entity, paths, sum(pq.read_metadata(path).num_rows for path in paths), size)


def moving(entity: str, bronze: Path, records: int) -> None:
    """One day of vehicles, uploaded some records at a time: ids rise as records arrive, each vehicle's among those of others."""
    chance, midnight = random.Random(1), datetime(2024, 1, 2, tzinfo=UTC).timestamp()
    vehicles = max(1, records // 500)
    source = drive if entity == "LogRecord" else values
    uploads: list[tuple[float, list[Json]]] = []
    for vehicle in range(vehicles):
        count = records * (vehicle + 1) // vehicles - records * vehicle // vehicles
        rows = list(source(chance, f"b{0x1000 + vehicle:X}", midnight, count))
        while rows:
            records_ = chance.randint(5, 60)
            part, rows = rows[:records_], rows[records_:]
            uploads.append((part[-1][0] + chance.uniform(1, 120), part))
    folder = bronze / f"database=fleetdb_de/entity={entity}/year=2024/month=01/day=02"
    folder.mkdir(parents=True)
    name = f"fleet-{entity.lower()}-1-2024-01-02-23-59-59-ce779e21-d7cd-4597-ae5f-52442009ec9a"
    with (folder / name).open("w", encoding="utf-8") as file:
        number = 0x20000000
        for _, part in sorted(uploads, key=lambda upload: upload[0]):
            for at, fields in part:
                number += 1
                moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                more = {"version": f"{number:016x}"} if entity == "StatusData" else {}
                file.write(json.dumps({"dateTime": moment, "id": f"b{number:X}", **fields, **more}, separators=(",", ":")) + "\n")


def drive(chance: random.Random, device: str, midnight: float, count: int) -> Iterator[Json]:
    """Positions of one vehicle: some seconds apart, in a direction that changes little."""
    at, latitude, longitude = chance.uniform(0, 10_000), chance.uniform(36, 69), chance.uniform(-9, 29)
    speed, north, east = 50.0, chance.uniform(-1, 1), chance.uniform(-1, 1)
    for _ in range(count):
        seconds = chance.uniform(1, 120)
        at += seconds
        speed = min(130, max(0, speed + chance.gauss(0, 8)))
        north, east = north * 0.95 + chance.gauss(0, 0.2), east * 0.95 + chance.gauss(0, 0.2)
        latitude, longitude = latitude + north * speed * seconds * 2e-6, longitude + east * speed * seconds * 3e-6
        place = {"latitude": round(latitude, 7), "longitude": round(longitude, 7), "speed": round(speed)}
        yield midnight + at % 86_000, {"device": {"id": device}} | place


def values(chance: random.Random, device: str, midnight: float, count: int) -> Iterator[Json]:
    """Readings of one vehicle: each diagnostic near its last value, with that diagnostic's step."""
    steps = {"EngineSpeed": 0.25, "Odometer": 100, "FuelLevel": 0.4, "CoolantTemperature": 1, "BatteryVoltage": 0.05, "EngineHours": 60}
    last, at = {name: chance.randint(100, 10_000) for name in steps}, chance.uniform(0, 10_000)
    for _ in range(count):
        name = chance.choice(list(steps))
        at += chance.uniform(1, 120)
        last[name] += chance.randint(0, 9) if name in ("Odometer", "EngineHours") else chance.randint(-20, 20)
        what = {"device": {"id": device}, "diagnostic": {"id": f"Diagnostic{name}Id"}, "controller": "ControllerNoneId"}
        yield midnight + at % 86_000, what | {"data": round(last[name] * steps[name], 3)}


# --- size ---------------------------------------------------------------------------------------


def chunks(files: list[Path]) -> dict[str, int]:
    """Compressed bytes by column."""
    sizes: dict[str, int] = defaultdict(int)
    for path in files:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(at)
                sizes[chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
    return sizes


def by_duckdb(files: list[Path], out: Path) -> Path:
    names = ", ".join(f"'{path}'" for path in files)
    duckdb.sql(f"COPY (FROM read_parquet([{names}], hive_partitioning = false)) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
    return out


def size(table: Silver, folder: Path) -> Json:
    one = [by_duckdb(table.files, folder / "one.parquet")]
    each = [by_duckdb([path], folder / f"{number}.parquet") for number, path in enumerate(table.files)]
    names = set(contract(table.entity))
    result = {"entity": table.name, "rows": table.rows, "number": len(table.files), "bronze": table.bronze}
    for writer, files in {"etl": table.files, "one": one, "each": each}.items():
        sizes = chunks(files)
        of_contract = sum(bytes_ for name, bytes_ in sizes.items() if name in names)
        whole = sum(path.stat().st_size for path in files)
        result[writer] = {"columns": sizes, "all": sum(sizes.values()), "contract": of_contract, "files": whole}
    for path in one + each:
        path.unlink()
    return result


def report_size(results: list[Json], worst: int) -> None:
    def ratio(one: Json, what: str, other: str) -> str:
        return f"{one['etl'][what] / one[other][what]:.3f}"

    rows = []
    for one in results:
        row = [one["entity"], f"{one['rows']:,}", f"{one['number']:,}"]
        row += [f"{one['etl']['contract'] / one['bronze']:.4f}", f"{one['one']['contract'] / one['bronze']:.4f}"]
        row += [ratio(one, what, other) for what in ("contract", "all", "files") for other in ("one", "each")]
        rows.append(row)
    what = ("contract", "all", "files")
    head = ["", "rows", "files", "etl / bronze", "DuckDB / bronze", *(f"{name}, {other}" for name in what for other in ("one", "each"))]
    print("\n" + markdown(head, rows))
    print("\n`/ bronze`: contract columns per bronze byte. Then etl's bytes divided by DuckDB's.\n")
    rows = []
    for one in results:
        ours, theirs = one["etl"]["columns"], one["one"]["columns"]
        for name in sorted(ours, key=lambda name: theirs[name] - ours[name])[:worst]:
            lost = (ours[name] - theirs[name]) / one["one"]["all"]
            if lost > 0.0005:
                technical = "" if name in contract(one["entity"].removesuffix("*")) else " (technical)"
                bytes_ = [f"{sizes[name]:,}" for sizes in (ours, theirs, one["each"]["columns"])]
                rows.append([f"{one['entity']}, {name}{technical}", *bytes_, f"{lost * 100:.1f} %"])
    print(markdown(["worst columns", "etl, bytes", "DuckDB, one file", "DuckDB, each", "of DuckDB's all"], rows), flush=True)


# --- encodings ----------------------------------------------------------------------------------


def arrays(array: pa.Array) -> Iterator[pa.Array]:
    """The leaves of a nested array, in Parquet's order."""
    if pa.types.is_map(array.type):
        yield from arrays(array.keys)
        yield from arrays(array.items)
    elif pa.types.is_list(array.type):
        yield from arrays(array.flatten())
    elif pa.types.is_struct(array.type):
        for inner in array.flatten():
            yield from arrays(inner)
    else:
        yield array


def kind(path: str, physical: str, key: list[str], type_: pa.DataType) -> str:
    if path == ORDER:
        return "order"
    if path in STEADY:
        return "steady"
    if key == [path]:
        return "key"
    if pa.types.is_timestamp(type_):
        return "timestamp"
    return {"BYTE_ARRAY": "text", "DOUBLE": "number", "BOOLEAN": "boolean"}.get(physical, "integer")


def written(rows: pa.Table, level: int, page: int, columns: dict[str, str]) -> tuple[pa.Buffer, float]:
    """The rows as Parquet, and the CPU seconds; columns are given as leaves and their encodings."""
    dictionaries = [path for path, encoding in columns.items() if encoding == DICTIONARY]
    others = {path: encoding for path, encoding in columns.items() if encoding != DICTIONARY}
    sink, started = pa.BufferOutputStream(), time.process_time()
    pq.write_table(
        rows,
        sink,
        row_group_size=max(1, rows.num_rows),
        compression="zstd",
        compression_level=level,
        max_rows_per_page=page,
        use_dictionary=dictionaries or False,
        column_encoding=others or None,
        store_schema=False,
        store_decimal_as_integer=True,
    )
    return sink.getvalue(), time.process_time() - started


def leaves(rows: pa.Table, key: list[str]) -> list[Leaf]:
    file, _ = written(rows.slice(0, 0), 1, PAGE_ROWS, {})
    schema = pq.ParquetFile(pa.BufferReader(file)).schema
    first = [array for column in rows.slice(0, PAGE_ROWS).itercolumns() for array in arrays(column.combine_chunks())]
    found = []
    for at, array in enumerate(first):
        path, physical = schema.column(at).path, schema.column(at).physical_type
        values_ = array.drop_null()
        distinct = pc.count_distinct(values_).as_py() / max(1, len(values_))
        found.append(Leaf(path, path.split(".")[0], kind(path, physical, key, array.type), physical, distinct))
    return found


def orders(rows: pa.Table, key: list[str], event_time: str | None) -> dict[str, pa.Table]:
    by = {"key": key}
    if event_time and "device" in rows.column_names and key != ["device", event_time]:
        by["device, time"] = ["device", event_time]
    return {"arrival": rows} | {name: rows.sort_by([(column, "ascending") for column in columns]) for name, columns in by.items()}


def attempt(column: pa.Table, level: int, page: int, encodings: dict[str, str], rounds: int) -> dict[str, Cost]:
    """What one column costs, by its leaves."""
    writes, reads = [], []
    for _ in range(rounds):
        file, seconds = written(column, level, page, encodings)
        writes.append(seconds)
        started = time.process_time()
        pq.ParquetFile(pa.BufferReader(file)).read(use_threads=False)
        reads.append(time.process_time() - started)
    group = pq.ParquetFile(pa.BufferReader(file)).metadata.row_group(0)
    sizes = {group.column(at).path_in_schema: group.column(at).total_compressed_size for at in range(group.num_columns)}
    whole = max(1, sum(sizes.values()))
    return {path: Cost(bytes_, min(writes) * bytes_ / whole, min(reads) * bytes_ / whole) for path, bytes_ in sizes.items()}


def bakeoff(args: Namespace, table: Silver, folder: Path) -> tuple[list[Tried], Json]:
    largest = max(table.files, key=lambda path: path.stat().st_size)
    rows = pq.ParquetFile(largest).read().combine_chunks()
    key, event_time = job(table.entity)
    found = leaves(rows, key)
    tried: list[Tried] = []
    in_orders = orders(rows, key, event_time)
    for order, ordered in in_orders.items():
        for level, page in [(level, PAGE_ROWS) for level in args.levels] + [(args.levels[0], page) for page in PAGES[1:]]:
            for name in rows.column_names:
                inside = [leaf for leaf in found if leaf.column == name]
                tried += attempts(table.name, order, ordered.select([name]), inside, level, page, args.rounds)
    checks = []
    for order, ordered in in_orders.items():
        for name, choose in CHOICES.items():
            for level in args.levels:
                cost = by_arrow_rs(ordered, folder / "arrow-rs", level, {leaf.path: choose(leaf) for leaf in found}, args.rounds)
                checks.append({"order": order, "choice": name, "level": level, **asdict(cost)})
    by_duckdb([largest], folder / "largest.parquet")
    others = {"etl": chunks([largest]), "duckdb": chunks([folder / "largest.parquet"])}
    (folder / "largest.parquet").unlink()
    print(f"{table.name}: {rows.num_rows:,} rows tried", flush=True)
    return tried, {"entity": table.name, "rows": rows.num_rows, "arrow-rs": checks, **others}


def attempts(entity: str, order: str, column: pa.Table, inside: list[Leaf], level: int, page: int, rounds: int) -> Iterator[Tried]:
    """One column in every encoding; the leaves of a nested one take turns side by side."""
    for turn in range(max(len(ENCODINGS[leaf.physical]) for leaf in inside)):
        trying = [leaf for leaf in inside if turn < len(ENCODINGS[leaf.physical])]
        encodings = {leaf.path: ENCODINGS[leaf.physical][min(turn, len(ENCODINGS[leaf.physical]) - 1)] for leaf in inside}
        costs = attempt(column, level, page, encodings, rounds)
        yield from (Tried(entity, order, level, page, leaf, encodings[leaf.path], costs[leaf.path]) for leaf in trying)


def by_arrow_rs(rows: pa.Table, folder: Path, level: int, columns: dict[str, str], rounds: int) -> Cost:
    """The same by the library that etl writes with."""

    def of(encoding: str) -> Any:
        return ColumnProperties(dictionary_enabled=True) if encoding == DICTIONARY else ColumnProperties(False, encoding=encoding)

    properties = WriterProperties(
        compression="ZSTD",
        compression_level=level,
        data_page_row_count_limit=PAGE_ROWS,
        write_batch_size=PAGE_ROWS,
        max_row_group_size=max(1, rows.num_rows),
        column_properties={path: of(encoding) for path, encoding in columns.items()},
    )
    writes, reads, sizes = [], [], []
    for number in range(rounds):
        out = folder / str(number)
        started = time.process_time()
        write_deltalake(str(out), rows, writer_properties=properties)
        writes.append(time.process_time() - started)
        files = list(out.rglob("*.parquet"))
        started = time.process_time()
        for path in files:
            pq.ParquetFile(path).read(use_threads=False)
        reads.append(time.process_time() - started)
        sizes.append(sum(chunks(files).values()))
        shutil.rmtree(out)
    return Cost(sizes[0], min(writes), min(reads))


def current(leaf: Leaf) -> str:
    """As src/silver/write.rs chooses; it names columns, so leaves of nested ones have dictionaries."""
    if leaf.physical == "BOOLEAN":
        return PLAIN
    if leaf.path == leaf.column:
        if leaf.kind in ("order", "key") and leaf.physical == "BYTE_ARRAY":
            return FRONT
        if leaf.kind in ("steady", "timestamp"):
            return PACKED
    return DICTIONARY


def proposed(leaf: Leaf) -> str:
    if leaf.physical == "BOOLEAN":
        return PLAIN
    if leaf.distinct < (MANY_TEXTS if leaf.physical == "BYTE_ARRAY" else MANY):
        return DICTIONARY
    return {"BYTE_ARRAY": FRONT, "DOUBLE": PLAIN}.get(leaf.physical, PACKED)


def split(leaf: Leaf) -> str:
    encoding = proposed(leaf)
    return SPLIT if encoding in (PLAIN, PACKED) and leaf.kind in ("number", "integer", "timestamp") else encoding


CHOICES: dict[str, Choose] = {"current": current, "proposed": proposed, "split": split}


# --- what came of it ----------------------------------------------------------------------------

Place = tuple[str, str, int, int]  # entity, order, level, rows of a page


def chosen(tried: list[Tried]) -> dict[str, dict[Place, Cost]]:
    """Totals of each choice."""
    by_leaf: dict[tuple[Place, Leaf], dict[str, Cost]] = defaultdict(dict)
    for one in tried:
        by_leaf[(one.entity, one.order, one.level, one.page), one.leaf][one.encoding] = one.cost
    totals: dict[str, dict[Place, Cost]] = {name: defaultdict(Cost) for name in [*CHOICES, "best"]}
    for (place, leaf), costs in by_leaf.items():
        for name, choose in CHOICES.items():
            totals[name][place] += costs[choose(leaf)]
        totals["best"][place] += min(costs.values(), key=lambda cost: cost.bytes)
    return totals


def told(cost: Cost) -> str:
    return f"{cost.bytes / MIB:.3f} ({cost.write:.2f}, {cost.read:.2f})"


def report_bakeoff(args: Namespace, tried: list[Tried], files: list[Json]) -> None:
    report_totals(args, tried)
    report_arrow_rs(args, files)
    report_ratios(args, tried, files)
    report_kinds(args, tried)
    report_columns(args, tried)


def report_totals(args: Namespace, tried: list[Tried]) -> None:
    totals = chosen(tried)
    rows = []
    for entity, order in dict.fromkeys((one.entity, one.order) for one in tried):
        places = [(level, PAGE_ROWS) for level in args.levels] + [(args.levels[0], page) for page in PAGES[1:]]
        cells = [" / ".join(f"{of[entity, order, *place].bytes / MIB:.2f}" for of in totals.values()) for place in places]
        rows.append([f"{entity}, {order}", *cells])
    head = [f"MiB: {' / '.join(totals)}", *(f"zstd {level}" for level in args.levels)]
    print("\n" + markdown([*head, *(f"zstd {args.levels[0]}, {page:,} rows a page" for page in PAGES[1:])], rows))


def report_arrow_rs(args: Namespace, files: list[Json]) -> None:
    """Sums over entities, and over those that can be put in the order of devices."""
    placed = [file for file in files if any(one["order"] == "device, time" for one in file["arrow-rs"])]
    sums = {"all, arrival": (files, "arrival"), "all, key": (files, "key")}
    sums |= {"with devices, arrival": (placed, "arrival"), "with devices, device, time": (placed, "device, time")}
    rows = []
    for title, (some, order) in sums.items():
        for name in CHOICES:
            costs: dict[int, Cost] = defaultdict(Cost)
            for one in (one for file in some for one in file["arrow-rs"] if (one["order"], one["choice"]) == (order, name)):
                costs[one["level"]] += Cost(one["bytes"], one["write"], one["read"])
            rows.append([f"{title}, {name}", *(told(costs[level]) for level in args.levels)])
    print("\n" + markdown(["arrow-rs: MiB (CPU seconds to write, to read)", *(f"zstd {level}" for level in args.levels)], rows))
    wrote = sum(sum(file["etl"].values()) for file in files)
    print(f"\netl itself wrote {wrote / MIB:.3f} MiB of these rows, in order of arrival, with what is current.")


def report_ratios(args: Namespace, tried: list[Tried], files: list[Json]) -> None:
    rows = []
    for file in files:
        of_contract = set(contract(file["entity"].removesuffix("*")))
        here = [one for one in tried if (one.entity, one.order, one.page) == (file["entity"], "arrival", PAGE_ROWS)]
        some = chosen([one for one in here if one.leaf.column in of_contract]), chosen(here)
        theirs = sum(size for name, size in file["duckdb"].items() if name in of_contract), sum(file["duckdb"].values())
        row = [file["entity"], f"{file['rows']:,}"]
        for name, level in [("current", args.levels[0]), *(("proposed", level) for level in args.levels), ("split", args.levels[0])]:
            pair = [of[name][file["entity"], "arrival", level, PAGE_ROWS].bytes / other for of, other in zip(some, theirs, strict=True)]
            row.append(" / ".join(f"{ratio:.3f}" for ratio in pair))
        rows.append(row)
    head = [f"current, zstd {args.levels[0]}", *(f"proposed, zstd {level}" for level in args.levels), f"split, zstd {args.levels[0]}"]
    print("\n" + markdown(["bytes of DuckDB's: contract / all", "rows", *head], rows))


def report_kinds(args: Namespace, tried: list[Tried]) -> None:
    kinds: dict[str, dict[str, Cost]] = defaultdict(lambda: defaultdict(Cost))
    for one in tried:
        if (one.order, one.level, one.page) == ("arrival", args.levels[0], PAGE_ROWS):
            many = one.leaf.distinct >= (MANY_TEXTS if one.leaf.physical == "BYTE_ARRAY" else MANY)
            kinds[f"{one.leaf.kind}, {'many' if many else 'few'}"][one.encoding] += one.cost
    rows = [[name, *(told(costs[encoding]) if encoding in costs else "" for encoding in ALL)] for name, costs in sorted(kinds.items())]
    many = f"{MANY * 100:g} % ({MANY_TEXTS * 100:g} % of texts) or more of the first rows' values differ"
    print(f"\nAll entities, order of arrival, zstd {args.levels[0]}, pyarrow. `many`: {many}.\n")
    print(markdown(["MiB (CPU seconds to write, to read)", *ALL], rows))


def report_columns(args: Namespace, tried: list[Tried]) -> None:
    level, totals, rows = args.levels[0], chosen(tried), []
    for entity in dict.fromkeys(one.entity for one in tried):
        whole = totals["current"][entity, "arrival", level, PAGE_ROWS].bytes
        by_leaf: dict[Leaf, dict[str, dict[str, Cost]]] = defaultdict(lambda: defaultdict(dict))
        for one in tried:
            if (one.entity, one.level, one.page) == (entity, level, PAGE_ROWS):
                by_leaf[one.leaf][one.order][one.encoding] = one.cost
        for leaf, in_orders in by_leaf.items():
            now = in_orders["arrival"][current(leaf)].bytes
            least = {order: min(costs, key=lambda encoding: costs[encoding].bytes) for order, costs in in_orders.items()}
            if max(now - in_orders[order][encoding].bytes for order, encoding in least.items()) > whole * args.gain:
                best = [f"{order}: {encoding} {in_orders[order][encoding].bytes:,.0f}" for order, encoding in least.items()]
                new = f"{proposed(leaf)} {in_orders['arrival'][proposed(leaf)].bytes:,.0f}"
                shares = [f"{leaf.distinct:.2f}", f"{now / whole * 100:.1f} %"]
                rows.append([f"{entity}, {leaf.path}", *shares, f"{current(leaf)} {now:,.0f}", new, "; ".join(best)])
    print(f"\nColumns that could save more than {args.gain * 100:g} % of their file, zstd {level}, bytes.\n")
    print(markdown(["", "distinct", "of the file", "current", "proposed", "best"], rows), flush=True)


def main() -> int:
    assert __doc__
    parser: ArgumentParser = measure.arguments(__doc__, rounds=2)
    parser.add_argument("steps", nargs="*", metavar="step", help="size, bakeoff [default: both]")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: that of the program's build]")
    parser.add_argument("--entities", type=lambda text: text.split(","), default=GENERATED + MOVING)
    parser.add_argument("--records", type=int, default=150_000, help="of each entity")
    parser.add_argument("--days", type=int, default=1, help="on which they arrive")
    parser.add_argument("--levels", type=lambda text: [int(level) for level in text.split(",")], default=[1, 3, 6, 9], help="of zstd")
    parser.add_argument("--worst", type=int, default=5, help="columns of an entity that are told")
    parser.add_argument("--gain", type=float, default=0.005, help="least share of a file that a column must save to be told")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    args = parser.parse_args()
    steps = args.steps or STEPS
    if unknown := [step for step in steps if step not in STEPS] + [name for name in args.entities if name not in GENERATED + MOVING]:
        parser.error(f"unknown: {', '.join(unknown)}")
    measure.require(args.etl, measure.generator(args))
    sizes: list[Json] = []
    tried: list[Tried] = []
    files: list[Json] = []
    with measure.scratch(args) as folder:
        for name in args.entities:
            table = silver(args, folder, name)
            if "size" in steps:
                sizes.append(size(table, folder))
            if "bakeoff" in steps:
                more, file = bakeoff(args, table, folder)
                tried += more
                files.append(file)
            if not args.keep:
                shutil.rmtree(folder / f"{name}-silver")
    if sizes:
        report_size(sizes, args.worst)
    if tried:
        report_bakeoff(args, tried, files)
    if args.json:
        args.json.write_text(json.dumps({"size": sizes, "bakeoff": [asdict(one) for one in tried], "files": files}), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
