"""Writes fixtures/cases: bronze bytes made of good records and known defects, and what must become of them.

Every case states its outcome itself: `good` says "this record becomes a row" (the row is
reference.silver_row), `bad` says "these bytes are refused with this code at this path",
`duplicate` says "this record is there already, or a later one of its key wins", `updated` and `deleted`
what these words mean in a report. In the modes upsert and snapshot the rows are those that history.py makes
of all accepted records, and it must agree with every stated outcome. The program is never run. Rows of
silver.jsonl lack `_batch` and `_ingested_at`; quarantine.jsonl holds what docs promise to be stable.

Usage: make_cases.py [repository root]
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import shutil
import struct
import sys
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import history
import reference

Json = Any
Record = dict[str, Any] | bytes
Encoder = Callable[[bytes], bytes]

ABSENT = object()
BUILDERS: list[tuple[str, str, Callable[[Case], None]]] = []


def case(entity: str, name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def register(build: Callable[[Case], None]) -> Callable[[Case], None]:
        BUILDERS.append((entity, name, build))
        return build

    return register


def compact(record: Record) -> bytes:
    return record if isinstance(record, bytes) else reference.json_text(record).encode()


class Case:
    """One case folder: its bronze objects and the outcome of every record in them."""

    def __init__(self, root: Path, entity: str, name: str) -> None:
        self.root, self.entity, self.name = root, entity, name
        self.folder = root / "fixtures" / "cases" / entity / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.country("de")
        self.jobs, self.schemas = root / "jobs", root / "schemas"
        self.accepted: list[history.Accepted] = []
        self.verbs: list[str] = []
        self.quarantine: list[Json] = []
        self.removed = self.skipped = self.serial = 0
        self.layouts = {layout: {"files": 0, "records": 0} for layout in ("firehose", "year_root")}
        self.written: set[str] = set()
        self.read: set[str] = set()

    def country(self, country: str) -> None:
        """Where the next objects go; a case begins in `de`."""
        self.prefix = f"database=fleetdb_{country}/entity={self.entity}"

    def own_job(self, text: str = "", drop: tuple[str, ...] = ()) -> None:
        """A job of its own: the entity's, without some lines, and with more."""
        lines = (self.root / "jobs" / f"{self.entity}.yaml").read_text().splitlines()
        kept = [line for line in lines if not line.strip().startswith(drop)] if drop else lines
        self.jobs = self.folder / "jobs"
        self.jobs.mkdir(parents=True)
        (self.jobs / f"{self.entity}.yaml").write_text("\n".join([*kept, text.rstrip()]).rstrip() + "\n")

    def own_schemas(self, *versions: Json) -> None:
        self.schemas = self.folder / "schemas"
        (self.schemas / self.entity).mkdir(parents=True)
        for number, version in enumerate(versions, 1):
            text = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **version}, indent=2)
            (self.schemas / self.entity / f"{number}.json").write_text(text + "\n")

    def record(self, **changes: Json) -> dict[str, Json]:
        """The next good record; `ABSENT` drops a field."""
        self.serial += 1
        found = {**TEMPLATES[self.entity](self.serial), **changes}
        return {name: value for name, value in found.items() if value is not ABSENT}

    def raw(self, swap: str, by: str, **changes: Json) -> bytes:
        """The next good record's bytes with one text swapped, for what a dict cannot say."""
        text = compact(self.record(**changes))
        assert text.count(swap.encode()) == 1, (swap, text)
        return text.replace(swap.encode(), by.encode())

    def firehose(self, name: str | None = None, day: str = "2025/01/01") -> Object:
        year, month, date = day.split("/")
        at = len(self.written)
        stamp = f"{year}-{month}-{date}-03-{at:02d}-00" if year.isdigit() and date.isdigit() else "2025-01-01-03-00-00"
        unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.entity}/{self.name}/{at}")
        return self.open(f"year={year}/month={month}/day={date}/{name or f'fleet-telemetry-1-{stamp}-{unique}'}")

    def year_root(self, name: str = "backfill-0001.json", year: str = "2024") -> Object:
        return self.open(f"year={year}/{name}")

    def open(self, key: str, member: str | None = None) -> Object:
        return Object(self, f"{self.prefix}/{key}", member)

    def store(self, key: str, body: bytes, counted: bool = True) -> None:
        assert key not in self.written, key
        self.written.add(key)
        if counted:
            self.read.add(key)
            self.layouts[reference.path_info(key)["layout"]]["files"] += 1
        else:
            self.skipped += 1
        target = self.folder / "bronze" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)

    def foreign(self, key: str, body: bytes) -> None:
        """An object in the entity's folder that must not be read."""
        self.store(f"{self.prefix}/{key}", body, counted=False)

    def finish(self) -> None:
        expected = self.folder / "expected"
        expected.mkdir(parents=True)
        count = Counter(self.verbs)
        report = {
            "read": len(self.accepted) + len(self.quarantine),
            **{verb: count[verb] for verb in ("inserted", "updated", "deleted", "duplicate")},
            "removed": self.removed,
            "quarantined": len(self.quarantine),
            "layouts": self.layouts,
            "files": {"listed": len(self.written), "skipped": self.skipped},
        }
        for name, rows in (("silver", self.silver()), ("quarantine", self.quarantine)):
            lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
            (expected / f"{name}.jsonl").write_text("".join(lines), "utf-8", newline="\n")
        (expected / "report.json").write_text(json.dumps(report, indent=2) + "\n")

    def silver(self) -> list[Json]:
        """The rows in the end; where the latest record wins, two statements of every outcome meet here."""
        job = reference.load_job(self.jobs, self.entity)
        if job.mode == "append":
            assert {*self.verbs} <= {"inserted", "duplicate"}, self.verbs
            return [record.row for record, verb in zip(self.accepted, self.verbs, strict=True) if verb == "inserted"]
        contract = reference.load_contract(self.schemas, self.entity)
        found = history.replay(contract, job, self.accepted, self.read)
        for record, stated, verb in zip(self.accepted, self.verbs, found.verbs, strict=True):
            assert stated == verb, f"{self.folder}: stated {stated}, but {verb}: {record.row}"
        assert self.removed == found.removed, f"{self.folder}: {found.removed} removed"
        return found.rows


class Object:
    """One bronze object, or one member of an archive, as decoded bytes."""

    def __init__(self, owner: Case, key: str, member: str | None) -> None:
        self.owner, self.key = owner, key
        self.source = f"{key}!/{member}" if member else key
        self.path = reference.path_info(key)
        self.body = bytearray()
        self.contract = reference.load_contract(owner.schemas, owner.entity)
        self.job = reference.load_job(owner.jobs, owner.entity)

    def gap(self, raw: bytes) -> Object:
        """Bytes that belong to no record: delimiters, brackets, an envelope."""
        self.body += raw
        return self

    def append(self, raw: bytes, end: bytes) -> tuple[str, int, int]:
        source = (self.source, len(self.body), len(raw))
        self.owner.layouts[self.path["layout"]]["records"] += 1
        self.body += raw + end
        return source

    def accept(self, verb: str, records: tuple[Record, ...], end: bytes) -> Object:
        for record in records:
            raw = compact(record)
            source = self.append(raw, end)
            row = reference.silver_row(self.contract, self.job, reference.parse_record(raw), self.path, source)
            self.owner.accepted.append(history.Accepted(row, self.key))
            self.owner.verbs.append(verb)
        return self

    def good(self, *records: Record, end: bytes = b"\n") -> Object:
        return self.accept("inserted", records or (self.owner.record(),), end)

    def duplicate(self, *records: Record, end: bytes = b"\n") -> Object:
        return self.accept("duplicate", records, end)

    def updated(self, *records: Record, end: bytes = b"\n") -> Object:
        return self.accept("updated", records, end)

    def deleted(self, *records: Record, end: bytes = b"\n") -> Object:
        return self.accept("deleted", records, end)

    def bad(self, record: Record, code: str, path: str = "$", end: bytes = b"\n", keep: int | None = None) -> Object:
        """Refused bytes; of a record over the limit only the first `keep` are kept."""
        raw = compact(record)
        _, offset, length = self.append(raw, end)
        row = {"code": code, "path": path, "source_file": self.source, "source_offset": offset, "source_length": length}
        row["raw_base64"] = base64.b64encode(raw[:keep]).decode()
        for column in ("database", "year", "month", "day"):
            row[column] = self.path.get(column) or found_in_payload(raw, column)
        self.owner.quarantine.append(row)
        return self

    def among(self, *defects: tuple[Record, str, str]) -> Object:
        """Each defect on its own line, between good neighbours."""
        self.good()
        for record, code, path in defects:
            self.bad(record, code, path).good()
        return self

    def write(self, encode: Encoder = bytes) -> None:
        self.owner.store(self.key, encode(bytes(self.body)))


def found_in_payload(raw: bytes, column: str) -> str | None:
    try:
        record = reference.parse_record(raw)
    except ValueError:
        return None
    found = record.get(column) if isinstance(record, dict) else None
    return found if found is None or isinstance(found, str) else reference.json_text(found)


# --- records ------------------------------------------------------------------------------------


def instant(n: int) -> str:
    return f"2025-01-01T{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}.000Z"


def fault_data(n: int) -> dict[str, Json]:
    return {
        "id": f"b{n:X}",
        "dateTime": instant(n),
        "device": {"id": f"b{100 + n:X}"},
        "diagnostic": {"id": "aDdGmB1t8dk-FBEeAcVhBHQ"},
        "failureMode": "NoFailureModeId",
        "controller": {"id": "ControllerGoDeviceId"},
        "count": 1,
        "faultState": "Active",
        "faultStates": {"effectiveStatus": "FaultStatusActiveId"},
        "amberWarningLamp": False,
    }


def log_record(n: int) -> dict[str, Json]:
    place = {"latitude": 52.5, "longitude": 13.25, "speed": 48}
    return {"id": f"b{n:X}", "dateTime": instant(n), "device": {"id": "b1A"}, **place}


def status_data(n: int) -> dict[str, Json]:
    return {
        "id": f"b{n:X}",
        "dateTime": instant(n),
        "device": {"id": "b1A"},
        "diagnostic": {"id": "DiagnosticOdometerId"},
        "controller": "ControllerNoneId",
        "data": 1182036289.75,
        "version": f"{n:016x}",
    }


def trip(n: int) -> dict[str, Json]:
    return {
        "device": {"id": "b8D9"},
        "start": instant(60 * n),
        "id": f"b{n:X}",
        "version": f"{n:016x}",
        "stop": instant(60 * n + 30),
        "nextTripStart": instant(60 * n + 60),
        "driver": "UnknownDriverId",
        "distance": 0.25,
        "drivingDuration": "00:00:30",
        "stopDuration": "00:00:30",
        "stopPoint": {"x": 13.25, "y": 52.5},
    }


def device(n: int) -> dict[str, Json]:
    return {
        "id": f"b{n:X}",
        "name": f"unit {n}",
        "deviceType": "GO9",
        "productId": 120,
        "activeTo": "2050-01-01T00:00:00.000Z",
        "groups": [{"id": "GroupVehicleId"}],
        "customFeatures": {"autoHos": True},
    }


def diagnostic(n: int) -> dict[str, Json]:
    kind = {"diagnosticType": "Sid", "version": f"{n:016x}", "code": n, "controller": "ControllerNoneId"}
    return {"id": f"Diagnostic{n}Id", "name": f"Diagnostic {n}", **kind}


def user(n: int) -> dict[str, Json]:
    return {"id": f"b{n:X}", "name": f"user{n:03d}@example.com", "isDriver": True, "maxPCDistancePerDay": 0}


TEMPLATES: dict[str, Callable[[int], dict[str, Json]]] = {
    "FaultData": fault_data,
    "LogRecord": log_record,
    "StatusData": status_data,
    "Trip": trip,
    "Device": device,
    "Diagnostic": diagnostic,
    "User": user,
}


def sample(root: Json, node: Json) -> Json:
    """A value for any schema of a contract."""
    node = reference.resolve(root, node)
    if "enum" in node:
        return node["enum"][-1]
    if "pattern" in node:
        return "00000000000000ff"
    match reference.kind(node):
        case "struct":
            return {name: sample(root, inner) for name, inner in node["properties"].items()}
        case "map":
            return {"first": sample(root, reference.element(node)), "second key": sample(root, reference.element(node))}
        case "list":
            return [sample(root, reference.element(node)), sample(root, reference.element(node))]
    return {
        "long": 7,
        "double": 1.5,
        "decimal": 120.5,
        "boolean": True,
        "timestamp": "2024-05-06T07:08:09.123Z",
        "duration": "1.02:03:04.5678901",
        "ref": {"id": "b1"},
        "json": {"list": [1, 2.5, "x"], "null": None},
        "string": 'täxt "quoted" \\ \n 🚚',
    }[reference.kind(node)]


def every_field(c: Case, **changes: Json) -> dict[str, Json]:
    """A record with a value in every field, but for the one that would delete a trip."""
    contract = reference.load_contract(c.schemas, c.entity)
    columns = ((name, node) for name, node in contract.columns.items() if name != "deletedDateTime")
    found = {name: sample(contract.root, node) for name, node in columns}
    return {**found, **{k: v for k, v in c.record().items() if k in ("id", "start", "version")}, **changes}


# --- encodings ----------------------------------------------------------------------------------


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def snappy_block(body: bytes) -> bytes:
    return pa.compress(body, codec="snappy", asbytes=True)


def crc32c(body: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def snappy_framed(body: bytes) -> bytes:
    """The framing format: a stream identifier, then chunks of at most 64 KiB, here of 600 bytes."""
    out = b"\xff\x06\x00\x00sNaPpY"
    for at in range(0, len(body), 600):
        part = body[at : at + 600]
        crc = crc32c(part)
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        chunk = struct.pack("<I", masked) + snappy_block(part)
        out += b"\x00" + len(chunk).to_bytes(3, "little") + chunk
    return out


def snappy_hadoop(body: bytes) -> bytes:
    """Hadoop's framing: per block its length, then length and bytes of its one compressed chunk."""
    out = b""
    for at in range(0, len(body), 600):
        part = body[at : at + 600]
        chunk = snappy_block(part)
        out += struct.pack(">II", len(part), len(chunk)) + chunk
    return out


def zipped(members: list[tuple[str, bytes, int]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body, method in members:
            info = zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system = method, 3
            archive.writestr(info, body)
    return out.getvalue()


# --- framing ------------------------------------------------------------------------------------


@case("FaultData", "firehose_undelimited")
def _(c: Case) -> None:
    for _ in range(2):
        c.firehose().good(c.record(), c.record(), c.record(), end=b"").write()


@case("FaultData", "firehose_ndjson")
def _(c: Case) -> None:
    c.firehose().good(c.record(), c.record(), c.record()).write()
    c.firehose().good(c.record()).good(end=b"").write()
    c.firehose(day="2025/01/02").good(c.record(), c.record()).write()


@case("FaultData", "year_root_full_fields")
def _(c: Case) -> None:
    path = {"database": "fleetdb_de", "entity": "FaultData", "year": "2024", "month": "03", "day": "09"}
    body = c.year_root()
    for day in ("09", "10", "31"):
        body.good(c.record(dateTime=f"2024-03-{day}T08:00:00.000Z", **{**path, "day": day}))
    body.write()


@case("FaultData", "pretty_printed")
def _(c: Case) -> None:
    body = c.firehose()
    for indent in (2, 4, "\t"):
        body.good(json.dumps(c.record(), indent=indent).encode())
    body.good().write()
    c.firehose().good(json.dumps(c.record(), indent=2).encode(), end=b"").good(end=b"").write()


@case("FaultData", "crlf")
def _(c: Case) -> None:
    c.firehose().good(c.record(), c.record(), end=b"\r\n").good(end=b"").write()
    pretty = json.dumps(c.record(), indent=2).replace("\n", "\r\n").encode()
    c.firehose().good(pretty, end=b"\r\n").good(end=b"\r\n").write()


@case("FaultData", "bom")
def _(c: Case) -> None:
    bom = b"\xef\xbb\xbf"
    c.firehose().gap(bom).good(c.record(), c.record()).write()
    c.firehose().gap(bom).good(c.record(), c.record()).write(gzipped)
    c.firehose().gap(bom + b"[").good(end=b",").good(end=b"]").write()


@case("FaultData", "blank_lines")
def _(c: Case) -> None:
    c.firehose().gap(b"\n\n").good(end=b"\n\n\n").good(end=b" \n \t\n\r\n").good(end=b"\n\n").write()


@case("FaultData", "json_array")
def _(c: Case) -> None:
    c.firehose().gap(b"[").good(end=b",").good(end=b",").good(end=b"]").write()
    c.firehose().gap(b"[\n  ").good(end=b",\n  ").good(end=b"\n]\n").write()
    c.firehose().gap(b"[]").write()


@case("FaultData", "json_array_bad_element")
def _(c: Case) -> None:
    literal = c.raw('"count":1', '"count":tru')
    c.firehose().gap(b"[").good(end=b",").bad(literal, "malformed_json", end=b",").good(end=b"]").write()
    c.firehose().gap(b"[").good(end=b",").bad(b"42", "not_an_object", end=b",").good(end=b"]").write()


@case("FaultData", "api_envelope")
def _(c: Case) -> None:
    head, tail = b'{"result":{"data":[', b'],"toVersion":"00000000034561f1"},"jsonrpc":"2.0"}'
    c.firehose().gap(head).good(end=b",").good(end=b",").good(end=tail).write()
    c.firehose().gap(head).bad(c.record(count="1"), "wrong_type", "$.count", end=b",").good(end=tail + b"\n").write()
    c.firehose().gap(head + tail).write()
    early = b'{"jsonrpc":"2.0","result":{"toVersion":"00000000034561f2","data":[\n'
    c.firehose().gap(early).good(end=b",\n").good(end=b"\n]}}\n").write()


@case("FaultData", "api_error_body")
def _(c: Case) -> None:
    error = {"code": -32000, "message": "API calls quota exceeded.", "data": {"type": "OverLimitException"}}
    body = {"error": {**error, "errors": [{"name": "OverLimitException"}], "name": "JSONRPCError"}, "jsonrpc": "2.0"}
    c.firehose().good().write()
    c.firehose().bad(body, "error_envelope", end=b"").write()
    c.firehose().good().bad(body, "error_envelope").good().write()


@case("FaultData", "empty_object")
def _(c: Case) -> None:
    c.firehose().good().write()
    c.firehose().write()
    c.year_root().write()
    c.firehose().good().write()


@case("FaultData", "whitespace_only")
def _(c: Case) -> None:
    c.firehose().good().write()
    c.firehose().gap(b" \n\t\r\n  ").write()


@case("FaultData", "truncated_object")
def _(c: Case) -> None:
    """Cut inside a string, a nested object, a number, and as the last of an array."""
    for cut, end in ((b"FailureMo", b""), (b'"device":{', b"\n"), (b'"count":1', b"")):
        raw = compact(c.record())
        c.firehose().good(c.record(), c.record(), end=end).bad(
            raw[: raw.index(cut) + len(cut)], "truncated_record", end=b""
        ).write()
    raw = compact(c.record())
    c.firehose().gap(b"[").good(end=b",").good(end=b",").bad(raw[:-9], "truncated_record", end=b"").write()
    c.firehose().good().write()


@case("FaultData", "truncated_line")
def _(c: Case) -> None:
    """Cut inside a string, and the next record on the next line."""
    raw = compact(c.record())
    cut = raw[: raw.index(b"FailureMo") + 9]
    c.firehose().good().bad(cut, "truncated_record").good(c.record(), c.record()).write()


@case("FaultData", "truncated_line_outside_string")
def _(c: Case) -> None:
    """Cut after a comma, and the next record on the next line."""
    raw = compact(c.record())
    cut = raw[: raw.index(b'"device"')]
    c.firehose().good().bad(cut, "truncated_record").good(c.record(), c.record()).write()


@case("FaultData", "truncated_envelope")
def _(c: Case) -> None:
    raw = compact(c.record())
    body = c.firehose().gap(b'{"result":{"data":[').good(end=b",").good(end=b",")
    body.bad(raw[: len(raw) // 2], "truncated_record", end=b"").write()


@case("FaultData", "garbage_after_record")
def _(c: Case) -> None:
    c.firehose().good(end=b"").bad(b"xyz", "malformed_json").good().write()
    c.firehose().good(end=b"").bad(b"xyz", "malformed_json", end=b"").good().write()
    c.firehose().good().bad(b"###", "malformed_json").good().write()
    c.firehose().good(end=b"").bad(b"}", "malformed_json").good().write()
    c.firehose().good().bad(b"xyz", "malformed_json", end=b"").write()


@case("FaultData", "second_of_two_broken")
def _(c: Case) -> None:
    broken = c.raw('"amberWarningLamp":false', '"amberWarningLamp":flase')
    c.firehose().good(end=b"").bad(broken, "malformed_json", end=b"").write()
    broken = c.raw('"amberWarningLamp":false', '"amberWarningLamp":flase')
    c.firehose().good(end=b"").bad(broken, "malformed_json", end=b"").good(end=b"").write()


@case("FaultData", "unbalanced_braces_in_strings")
def _(c: Case) -> None:
    for end in (b"", b"\n"):
        texts = ["}{", "{{{[[", '\\"}', '"}]{"', "]}\\", "\\\\", '{"id":"b1"}', "\n{\n"]
        c.firehose().good(*[c.record(recommendation=text) for text in texts], end=end).write()


@case("FaultData", "malformed_values")
def _(c: Case) -> None:
    """Brackets balance, the grammar does not hold."""
    swaps = ["01", "+1", "1.", ".5", "0x1", "1e", "'1'", "1,", "1 1", "/* */ 1", "tru", "nulll"]
    swaps += ['"a\tb"', '"\\x"', "[1,]"]
    defects = [(c.raw('"count":1,', f'"count":{by},'), "malformed_json", "$") for by in swaps]
    c.firehose().among(*defects).write()


@case("FaultData", "nan_literal")
def _(c: Case) -> None:
    names = ["NaN", "Infinity", "-Infinity", "nan"]
    c.firehose().among(*[(c.raw('"count":1', f'"count":{name}'), "malformed_json", "$") for name in names]).write()


@case("FaultData", "invalid_utf8")
def _(c: Case) -> None:
    body = c.firehose().good()
    for broken in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"):
        raw = compact(c.record(severity="high @")).replace(b"@", broken)
        body.bad(raw, "invalid_utf8").good()
    raw = compact(c.record(severity="high @")).replace(b"@", b"\xff")
    body.bad(raw, "invalid_utf8", end=b"").good(c.record(severity="größer €🚚")).write()


@case("FaultData", "nul_bytes")
def _(c: Case) -> None:
    raw = compact(c.record(severity="a@b")).replace(b"@", b"\x00")
    c.firehose().good().bad(raw, "malformed_json").good().good(c.raw("a@b", "a\\u0000b", severity="a@b")).write()


@case("FaultData", "lone_surrogate")
def _(c: Case) -> None:
    c.firehose().among(
        (c.raw("@", "\\ud800", severity="@"), "invalid_unicode", "$.severity"),
        (c.raw("@", "\\udc00\\ud800", severity="@"), "invalid_unicode", "$.severity"),
        (c.raw("FaultStatusActiveId", "x\\uDFFF"), "invalid_unicode", "$.faultStates.effectiveStatus"),
    ).good(c.raw("@", "\\ud83d\\ude9a", severity="@")).write()


@case("FaultData", "scalar_instead_of_object")
def _(c: Case) -> None:
    scalars = (b"42", b'"text"', b"true", b"null", b"-1.5e3")
    c.firehose().among(*[(raw, "not_an_object", "$") for raw in scalars]).write()


@case("FaultData", "duplicate_keys")
def _(c: Case) -> None:
    c.firehose().among(
        (c.raw('"count":1', '"count":1,"count":2'), "duplicate_field", "$.count"),
        (c.raw('"count":1', '"count":1,"count":1'), "duplicate_field", "$.count"),
        (c.raw('"count":1', '"count":1,"\\u0063ount":1'), "duplicate_field", "$.count"),
        (c.raw('"ControllerGoDeviceId"', '"a","id":"b"'), "duplicate_field", "$.controller.id"),
        (c.raw('"count":1', '"count":1,"odd name":1,"odd name":2'), "duplicate_field", "$['odd name']"),
    ).write()


@case("FaultData", "nesting_too_deep")
def _(c: Case) -> None:
    """The record is level 1, so seven levels fit below it."""
    c.own_job("limits: {nesting: 8}")

    def deep(levels: int) -> Json:
        return {"x": deep(levels - 1)} if levels else 1

    arrays = c.raw('"extra":0', '"extra":' + "[" * 200 + "]" * 200, extra=0)
    c.firehose().good(c.record(extra=deep(7))).among(
        (c.record(extra=deep(8)), "nesting_too_deep", "$"), (arrays, "nesting_too_deep", "$")
    ).good(c.record(extra=deep(7)), end=b"").bad(c.record(extra=deep(9)), "nesting_too_deep", end=b"").good().write()


@case("FaultData", "record_too_large")
def _(c: Case) -> None:
    """Exactly 4096 bytes are allowed."""
    c.own_job("limits: {record: 4 KiB}")

    def sized(size: int, fill: str = "x") -> bytes:
        record = c.record(recommendation="")
        return compact({**record, "recommendation": (fill * size)[: size - len(compact(record))]})

    for end in (b"\n", b""):
        body = c.firehose().good(sized(4096), end=end).bad(sized(4097), "record_too_large", end=end, keep=4096)
        body.good(end=end).bad(sized(20_000, "}{"), "record_too_large", end=end, keep=4096).good(end=end).write()


# --- encodings ----------------------------------------------------------------------------------


@case("FaultData", "gzip")
def _(c: Case) -> None:
    for name in ("part-1.json.gz", "part-2"):
        c.firehose(name).good(c.record(), c.record(), c.record(), end=b"").write(gzipped)
    c.year_root("backfill-0001.json.gz").good(c.record(), c.record()).write(gzipped)


@case("FaultData", "gzip_multi_member")
def _(c: Case) -> None:
    """The second member begins inside a record; an empty member follows."""
    body = c.firehose("part-1.gz").good(c.record(), c.record(), c.record(), c.record())
    at = len(body.body) // 2
    body.write(lambda raw: gzipped(raw[:at]) + gzipped(raw[at:]) + gzipped(b""))


@case("FaultData", "gz_name_but_plain")
def _(c: Case) -> None:
    c.firehose("part-1.json.gz").good(c.record(), c.record()).write()


@case("FaultData", "plain_name_but_gzip")
def _(c: Case) -> None:
    c.firehose("part-1.json").good(c.record(), c.record()).write(gzipped)


@case("FaultData", "zstd")
def _(c: Case) -> None:
    c.firehose("part-1.json.zst").good(c.record(), c.record()).write(lambda raw: pa.compress(raw, "zstd", asbytes=True))


@case("FaultData", "snappy")
def _(c: Case) -> None:
    """The framing format, and Hadoop's, which has no magic bytes."""
    c.firehose("part-1.snappy").good(c.record(), c.record(), c.record()).write(snappy_framed)
    c.firehose("part-2.snappy").good(c.record(), c.record(), c.record(), end=b"").write(snappy_hadoop)


@case("FaultData", "bzip2")
def _(c: Case) -> None:
    c.firehose("part-1.json.bz2").good(c.record(), c.record()).write(bz2.compress)


@case("FaultData", "zip")
def _(c: Case) -> None:
    key = "year=2025/month=01/day=01/part-1.zip"
    first, second = c.open(key, "part-1.json"), c.open(key, "inner/part 2.json")
    first.good(c.record(), c.record())
    second.good(end=b"").bad(c.record(count=-1), "out_of_range", "$.count", end=b"").good(end=b"")
    mac = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
    members = [
        ("inner/", b"", zipfile.ZIP_STORED),
        ("part-1.json", bytes(first.body), zipfile.ZIP_DEFLATED),
        ("__MACOSX/._part-1.json", mac, zipfile.ZIP_DEFLATED),
        ("inner/part 2.json", bytes(second.body), zipfile.ZIP_STORED),
    ]
    c.store(first.key, zipped(members))


@case("FaultData", "truncated_gzip")
def _(c: Case) -> None:
    """Ends inside the deflate stream. How many bytes of such a tail decode depends on the decoder, so
    the cut is at a flush point, where all agree; zlib says what decodes."""
    whole = b"".join(compact(c.record()) + b"\n" for _ in range(4))
    at = whole.rindex(b'"controller"')
    packer = zlib.compressobj(wbits=31)
    cut = packer.compress(whole[:at]) + packer.flush(zlib.Z_FULL_FLUSH)
    decoded = zlib.decompressobj(wbits=31).decompress(cut)
    *records, tail = decoded.split(b"\n")
    assert decoded == whole[:at] and len(records) == 3
    body = c.firehose("part-1.gz").good(*records).bad(tail, "corrupt_codec", end=b"")
    c.store(body.key, cut)
    c.firehose("part-2.gz").good().write(gzipped)


@case("FaultData", "decompression_bomb")
def _(c: Case) -> None:
    """May decode to 64 KiB; the record at that limit is cut, what follows is not looked at."""
    c.own_job("limits: {decoded_floor: 64 KiB, decoded_ratio: 2}")
    limit = 64 * 1024
    whole = b"".join(compact(c.record(recommendation="x" * 12_000)) + b"\n" for _ in range(40))
    packed = gzipped(whole)
    assert 2 * len(packed) < limit
    *records, tail = whole[:limit].split(b"\n")
    body = c.firehose("part-1.gz").good(*records).bad(tail, "decompression_limit", end=b"")
    assert len(body.body) == limit
    c.store(body.key, packed)
    c.firehose("part-2.gz").good().write(gzipped)


# --- partitions ---------------------------------------------------------------------------------


@case("FaultData", "partition_conflict")
def _(c: Case) -> None:
    old = "2023-05-01T00:00:00.000Z"
    c.year_root().good(c.record(year="2024")).bad(
        c.record(dateTime=old, year="2023", month="05"), "partition_conflict", "$.year"
    ).good(c.record(year=2024, month=2, day=3)).write()
    c.firehose().among(
        (c.record(month="02"), "partition_conflict", "$.month"),
        (c.record(day=2), "partition_conflict", "$.day"),
        (c.record(year=2024, month=2), "partition_conflict", "$.year"),
        (c.record(year=2024, count=-1), "partition_conflict", "$.year"),
    ).write()


@case("FaultData", "partition_conflict_database")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(database="fleetdb_fr"), "partition_conflict", "$.database"),
        (c.record(entity="LogRecord"), "partition_conflict", "$.entity"),
    ).good(c.record(database="fleetdb_de", entity="FaultData")).write()


@case("FaultData", "partition_01_is_1")
def _(c: Case) -> None:
    body = c.firehose()
    for month in (1, "1", "01"):
        body.good(c.record(year="2025", month=month, day=month))
    body.write()
    c.open("year=2025/month=1/day=2/part-1").good(c.record(month="01", day=2)).good().write()


@case("FaultData", "partition_trust")
def _(c: Case) -> None:
    """A job that believes the path about the year, and the payload about the month."""
    trust = {"year": "path", "month": "payload", "day": "quarantine"}
    rules = {column: {"where": "either", "on_conflict": whom, "derive": "dateTime"} for column, whom in trust.items()}
    c.own_job(yaml.safe_dump({"partitions": rules}), drop=("partitions:", "year:", "month:", "day:"))
    c.firehose().good(c.record(year=2023, month=2, day=1)).bad(
        c.record(year=2023, day=2), "partition_conflict", "$.day"
    ).good().write()


@case("FaultData", "partition_derived")
def _(c: Case) -> None:
    """Neither path nor payload has month and day: they come from the event time, in UTC."""
    c.year_root().good(
        c.record(dateTime="2024-12-31T23:59:59.999Z"),
        c.record(dateTime="2024-06-30T23:30:00-02:00"),
        c.record(dateTime="2023-12-31T23:00:00.000Z"),
        c.record(month="5"),
    ).write()


@case("FaultData", "partition_invalid")
def _(c: Case) -> None:
    for folder, column in (
        ("year=20%2F24", "year"),
        ("year=abc", "year"),
        ("year=..", "year"),
        ("year=2024/month=..1/day=01", "month"),
        ("year=2024/month=01/day=x", "day"),
    ):
        body = c.open(f"{folder}/part-1.json")
        for _ in range(2):
            body.bad(c.record(), "partition_invalid", f"$.{column}")
        body.write()
    c.year_root().among(
        (c.record(month="May"), "partition_invalid", "$.month"),
        (c.record(day=1.5), "partition_invalid", "$.day"),
    ).write()


@case("FaultData", "hive_default_partition")
def _(c: Case) -> None:
    path = "year=2024/month=__HIVE_DEFAULT_PARTITION__/day=05/part-1.json"
    c.open(path).good(c.record(dateTime="2024-04-05T10:00:00.000Z")).good(c.record(month="3", day="5")).write()


@case("Device", "partition_missing")
def _(c: Case) -> None:
    c.year_root().good(c.record(month="03", day="09")).bad(c.record(), "partition_missing", "$.month").good(
        c.record(month=3, day=9)
    ).bad(c.record(month="03"), "partition_missing", "$.day").good(c.record(month="3", day="9")).write()
    c.firehose().good().write()


# --- names and layouts --------------------------------------------------------------------------


@case("FaultData", "odd_names")
def _(c: Case) -> None:
    for name in (
        "Störung Süd (1).json",
        "障害データ.json",
        "a b+c&d,e;f='g'.json",
        "100%25.json",
        "percent %20 name",
        "x=1.json",
        "#1.json",
        "🚚",
        "no-extension",
    ):
        c.firehose(name).good().good().write()
    c.year_root("Sicherung 2024 – Teil 1.json").good().write()


@case("FaultData", "foreign_objects")
def _(c: Case) -> None:
    """Only the two objects of records are read."""
    c.firehose().good().write()
    c.year_root().good().write()
    failed = {
        "attemptsMade": 4,
        "arrivalTimestamp": 1735700000000,
        "errorCode": "Lambda.FunctionTimedOut",
        "errorMessage": "The Lambda function timed out.",
        "attemptEndingTimestamp": 1735700060000,
        "rawData": base64.b64encode(compact(c.record())).decode(),
    }
    line = compact(failed) + b"\n"
    c.foreign("processing-failed/2025/01/01/03/fleet-telemetry-1-2025-01-01-03-00-00-failed", line * 2)
    c.foreign("format-conversion-failed/2025/01/01/03/fleet-telemetry-1-2025-01-01-03-00-00-failed", line)
    day = "year=2025/month=01/day=01"
    c.foreign(f"{day}/_SUCCESS", b"")
    c.foreign(f"{day}/.DS_Store", b"\x00\x00\x00\x01Bud1")
    c.foreign(f"{day}/part-00000.snappy.parquet", b"PAR1\x15\x04PAR1")


@case("StatusData", "duplicates_across_layouts")
def _(c: Case) -> None:
    """The year_root record comes first, so it survives."""
    shared = [c.record() for _ in range(2)]
    c.year_root(year="2025").good(*[{**record, "month": "1", "day": "1"} for record in shared]).good().write()
    c.firehose().good().duplicate(shared[0]).good().duplicate(shared[1]).write()


@case("StatusData", "duplicate_forms")
def _(c: Case) -> None:
    """Equal in every contract property: other spellings, other partition columns, other unknown fields."""
    first = c.record(device={"id": "b1"}, data=1)
    c.firehose().good(first).good().write()
    body = c.firehose(day="2025/01/02")
    body.duplicate({**first, "device": "b1"}, {**first, "dateTime": first["dateTime"].replace(".000Z", "Z")})
    body.duplicate(compact({**first, "data": 11}).replace(b":11", b":1.0")).good()
    body.duplicate({**first, "newField": 1}, dict(reversed(first.items())), json.dumps(first, indent=2).encode())
    body.write()


@case("LogRecord", "key_conflict")
def _(c: Case) -> None:
    first = c.record()
    c.firehose().good(first).bad({**first, "speed": 49}, "key_conflict").good().duplicate(first).good().write()
    old = c.record()
    c.firehose(day="2025/01/02").good().bad({**old, "latitude": 52.25}, "key_conflict").good().write()
    c.year_root(year="2025").good(old).write()


@case("FaultData", "key_missing")
def _(c: Case) -> None:
    ref = {"type": ["object", "string"], "x-ref": True, "required": ["id"], "properties": {"id": {"type": "string"}}}
    id_, time = {"type": ["string", "null"]}, {"type": "string", "format": "date-time"}
    c.own_schemas({"type": "object", "properties": {"id": id_, "dateTime": time, "device": ref}})
    slim = {name: ABSENT for name in c.record() if name not in ("id", "dateTime", "device")}
    body = c.firehose().good(c.record(**slim)).bad(c.record(**slim, id=ABSENT), "key_missing", "$.id")
    body.good(c.record(**slim)).bad(c.record(**slim, id=None), "key_missing", "$.id").good(c.record(**slim)).write()


# --- the latest record wins ---------------------------------------------------------------------


@case("FaultData", "duplicates_across_layouts")
def _(c: Case) -> None:
    """The firehose record is the later one, so it survives."""
    shared = [c.record() for _ in range(2)]
    c.year_root(year="2025").duplicate(*[{**record, "month": "1", "day": "1"} for record in shared]).good().write()
    c.firehose().good(c.record(), shared[0], c.record(), shared[1]).write()


@case("FaultData", "duplicate_forms")
def _(c: Case) -> None:
    """Equal in every contract property or not: the last one is the row."""
    first = c.record(device={"id": "b1"}, riskOfBreakdown=1)
    c.firehose().duplicate(first).good().write()
    body = c.firehose(day="2025/01/02")
    body.duplicate({**first, "device": "b1"}, {**first, "dateTime": first["dateTime"].replace(".000Z", "Z")})
    body.duplicate(compact({**first, "count": 11}).replace(b":11", b":1.0")).good()
    body.duplicate({**first, "newField": 1}, dict(reversed(first.items()))).good(json.dumps(first, indent=2).encode())
    body.write()


@case("FaultData", "reemission")
def _(c: Case) -> None:
    """The same bytes on three days."""
    same = c.record()
    c.firehose().duplicate(same).good().write()
    c.firehose(day="2025/01/02").good().duplicate(same).write()
    c.firehose(day="2025/01/03").good(same).write()


@case("FaultData", "latest_across_layouts")
def _(c: Case) -> None:
    """firehose is later than year_root, whatever the dates; within year_root the year decides."""
    both, old = c.record(), c.record()
    c.firehose(day="2024/12/31").good({**both, "count": 4}).good().write()
    c.year_root(year="2025").duplicate({**both, "count": 3}).good({**old, "count": 2}).write()
    c.year_root().duplicate({**both, "count": 2}, old).good().write()


@case("FaultData", "latest_path_date")
def _(c: Case) -> None:
    """Dates compare as dates, before stamps; a month or day without zero is the same date."""
    first, second = c.record(), c.record()
    c.open("year=2025/month=01/day=10/part-2025-01-01-00-00-00").good({**first, "count": 3}).duplicate(second).write()
    c.open("year=2025/month=1/day=9/part-2025-01-11-00-00-00").duplicate({**first, "count": 2}).write()
    c.open("year=2025/month=1/day=10/part-2025-01-01-00-00-01").good({**second, "count": 2}).write()
    c.open("year=2024/month=12/day=31/part-2026-01-01-00-00-00").duplicate(first).write()


@case("FaultData", "latest_hive_default")
def _(c: Case) -> None:
    """An unknown month counts as 01; without a year there is no date, and that is older than any."""
    null = "__HIVE_DEFAULT_PARTITION__"
    first, second = c.record(), c.record()
    c.open(f"year={null}/month=01/day=28/part-1").duplicate(first).good().write()
    c.firehose("part-2", day="2025/01/10").duplicate({**first, "count": 2}, {**second, "count": 2}).write()
    body = c.open(f"year=2025/month={null}/day=20/part-3")
    body.good({**first, "count": 3}).duplicate({**second, "count": 3}).write()
    c.firehose("part-4", day="2025/02/01").good(second).write()


@case("FaultData", "latest_stamp")
def _(c: Case) -> None:
    """On one day the first stamp in the name decides, and a name without one is older."""
    first = c.record()
    c.firehose("z").duplicate(first).write()
    c.firehose("b-2025-01-01-03-00-00-1").duplicate({**first, "count": 2}).write()
    c.firehose("c-2025-01-01-04-00-00-2025-01-01-23-00-00").duplicate({**first, "count": 3}).write()
    c.firehose("a-2025-01-01-05-00-00-2025-01-01-01-00-00").good({**first, "count": 4}).write()


@case("FaultData", "latest_name")
def _(c: Case) -> None:
    """Then the name, byte by byte in UTF-8."""
    for stamp in ("", "-2025-01-01-03-00-00"):
        for older, later in (("part-10", "part-9"), ("B", "a"), ("a", "ä"), ("～", "🚚")):
            first = c.record()
            c.firehose(f"{later}{stamp}-{first['id']}").good({**first, "count": 2}).write()
            c.firehose(f"{older}{stamp}-{first['id']}").duplicate(first).write()


@case("FaultData", "latest_offset")
def _(c: Case) -> None:
    """Within an object the place decides, as a number; so it does in what was decoded."""
    for encode in (bytes, gzipped):
        first = c.record()
        body = c.firehose().duplicate(first).duplicate({**first, "count": 2}).good().good().good()
        assert str(len(body.body)) < str(len(compact(first)) + 1)
        body.good({**first, "count": 3}).good().write(encode)


@case("FaultData", "zip_members")
def _(c: Case) -> None:
    """The members' names decide, not their places in the archive; the archive's name decides first."""
    first, second = c.record(), c.record()

    def archive(name: str, *members: Object) -> None:
        written = [(member.source.partition("!/")[2], bytes(member.body), zipfile.ZIP_DEFLATED) for member in members]
        c.store(f"{c.prefix}/year=2025/month=01/day=01/{name}", zipped(written))

    key = "year=2025/month=01/day=01/part-{}.zip"
    later = c.open(key.format(1), "b.json").good({**first, "count": 2}).duplicate({**second, "count": 2})
    archive("part-1.zip", later, c.open(key.format(1), "a.json").duplicate(first).good())
    archive("part-2.zip", c.open(key.format(2), "a.json").good().good(second))


@case("FaultData", "partition_changed")
def _(c: Case) -> None:
    """The row is where its latest record says, by path and by event time."""
    first, second = c.record(), c.record(dateTime="2024-05-06T07:08:09.000Z")
    c.firehose().duplicate(first).good().write()
    c.firehose(day="2025/01/02").good({**first, "dateTime": "2025-03-05T00:00:00.000Z"}).write()
    c.year_root().duplicate(second).good().good({**second, "dateTime": "2024-06-07T07:08:09.000Z"}).write()


@case("FaultData", "refused_is_no_winner")
def _(c: Case) -> None:
    """The latest record of the key is refused, so the one before it is the row."""
    first = c.record()
    body = c.firehose().duplicate(first).good({**first, "count": 2})
    body.bad({**first, "count": -1}, "out_of_range", "$.count").write()
    c.firehose(day="2025/01/02").bad({**first, "count": "3"}, "wrong_type", "$.count").good().write()


@case("FaultData", "latest_of_two_versions")
def _(c: Case) -> None:
    """An older version of the contract may hold the later record."""
    first, second = c.record(), c.record()
    c.year_root().duplicate({**first, "faultLamp": "Warning"}, {**second, "faultLamp": "Warning"}).write()
    c.firehose().duplicate({**first, "schemaVersion": 2, "faultLampState": "Stop"}).good(
        {**first, "schemaVersion": 1, "faultLamp": "Protect"}, {**second, "faultLampState": "Protect"}
    ).write()


@case("FaultData", "two_countries")
def _(c: Case) -> None:
    """The same ids are other keys in another database."""
    same, other = c.record(), c.record()
    c.firehose().good(same).duplicate(other).write()
    c.firehose(day="2025/01/02").good({**other, "count": 2}).write()
    c.country("fr")
    c.firehose().good(same).good({**other, "count": 3}).write()
    c.year_root(year="2025").duplicate({**other, "count": 4}).good().write()


@case("Trip", "version_beats_arrival")
def _(c: Case) -> None:
    """The higher version is later, in whatever object and layout; equal versions go by arrival."""
    first, second, third = (c.record(version=f"{15:016x}") for _ in range(3))
    higher = {"version": f"{16:016x}", "distance": 0.5}
    c.year_root().good({**third, **higher}).write()
    c.firehose().good({**first, **higher}).duplicate(second).write()
    c.firehose(day="2025/01/02").duplicate(first, third).good({**second, "distance": 0.75}).write()


@case("Trip", "version_absent")
def _(c: Case) -> None:
    """Without a version a record is older than any with one; two of them go by arrival."""
    first, second = c.record(version=f"{0:016x}"), c.record(version=ABSENT)
    late = {name: value for name, value in first.items() if name != "version"}
    c.firehose().good(first).duplicate(second).write()
    c.firehose(day="2025/01/02").duplicate(late).good({**second, "distance": 0.5}).write()


@case("Trip", "recalculated")
def _(c: Case) -> None:
    """A recalculated trip has another id and the same key; another device is another trip."""
    first = c.record()
    again = {**first, "id": "bFF1", "version": f"{255:016x}", "distance": 0.5, "device": first["device"]["id"]}
    other = {**first, "device": {"id": "b8DA"}}
    c.firehose().good(again, other).write()
    c.firehose(day="2025/01/02").duplicate(first).good().write()


def gone(record: dict[str, Json], version: int) -> dict[str, Json]:
    return {**record, "version": f"{version:016x}", "deletedDateTime": "2025-02-01T00:00:00.000Z"}


@case("Trip", "delete_wins")
def _(c: Case) -> None:
    """The later record is a delete, by version or by arrival: no row."""
    first, second, third = (c.record(version=f"{15:016x}") for _ in range(3))
    c.firehose().duplicate(first, second).deleted(gone(third, 16)).good().write()
    c.firehose(day="2025/01/02").deleted(gone(first, 16), gone(second, 15)).duplicate(third).write()


@case("Trip", "insert_after_delete")
def _(c: Case) -> None:
    """The later record is none: the row lives."""
    first, second, third = (c.record(version=f"{17:016x}") for _ in range(3))
    c.firehose().duplicate(gone(first, 16), gone(second, 17)).good(third).write()
    c.firehose(day="2025/01/02").good(first, second).duplicate(gone(third, 16)).good().write()


@case("Trip", "delete_unknown")
def _(c: Case) -> None:
    """Deletes of keys that were never seen, twice of one: no row at all."""
    first = gone(c.record(), 16)
    c.firehose().deleted(gone(c.record(), 1)).duplicate(first).write()
    c.firehose(day="2025/01/02").deleted(first).write()


@case("Trip", "delete_across_layouts")
def _(c: Case) -> None:
    first, second, third, fourth = (c.record(version=f"{15:016x}") for _ in range(4))
    c.year_root().duplicate(gone(first, 15), second, gone(third, 15)).deleted(gone(fourth, 16)).write()
    c.firehose().good(first).deleted(gone(second, 15), gone(third, 15)).duplicate(fourth).good().write()


@case("User", "delete_when_op")
def _(c: Case) -> None:
    """Changes as a database's log tells them: I, U and D."""
    c.own_job("order_by: [changedAt]\ndelete_when: Op = 'D'")
    text, time = {"type": ["string", "null"]}, {"type": "string", "format": "date-time"}
    c.own_schemas({"type": "object", "required": ["id"], "properties": {
        "Op": text, "id": {"type": "string"}, "changedAt": time, "name": text,
    }})  # fmt: skip

    def change(op: str | None, id_: str, second: int) -> dict[str, Json]:
        return {"Op": op, "id": id_, "changedAt": f"2025-01-01T00:00:{second:02d}Z", "name": f"{id_} at {second}"}

    c.firehose().deleted(change("D", "u1", 9)).duplicate(change("D", "u2", 2)).good(change("U", "u3", 3)).write()
    later = c.firehose(day="2025/01/02").duplicate(change("I", "u1", 1), change("U", "u1", 2), change("I", "u2", 1))
    later.good(change("I", "u2", 3)).duplicate(change("I", "u3", 1), change("D", "u3", 2)).deleted(change("D", "u4", 1))
    later.good(change("d", "u5", 1), change(None, "u6", 1), {"id": "u7"}).write()


@case("User", "delete_when_nulls")
def _(c: Case) -> None:
    """What is unknown does not delete."""
    c.own_job("delete_when: isRemoved = true OR state = 'gone'")
    c.own_schemas({"type": "object", "required": ["id"], "properties": {
        "id": {"type": "string"}, "isRemoved": {"type": ["boolean", "null"]}, "state": {"type": "string"},
    }})  # fmt: skip
    c.firehose().good({"id": "u1"}, {"id": "u2", "isRemoved": None}, {"id": "u3", "state": "here"}).deleted(
        {"id": "u4", "isRemoved": None, "state": "gone"}, {"id": "u5", "isRemoved": True}
    ).good({"id": "u6", "isRemoved": False}).deleted({"id": "u7", "isRemoved": False, "state": "gone"}).write()


def ordered(c: Case, order_by: str, *versions: Json) -> None:
    """A table of ids that is ordered by properties of its own."""
    c.own_job(f"order_by: [{order_by}]")
    c.own_schemas(*[{"type": "object", "required": ["id"], **version} for version in versions])


def rising(c: Case, *steps: dict[str, Json]) -> None:
    """Each step and the next are two records of one key: the later one by `order_by` arrives first."""
    early, late = c.firehose(), c.firehose(day="2025/01/02")
    for number, (older, later) in enumerate(pairwise(steps)):
        early.good({"id": f"k{number}", **later})
        late.duplicate({"id": f"k{number}", **older})
    early.write()
    late.write()


def ties(c: Case, *pairs: tuple[dict[str, Json], dict[str, Json]]) -> None:
    """What is equal by `order_by` goes by arrival."""
    early, late = c.firehose(day="2025/01/03"), c.firehose(day="2025/01/04")
    for number, (first, second) in enumerate(pairs):
        early.duplicate({"id": f"t{number}", **first, "note": "early"})
        late.good({"id": f"t{number}", **second})
    early.write()
    late.write()


@case("User", "order_by_long")
def _(c: Case) -> None:
    """Numbers as numbers; a duration is one, too."""
    id_, number, took = {"type": "string"}, {"type": ["integer", "null"]}, {"type": "string", "x-duration": True}
    ordered(c, "number, took", {"properties": {"id": id_, "number": number, "took": took, "note": {}}})
    low, high = (None, -(2**63), -10, -9, -1, 0, 5), (9, 10, 2**53, 2**53 + 1, 2**63 - 1)
    durations = [{"number": 5, "took": text} for text in ("-00:00:01", "00:00:09", "00:00:10", "1.00:00:00")]
    rising(c, *[{"number": n} for n in low], *durations, *[{"number": n} for n in high])
    whole = {"number": Decimal("3.0")}
    ties(c, ({}, {"number": None}), ({"number": None}, {}), ({"number": 3}, whole), (whole, {"number": 3}))


@case("User", "order_by_timestamp")
def _(c: Case) -> None:
    """As moments: neither the zone nor the digits that are written decide."""
    time = {"type": "string", "format": "date-time"}
    ordered(c, "at", {"properties": {"id": {"type": "string"}, "at": time, "note": {}}})
    texts = ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z", "2025-01-01T10:00:00+02:00"]
    texts += ["2025-01-01T09:00:00Z", "2025-01-01T09:00:00.000001Z", "2025-01-01T09:00:00.1Z"]
    texts += ["2025-01-01T08:00:00-01:30", "2025-01-01T09:30:01Z", "9999-12-31T23:59:59.999999Z"]
    rising(c, {}, *[{"at": text} for text in texts])
    zones = ({"at": "2025-01-01T09:00:00Z"}, {"at": "2025-01-01T10:00:00+01:00"})
    ties(c, zones, ({"at": "2025-01-01T09:00:00.1000009Z"}, {"at": "2025-01-01T09:00:00.1Z"}))


@case("User", "order_by_date")
def _(c: Case) -> None:
    since = {"type": ["string", "null"], "format": "date"}
    ordered(c, "since", {"properties": {"id": {"type": "string"}, "since": since, "note": {}}})
    texts = (None, "0001-01-01", "1969-12-31", "2024-02-29", "2024-03-01", "9999-12-31")
    rising(c, *[{"since": text} for text in texts])
    ties(c, ({}, {"since": None}), ({"since": "2024-02-29"}, {"since": "2024-02-29"}))


@case("User", "order_by_text")
def _(c: Case) -> None:
    """Byte by byte in UTF-8, as it is, the separator behind it; an empty text is as old as none."""
    ordered(c, "text", {"properties": {"id": {"type": "string"}, "text": {"type": "string"}, "note": {}}})
    rising(c, {}, *[{"text": text} for text in ("10", "9", "A", "B", "a\t", "a", "a b", "aa", "ä", "～", "🚚")])
    ties(c, ({}, {"text": ""}), ({"text": ""}, {}), ({"text": "ä"}, {"text": "ä"}))


@case("User", "order_by_two")
def _(c: Case) -> None:
    """The first property decides, then the second; what lacks one is older at its place."""
    properties = {"major": {"type": "integer"}, "since": {"type": "string", "format": "date"}}
    ordered(c, "major, since", {"properties": {"id": {"type": "string"}, **properties, "note": {}}})
    steps: list[dict[str, Json]] = [{}, {"since": "2025-01-01"}, {"major": -1, "since": "2025-01-01"}, {"major": 9}]
    steps += [{"major": 9, "since": f"2024-01-0{day}"} for day in (1, 2)]
    rising(c, *steps, {"major": 10}, {"major": 10, "since": "0001-01-01"})
    ties(c, ({"major": 9}, {"major": 9}), (steps[-1], steps[-1]))


@case("User", "order_by_upcast")
def _(c: Case) -> None:
    """The property of the newest version decides, also for records of an older one."""
    id_ = {"type": "string"}
    steps = [{"rename": {"from": "seq", "to": "sequence"}}, {"cast": {"field": "sequence", "to": "integer"}}]
    newest = {"x-version-field": "v", "x-default-version": 2, "x-decision": "a number", "x-upcast": steps}
    first = {"properties": {"id": id_, "seq": {"type": "string"}}}
    ordered(c, "sequence", first, {**newest, "properties": {"id": id_, "sequence": {"type": "integer"}}})
    old = [{"v": 1, "seq": text} for text in ("9", "11", "100")]
    rising(c, {"v": 1}, old[0], {"sequence": 10}, old[1], old[2], {"sequence": 101})


# --- snapshots ----------------------------------------------------------------------------------


def snapshots(c: Case) -> None:
    c.own_job("mode: snapshot", drop=("mode:",))


@case("Device", "snapshot_two_days")
def _(c: Case) -> None:
    """The second day has a changed, an equal and a new record, and one is gone."""
    snapshots(c)
    same, changed, gone = c.record(), c.record(), c.record()
    c.firehose().good(same, changed, gone).write()
    c.firehose(day="2025/01/02").good().duplicate({**same, "newField": 1}).updated({**changed, "name": "new"}).write()
    c.removed = 1


@case("Device", "snapshot_three_days")
def _(c: Case) -> None:
    """Gone and back is new again; A, B, A is three rows of which the last stays; what stays equal stays as it was."""
    snapshots(c)
    same, back, changed, late_gone = (c.record() for _ in range(4))
    c.firehose(day="2025/01/09").good(same, back, changed, late_gone).write()
    c.firehose(day="2025/01/10").duplicate(same).updated({**changed, "name": "B"}).duplicate(late_gone).write()
    c.firehose(day="2025/02/01").good().duplicate(same).good(back).updated(changed).write()
    c.removed = 2


@case("Device", "snapshot_layouts")
def _(c: Case) -> None:
    """year_root first, by year, whatever day its records name; then the days of firehose."""
    snapshots(c)
    same, changed, gone = (c.record() for _ in range(3))
    c.firehose(day="2024/12/31").duplicate(same).updated({**changed, "name": "firehose"}).good().write()
    path = {"month": 1, "day": 1}
    c.year_root(year="2025").duplicate({**same, **path}).updated({**changed, "name": "2025", **path}).good(
        c.record(month=12, day=31)
    ).write()
    c.year_root().good(*[{**record, "month": 12, "day": 30} for record in (same, changed, gone)]).write()
    c.removed = 2


@case("Device", "snapshot_refused_record")
def _(c: Case) -> None:
    """A refused record is not there: its row goes."""
    snapshots(c)
    same, refused, both = c.record(), c.record(), c.record()
    c.firehose().good(same, refused, both).bad(c.record(productId="120"), "wrong_type", "$.productId").write()
    c.firehose(day="2025/01/02").duplicate(same).bad({**refused, "name": 1}, "wrong_type", "$.name").bad(
        {**both, "name": 1}, "wrong_type", "$.name"
    ).updated({**both, "name": "sound"}).write()
    c.removed = 1


@case("Device", "snapshot_two_objects")
def _(c: Case) -> None:
    """A day is one state, in however many objects: the last record of a key counts, by stamp, name and place."""
    snapshots(c)
    first, second, third, fourth = (c.record() for _ in range(4))
    c.firehose("a-2025-01-01-05-00-00-1").good({**first, "name": "later"}, second).write()
    c.firehose("b-2025-01-01-04-00-00-1").duplicate(first).good(third, fourth).write()
    day = "2025/01/02"
    c.firehose("part-10", day).duplicate({**second, "name": "for a while"}, {**third, "name": "10"}).write()
    body = c.firehose("part-9", day).duplicate(second).updated({**third, "name": "9"})
    body.duplicate({**fourth, "name": "for a while"}, fourth).good().write()
    c.removed = 1


@case("Device", "snapshot_two_countries")
def _(c: Case) -> None:
    """What is gone in one database stays in the other."""
    snapshots(c)
    same, changed, gone = c.record(), c.record(), c.record()
    c.firehose().good(same, changed, gone).write()
    c.firehose(day="2025/01/02").duplicate(same).updated({**changed, "name": "new"}).write()
    c.country("fr")
    c.firehose().good(same, {**changed, "name": "fr"}, gone).write()
    c.removed = 1


# --- contracts ----------------------------------------------------------------------------------


def all_fields(c: Case) -> None:
    c.firehose().good(every_field(c), every_field(c)).good().write()
    path = {"database": "fleetdb_de", "entity": c.entity, "year": "2024", "month": "11", "day": "30"}
    version = reference.load_contract(c.schemas, c.entity).newest
    c.year_root().good(every_field(c, schemaVersion=version, **path), c.record(month=11, day=30)).write()


for name_ in TEMPLATES:
    case(name_, "all_fields")(all_fields)


@case("FaultData", "enum_not_in_contract")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(faultState="PendingOff"), "not_in_enum", "$.faultState"),
        (c.record(faultState="active"), "not_in_enum", "$.faultState"),
        (c.record(classCode=""), "not_in_enum", "$.classCode"),
    ).good(c.record(faultState="None")).write()


@case("FaultData", "required_missing")
def _(c: Case) -> None:
    names = ["id", "dateTime", "device", "diagnostic", "failureMode", "controller", "count"]
    defects = [(c.record(**{name: ABSENT}), "missing_field", f"$.{name}") for name in names]
    nested = (c.record(device={}), "missing_field", "$.device.id")
    c.firehose().among(*defects, nested, (b"{}", "missing_field", "$.id")).write()


@case("FaultData", "wrong_type")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(count="1"), "wrong_type", "$.count"),
        (c.record(count=True), "wrong_type", "$.count"),
        (c.record(count=1.5), "wrong_type", "$.count"),
        (c.record(id=7), "wrong_type", "$.id"),
        (c.record(dateTime=1735700000000), "wrong_type", "$.dateTime"),
        (c.record(device=7), "wrong_type", "$.device"),
        (c.record(device=[{"id": "b1"}]), "wrong_type", "$.device"),
        (c.record(device={"id": 7}), "wrong_type", "$.device.id"),
        (c.record(faultStates="FaultStatusActiveId"), "wrong_type", "$.faultStates"),
        (c.record(faultStates={"effectiveStatus": {}}), "wrong_type", "$.faultStates.effectiveStatus"),
        (c.record(amberWarningLamp=0), "wrong_type", "$.amberWarningLamp"),
        (c.record(amberWarningLamp="false"), "wrong_type", "$.amberWarningLamp"),
        (c.record(riskOfBreakdown="0.5"), "wrong_type", "$.riskOfBreakdown"),
    ).write()


@case("FaultData", "non_nullable_null")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(count=None), "wrong_type", "$.count"),
        (c.record(severity=None), "wrong_type", "$.severity"),
        (c.record(device={"id": None}), "wrong_type", "$.device.id"),
    ).write()


@case("FaultData", "order_of_codes")
def _(c: Case) -> None:
    """Several defects, one outcome: the first step that fails, then the first property of the contract."""
    c.firehose().among(
        (c.record(year=2024, schemaVersion=99, count="1"), "partition_conflict", "$.year"),
        (c.record(schemaVersion=99, count="1"), "unknown_version", "$.schemaVersion"),
        (c.record(count="1", diagnostic=ABSENT), "missing_field", "$.diagnostic"),
        (c.record(dateTime="yesterday", device=ABSENT), "invalid_format", "$.dateTime"),
        (c.record(severity=1, faultState="?"), "not_in_enum", "$.faultState"),
        (c.record(dateTime="2016-12-31T23:59:60Z", severity=1), "wrong_type", "$.severity"),
    ).write()


@case("FaultData", "bounds")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(count=-1), "out_of_range", "$.count"),
        (c.record(sourceAddress=256), "out_of_range", "$.sourceAddress"),
        (c.record(id=""), "length_limit", "$.id"),
        (c.record(id="b" * 65), "length_limit", "$.id"),
        (c.record(id="🚚" * 65), "length_limit", "$.id"),
    ).good(c.record(id="b" * 64), c.record(id="🚚" * 64), c.record(count=0, sourceAddress=255)).write()


@case("FaultData", "number_overflow")
def _(c: Case) -> None:
    overflows = ["9223372036854775808", "99999999999999999999999", "1e19", "1e400"]
    defects = [(c.raw('"count":1', f'"count":{text}'), "number_overflow", "$.count") for text in overflows]
    c.firehose().among(*defects).good(c.record(count=2**63 - 1), c.raw('"count":1', '"count":9e18')).write()


@case("FaultData", "integral_numbers")
def _(c: Case) -> None:
    texts = ["3", "3.0", "3e0", "30e-1", "0", "-0", "0.0", "3000000000.00"]
    c.firehose().good(*[c.raw('"count":1', f'"count":{text}') for text in texts]).write()


@case("FaultData", "impossible_date")
def _(c: Case) -> None:
    texts = ["2023-02-30T00:00:00Z", "2023-02-29T12:00:00.000Z", "2023-13-01T00:00:00Z", "2023-02-28T24:00:00Z"]
    texts += ["2023-02-28T10:00:00", "2023-02-28 10:00:00", "2023-02-28", "20230228T100000Z", ""]
    texts += ["0000-00-00T00:00:00Z"]
    c.firehose().among(*[(c.record(dateTime=text), "invalid_format", "$.dateTime") for text in texts]).good(
        c.record(dateTime="2024-02-29T12:00:00.000Z")
    ).write()


@case("FaultData", "timestamp_forms")
def _(c: Case) -> None:
    """RFC 3339 in all its forms; digits beyond microseconds are cut."""
    texts = ["2025-01-01T00:00:00Z", "2025-01-01T01:30:00.5+05:30", "2025-01-01T23:30:00-02:00"]
    texts += ["2025-01-01T00:00:00.123456789Z", "2024-12-31T23:59:59.9999999Z", "2025-01-01t00:00:00.000z"]
    texts += ["2025-01-01T00:00:00.000000+00:00", "1969-12-31T23:59:59.9999999Z", "2025-01-01T00:00:00-00:00"]
    c.firehose().good(*[c.record(dateTime=text) for text in texts]).write()


@case("FaultData", "year_0001_and_9999")
def _(c: Case) -> None:
    texts = ["0001-01-01T00:00:00.000Z", "1582-10-10T00:00:00.000Z", "9999-12-31T23:59:59.999999Z"]
    c.firehose().good(*[c.record(dateTime=text) for text in texts]).good().write()


@case("FaultData", "invalid_timestamp")
def _(c: Case) -> None:
    """Well formed, but outside the years 1 to 9999 in UTC, or a leap second."""
    texts = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59.999-01:00", "2016-12-31T23:59:60Z"]
    c.firehose().among(*[(c.record(dateTime=text), "invalid_timestamp", "$.dateTime") for text in texts]).write()


@case("FaultData", "reference_forms")
def _(c: Case) -> None:
    """An object, a bare id, or an object with more than its id, which is rescued."""
    c.firehose().good(
        c.record(device={"id": "b1"}, failureMode={"id": "b2"}),
        c.record(device="NoDeviceId", failureMode="NoFailureModeId", controller="ControllerNoneId"),
        c.record(dismissUser={"id": "b3", "isDriver": True}, dismissDateTime="2025-01-02T00:00:00.000Z"),
        c.record(device={"isOld": None, "id": "b4"}, flashCode=""),
    ).write()


@case("FaultData", "unknown_fields")
def _(c: Case) -> None:
    c.firehose().good(
        c.record(newField=1),
        c.raw("@", '","exact":12345678901234567890.10,"more":{"a":[1,{"b":null}]},"x":"', severity="@"),
        c.record(newNull=None, newList=[], newObject={}, newText='ä " \\ \n'),
        c.record(faultStates={"effectiveStatus": "x", "since": "2025-01-01"}, device={"id": "b1", "serial": "G9"}),
        c.record(**{"odd name": True, "$.x": 1, "": 2}),
        c.record(year=2025, month=1, day=1, database="fleetdb_de", entity="FaultData", schemaVersion=2),
    ).good().write()


@case("FaultData", "unknown_fields_ignored")
def _(c: Case) -> None:
    c.own_job("unknown_fields: ignore")
    c.firehose().good(c.record(newField=1), c.record(device={"id": "b1", "serial": "G9"})).good().write()


@case("FaultData", "unknown_fields_quarantined")
def _(c: Case) -> None:
    c.own_job("unknown_fields: quarantine")
    c.firehose().among(
        (c.record(newField=1), "unknown_field", "$.newField"),
        (c.record(device={"id": "b1", "serial": "G9"}), "unknown_field", "$.device.serial"),
    ).good(c.record(schemaVersion=2, year=2025)).write()


@case("FaultData", "unknown_version")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(schemaVersion=99), "unknown_version", "$.schemaVersion"),
        (c.record(schemaVersion="3"), "unknown_version", "$.schemaVersion"),
        (c.record(schemaVersion=0), "unknown_version", "$.schemaVersion"),
    ).good(c.record(schemaVersion=2), c.record(schemaVersion="2"), c.record(schemaVersion=1)).write()


@case("FaultData", "two_versions")
def _(c: Case) -> None:
    """The version is named, or follows from layout and path date; version 1 is renamed and widened."""
    c.firehose().good(
        c.record(schemaVersion=1, faultLamp="Stop", riskOfBreakdown=3),
        c.record(schemaVersion="1", faultLamp="None"),
        c.record(schemaVersion=2, faultLampState="Stop", riskOfBreakdown=0.25, faultDescription="text"),
        c.record(faultLampState="Warning"),
        c.record(schemaVersion=1, faultLamp="Protect", faultLampState="Stop", faultDescription="not in version 1"),
        c.record(faultLamp="not in version 2"),
    ).bad(c.record(schemaVersion=1, riskOfBreakdown=0.25), "wrong_type", "$.riskOfBreakdown").bad(
        c.record(schemaVersion=1, faultLamp="PendingOff"), "not_in_enum", "$.faultLamp"
    ).good().write()
    c.year_root().good(
        c.record(faultLamp="Stop", riskOfBreakdown=3),
        c.record(faultLampState="Stop", month="08", day="01"),
        c.record(schemaVersion=2, faultLampState="Stop"),
    ).write()
    c.year_root(year="2025").good(c.record(faultLampState="Stop")).write()


@case("FaultData", "upcast_steps")
def _(c: Case) -> None:
    """Three versions: default and cast, then rename and move."""
    time = {"type": "string", "format": "date-time"}
    base = {"id": {"type": "string"}, "dateTime": time}
    status = {"type": "object", "properties": {"lamp": {"type": "string"}, "level": {"type": "integer"}}}
    first = {**base, "total": {"type": "string"}, "status": status}
    second = {**base, "total": {"type": "integer"}, "status": status, "origin": {"type": "string"}}
    third = {**base, "count": {"type": "integer"}, "status": status, "origin": {"type": "string"}}
    third["lamp"] = {"type": "string"}
    cast = {"x-decision": "total is a number", "x-upcast": [
        {"default": {"field": "origin", "value": "unknown"}},
        {"cast": {"field": "total", "to": "integer"}},
    ]}  # fmt: skip
    rename = {"x-decision": "total is called count", "x-upcast": [
        {"rename": {"from": "total", "to": "count"}},
        {"move": {"from": "/status/lamp", "to": "/lamp"}},
    ]}  # fmt: skip
    named = {"x-version-field": "schemaVersion", "x-default-version": 3}
    shape = {"type": "object", "required": ["id", "dateTime"]}
    c.own_schemas(
        {**shape, "properties": first},
        {**cast, **shape, "properties": second},
        {**named, **rename, **shape, "properties": third},
    )

    def record(version: int | None, **fields: Json) -> dict[str, Json]:
        slim = {name: ABSENT for name in TEMPLATES["FaultData"](0) if name not in ("id", "dateTime")}
        return c.record(**{**slim, **({} if version is None else {"schemaVersion": version}), **fields})

    c.firehose().good(
        record(1, total="12", status={"lamp": "red", "level": 3}),
        record(1),
        record(2, total=13, origin="bus", status={"level": 4}),
        record(2, total=14, status={"lamp": "amber"}),
        record(3, count=15, lamp="green"),
        record(None, count=16, total=1),
    ).write()


@case("FaultData", "schema_violation")
def _(c: Case) -> None:
    """Keywords outside the compiled set."""
    time = {"type": "string", "format": "date-time"}
    even = {"type": "integer", "multipleOf": 2}
    shape = {"type": "object", "required": ["id", "dateTime"], "dependentRequired": {"dismissUser": ["count"]}}
    c.own_schemas({**shape, "properties": {"id": {"type": "string"}, "dateTime": time, "count": even,
                                           "dismissUser": {"type": "string"}}})  # fmt: skip
    slim = {name: ABSENT for name in TEMPLATES["FaultData"](0) if name not in ("id", "dateTime")}
    c.firehose().good(c.record(**slim)).bad(c.record(**slim, dismissUser="b1"), "schema_violation", "$").good(
        c.record(**{**slim, "count": 2, "dismissUser": "b1"})
    ).bad(c.record(**{**slim, "count": 3}), "schema_violation", "$.count").good(c.record(**slim)).write()


@case("LogRecord", "bounds")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(latitude=90.0000001), "out_of_range", "$.latitude"),
        (c.record(longitude=-180.5), "out_of_range", "$.longitude"),
        (c.record(speed=-2), "out_of_range", "$.speed"),
    ).good(c.record(latitude=-90, longitude=180, speed=-1), c.record(latitude=90.0, longitude=-0.0, speed=0)).write()


@case("LogRecord", "nullable_null")
def _(c: Case) -> None:
    c.firehose().good(c.record(isLastActive=None), c.record(isLastActive=True), c.record()).write()


@case("StatusData", "int_float_flips")
def _(c: Case) -> None:
    """One field, whole and broken numbers; 2^53 + 1 is rounded as a double is."""
    texts = ["5", "5.25", "5.0", "-0.5", "0", "1e3", "1182036289.7453485", "9007199254740993"]
    texts += ["123456789012345678901234567890", "5e-324", "1.7976931348623157e308", "0.1"]
    c.firehose().good(*[c.raw("1182036289.75", text) for text in texts], end=b"").write()


@case("StatusData", "pattern_mismatch")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(version="00000000021568D6"), "pattern_mismatch", "$.version"),
        (c.record(version="21568d6"), "pattern_mismatch", "$.version"),
        (c.record(version="00000000021568d6\n"), "pattern_mismatch", "$.version"),
    ).write()


@case("Trip", "durations")
def _(c: Case) -> None:
    texts = ["00:05:01", "00:04:43.8600000", "4.16:41:16", "1.00:00:00", "00:00:00.3000000", "00:00:00.1234567"]
    texts += ["-00:00:01.5", "-1.00:00:00", "00:00:00", "23:59:59.9", "10675199.02:48:05.4775807"]
    c.firehose().good(*[c.record(stopDuration=text) for text in texts]).write()
    wrong = ["PT5M", "1:00:00", "00:00:00.12345678", "00:05", "", "00:00:00.", "1 00:00:00", "+00:00:01"]
    c.firehose().among(*[(c.record(stopDuration=text), "invalid_format", "$.stopDuration") for text in wrong]).write()


@case("Trip", "driver_forms")
def _(c: Case) -> None:
    """This contract declares isDriver, so it is dropped and not rescued."""
    forms = ["UnknownDriverId", {"id": "b5"}, {"id": "b5", "isDriver": True}, {"id": "b5", "isDriver": False, "x": 1}]
    c.firehose().good(*[c.record(driver=form) for form in forms]).bad(
        c.record(driver={"id": "b5", "isDriver": "yes"}), "wrong_type", "$.driver.isDriver"
    ).good(c.record(driver=ABSENT)).write()


@case("Trip", "compound_key")
def _(c: Case) -> None:
    """The key is device and start: another device or another start is another trip."""
    first = c.record()
    other = {**first, "device": {"id": "b8DA"}}
    c.firehose().good(first).duplicate(other).good({**first, "start": "2025-01-01T00:00:59.999Z"}).good(
        {**other, "device": "b8DA"}
    ).good().write()


@case("Device", "year_2050_never")
def _(c: Case) -> None:
    never = "2050-01-01T00:00:00.000Z"
    c.firehose().good(
        c.record(
            activeFrom="2023-04-19T21:55:09.606Z", activeTo=never, ignoreDownloadsUntil="0001-01-01T00:00:00.000Z"
        ),
        c.record(activeFrom="1986-01-01T00:00:00.000Z", activeTo="9999-12-31T23:59:59.999Z"),
    ).write()


@case("Device", "timestamp_variants")
def _(c: Case) -> None:
    """A space for T, or a bare date."""
    texts = ["2050-01-01", "2050-01-01 00:00:00Z", "2050-01-01 00:00:00.25+01:00", "0001-01-01"]
    texts += ["2050-01-01T00:00:00.5Z"]
    wrong = ["2023-02-30", "2050-01-01 00:00", "01.01.2050", "never", "", "2016-12-31 23:59:60Z"]
    wrong += ["0001-01-01 00:00:00+01:00"]
    c.firehose().good(*[c.record(activeTo=text) for text in texts]).among(
        *[(c.record(activeTo=text), "invalid_timestamp", "$.activeTo") for text in wrong]
    ).write()


@case("Device", "two_versions")
def _(c: Case) -> None:
    billing = [{"billingLevel": 10, "devicePlanName": "ProPlus Mode"}]
    c.firehose().good(
        c.record(schemaVersion=1, vin="4SYNTHV1N00000013", odometerOffset=-1900),
        c.record(schemaVersion=2, vehicleIdentificationNumber="?", odometerOffset=-1899.743999660015),
        c.record(devicePlanBillingInfo=billing, odometerOffset=5),
        c.record(schemaVersion=1, vin="", devicePlanBillingInfo=billing),
    ).bad(c.record(schemaVersion=1, odometerOffset=0.5), "wrong_type", "$.odometerOffset").good().write()
    c.year_root().good(c.record(vin="4SYNTHV1N00000014", month="05", day="01")).write()


@case("Device", "nested_values")
def _(c: Case) -> None:
    """Structs, maps, lists and JSON text: the elements are checked, unknown ones are rescued by place."""
    c.firehose().good(
        c.record(groups=[], customFeatures={}, deviceFlags={}, customProperties=[]),
        c.record(groups=[{"id": "a"}, {"id": "b"}, {"id": "c", "x": 1}], auxWarningSpeed=[0, 1.0, 255]),
        c.record(deviceFlags={"isHOSAllowed": True, "ratePlans": [{"a": 1}, "b", 3], "isNew": False}),
        c.record(
            customProperties=[{"name": "colour", "value": None}, "text", 1.50, [1, 2]], deviceReplacementInfo="b1"
        ),
        c.record(registerDeviceResultLite=[1, {"a": "b"}], workTime="WorkTimeStandardHoursId"),
        c.record(customFeatures={"autoHos": False, "": True, "ä b": True}),
    ).among(
        (c.record(groups=[{"id": "a"}, {}]), "missing_field", "$.groups[1].id"),
        (c.record(groups=[{"id": "a"}, {"id": "b"}, {"id": 7}]), "wrong_type", "$.groups[2].id"),
        (c.record(groups=[{"id": ""}]), "length_limit", "$.groups[0].id"),
        (c.record(groups={"id": "a"}), "wrong_type", "$.groups"),
        (c.record(groups=[None]), "wrong_type", "$.groups[0]"),
        (c.record(auxWarningSpeed=[0, 0.5]), "wrong_type", "$.auxWarningSpeed[1]"),
        (c.record(customFeatures={"autoHos": "yes"}), "wrong_type", "$.customFeatures.autoHos"),
        (c.record(customFeatures={"auto hos": 1}), "wrong_type", "$.customFeatures['auto hos']"),
        (c.record(productId=-(2**63) - 1), "number_overflow", "$.productId"),
        (c.record(auxWarningSpeed=[0, 2**63]), "number_overflow", "$.auxWarningSpeed[1]"),
    ).good(c.record(productId=-(2**63))).write()


@case("User", "decimal_overflow")
def _(c: Case) -> None:
    """DECIMAL(12,2): ten digits before the point, two after it, zeros beyond are no loss."""
    swap = '"maxPCDistancePerDay":0'
    fits = ["0", "120", "120.5", "120.50", "0.01", "9999999999.99", "1.2500", "1e3", "12345e-2"]
    wrong = ["10000000000", "12345678901.00", "0.001", "1.005", "1e10", "1e-3"]
    c.firehose().good(*[c.raw(swap, swap[:-1] + text) for text in fits]).among(
        *[(c.raw(swap, swap[:-1] + text), "number_overflow", "$.maxPCDistancePerDay") for text in wrong],
        (c.record(maxPCDistancePerDay=-1), "out_of_range", "$.maxPCDistancePerDay"),
        (c.record(maxPCDistancePerDay="120"), "wrong_type", "$.maxPCDistancePerDay"),
    ).write()


@case("Diagnostic", "enum_not_in_contract")
def _(c: Case) -> None:
    c.firehose().among(
        (c.record(diagnosticType="NewFault"), "not_in_enum", "$.diagnosticType"),
        (c.record(tamperingDiagnostics=["a", 1]), "wrong_type", "$.tamperingDiagnostics[1]"),
    ).good(c.record(diagnosticType="None", tamperingDiagnostics=["a", {"id": "b"}, {"id": "c", "x": 1}])).write()


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    for entity, name, build in BUILDERS:
        made = Case(root, entity, name)
        build(made)
        made.finish()
    print(f"{len(BUILDERS)} cases")


if __name__ == "__main__":
    main()
