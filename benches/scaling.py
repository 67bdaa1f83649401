"""How much sooner a run ends on two cores than on one, beside what two independent processes gain that only parse.

  python benches/scaling.py                                   512 MiB of FaultData, five rounds, the release build
  python benches/scaling.py --mib 64 --rounds 1 --etl …       a quick look with another build

Linux only. The bronze is the generator's, plain, without mess, in 32 objects; both it and `parse` are examples of the package
(`cargo build --release --example bronze --example parse`). In each round, in turns: `etl run` bound to one core and to two, into an empty
silver folder; and `parse` over all objects on one core, then two of it at once over a half each, each bound to a core of its own. How much two
cores gain there is what the machine has to give: caches, memory and whoever else is on it are shared.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

import measure

OBJECTS = 32
ONE, TWO, PARSE, PARSES = "etl run, one core", "etl run, two cores", "parsing, one process", "parsing, two processes at once"


def bound(cores: list[int], command: list[str]) -> list[str]:
    taskset = shutil.which("taskset")
    if not taskset:
        raise SystemExit("no taskset: processes cannot be bound to cores here")
    return [taskset, "--cpu-list", ",".join(map(str, cores)), *command]


def main() -> int:
    assert __doc__
    parser = measure.arguments(__doc__, rounds=5)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--entity", default="FaultData")
    parser.add_argument("--generator", type=Path, help="the example `bronze` [default: beside the program]")
    args = parser.parse_args()
    maker, parse = measure.generator(args), args.etl.parent / "examples" / "parse"
    measure.require(args.etl, maker, parse)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    seconds: dict[str, list[float]] = defaultdict(list)
    with measure.scratch(args) as folder:
        bronze, silver = folder / "bronze", folder / "silver"
        sizes = ["--size", f"{args.mib}MiB", "--object-bytes", str(args.mib * measure.MIB // OBJECTS)]
        wanted = ["--entities", args.entity, "--countries", "de", "--days", "30", "--delimiter", "newline", "--mess", "0", "--codec", "plain"]
        measure.run([str(maker), "--out", str(bronze), *wanted, *sizes]).check()
        files = sorted(str(path) for path in bronze.rglob("*") if path.is_file())
        places = ["--bronze", str(bronze), "--silver", str(silver)]
        run = [str(args.etl), "run", "--entity", args.entity, "--country", "de", *places, "--output", "json"]
        ways = {
            ONE: [bound([first], run)],
            TWO: [bound([first, second], run)],
            PARSE: [bound([first], [str(parse), *files])],
            PARSES: [bound([core], [str(parse), *files[half::2]]) for half, core in enumerate((first, second))],
        }
        for number in range(args.rounds):
            for way, commands in ways.items() if number % 2 == 0 else reversed(ways.items()):
                os.sync()  # what was written before is not this run's work
                ended = [process.check() for process in measure.run_all(commands)]
                seconds[way].append(max(process.end for process in ended) - min(process.begin for process in ended))
                shutil.rmtree(silver, ignore_errors=True)
    print(measure.markdown(["", "seconds"], [[way, measure.several(seconds[way])] for way in ways]))
    gains = [median(seconds[one]) / median(seconds[two]) for one, two in ((ONE, TWO), (PARSE, PARSES))]
    print(f"\ntwo cores: etl {gains[0]:.2f} ×, parsing {gains[1]:.2f} ×; etl has {gains[0] / gains[1]:.2f} of what parsing has")
    return 0


if __name__ == "__main__":
    sys.exit(main())
