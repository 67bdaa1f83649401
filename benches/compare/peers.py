"""The peers, each at its work in a process of its own, and the other steps of compare.py that need its packages.

  python peers.py <step> <parameters as JSON>

A peer reads the folder of NDJSON files with the columns that it is given and writes them to `out`: no checks, no partitions, one
Parquet file or as many as it likes, zstd (at level 1 as etl writes, where it can be chosen); to Delta, partitioned by database and
event_date. It keeps to `threads` threads, and is ended after `limit` seconds.

Columns come from the newest contract (`columns` in compare.py). Two of its kinds are more than a peer's type:
* ref: the contract allows an object with the id, and the bare id, and the data have both. DuckDB, ClickHouse, Polars and Spark read such
  a column as text, which is the JSON of an object. Daft has no such way: it reads the objects and makes null of bare ids. Sail refuses
  a column of both: it goes without those columns.
* integer: 43.0 is one, and the data have some. ClickHouse and Polars refuse it and Spark makes null of it, so these read a number
  and cast the column. DuckDB, Sail and Daft read it as it is.
What a contract leaves open (json), and timestamps that come in more than one notation, are read as text. pyarrow.json is not among the
peers: a column of two types is an error to it, and no setting changes that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Kind = Any  # a name, {"struct": {name: kind}} or {"list": kind}


@dataclass(frozen=True)
class Work:
    files: Path
    out: Path
    columns: dict[str, Kind]
    database: str
    threads: int
    limit: int

    @property
    def glob(self) -> str:
        return f"{self.files}/*.json"

    @property
    def dated(self) -> bool:
        return "dateTime" in self.columns

    @property
    def partitions(self) -> list[str]:
        return ["database", "event_date"] if self.dated else ["database"]

    def integers(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "integer"]


@dataclass(frozen=True)
class Types:
    """A peer's types: the simple ones by kind, a struct made of its fields, a list of its items."""

    simple: dict[str, Any]
    struct: Callable[[dict[str, Any]], Any]
    array: Callable[[Any], Any]

    def of(self, kind: Kind) -> Any:
        if isinstance(kind, str):
            return self.simple[kind]
        return self.array(self.of(kind["list"])) if "list" in kind else self.struct(self.all(kind["struct"]))

    def all(self, columns: dict[str, Kind]) -> dict[str, Any]:
        return {name: self.of(kind) for name, kind in columns.items()}


def kinds(text: Any, integer: Any, number: Any, boolean: Any, timestamp: Any) -> dict[str, Any]:
    texts = dict.fromkeys(["string", "ref", "json"], text)
    return texts | {"integer": integer, "number": number, "boolean": boolean, "timestamp": timestamp}


def listed(field: str, fields: dict[str, Any]) -> str:
    return ", ".join(field.format(name, kind) for name, kind in fields.items())


# --- DuckDB -------------------------------------------------------------------------------------


def duckdb_reader(work: Work) -> tuple[Any, str]:
    import duckdb

    simple = kinds("VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMP")
    types = Types(simple, lambda fields: "STRUCT(" + listed('"{}" {}', fields) + ")", "{}[]".format)
    columns = listed("'{}': '{}'", types.all(work.columns))
    connection = duckdb.connect(config={"threads": work.threads, "preserve_insertion_order": False})
    return connection, f"read_json('{work.glob}', format='newline_delimited', columns={{{columns}}})"


def duckdb_parquet(work: Work) -> None:
    connection, reader = duckdb_reader(work)
    connection.execute(f"COPY (FROM {reader}) TO '{work.out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")


def duckdb_delta(work: Work) -> None:
    from deltalake import WriterProperties, write_deltalake

    connection, reader = duckdb_reader(work)
    date = ", CAST(dateTime AS DATE) AS event_date" if work.dated else ""
    rows = connection.sql(f"SELECT *, '{work.database}' AS database{date} FROM {reader}")
    properties = WriterProperties(compression="ZSTD", compression_level=1)
    write_deltalake(str(work.out), rows.to_arrow_reader(), partition_by=work.partitions, writer_properties=properties)


# --- ClickHouse, Polars, Daft -------------------------------------------------------------------


def clickhouse_parquet(work: Work) -> None:
    import chdb

    simple = {kind: f"Nullable({name})" for kind, name in kinds("String", "Float64", "Float64", "Bool", "DateTime64(3)").items()}
    types = Types(simple, lambda fields: f"Tuple({listed('`{}` {}', fields)})", "Array({})".format)
    source = f"file('{work.glob}', 'JSONEachRow', '{listed('`{}` {}', types.all(work.columns))}')"
    casts = ", ".join(f"toInt64(`{name}`) AS `{name}`" for name in work.integers())
    settings = {
        "max_threads": work.threads,
        "use_hive_partitioning": 0,
        "input_format_skip_unknown_fields": 1,
        "date_time_input_format": "'best_effort'",
        "output_format_parquet_compression_method": "'zstd'",
        "output_format_compression_level": 1,
    }
    chosen = f"* REPLACE ({casts})" if casts else "*"
    given = ", ".join(f"{name} = {value}" for name, value in settings.items())
    chdb.query(f"INSERT INTO FUNCTION file('{work.out}', 'Parquet') SELECT {chosen} FROM {source} SETTINGS {given}")


def polars_parquet(work: Work) -> None:
    os.environ["POLARS_MAX_THREADS"] = str(work.threads)
    import polars

    simple = kinds(polars.String, polars.Float64, polars.Float64, polars.Boolean, polars.Datetime("us"))
    rows = polars.scan_ndjson(work.glob, schema=Types(simple, polars.Struct, polars.List).all(work.columns))
    rows = rows.with_columns([polars.col(name).cast(polars.Int64) for name in work.integers()])
    rows.sink_parquet(work.out, compression="zstd", compression_level=1)


def daft_parquet(work: Work) -> None:
    os.environ["DAFT_PROGRESS_BAR"] = "0"
    import daft
    from daft import DataType

    simple = kinds(DataType.string(), DataType.int64(), DataType.float64(), DataType.bool(), DataType.timestamp("us", "UTC"))
    types = Types(simple | {"ref": DataType.struct({"id": DataType.string()})}, DataType.struct, DataType.list)
    daft.set_runner_native(num_threads=work.threads)
    rows = daft.read_json(work.glob, infer_schema=False, schema=types.all(work.columns))
    rows.write_parquet(str(work.out), compression="zstd")


# --- Spark, and what speaks as it does ----------------------------------------------------------


def spark_schema(columns: dict[str, Kind], integer: str) -> str:
    simple = kinds("STRING", integer, "DOUBLE", "BOOLEAN", "TIMESTAMP")
    types = Types(simple, lambda fields: f"STRUCT<{listed('`{}`: {}', fields)}>", "ARRAY<{}>".format)
    return listed("`{}` {}", types.all(columns))


def spark_parquet(work: Work) -> None:
    """Waits for the JVM, so that its peak memory is known: the greater of its and Python's counts."""
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import col

    settings = {
        "spark.ui.enabled": "false",
        "spark.local.dir": f"{work.out}.spark",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.hadoop.parquet.compression.codec.zstd.level": "1",
    }
    session = SparkSession.builder.master(f"local[{work.threads}]").config(map=settings).getOrCreate()
    rows = session.read.schema(spark_schema(work.columns, "DOUBLE")).json(str(work.files))
    rows.withColumns({name: col(name).cast("bigint") for name in work.integers()}).write.parquet(str(work.out))
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


def sail_delta(work: Work) -> None:
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import lit, to_date

    server = SparkConnectServer()
    server.start(background=True)
    host, port = server.listening_address
    session = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
    rows = session.read.schema(spark_schema(of_one_type(work.columns), "BIGINT")).json(str(work.files))
    rows = rows.withColumns({"database": lit(work.database)} | ({"event_date": to_date("dateTime")} if work.dated else {}))
    rows.write.format("delta").partitionBy(*work.partitions).save(str(work.out))
    session.stop()
    server.stop()


def of_one_type(columns: dict[str, Kind]) -> dict[str, Kind]:
    """What is left of columns without the parts that may be of more than one type."""

    def left(kind: Kind) -> Kind | None:
        if isinstance(kind, str):
            return None if kind in ("ref", "json") else kind
        if "list" in kind:
            return {"list": left(kind["list"])} if left(kind["list"]) else None
        return {"struct": of_one_type(kind["struct"])} if of_one_type(kind["struct"]) else None

    return {name: left(kind) for name, kind in columns.items() if left(kind)}


# --- steps that are no peers --------------------------------------------------------------------


def count(work: Work) -> None:
    """Rows of the Parquet files under `out`, and how many of the contract's values in them are not null."""
    import duckdb

    paths = [work.out] if work.out.is_file() else [path for path in work.out.rglob("*.parquet") if "_delta_log" not in path.parts]
    files = f"read_parquet({[str(path) for path in paths]}, hive_partitioning=false, union_by_name=true)"
    there = [name for name, *_ in duckdb.sql(f"DESCRIBE FROM {files}").fetchall() if name in work.columns]
    counts = ", ".join(["count(*)", *(f'count("{name}")' for name in there)])
    rows, *values = duckdb.sql(f"SELECT {counts} FROM {files}").fetchall()[0]
    print(json.dumps({"rows": rows, "values": sum(values), "bytes": sum(path.stat().st_size for path in paths)}))


def inflate(work: Work) -> None:
    """libdeflate, on all threads, over gzip objects that are in memory before the clock starts."""
    import deflate

    objects = [path.read_bytes() for path in sorted(work.files.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(work.threads) as pool:
        begin = time.perf_counter()
        size = sum(pool.map(lambda stored: len(deflate.gzip_decompress(stored)), objects))
        print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": size}))


STEPS = {
    "duckdb": duckdb_parquet,
    "duckdb-delta": duckdb_delta,
    "clickhouse": clickhouse_parquet,
    "polars": polars_parquet,
    "daft": daft_parquet,
    "sail": sail_delta,
    "spark": spark_parquet,
    "count": count,
    "inflate": inflate,
}


def main() -> None:
    given = json.loads(sys.argv[2])
    work = Work(**given | {"files": Path(given["files"]), "out": Path(given["out"])})
    signal.alarm(work.limit)
    STEPS[sys.argv[1]](work)


if __name__ == "__main__":
    main()
