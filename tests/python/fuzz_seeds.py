"""Seeds for the fuzz target: the beginnings of the fixtures' plain objects and of the cases', behind the two bytes that it expects.

  python tests/python/fuzz_seeds.py <folder>
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# As in tests/integration/differential.rs.
ENTITIES = ["FaultData", "Trip", "Device", "Diagnostic", "User", "StatusData", "LogRecord"]
LONGEST = 2000


def main() -> None:
    out = Path(sys.argv[1])
    seen = 0
    for file in sorted([*ROOT.glob("fixtures/bronze/**/*"), *ROOT.glob("fixtures/cases/*/*/bronze/**/*")]):
        entity = next((part.removeprefix("entity=") for part in file.parts if part.startswith("entity=")), None)
        if entity not in ENTITIES or not file.is_file():
            continue
        text = file.read_bytes()
        if not text[:1] in (b"{", b"["):
            continue
        which = 3 * ENTITIES.index(entity) + seen % 3
        seed = bytes([which, (seen * 37) % 256]) + text[:LONGEST]
        (out / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        seen += 1
    print(f"{seen} seeds")


main()
