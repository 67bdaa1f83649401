"""What the benchmarks share: the programs, processes that are timed, Delta logs, and tables of results.

It needs nothing but Python, and the processes that measure import nothing else: on Linux the peak memory of a child is
never less than its parent's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Json = Any
Command = list[str]

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1 << 20


# --- programs and places ------------------------------------------------------------------------


def arguments(about: str, rounds: int = 3) -> ArgumentParser:
    parser = ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--etl", type=Path, default=target() / "release" / "etl", help="the program [default: the release build]")
    parser.add_argument("--scratch", type=Path, help="folder for the data [default: the system's]")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    return parser


def target() -> Path:
    """Where the build puts programs, as tests/run has it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CARGO_TARGET_DIR") or cache / "silversmith" / "target")


def generator(args: Namespace) -> Path:
    """The example `bronze`: the one named, else that of the program's own build."""
    return args.generator or args.etl.parent / "examples" / "bronze"


def require(*programs: Path) -> None:
    for program in programs:
        if not os.access(program, os.X_OK):
            raise SystemExit(f"no program {program}; build it, or name another one")


@contextmanager
def scratch(args: Namespace) -> Iterator[Path]:
    if args.scratch:
        args.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="silversmith-bench-", dir=args.scratch))
    print(f"{args.etl.name} on {os.cpu_count()} cores; load average before: {os.getloadavg()[0]:.1f}", flush=True)
    try:
        yield folder
    finally:
        if args.keep:
            print(f"\nthe data is in {folder}")
        else:
            shutil.rmtree(folder)


def linked(silver: Path, copy: Path) -> Path:
    """A copy by hard links: whoever changes a file of a table puts another one in its place."""
    shutil.copytree(silver, copy, copy_function=os.link)
    return copy


# --- processes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A process that ran to its end. Times in seconds, `begin` and `end` by one clock."""

    command: Command
    exit: int
    begin: float
    end: float
    peak: int  # bytes
    output: str
    errors: str

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def check(self) -> Ended:
        """A process that failed ends the benchmark."""
        if self.exit:
            raise SystemExit(f"{' '.join(self.command)}\nended with {self.exit}\n{self.output[-4000:]}{self.errors[-4000:]}")
        return self

    def json(self) -> Json:
        return json.loads(self.check().output)


def run(command: Command) -> Ended:
    return run_all([command])[0]


def run_all(commands: list[Command], at_once: int | None = None) -> list[Ended]:
    """Runs the processes side by side, at most `at_once` of them at a time, in order."""
    ended: dict[int, Ended] = {}
    running: dict[int, tuple[int, float]] = {}
    waiting = list(enumerate(commands))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETL_")}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < (at_once or len(commands)):
                number, command = waiting.pop(0)
                new = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                streams = [(os.POSIX_SPAWN_OPEN, stream, f"{folder}/{number}.{stream}", new, 0o600) for stream in (1, 2)]
                begin = time.monotonic()
                running[os.posix_spawn(command[0], command, environment, file_actions=streams)] = number, begin
            pid, status, usage = os.wait4(-1, 0)
            end = time.monotonic()
            number, begin = running.pop(pid)
            output, errors = (Path(f"{folder}/{number}.{stream}").read_text("utf-8", "replace") for stream in (1, 2))
            code = os.waitstatus_to_exitcode(status)
            ended[number] = Ended(commands[number], code, begin, end, usage.ru_maxrss * 1024, output, errors)
    return [ended[number] for number in range(len(commands))]


def python(script: str, *arguments: Json) -> Ended:
    """A script of this folder in a process of its own; what it needs stands in tests/python/requirements.txt."""
    return run([sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)])


# --- Delta logs ---------------------------------------------------------------------------------


def versions(table: Path) -> list[Path]:
    return sorted((table / "_delta_log").glob("[0-9]*.json"))


def actions(version: Path) -> Iterator[Json]:
    return (json.loads(line) for line in version.read_text("utf-8").splitlines() if line)


@dataclass(frozen=True)
class Traffic:
    """Data files that commits added and removed."""

    added: int = 0
    added_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def heads(silver: Path) -> dict[str, int]:
    """How many versions each table under a silver folder has."""
    return {str(log.parent.relative_to(silver)): len(versions(log.parent)) for log in silver.rglob("_delta_log")}


def traffic(silver: Path, since: dict[str, int]) -> Traffic:
    """Of all tables since `heads`; sizes of removed files are those with which they were added."""
    total = Traffic()
    for name in heads(silver):
        sizes: dict[str, int] = {}
        for number, version in enumerate(versions(silver / name)):
            for action in actions(version):
                add, remove = action.get("add"), action.get("remove")
                if add:
                    sizes[add["path"]] = add["size"]
                if number >= since.get(name, 0):
                    total += Traffic(added=1, added_bytes=add["size"]) if add else Traffic()
                    total += Traffic(removed=1, removed_bytes=sizes[remove["path"]]) if remove else Traffic()
    return total


# --- results ------------------------------------------------------------------------------------


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def several(values: Iterable[float], digits: int = 2) -> str:
    """The median, and the least and the greatest behind it."""
    values = list(values)
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
