"""Whether several engines read a Delta table alike, at the protocol that it was made with.

  engines.py <spec.json>    a list of {"table", "spark", "like"}: "spark" is a folder of Parquet files that Spark made of the table,
                            "like" another table with the same rows; either may be missing

Read are deltalake's rows, DuckDB's and Polars' of the same version. Exits 1 and says what differs, with an example.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from deltalake import DeltaTable

import readback

Json = Any


def entries_as_map(type_: Json, found: Json) -> Json:
    """Maps that Polars has within other values are lists of a key and a value."""
    if found is None or not isinstance(type_, dict):
        return found
    match type_["type"]:
        case "map":
            entries = found.items() if isinstance(found, dict) else ((entry["key"], entry["value"]) for entry in found)
            return {key: entries_as_map(type_["valueType"], value) for key, value in entries}
        case "array":
            return [entries_as_map(type_["elementType"], element) for element in found]
        case _:
            return {field["name"]: entries_as_map(field["type"], found[field["name"]]) for field in type_["fields"]}


def by_polars(table: DeltaTable) -> list[Json]:
    rows = readback.rows_of(pl.scan_delta(table.table_uri, version=table.version()).collect().to_arrow())
    types = {field["name"]: field["type"] for field in json.loads(table.schema().to_json())["fields"]}
    return [{name: entries_as_map(types[name], value) for name, value in row.items()} for row in rows]


def by_spark(folder: str) -> list[Json]:
    files = sorted(Path(folder).glob("*.parquet"))
    return [row for file in files for row in readback.rows_of(pq.read_table(file))]


def counted(rows: list[Json], left_out: set[str]) -> Counter[str]:
    kept = ({name: value for name, value in row.items() if name not in left_out} for row in rows)
    return Counter(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in kept)


def differences(spec: dict[str, str]) -> Iterator[str]:
    table = DeltaTable(spec["table"])
    protocol = table.protocol()
    if (protocol.min_reader_version, protocol.min_writer_version) != (1, 2):
        yield f"protocol ({protocol.min_reader_version}, {protocol.min_writer_version}), expected (1, 2)"
    rows = counted(readback.by_deltalake(table), set())
    others = {"DuckDB": readback.by_duckdb(table), "Polars": by_polars(table)}
    if "spark" in spec:
        others["Spark"] = by_spark(spec["spark"])
    for reader, found in others.items():
        yield from (f"{reader} {line}" for line in compared(rows, counted(found, set())))
    if "like" in spec:
        per_run = {*readback.PER_RUN, "_order"}
        like = counted(readback.by_deltalake(DeltaTable(spec["like"])), per_run)
        found = counted(readback.by_deltalake(table), per_run)
        yield from (f"beside {spec['like']}: {line}" for line in compared(like, found))
    print(f"{spec['table']} version {table.version()}: {rows.total()} rows, {len(table.file_uris())} files, by deltalake, {', '.join(others)}")


def compared(expected: Counter[str], found: Counter[str]) -> Iterator[str]:
    if missing := expected - found:
        yield f"lacks {missing.total()} rows, e.g. {next(iter(missing))}"
    if extra := found - expected:
        yield f"has {extra.total()} other rows, e.g. {next(iter(extra))}"


def main() -> int:
    failed = 0
    for spec in json.loads(Path(sys.argv[1]).read_text("utf-8")):
        for line in differences(spec):
            failed += 1
            print(f"{spec['table']}: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of the engines are not waited for: now and then one aborts the interpreter's end.
    os._exit(code)
