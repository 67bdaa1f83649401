"""The steps of tables.py that need DuckDB, deltalake or Sail, each in a process of its own: tables_steps.py <step> <JSON>.

Every value of the table is a function of the record's number, and a file holds consecutive numbers of one day. Ids are scattered: those of
every file, and so of every day, span the same range.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, WriterProperties
from upsert_steps import CONTRACT, write_json
from upsert_steps import path as bronze_path

Json = Any

FIRST_DAY = date(2025, 1, 1)
DATABASE = "fleetdb_de"
PARTITIONS = ["database", "event_date"]
ROWS_AT_ONCE = 200_000
TYPES = {
    "string": "VARCHAR",
    "timestamp": "TIMESTAMPTZ",
    "date": "DATE",
    "integer": "INTEGER",
    "long": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
}
# As etl encodes its columns; those that are not named here are looked up in dictionaries.
ENCODINGS = {
    "id": "DELTA_BYTE_ARRAY",
    **dict.fromkeys(["at", "_ingested_at", "_source_offset", "_source_length", "_schema_version"], "DELTA_BINARY_PACKED"),
    **dict.fromkeys(["year", "month", "day"], "DELTA_BINARY_PACKED"),
}
BOUND = 64  # characters of a text in the statistics


@dataclass(frozen=True)
class Shape:
    """`files` of `rows` each: consecutive files of a day are a `files/days` of all."""

    files: int
    rows: int
    days: int

    def day(self, file: int) -> date:
        return FIRST_DAY + timedelta(days=file * self.days // self.files)

    def columns(self) -> dict[str, str]:
        """What the columns hold, by the record's number `i`."""
        day = f"(i // {self.rows} * {self.days} // {self.files})"
        return {
            "id": "printf('b%08x', (i * 2654435761) % 4294967296)",  # one to one below 2^32
            "at": f"make_timestamp(1735689600000000 + {day} * 86400000000 + (hash(i) % 86400000)::BIGINT * 1000)",
            "device": "printf('b%x', i % 5003)",
            "kind": "['ignition', 'speed', 'idle', 'tow'][1 + (hash(i, 1) % 4)::INTEGER]",
            "value": "(hash(i, 2) % 4000000)::DOUBLE / 4",
            "count": "(hash(i, 3) % 100)::BIGINT",
            "latitude": "(hash(i, 4) % 900000000)::DOUBLE / 1e7",
            "longitude": "(hash(i, 5) % 1800000000)::DOUBLE / 1e7",
            "active": "hash(i, 6) % 2 = 0",
        }

    def records(self, first: int, end: int) -> str:
        """A query of the records of these files."""
        listed = ", ".join(f'{expression} AS "{name}"' for name, expression in self.columns().items())
        return f"SELECT {listed}, i FROM range({first * self.rows}, {end * self.rows}) t(i)"


# --- building a table ---------------------------------------------------------------------------


def bronze(bronze: str, shape: Json, file: int) -> Json:
    """The bronze object of which etl makes one file: that of number 0 with the table; those past the last are of the day after."""
    whole = Shape(**shape)
    write_json(f"SELECT * EXCLUDE (i) FROM ({whole.records(file, file + 1)})", object_path(bronze, whole.day(file), file))
    return {}


def object_path(bronze: str, day: date, file: int) -> Path:
    assert day.year == FIRST_DAY.year, f"{day} is not of the year of bronze"
    return bronze_path(bronze, day.month, day.day, file)


@dataclass(frozen=True)
class Commits:
    """Some of the commits that follow etl's own: one of `each` files is version `version`, the next one the next version."""

    table: str
    shape: Shape
    fields: dict[str, str]  # of the table's schema
    txn: Json  # of etl's commit: what follows repeats it, for the ledger knows of no other
    first: int  # file
    end: int
    each: int
    version: int


def build(table: str, shape: Json, each: int, checkpoint: bool, tail: int) -> Json:
    """Adds all files but the first, `each` with a commit; `tail` commits come after the checkpoint."""
    whole = Shape(**shape)
    log = Path(table, "_delta_log")
    head = [json.loads(line) for version in sorted(log.glob("*.json")) for line in version.read_text("utf-8").splitlines()]
    metadata = next(action["metaData"] for action in head if "metaData" in action)
    assert metadata["partitionColumns"] == PARTITIONS, metadata["partitionColumns"]
    fields = {field["name"]: field["type"] for field in json.loads(metadata["schemaString"])["fields"]}
    txn = next(action for action in head if "txn" in action)
    version = len(list(log.glob("*.json")))
    at_once = each * max(1, ROWS_AT_ONCE // whole.rows // each)
    work = [
        Commits(table, whole, fields, txn, low, min(low + at_once, whole.files), each, version + (low - 1) // each)
        for low in range(1, whole.files, at_once)
    ]
    for day in {whole.day(file) for file in range(whole.files)}:
        partition(table, day).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        newest = max(pool.map(commit_some, work), default=version - 1)
    if checkpoint:
        DeltaTable(table, version=max(newest - tail, 1)).create_checkpoint()
    return {"version": newest}


def partition(table: str, day: date) -> Path:
    return Path(table, f"database={DATABASE}", f"event_date={day}")


def commit_some(work: Commits) -> int:
    """Writes the files and then the commits that name them; returns the last version."""
    now = datetime.now(UTC)
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    batches = {low: str(uuid.uuid4()) for low in range(work.first, work.end, work.each)}
    connection.register("batches", pa.table({"low": list(batches), "batch": list(batches.values())}))
    low = f"{work.first} + (file - {work.first}) // {work.each} * {work.each}"
    technical = {
        "database": f"'{DATABASE}'",
        "event_date": '"at"::DATE',
        "year": 'year("at")',
        "month": 'month("at")',
        "day": 'day("at")',
        "_source_file": f"""'database={DATABASE}/entity=Bench/' || strftime("at", 'year=%Y/month=%m/day=%d/bench-1-%Y-%m-%d-00-00-00-')
            || printf('%06d', file) || '.json'""",
        "_source_offset": f"(i % {work.shape.rows}) * 168",
        "_source_length": "160 + i % 8",
        "_schema_version": "1",
        "_batch": "batch",
        "_ingested_at": f"'{now.isoformat()}'",
        "_rescued": "NULL",
    }
    records = f"SELECT *, i // {work.shape.rows} AS file FROM ({work.shape.records(work.first, work.end)})"
    values = technical | {name: f'"{name}"' for name in CONTRACT}
    assert not set(work.fields) - set(values), f"columns of the table that nobody fills: {set(work.fields) - set(values)}"
    columns = [f'({values[name]})::{TYPES[kind]} AS "{name}"' for name, kind in work.fields.items()]
    connection.execute(f"CREATE TABLE rows AS SELECT file, {', '.join(columns)} FROM ({records}) JOIN batches ON low = {low} ORDER BY i")
    statistics = statistics_of(connection, work.fields)
    stored = [name for name in work.fields if name not in PARTITIONS]
    quoted = ", ".join(f'"{name}"' for name in stored)
    rows = connection.sql(f"SELECT {quoted} FROM rows").to_arrow_table()
    looked_up = [name for name in stored if name not in ENCODINGS and work.fields[name] != "boolean"]
    version = work.version
    for low_file, batch in batches.items():
        adds = []
        for file in range(low_file, min(low_file + work.each, work.end)):
            path = partition(work.table, work.shape.day(file)) / f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
            part = rows.slice((file - work.first) * work.shape.rows, work.shape.rows)
            pq.write_table(
                part,
                path,
                compression="zstd",
                compression_level=1,
                use_dictionary=looked_up,
                column_encoding={name: ENCODINGS[name] for name in stored if name in ENCODINGS},
                write_page_index=True,
            )
            adds.append(add_of(work, path, file, statistics[file], now))
        info = {
            "timestamp": int(now.timestamp() * 1000),
            "operation": "WRITE",
            "operationParameters": {"mode": "Append"},
            "isBlindAppend": False,
            "engineInfo": "silversmith/bench",
            "operationMetrics": {"numFiles": str(len(adds))},
            "etlBatch": batch,
        }
        actions = [{"commitInfo": info}, work.txn, *adds]
        text = "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
        Path(work.table, "_delta_log", f"{version:020}.json").write_text(text + "\n", "utf-8")
        version += 1
    return version - 1


def add_of(work: Commits, path: Path, file: int, statistics: str, now: datetime) -> Json:
    return {
        "add": {
            "path": str(path.relative_to(work.table)),
            "partitionValues": {"database": DATABASE, "event_date": str(work.shape.day(file))},
            "size": path.stat().st_size,
            "modificationTime": int(now.timestamp() * 1000),
            "dataChange": True,
            "stats": statistics,
            "tags": None,
            "baseRowId": None,
            "defaultRowCommitVersion": None,
            "clusteringProvider": None,
        }
    }


def statistics_of(connection: Any, fields: dict[str, str]) -> dict[int, str]:
    """Delta's statistics of the files in `rows`."""
    names = [name for name in fields if name not in PARTITIONS]

    def bound(function: str, name: str) -> str:
        value = f'{function}("{name}")'
        return f"strftime({value}, '%Y-%m-%dT%H:%M:%S.%gZ')" if fields[name] == "timestamp" else value

    parts = [part for name in names for part in (bound("min", name), bound("max", name), f'count(*) - count("{name}")')]
    found = {}
    for file, rows, *values in connection.execute(f"SELECT file, count(*), {', '.join(parts)} FROM rows GROUP BY file").fetchall():
        columns = dict(zip(names, zip(values[::3], values[1::3], values[2::3], strict=True), strict=True))
        told = {
            "numRecords": rows,
            "minValues": {name: cut(low, 0) for name, (low, _, _) in columns.items() if low is not None},
            "maxValues": {name: cut(high, 1) for name, (_, high, _) in columns.items() if high is not None},
            "nullCount": {name: nulls for name, (_, _, nulls) in columns.items()},
        }
        found[file] = json.dumps(told, separators=(",", ":"))
    return found


def cut(value: Json, more: int) -> Json:
    """A bound that is not too long; a cut one that must not be exceeded ends with the next character."""
    if not isinstance(value, str) or len(value) <= BOUND:
        return value
    return value[: BOUND - 1] + chr(ord(value[BOUND - 1]) + more)


# --- reading ------------------------------------------------------------------------------------


def live(table: str) -> Json:
    """What the newest snapshot names, and how long a Delta reader takes to know it."""
    began, read = time.monotonic(), bytes_read()
    delta = DeltaTable(table)
    opened = time.monotonic()
    sizes = pa.table(delta.get_add_actions(flatten=True))["size_bytes"].to_pylist()
    ended = time.monotonic()
    opening = {"seconds": ended - began, "open": opened - began, "read": bytes_read() - read}
    return opening | {"version": delta.version(), "files": len(sizes), "bytes": sum(sizes)}


def check(table: str) -> Json:
    """Rows, a sum over the hashes of all contract columns, and how many rows lie in another day's partition."""
    columns = ", ".join(f'"{name}"' if name != "at" else 'epoch_us("at")' for name in CONTRACT)
    files = [uri.removeprefix("file://") for uri in DeltaTable(table).file_uris()]
    found = duckdb.execute(f"""SELECT count(*), sum(hash({columns})::HUGEINT)::VARCHAR, count(*) FILTER (event_date <> "at"::DATE)
        FROM read_parquet({files}, hive_partitioning = true, hive_types = {{'event_date': DATE}})""").fetchone()
    assert found is not None
    return list(found)


def keys(shape: Json, lookups: int) -> Json:
    """Keys of different files, and their days."""
    whole = Shape(**shape)
    step = whole.files * whole.rows // lookups
    numbers = [step // 3 + number * step for number in range(lookups)]
    columns = whole.columns()
    query = f"""SELECT {columns["id"]}, ({columns["at"]})::DATE::VARCHAR FROM (SELECT unnest({numbers}) AS i)"""
    return duckdb.execute(query).fetchall()


SCAN = """SELECT kind, count(*), sum(value), avg(latitude), max(longitude), sum({q}count{q}), min({q}at{q})
    FROM {source} GROUP BY kind ORDER BY kind"""
LOOKUP = "SELECT * FROM {source} WHERE database = '{database}' AND event_date = DATE '{day}' AND id = '{id}'"


def bytes_read() -> int:
    """Bytes that this process asked the kernel for, cached or not."""
    return int(Path("/proc/self/io").read_text("ascii").split()[1])


@contextmanager
def measured(costs: list[Json]) -> Iterator[None]:
    began, read, cpu = time.monotonic(), bytes_read(), cpu_seconds()
    yield
    costs.append({"seconds": time.monotonic() - began, "read": bytes_read() - read, "cpu": cpu_seconds() - cpu})


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def answer(costs: list[Json], found: list[Any]) -> Json:
    return {"costs": costs, "found": found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def duckdb_scan(table: str, threads: int, wanted: Json) -> Json:
    connection, source = duckdb_table(table, threads)
    costs: list[Json] = []
    with measured(costs):
        rows = connection.sql(SCAN.format(q='"', source=source())).to_arrow_table()
    return answer(costs, list(zip(*(column.to_pylist() for column in rows.columns[:2]), strict=True)))


def duckdb_lookup(table: str, threads: int, wanted: Json) -> Json:
    connection, source = duckdb_table(table, threads)
    costs: list[Json] = []
    found = []
    for id, day in wanted:
        with measured(costs):
            row = connection.sql(LOOKUP.format(source=source(id, day), database=DATABASE, day=day, id=id)).to_arrow_table()
        found += row["id"].to_pylist()
    return answer(costs, found)


def duckdb_table(table: str, threads: int) -> tuple[Any, Any]:
    """A connection and what to read from: delta_scan, or the files that the statistics of the log do not rule out.

    The log is read before a query is measured.
    """
    connection = duckdb.connect(config={"threads": threads, "autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    try:
        connection.execute("LOAD delta")
        connection.execute(f"ATTACH '{table}' AS attached (TYPE delta, PIN_SNAPSHOT)")
        connection.execute("SELECT count(*) FROM attached WHERE database = ''")
        return connection, lambda id="", day="": "attached"
    except duckdb.Error:
        pass
    connection.register("given", pa.table(DeltaTable(table).get_add_actions(flatten=True)))
    connection.execute("""CREATE TABLE adds AS
        SELECT path, "partition.event_date"::DATE AS day, "min.id" AS low, "max.id" AS high FROM given""")

    def source(id: str = "", day: str = "") -> str:
        held = f"WHERE day = DATE '{day}' AND low <= '{id}' AND high >= '{id}'" if id else ""
        files = [f"{table}/{path}" for (path,) in connection.execute(f"SELECT path FROM adds {held}").fetchall()]
        return f"read_parquet({files}, hive_partitioning = true, hive_types = {{'database': VARCHAR, 'event_date': DATE}})"

    return connection, source


def sail_scan(table: str, threads: int, wanted: Json) -> Json:
    costs: list[Json] = []
    with sail(table) as session, measured(costs):
        found = session.sql(SCAN.format(q="`", source="bench")).collect()
    return answer(costs, [(row[0], row[1]) for row in found])


def sail_lookup(table: str, threads: int, wanted: Json) -> Json:
    costs: list[Json] = []
    found = []
    with sail(table) as session:
        for id, day in wanted:
            with measured(costs):
                found += session.sql(LOOKUP.format(source="bench", database=DATABASE, day=day, id=id)).collect()
    return answer(costs, [row["id"] for row in found])


@contextmanager
def sail(table: str) -> Iterator[Any]:
    """A Sail server within this process; it reads the log when it loads the table."""
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer()
    server.start(background=True)
    host, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
    session.read.format("delta").load(table).createOrReplaceTempView("bench")
    session.sql("SELECT 1").collect()
    yield session
    session.stop()
    server.stop()


# --- deltalake's optimize -----------------------------------------------------------------------


def compact(table: str, target: int) -> Json:
    return optimized(table, lambda optimizer, options: optimizer.compact(target_size=target, **options))


def z_order(table: str, target: int, columns: list[str]) -> Json:
    return optimized(table, lambda optimizer, options: optimizer.z_order(columns, target_size=target, **options))


def optimized(table: str, call: Any) -> Json:
    """The call alone, at the compression that etl writes and on all cores; the table is open before."""
    optimizer = DeltaTable(table).optimize
    options = {"writer_properties": WriterProperties(compression="ZSTD", compression_level=1), "max_concurrent_tasks": os.cpu_count()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    costs: list[Json] = []
    with measured(costs):
        metrics = call(optimizer, options)
    return costs[0] | {"before": before, "metrics": metrics}


if __name__ == "__main__":
    duckdb.execute("SET TimeZone = 'UTC'")
    functions: list[Any] = [bronze, build, live, check, keys, duckdb_scan, duckdb_lookup, sail_scan, sail_lookup, compact, z_order]
    steps = {step.__name__: step for step in functions}
    print(json.dumps(steps[sys.argv[1]](**json.loads(sys.argv[2])), default=str))
