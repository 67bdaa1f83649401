"""Reads tables with deltalake over and over while others write, compact and vacuum them.

  reader.py SECONDS KEYS TABLE…   prints how often it read; fails at the first error, or where a key is there twice or rows vanish

KEYS: columns of the key, comma list. Rows may only become more: what is read is a table to which nothing is done but adding and updating.
"""

import sys
import time

from deltalake import DeltaTable


def main() -> None:
    seconds, keys, tables = float(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    until = time.monotonic() + seconds
    reads = 0
    before = dict.fromkeys(tables, 0)
    while time.monotonic() < until:
        for path in tables:
            if not DeltaTable.is_deltatable(path):
                continue
            table = DeltaTable(path)
            rows = table.to_pyarrow_table(columns=keys)
            distinct = rows.group_by(keys).aggregate([]).num_rows
            if distinct != rows.num_rows:
                raise SystemExit(f"{path} version {table.version()}: {rows.num_rows} rows of {distinct} keys")
            if rows.num_rows < before[path]:
                raise SystemExit(f"{path} version {table.version()}: {rows.num_rows} rows, {before[path]} before")
            before[path] = rows.num_rows
            reads += 1
        time.sleep(0.05)
    print(f"{reads} reads, {sum(before.values())} rows in the end")


main()
