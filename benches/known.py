"""A run with nothing to do over very many objects that are known, beside the bare listing of the same folder.

  python benches/known.py                                        1,000,000 objects, three rounds, the release build
  python benches/known.py --objects 20000 --rounds 1 --etl …     a quick look with another build

One object is real and loaded by a first run. The others are files of 3 bytes with Firehose's names, spread over two years; that they are
known is written into the ledger's snapshot here, as the program writes it (but not compressed). In each round the example `bare_listing`
(`cargo build --release --bins --examples`) lists the folder by the same library, and `etl run` finds nothing to do, in turns; what is told is
wall time and peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import date, timedelta
from pathlib import Path
from random import Random
from statistics import median

import measure

SOURCE = "database=fleetdb_de/entity=FaultData"
RECORD = '{"id": "a", "dateTime": "2024-01-01T00:00:00.000Z", "device": {"id": "d"}, "diagnostic": {"id": "x"}}\n'
DAYS = 730
BLOCK = 16  # as in src/ledger/objects.rs


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def packed(objects: list[tuple[str, str]]) -> bytes:
    out, before = bytearray(), b""
    for at, (key, version) in enumerate(sorted(objects)):
        name = key.encode()
        shared = 0 if at % BLOCK == 0 else len(os.path.commonprefix([before, name]))
        out += number(shared) + number(len(name) - shared) + name[shared:] + number(len(version)) + version.encode() + number(0)
        before = name
    return bytes(out)


def stored(content: bytes) -> bytes:
    """A zstd frame of raw blocks."""
    out = bytearray(b"\x28\xb5\x2f\xfd\xe0" + len(content).to_bytes(8, "little"))
    for at in range(0, len(content), 1 << 17):
        block = content[at : at + (1 << 17)]
        last = at + len(block) == len(content)
        out += (int(last) | len(block) << 3).to_bytes(3, "little") + block
    return bytes(out)


def fill(bronze: Path, count: int) -> list[tuple[str, str]]:
    random = Random(1)
    objects = []
    for at in range(count):
        day = date(2024, 1, 1) + timedelta(days=at % DAYS)
        folder = f"{SOURCE}/year={day:%Y}/month={day:%m}/day={day:%d}"
        if at < DAYS:
            (bronze / folder).mkdir(parents=True, exist_ok=True)
        seconds = random.randrange(86_400)
        stamp = f"{day:%Y-%m-%d}-{seconds // 3600:02}-{seconds // 60 % 60:02}-{seconds % 60:02}"
        key = f"{folder}/fleet-faultdata-1-{stamp}-{uuid.UUID(int=random.getrandbits(128))}"
        file = bronze / key
        file.write_bytes(b"{}\n")
        stat = file.stat()
        objects.append((key, f"{stat.st_size}-{stat.st_mtime_ns // 1000}"))
    return objects


def main() -> int:
    assert __doc__
    parser = measure.arguments(__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    args = parser.parse_args()
    measure.require(args.etl, args.etl.parent / "examples/bare_listing")
    with measure.scratch(args) as folder:
        bronze, silver = folder / "bronze", folder / "silver"
        first = bronze / SOURCE / "year=2024/month=01/day=01/first"
        first.parent.mkdir(parents=True)
        first.write_text(RECORD)
        rules = ["--jobs", str(measure.REPOSITORY / "jobs"), "--schemas", str(measure.REPOSITORY / "schemas")]
        command = [str(args.etl), "run", "--entity", "FaultData", "--country", "de", "--bronze", str(bronze), "--silver", str(silver)]
        command += [*rules, "--output", "json"]
        begun = measure.run(command).json()
        if begun["jobs"][0]["outcome"] != "committed":
            raise SystemExit(f"the first run did not commit: {begun}")
        ledger = silver / "_etl/ledger/FaultData/fleetdb_de"
        entries = [json.loads(entry.read_text()) for entry in sorted((ledger / "log").iterdir())]
        intent = next(entry["what"]["intent"] for entry in reversed(entries) if "intent" in entry["what"])
        claim = next(entry["what"]["claim"] for entry in entries if "claim" in entry["what"])
        print(f"making {args.objects} objects", flush=True)
        snapshot = ledger / f"snapshots/{len(entries):020}.zst"
        snapshot.parent.mkdir(exist_ok=True)
        # In a process of its own: the peak memory of those that are measured is never less than this one's.
        child = os.fork()
        if child == 0:
            objects = [*fill(bronze, args.objects - 1), *map(tuple, claim["objects"])]
            state = {"head": len(entries), "known_count": len(objects), "batches": [claim["id"]], "claims": {}, "intent": intent}
            snapshot.write_bytes(stored(json.dumps(state).encode() + b"\n" + packed(objects)))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the objects could not be made")
        listing = [str(args.etl.parent / "examples/bare_listing"), str(bronze / SOURCE)]
        seconds: dict[str, list[float]] = {"listing": [], "etl": []}
        peak = 0
        for _ in range(args.rounds):
            listed = measure.run(listing)
            if listed.json() != args.objects:
                raise SystemExit(f"{listed.output} objects were listed")
            seconds["listing"].append(listed.seconds)
            ended = measure.run(command)
            report = ended.json()["jobs"][0]
            if report["outcome"] != "nothing_to_do" or report["files"]["known"] != args.objects:
                raise SystemExit(f"not what was expected: {report}")
            seconds["etl"].append(ended.seconds)
            peak = max(peak, ended.peak)
        bare, whole = median(seconds["listing"]), median(seconds["etl"])
        print(f"{args.objects} known objects, snapshot {snapshot.stat().st_size / measure.MIB:.0f} MiB")
        print(f"bare listing {bare:.2f} s, etl run {whole:.2f} s ({whole - bare:+.2f} s), peak {peak / measure.MIB:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
