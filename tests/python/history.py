"""Which record of a key becomes its row, in the modes `upsert` and `snapshot`, said a second time, slowly and simply.

This file follows docs/decisions/0006-latest-wins.md, never the program. It plays the accepted records of one run
over an empty table: `upsert` as one batch per database, `snapshot` path day by path day.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import duckdb

import reference
from reference import Contract, Job, Json

Row = dict[str, Json]
Key = tuple[Json, ...]
Extent = tuple[str, str, str]  # database, layout's place in the order, path date

STAMP = re.compile(r"\d{4}(?:-\d\d){5}", re.ASCII)
SEPARATOR = "\x1f"
LAYOUTS = {"year_root": "0", "firehose": "1"}


@dataclass(frozen=True)
class Accepted:
    row: Row  # as reference.silver_row makes it
    name: str  # the object's, also for the member of an archive


@dataclass(frozen=True)
class Outcome:
    verbs: list[str]  # what each record counts as
    rows: list[Row]  # silver in the end
    removed: int


def extent(name: str) -> Extent:
    path = reference.path_info(name)
    return path["database"], LAYOUTS[path["layout"]], path["date"]


def order_value(contract: Contract, name: str, row: Row) -> str:
    node = reference.resolve(contract.root, contract.columns[name])
    match reference.kind(node):
        case _ if row[name] is None:
            return ""
        case "long" | "duration":
            return f"{row[name] + 2**63:020d}"
        case kind:
            assert kind in ("string", "ref", "timestamp", "date"), f"{name}: {kind} has no order"
            return row[name]


def order_text(contract: Contract, job: Job, record: Accepted) -> str:
    _, layout, date = extent(record.name)
    stamp = STAMP.search(record.name.rpartition("/")[2])
    values = [order_value(contract, name, record.row) for name in job.order_by]
    tail = [layout, date, stamp[0] if stamp else "", record.row["_source_file"]]
    return SEPARATOR.join([*values, *tail, f"{record.row['_source_offset']:020d}"])


def deletes(contract: Contract, job: Job, row: Row) -> bool:
    """Whether `delete_when` is true of the row; unknown is not true."""
    if job.delete_when is None:
        return False
    plain = [name for name in contract.columns if not isinstance(row[name], dict | list)]
    columns = ", ".join(f'? AS "{name}"' for name in plain)
    query = f"SELECT ({job.delete_when}) IS TRUE FROM (SELECT {columns})"
    found = duckdb.execute(query, [row[name] for name in plain]).fetchone()
    return found is not None and found[0]


def key_of(job: Job, row: Row) -> Key:
    return (row["database"], *(row[name] for name in job.key))


def latest(job: Job, records: list[Accepted], order: list[str], among: Collection[int]) -> dict[Key, int]:
    """Per key the record with the greatest order."""
    assert len(set(order)) == len(order)
    return {key_of(job, records[at].row): at for at in sorted(among, key=lambda at: order[at])}


def upsert(contract: Contract, job: Job, records: list[Accepted]) -> Outcome:
    order = [order_text(contract, job, record) for record in records]
    verbs = ["duplicate"] * len(records)
    for at in latest(job, records, order, range(len(records))).values():
        verbs[at] = "deleted" if deletes(contract, job, records[at].row) else "inserted"
    kept = [at for at, verb in enumerate(verbs) if verb == "inserted"]
    return Outcome(verbs, [{**records[at].row, "_order": order[at]} for at in kept], 0)


def snapshot(contract: Contract, job: Job, records: list[Accepted], objects: Collection[str]) -> Outcome:
    order = [order_text(contract, job, record) for record in records]
    verbs = ["duplicate"] * len(records)
    removed = 0
    kept: list[int] = []
    for _, days in groupby(sorted({extent(name) for name in objects}), itemgetter(0)):
        held: dict[Key, int] = {}
        for day in days:
            among = [at for at, record in enumerate(records) if extent(record.name) == day]
            present = latest(job, records, order, among)
            removed += len(held.keys() - present.keys())
            for key, at in present.items():
                if key not in held:
                    verbs[at] = "inserted"
                elif any(records[at].row[name] != records[held[key]].row[name] for name in contract.columns):
                    verbs[at] = "updated"
                else:
                    present[key] = held[key]
            held = present
        kept += held.values()
    return Outcome(verbs, [records[at].row for at in sorted(kept)], removed)


def replay(contract: Contract, job: Job, records: list[Accepted], objects: Collection[str]) -> Outcome:
    """What becomes of the records; `objects` are the names of all objects that are read."""
    match job.mode:
        case "upsert":
            return upsert(contract, job, records)
        case "snapshot":
            return snapshot(contract, job, records, objects)
    raise AssertionError(f"no history in mode {job.mode}")
