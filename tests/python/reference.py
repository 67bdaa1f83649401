"""The rules from bronze record to silver row, said a second time, slowly and simply.

This file follows docs/contracts.md and docs/jobs.md, never the program. It only knows how good
records become rows; what is refused, and why, is stated by the test cases themselves.

Normal form: timestamps `2024-01-01T00:00:00.000000Z`, dates `2024-01-01`, durations integer microseconds,
decimals and JSON-text columns text, structs objects with every declared field, maps objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

Json = Any
Node = dict[str, Any]

PARTITIONS = ("database", "entity", "year", "month", "day")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
PROVENANCE = [("_source_file", "string"), ("_source_offset", "long"), ("_source_length", "long")]
TECHNICAL = [("_schema_version", "integer"), ("_batch", "string"), ("_ingested_at", "timestamp")]


@dataclass(frozen=True)
class Contract:
    versions: dict[int, Node]
    newest: int
    root: Node
    version_field: str | None
    columns: dict[str, Node]  # the newest version's properties that become columns, in order


@dataclass(frozen=True)
class Job:
    key: list[str]
    event_time: str | None
    partition_by: list[str]
    partitions: dict[str, dict[str, str]]
    rescue: bool
    mode: str
    order_by: list[str]
    delete_when: str | None


def load_contract(schemas_dir: Path | str, entity: str) -> Contract:
    files = (Path(schemas_dir) / entity).glob("*.json")
    versions = {int(file.stem): json.loads(file.read_text("utf-8")) for file in files}
    root = versions[max(versions)]
    unseen = {*PARTITIONS, root.get("x-version-field")}
    columns = {name: node for name, node in root["properties"].items() if name not in unseen}
    return Contract(versions, max(versions), root, root.get("x-version-field"), columns)


def load_job(jobs_dir: Path | str, entity: str) -> Job:
    written = yaml.safe_load((Path(jobs_dir) / f"{entity}.yaml").read_text("utf-8"))
    event_time = written.get("event_time")
    rule = {"where": "either", "on_conflict": "quarantine"}
    return Job(
        key=written["key"],
        event_time=event_time,
        partition_by=written.get("partition_by", ["database", "event_date"] if event_time else ["database"]),
        partitions={column: {**rule, **written.get("partitions", {}).get(column, {})} for column in PARTITIONS},
        rescue=written.get("unknown_fields", "rescue") == "rescue",
        mode=written.get("mode", "append"),
        order_by=written.get("order_by", []),
        delete_when=written.get("delete_when"),
    )


def resolve(root: Node, node: Node) -> Node:
    if "$ref" not in node:
        return node
    target: Node = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return {**resolve(root, target), **{k: v for k, v in node.items() if k != "$ref"}}


def kind(node: Node) -> str:
    """The kind of column a (resolved) schema asks for."""
    types = node.get("type") or []
    name = next((name for name in ([types] if isinstance(types, str) else types) if name != "null"), "json")
    match name:
        case _ if node.get("x-ref"):
            return "ref"
        case "number":
            return "decimal" if "x-decimal" in node else "double"
        case "string" if node.get("format") == "date-time" or "x-timestamp" in node:
            return "timestamp"
        case "string" if node.get("x-duration"):
            return "duration"
        case "string" if node.get("format") == "date":
            return "date"
        case "object":
            return "struct" if node.get("properties") else "map"
    return {"integer": "long", "array": "list"}.get(name, name)


def element(node: Node) -> Node:
    """The schema of a list's elements or a map's values; without one they are JSON text."""
    inner = node.get("items" if kind(node) == "list" else "additionalProperties")
    return inner if isinstance(inner, dict) else {}


def delta_type(root: Node, node: Node) -> Json:
    node = resolve(root, node)
    match kind(node):
        case "decimal":
            return "decimal({},{})".format(*node["x-decimal"])
        case "struct":
            fields = ((name, delta_type(root, inner)) for name, inner in node["properties"].items())
            entries = [{"name": name, "type": type_, "nullable": True, "metadata": {}} for name, type_ in fields]
            return {"type": "struct", "fields": entries}
        case "map":
            inner = delta_type(root, element(node))
            return {"type": "map", "keyType": "string", "valueType": inner, "valueContainsNull": True}
        case "list":
            return {"type": "array", "elementType": delta_type(root, element(node)), "containsNull": True}
        case name:
            return {"ref": "string", "json": "string", "duration": "long"}.get(name, name)


def silver_schema(contract: Contract, job: Job) -> list[tuple[str, Json]]:
    columns = contract.columns
    first = [*job.key, *([job.event_time] if job.event_time and job.event_time not in job.key else [])]
    schema = [(name, delta_type(contract.root, columns[name])) for name in first]
    schema += [("database", "string"), *([("event_date", "date")] if job.event_time else [])]
    schema += [(name, "integer") for name in ("year", "month", "day")]
    schema += [(name, delta_type(contract.root, node)) for name, node in columns.items() if name not in first]
    order = [("_order", "string")] if job.mode == "upsert" else []
    return [*schema, *PROVENANCE, *TECHNICAL, ("_rescued", "string"), *order]


def parse_record(raw: bytes) -> dict[str, Json]:
    return json.loads(raw, parse_float=Decimal)


def json_text(value: Json) -> str:
    """Compact JSON that keeps every number as it was written."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json_text(k)}:{json_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d)))?")
DURATION = re.compile(r"(-?)(?:(\d+)\.)?(\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?")


def timestamp(text: str) -> str:
    assert (match := INSTANT.fullmatch(text)), text
    day, clock, fraction, sign, hours, minutes = match.groups()
    instant = datetime.fromisoformat(f"{day}T{clock or '00:00:00'}.{(fraction or '').ljust(6, '0')[:6]}")
    if sign:
        instant -= timedelta(hours=int(sign + hours), minutes=int(sign + minutes))
    return instant.isoformat(timespec="microseconds") + "Z"


def duration(text: str) -> int:
    assert (match := DURATION.fullmatch(text)), text
    sign, days, hours, minutes, seconds, fraction = match.groups()
    whole = ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
    return (whole * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])) * (-1 if sign else 1)


def value(root: Node, node: Node, found: Json) -> Json:
    """A record's value in normal form, for the column its schema asks for."""
    node = resolve(root, node)
    if found is None:
        return None
    match kind(node):
        case "long":
            return int(found)
        case "double":
            return float(found)
        case "decimal":
            return format(Decimal(found).quantize(Decimal(1).scaleb(-node["x-decimal"][1])), "f")
        case "timestamp":
            return timestamp(found)
        case "duration":
            return duration(found)
        case "ref":
            return found["id"] if isinstance(found, dict) else found
        case "json":
            return json_text(found)
        case "struct":
            return {name: value(root, inner, found.get(name)) for name, inner in node["properties"].items()}
        case "map":
            return {name: value(root, element(node), inner) for name, inner in found.items()}
        case "list":
            return [value(root, element(node), inner) for inner in found]
        case _:
            return found


def split(root: Node, node: Node, found: Json, silent: Collection[str | None] = ()) -> tuple[Json, Json]:
    """What the schema declares, and the rest in the shape `_rescued` shows it (None if there is none)."""
    node = resolve(root, node)
    shape = kind(node)
    if isinstance(found, list) and shape == "list":
        parts = [split(root, element(node), inner) for inner in found]
        rest = {str(at): extra for at, (_, extra) in enumerate(parts) if extra is not None}
        return [known for known, _ in parts], rest or None
    if not isinstance(found, dict) or shape not in ("struct", "map", "ref"):
        return found, None
    known, rest = {}, {}
    for name, inner in found.items():
        declared = element(node) if shape == "map" else node["properties"].get(name)
        if declared is not None:
            known[name], extra = split(root, declared, inner)
            rest |= {} if extra is None else {name: extra}
        elif name not in silent:
            rest[name] = inner
    return known, rest or None


def path_info(key: str) -> dict[str, str]:
    """The partition folders of an object's name as found, its layout, and its date (nothing without a year)."""
    folders = dict(part.split("=", 1) for part in key.split("/")[:-1] if "=" in part)
    found = {name: text for name, text in folders.items() if name in PARTITIONS and text != HIVE_NULL}
    date = "-".join(found.get(name, "01").zfill(4 if name == "year" else 2) for name in ("year", "month", "day"))
    return {**found, "layout": "firehose" if "day" in folders else "year_root", "date": date if "year" in found else ""}


def version_of(contract: Contract, record: Mapping[str, Json], path: Mapping[str, str]) -> int:
    if (field := contract.version_field) and field in record:
        return int(record[field])
    rules = contract.root.get("x-default-version", contract.newest)
    if isinstance(rules, int):
        return rules
    for rule in rules:
        if rule.get("layout", path["layout"]) == path["layout"] and path["date"] < rule.get("before", "9999-99"):
            return rule["version"]
    raise AssertionError("no rule gives a version")


def upcast(contract: Contract, record: dict[str, Json], version: int) -> dict[str, Json]:
    casts: dict[str, Callable[[Json], Json]] = {"integer": int, "number": Decimal}
    casts |= {"string": lambda v: v if isinstance(v, str) else json_text(v), "boolean": lambda v: v in (True, "true")}
    for step in (s for n in range(version + 1, contract.newest + 1) for s in contract.versions[n].get("x-upcast", [])):
        ((name, does),) = step.items()
        if name == "rename" and does["from"] in record:
            record[does["to"]] = record.pop(does["from"])
        elif name == "default":
            record.setdefault(does["field"], does["value"])
        elif name == "cast" and does["field"] in record:
            record[does["field"]] = casts[does["to"]](record[does["field"]])
        elif name == "move":
            *parents, last = does["from"].split("/")[1:]
            *others, to = does["to"].split("/")[1:]
            source, target = record, record
            for part in parents:
                source = source.get(part, {})
            for part in others:
                target = target.setdefault(part, {})
            if last in source:
                target[to] = source.pop(last)
    return record


def partition_value(job: Job, column: str, record: Mapping[str, Json], path: Mapping[str, str]) -> Json:
    """A partition column from path and payload; None if neither has it."""
    rule = job.partitions[column]
    typed = str if column in ("database", "entity") else int
    from_path = typed(unquote(path[column])) if column in path and rule["where"] != "payload" else None
    from_payload = typed(record[column]) if column in record and rule["where"] != "path" else None
    if None not in (from_path, from_payload) and from_path != from_payload:
        assert rule["on_conflict"] != "quarantine", f"{column}: {from_path} or {from_payload}?"
        return from_path if rule["on_conflict"] == "path" else from_payload
    return from_payload if from_path is None else from_path


def silver_row(
    contract: Contract, job: Job, record: dict[str, Json], path: Mapping[str, str], source: tuple[str, int, int]
) -> dict[str, Json]:
    """The row of a good record, without `_batch`, `_ingested_at` and `_order`."""
    version = version_of(contract, record, path)
    own = contract.versions[version]
    known, rescued = split(own, own, record, {*PARTITIONS, contract.version_field})
    known = upcast(contract, known, version)
    row = {name: value(contract.root, node, known.get(name)) for name, node in contract.columns.items()}
    for column in ("database", "year", "month", "day"):
        row[column] = partition_value(job, column, record, path)
        derive = job.partitions[column].get("derive")
        if row[column] is None and derive:
            row[column] = int(row[derive][slice(*{"year": (0, 4), "month": (5, 7), "day": (8, 10)}[column])])
    if job.event_time:
        row["event_date"] = row[job.event_time][:10]
    row |= {name: part for (name, _), part in zip(PROVENANCE, source, strict=True)}
    row |= {"_schema_version": version, "_rescued": json_text(rescued) if rescued and job.rescue else None}
    return {name: row[name] for name, _ in silver_schema(contract, job) if name in row}
