"""The steps of upsert.py that need DuckDB or deltalake, each in a process of its own: upsert_steps.py <step> <JSON>.

Every value of the table is a function of the record's number, so what a table must hold is known without reading it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.monotonic()

import duckdb  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from deltalake import DeltaTable  # noqa: E402

IMPORTED = time.monotonic()

Json = Any

DAYS = 30
ROWS_PER_OBJECT = 340_000  # about 64 MB
IDS = {
    "scattered": "printf('b%08x', (i * 2654435761) % 4294967296)",  # one to one below 2^32
    "rising": "printf('b%08x', i)",
}
CONTRACT = {
    "id": "VARCHAR",
    "at": "TIMESTAMP",
    "device": "VARCHAR",
    "kind": "VARCHAR",
    "value": "DOUBLE",
    "count": "BIGINT",
    "latitude": "DOUBLE",
    "longitude": "DOUBLE",
    "active": "BOOLEAN",
}


def records(rows: int, ids: str, numbers: str, raised: int = 0) -> str:
    """A query of the records with these numbers, typed; an update raises the value."""
    return f"""SELECT {IDS[ids]} AS id,
        make_timestamp(1735689600000000 + (i * {DAYS} // {rows}) * 86400000000 + (hash(i) % 86400000)::BIGINT * 1000) AS "at",
        printf('b%x', i % 5003) AS device,
        ['ignition', 'speed', 'idle', 'tow'][1 + (hash(i, 1) % 4)::INTEGER] AS kind,
        (hash(i, 2) % 4000000)::DOUBLE / 4 + {raised} AS value,
        (hash(i, 3) % 100)::BIGINT AS count,
        (hash(i, 4) % 900000000)::DOUBLE / 1e7 AS latitude,
        (hash(i, 5) % 1800000000)::DOUBLE / 1e7 AS longitude,
        hash(i, 6) % 2 = 0 AS active,
        FROM ({numbers})"""


def write_json(query: str, object_: Path) -> None:
    object_.parent.mkdir(parents=True, exist_ok=True)
    written = f"""SELECT * REPLACE (strftime("at", '%Y-%m-%dT%H:%M:%S.%gZ') AS "at") FROM ({query})"""
    duckdb.execute(f"COPY ({written}) TO '{object_}' (FORMAT json)")


def path(bronze: str, month: int, day: int, number: int) -> Path:
    folder = f"database=fleetdb_de/entity=Bench/year=2025/month={month:02}/day={day:02}"
    return Path(bronze) / folder / f"bench-1-2025-{month:02}-{day:02}-00-00-00-{number:06}.json"


def base(bronze: str, rows: int, ids: str) -> Json:
    """The bronze of the table: 30 days, in objects of about 64 MB."""
    size = 0
    for day in range(DAYS):
        low, end = (-(-rows * part // DAYS) for part in (day, day + 1))
        for number, first in enumerate(range(low, end, ROWS_PER_OBJECT)):
            object_ = path(bronze, 1, day + 1, number)
            write_json(records(rows, ids, f"FROM range({first}, {min(first + ROWS_PER_OBJECT, end)}) t(i)"), object_)
            size += object_.stat().st_size
    return {"bytes": size}


def update(bronze: str, source: str, rows: int, ids: str, shape: str, keys: int, objects: int) -> Json:
    """The changed records, in no order: as bronze objects of a later day, and as the table from which merge reads."""
    day = DAYS // 2
    low, end = (0, rows) if shape == "random" else (-(-rows * day // DAYS), -(-rows * (day + 1) // DAYS))
    duckdb.execute(f"CREATE TABLE chosen AS FROM range({low}, {end}) t(i) ORDER BY hash(i, 7) LIMIT {keys}")
    each = -(-keys // objects)
    size = 0
    for number in range(objects):
        object_ = path(bronze, 2, 1, number)
        write_json(records(rows, ids, f"FROM chosen LIMIT {each} OFFSET {number * each}", raised=1_000_000), object_)
        size += object_.stat().st_size
    changed = records(rows, ids, "FROM chosen", raised=1_000_000)
    duckdb.execute(f"COPY (SELECT {technical()} FROM ({changed})) TO '{source}' (FORMAT parquet)")
    dates = duckdb.execute(f'SELECT DISTINCT "at"::DATE::VARCHAR FROM ({changed}) ORDER BY 1').fetchall()
    before = records(rows, ids, f"FROM range({rows}) t(i) ANTI JOIN chosen USING (i)")
    return {"bytes": size, "dates": [date for (date,) in dates], "expected": checksum(f"{before} UNION ALL {changed}")}


def technical() -> str:
    """A record's columns and the technical ones, as the table has them."""
    return """id, "at" AT TIME ZONE 'UTC' AS "at", 'fleetdb_de' AS database, "at"::DATE AS event_date,
        2025::INTEGER AS year, 2::INTEGER AS month, 1::INTEGER AS day, * EXCLUDE (id, "at"),
        'merge' AS _source_file, 0::BIGINT AS _source_offset, 0::BIGINT AS _source_length, 1::INTEGER AS _schema_version,
        'merge' AS _batch, TIMESTAMPTZ '2025-02-01 00:00:00Z' AS _ingested_at, NULL::VARCHAR AS _rescued, 'merge' AS _order"""


def merge(table: str, source: str, dates: list[str]) -> Json:
    """deltalake's merge; the source is in memory before the clock starts, and the table is open."""
    return upsert(table, pq.read_table(source), dates)


def script(table: str, bronze: str, dates: list[str]) -> Json:
    """What a person would write instead: the same objects, read by DuckDB with their columns given, and merged."""
    columns = ", ".join(f"'{name}': '{type_}'" for name, type_ in CONTRACT.items())
    read = f"read_json('{bronze}/**/*.json', format = 'newline_delimited', hive_partitioning = false, columns = {{{columns}}})"
    data = duckdb.sql(f"SELECT {technical()} FROM {read}").to_arrow_table()
    return upsert(table, data, dates)


def upsert(table: str, data: pa.Table, dates: list[str]) -> Json:
    opening = time.monotonic()
    delta = DeltaTable(table)
    opened = time.monotonic()
    names = [field.name for field in delta.schema().fields]
    assert sorted(names) == sorted(data.column_names), f"{names} against {data.column_names}"
    data = data.select(names)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    literal = ", ".join(f"'{date}'" for date in dates)
    predicate = f"target.database = 'fleetdb_de' AND target.event_date IN ({literal}) AND target.id = source.id"
    began = time.monotonic()
    merger = delta.merge(data, predicate, source_alias="source", target_alias="target")
    metrics = merger.when_matched_update_all().when_not_matched_insert_all().execute()
    seconds = time.monotonic() - began
    return {"seconds": seconds, "import": IMPORTED - STARTED, "open": opened - opening, "before": before, "metrics": metrics}


def checksum(query: str) -> Json:
    """Rows, keys, and a sum over the hashes of all contract columns."""
    columns = ", ".join(f'"{name}"' if name != "at" else 'epoch_us("at")' for name in CONTRACT)
    found = duckdb.execute(f"SELECT count(*), count(DISTINCT id), sum(hash({columns})::HUGEINT)::VARCHAR FROM ({query})").fetchone()
    assert found is not None
    return list(found)


def check(table: str) -> Json:
    """What a table holds, by DuckDB on the files that the Delta log names."""
    files = DeltaTable(table).file_uris()
    return checksum(f"SELECT * FROM read_parquet({[uri.removeprefix('file://') for uri in files]}, hive_partitioning = false)")


if __name__ == "__main__":
    duckdb.execute("SET TimeZone = 'UTC'")
    steps = {step.__name__: step for step in (base, update, merge, script, check)}
    print(json.dumps(steps[sys.argv[1]](**json.loads(sys.argv[2]))))
