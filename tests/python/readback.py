"""Reads silver and quarantine back with two readers, and compares with what a case expects.

  readback.py compare <list.json>    a list of {"expected", "silver", "entity", "jobs", "schemas"}
  readback.py dump <table>           its rows in normal form as sorted JSON lines, to compare two runs

The readers are deltalake, and DuckDB on the files that the Delta log names. `compare` also checks the
schemas, partitioning, protocol and Add statistics. It exits 1 if anything differs.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

import reference

Json = Any
Row = dict[str, Json]

QUARANTINE = [
    ("code", "string"),
    ("path", "string"),
    ("message", "string"),
    ("schema_version", "integer"),
    ("source_file", "string"),
    ("source_offset", "long"),
    ("source_length", "long"),
    ("raw", "binary"),
    ("batch", "string"),
    ("quarantined_at", "timestamp"),
    ("database", "string"),
    ("year", "string"),
    ("month", "string"),
    ("day", "string"),
]
PER_RUN = {"_batch", "_ingested_at", "batch", "quarantined_at"}
NOT_EXPECTED = {*PER_RUN, "message", "schema_version"}
MILLISECOND = timedelta(milliseconds=1)


# --- reading ------------------------------------------------------------------------------------


def plain(type_: pa.DataType, found: Json) -> Json:
    """A value as Arrow hands it out, in normal form."""
    if found is None:
        return None
    if pa.types.is_struct(type_):
        return {inner.name: plain(inner.type, found[inner.name]) for inner in type_}
    if pa.types.is_map(type_):
        return {key: plain(type_.item_type, value) for key, value in found}
    if isinstance(found, list):
        return [plain(type_.value_type, value) for value in found]
    if isinstance(found, datetime):
        return found.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(found, date):
        return found.isoformat()
    if isinstance(found, Decimal):
        return format(found, "f")
    if isinstance(found, bytes):
        return base64.b64encode(found).decode()
    return found


def rows_of(table: pa.Table) -> list[Row]:
    types = {inner.name: inner.type for inner in table.schema}
    return [{name: plain(types[name], value) for name, value in row.items()} for row in table.to_pylist()]


def adds_of(table: DeltaTable) -> list[Row]:
    """The log's Add actions, with `file` as the file's local path."""
    root = table.table_uri.removeprefix("file://").rstrip("/")
    adds = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return [{**add, "file": f"{root}/{unquote(add['path'])}"} for add in adds]


def by_deltalake(table: DeltaTable) -> list[Row]:
    return rows_of(table.to_pyarrow_table())


def by_duckdb(table: DeltaTable) -> list[Row]:
    """DuckDB reads the files; partition values come from the log, as the protocol says."""
    adds = {add["file"]: add for add in adds_of(table)}
    if not adds:
        return []
    session = duckdb.connect()
    session.execute("SET TimeZone = 'UTC'")
    query = "SELECT * FROM read_parquet(?, filename = true, hive_partitioning = false, union_by_name = true)"
    rows = rows_of(session.sql(query, params=[list(adds)]).to_arrow_table())
    partitions = table.metadata().partition_columns
    for row in rows:
        add = adds[row.pop("filename")]
        row |= {name: plain(pa.null(), add[f"partition.{name}"]) for name in partitions}
    return rows


# --- comparing ----------------------------------------------------------------------------------


def canonical(contract: reference.Contract, row: Row) -> Row:
    """The row with its JSON texts parsed, so that rows compare by what the texts mean."""

    def walk(node: reference.Node, found: Json) -> Json:
        node = reference.resolve(contract.root, node)
        match reference.kind(node):
            case _ if found is None:
                return None
            case "json":
                return {"json": json.loads(found, parse_float=Decimal)}
            case "struct":
                return {name: walk(node["properties"].get(name, text), value) for name, value in found.items()}
            case "map":
                return {name: walk(reference.element(node), value) for name, value in found.items()}
            case "list":
                return [walk(reference.element(node), value) for value in found]
            case _:
                return found

    text: reference.Node = {"type": "string"}
    nodes = {**contract.columns, "_rescued": {}}
    return {name: walk(nodes.get(name, text), value) for name, value in row.items()}


def by_source(rows: list[Row], file: str, offset: str) -> dict[tuple[str, int], list[Row]]:
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.get(file, ""), row.get(offset, -1)].append(row)
    return found


def short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def differences(expected: list[Row], actual: list[Row], prefix: str = "") -> Iterator[str]:
    """What differs, row by row; rows are matched by their source, their order does not count."""
    names = (f"{prefix}source_file", f"{prefix}source_offset")
    wanted, found = by_source(expected, *names), by_source(actual, *names)
    if len(expected) != len(actual):
        yield f"{len(expected)} rows expected, {len(actual)} found"
    for source in sorted({*wanted, *found}):
        where = f"{source[0]} at {source[1]}"
        ours, theirs = wanted.get(source, []), found.get(source, [])
        for row in ours[len(theirs) :]:
            yield f"missing: {where}: {short(row)}"
        for row in theirs[len(ours) :]:
            yield f"unexpected: {where}: {short(row)}"
        for ours_row, theirs_row in zip(ours, theirs, strict=False):
            for name in dict.fromkeys([*ours_row, *theirs_row]):
                want, got = ours_row.get(name, "(no column)"), theirs_row.get(name, "(no column)")
                if want != got or isinstance(want, bool) != isinstance(got, bool):
                    yield f"{where}: {name}: expected {short(want)}, found {short(got)}"


def check_rows(reader: str, expected: list[Row], actual: list[Row], contract: reference.Contract) -> Iterator[str]:
    rows = [{name: value for name, value in row.items() if name not in PER_RUN} for row in actual]
    wanted = [canonical(contract, row) for row in expected]
    for line in differences(wanted, [canonical(contract, row) for row in rows], "_"):
        yield f"silver by {reader}: {line}"


def check_quarantine(reader: str, expected: list[Row], actual: list[Row]) -> Iterator[str]:
    rows = [{name: value for name, value in row.items() if name not in NOT_EXPECTED} for row in actual]
    for row in rows:
        row["raw_base64"] = row.pop("raw", None)
    for line in differences(expected, rows):
        yield f"quarantine by {reader}: {line}"
    for row in actual:
        if not row.get("message") or not row.get("batch") or not row.get("quarantined_at"):
            yield f"quarantine by {reader}: message, batch and quarantined_at must be set: {short(row)}"


def check_shape(table: DeltaTable, columns: list[tuple[str, Json]], partition_by: list[str] | None) -> Iterator[str]:
    fields = json.loads(table.schema().to_json())["fields"]
    found = [(entry["name"], bare(entry["type"])) for entry in fields]
    if found != columns:
        wanted, got = dict(columns), dict(found)
        for name in dict.fromkeys([*wanted, *got]):
            if wanted.get(name) != got.get(name):
                yield f"column {name}: expected {short(wanted.get(name))}, found {short(got.get(name))}"
        if [name for name, _ in found] != [name for name, _ in columns]:
            yield f"columns: expected {[name for name, _ in columns]}, found {[name for name, _ in found]}"
    yield from (f"column {entry['name']} is not nullable" for entry in fields if not entry["nullable"])
    partitions = table.metadata().partition_columns
    if partition_by is not None and partitions != partition_by:
        yield f"partitioned by {partitions}, expected {partition_by}"
    protocol = table.protocol()
    if (protocol.min_reader_version, protocol.min_writer_version) != (1, 2):
        yield f"protocol ({protocol.min_reader_version}, {protocol.min_writer_version}), expected (1, 2)"


def bare(type_: Json) -> Json:
    """A Delta type without metadata, which is no matter of the contract."""
    if isinstance(type_, dict):
        return {name: {} if name == "metadata" else bare(value) for name, value in type_.items()}
    return [bare(value) for value in type_] if isinstance(type_, list) else type_


# --- statistics ---------------------------------------------------------------------------------


def leaves(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The leaf columns under a column, named as the log's statistics name them."""
    if not pa.types.is_struct(column.type):
        yield name, column
        return
    for inner, part in zip(column.type, column.flatten(), strict=True):
        yield from leaves(f"{name}.{inner.name}", part)


def bounds_hold(low: Json, high: Json, least: Json, most: Json) -> bool:
    """Whether a file's minimum and maximum agree with its data: long text and microseconds may be cut."""
    if isinstance(least, str):
        return least.startswith(low) and (high == most or (len(most) > 32 and high > most))
    if isinstance(least, datetime):
        return low <= least and least - low < MILLISECOND and abs(most - high) < MILLISECOND
    return (low, high) == (least, most)


def check_statistics(table: DeltaTable, required: list[str]) -> Iterator[str]:
    for add in adds_of(table):
        data = pq.read_table(add["file"], partitioning=None)
        where = f"statistics of {add['path']}"
        if add["num_records"] != data.num_rows:
            yield f"{where}: numRecords {add['num_records']}, the file has {data.num_rows} rows"
        for top in data.column_names:
            for name, column in leaves(top, data[top]):
                nulls, low, high = (add.get(f"{part}.{name}") for part in ("null_count", "min", "max"))
                if nulls is not None and nulls != column.null_count:
                    yield f"{where}: nullCount of {name} is {nulls}, the file has {column.null_count}"
                empty = column.null_count == data.num_rows
                if (low is None or high is None) and name in required and not empty:
                    yield f"{where}: {name} has no minimum or no maximum"
                if low is None and high is None:
                    continue
                least, most = (None, None) if empty else (value.as_py() for value in pc.min_max(column).values())
                if empty or low is None or high is None or not bounds_hold(low, high, least, most):
                    yield f"{where}: {name} from {low} to {high}, the file from {least} to {most}"


# --- verbs --------------------------------------------------------------------------------------


def json_lines(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def compare(spec: dict[str, str]) -> Iterator[str]:
    entity, expected = spec["entity"], Path(spec["expected"])
    contract = reference.load_contract(spec["schemas"], entity)
    job = reference.load_job(spec["jobs"], entity)
    tables = []
    for name in (entity, f"{entity}_quarantine"):
        try:
            tables.append(DeltaTable(f"{spec['silver'].rstrip('/')}/{name}"))
        except Exception as error:  # whatever keeps a table from opening is the finding
            yield f"{name} does not open: {error}"
    if len(tables) < 2:
        return
    silver, quarantine = tables
    for line in check_shape(silver, reference.silver_schema(contract, job), job.partition_by):
        yield f"silver: {line}"
    for line in check_shape(quarantine, QUARANTINE, None):
        yield f"quarantine: {line}"
    for reader, read in (("deltalake", by_deltalake), ("DuckDB", by_duckdb)):
        yield from check_rows(reader, json_lines(expected / "silver.jsonl"), read(silver), contract)
        yield from check_quarantine(reader, json_lines(expected / "quarantine.jsonl"), read(quarantine))
    first = [*job.key, *([job.event_time] if job.event_time else [])]
    for line in check_statistics(silver, [name for name in first if name not in job.partition_by]):
        yield f"silver: {line}"
    for line in check_statistics(quarantine, []):
        yield f"quarantine: {line}"


def dump(table: str) -> None:
    rows = by_deltalake(DeltaTable(table))
    kept = ({name: value for name, value in row.items() if name not in PER_RUN} for row in rows)
    for line in sorted(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in kept):
        print(line)


def main() -> int:
    match sys.argv[1:]:
        case ["dump", table]:
            dump(table)
            return 0
        case ["compare", listed]:
            failed = 0
            specs = json.loads(Path(listed).read_text("utf-8"))
            for spec in specs:
                found = list(compare(spec))
                failed += bool(found)
                for line in found:
                    print(f"{spec['entity']} {spec['expected']}: {line}")
            print(f"{len(specs)} compared, {failed} with differences")
            return 1 if failed else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
