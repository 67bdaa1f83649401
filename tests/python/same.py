"""Whether silver folders hold the same rows, by DuckDB: same.py [--contract|--cluster] <silver> <silver> …

Every Delta table of the first folder is compared with the same table of each other one, as a multiset of rows without the columns
that may differ from run to run; with --contract, and where the latest record wins, also without those that tell which of several equal
records survived; with --cluster, without the place of a record in its object, which a cluster does not know. `@file` stands for a JSON list of
lists of folders, each of which is compared. Exits 1 and says which table differs, with an example.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.dataset import ParquetReadOptions
from deltalake import DeltaTable

MAY_DIFFER = {"_batch", "_ingested_at", "batch", "quarantined_at"}
SURVIVOR = {"_source_file", "_source_offset", "_source_length", "_schema_version", "_rescued", "_order", "year", "month", "day"}
PLACE = {"_source_offset", "_source_length", "_order", "source_offset"}


def rows(table: Path, how: str) -> pa.Table:
    files = DeltaTable(str(table))
    columns = [field.name for field in files.schema().fields]
    any_survivor = "_order" in columns or (how == "--contract" and not table.name.endswith("_quarantine"))
    left_out = MAY_DIFFER | (PLACE if how == "--cluster" else SURVIVOR if any_survivor else set())
    names = [name for name in columns if name not in left_out]
    # Spark may write instants as INT96, which Arrow would take for nanoseconds.
    dataset = files.to_pyarrow_dataset(parquet_read_options=ParquetReadOptions(coerce_int96_timestamp_unit="us"))
    if not files.file_uris():
        return dataset.schema.empty_table().select(names)
    assert isinstance(dataset, ds.Dataset)
    return dataset.to_table(columns=names)


def compare(how: str, first: Path, others: list[Path]) -> tuple[int, int, int]:
    tables = sorted(path.parent.name for path in first.glob("*/_delta_log"))
    if not tables or not others:
        print(f"{first}: nothing to compare")
        return 0, 0, 1
    different = 0
    total = 0
    for name in tables:
        left = rows(first / name, how)
        total += left.num_rows
        for other in others:
            right = rows(other / name, how)
            connection = duckdb.connect()
            connection.register("a", left)
            connection.register("b", right)
            only_left = connection.sql("SELECT to_json(r)::VARCHAR FROM (SELECT * FROM a EXCEPT ALL SELECT * FROM b LIMIT 1) r").fetchall()
            only_right = connection.sql("SELECT to_json(r)::VARCHAR FROM (SELECT * FROM b EXCEPT ALL SELECT * FROM a LIMIT 1) r").fetchall()
            if only_left or only_right or left.num_rows != right.num_rows:
                different += 1
                print(f"{name}: {first} has {left.num_rows} rows, {other} has {right.num_rows}")
                print(f"  only in the first: {only_left}\n  only in the other: {only_right}")
    return len(tables), total, different


def main() -> int:
    how = next((argument for argument in sys.argv[1:] if argument.startswith("--")), "")
    named = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    groups = json.loads(Path(named[0][1:]).read_text()) if named[0].startswith("@") else [named]
    tables = total = different = 0
    for first, *others in groups:
        more = compare(how, Path(first), [Path(other) for other in others])
        tables, total, different = tables + more[0], total + more[1], different + more[2]
    print(f"{tables} tables, {total} rows, {len(groups)} x {len(groups[0])} folders: {different} differences")
    return 1 if different or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
