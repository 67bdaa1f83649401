//! The Spark engine against real servers, Sail and Apache Spark with Delta: what they make of bronze is what the local engine makes.

mod apache;
mod grpc;
mod sail;
mod streams;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use silversmith::engine::spark::Patience;
use silversmith::engine::spark::client::Session;
use silversmith::engine::spark::sql;

use crate::cases::{folders, own_or, summary};
use crate::support::{Ran, Random, etl, generate, jobs_with, python, ran, root, run, total};

/// A server of ours on loopback, ended by its pid.
pub struct Server {
    process: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn environment() -> PathBuf {
    let path = std::env::var("ETL_TEST_SPARK")
        .expect("`bash tests/run` makes the environment of the Spark servers and names it in ETL_TEST_SPARK");
    PathBuf::from(path)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn started(mut command: Command, port: u16, wait: Duration) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("server.log");
    let out = std::fs::File::create(&log).unwrap();
    command.current_dir(folder.path()).stdout(out.try_clone().unwrap()).stderr(out).stdin(Stdio::null());
    let mut process = command.spawn().unwrap();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let gone = process.try_wait().unwrap();
        if gone.is_some() || begun.elapsed() > wait {
            let _ = process.kill();
            panic!("the server did not start ({gone:?}): {}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Server { process, address: format!("sc://127.0.0.1:{port}"), _folder: folder }
}

/// Starts in under a second.
pub fn sail() -> Server {
    let port = free_port();
    let mut command = Command::new(environment().join("bin/sail"));
    command.args(["spark", "server", "--ip", "127.0.0.1", "--port", &port.to_string()]).env("RUST_LOG", "warn");
    started(command, port, Duration::from_mins(1))
}

/// Apache Spark's own Connect server with the released Delta jars.
pub fn spark() -> Server {
    let port = free_port();
    let home = environment().join("spark-home");
    let home = std::fs::read_to_string(home).expect("tests/run writes where Spark is").trim().to_owned();
    let mut command = Command::new(Path::new(&home).join("bin/spark-submit"));
    let cache = environment().join("ivy");
    let settings = [
        format!("spark.jars.ivy={}", cache.display()),
        "spark.connect.grpc.binding.address=127.0.0.1".to_owned(),
        format!("spark.connect.grpc.binding.port={port}"),
        "spark.ui.enabled=false".to_owned(),
        "spark.sql.catalogImplementation=in-memory".to_owned(),
        "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension".to_owned(),
        "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog".to_owned(),
        "spark.sql.shuffle.partitions=2".to_owned(),
        "spark.databricks.delta.snapshotPartitions=2".to_owned(),
        "spark.driver.bindAddress=127.0.0.1".to_owned(),
    ];
    command.args(["--master", "local[2]", "--driver-memory", "2g", "--packages", &delta()]);
    command.args(["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]);
    for setting in settings {
        command.args(["--conf", &setting]);
    }
    command.args(["--name", "etl", "spark-internal"]).env("SPARK_HOME", &home).env("SPARK_LOCAL_IP", "127.0.0.1");
    started(command, port, Duration::from_mins(4))
}

/// The released pair of Spark and Delta that the tests pin.
fn delta() -> String {
    let pinned = std::fs::read_to_string(root().join("tests/python/spark.txt")).unwrap();
    pinned.lines().find_map(|line| line.strip_prefix("# packages: ")).expect("spark.txt names the Delta packages").to_owned()
}

fn on(server: &Server, bronze: &Path, silver: &Path, args: &[&str]) -> Ran {
    let mut command = etl(&["run", "--output", "json", "--engine", "spark", "--remote", &server.address]);
    command.arg("--bronze").arg(bronze).arg("--silver").arg(silver).args(args);
    ran(&command.output().unwrap())
}

/// Refusals by code.
fn codes(report: &Value) -> Value {
    let mut codes = std::collections::BTreeMap::<String, u64>::new();
    for reject in report["jobs"].as_array().unwrap().iter().flat_map(|job| job["rejects"].as_array().unwrap()) {
        *codes.entry(reject["code"].as_str().unwrap().to_owned()).or_default() += reject["count"].as_u64().unwrap();
    }
    json!(codes)
}

fn same(groups: &[Vec<PathBuf>], folder: &Path) {
    let list = folder.join("groups.json");
    std::fs::write(&list, serde_json::to_vec(groups).unwrap()).unwrap();
    let compared = python("same.py", &["--cluster", &format!("@{}", list.display())]);
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(compared.status.success(), "{said}{}", String::from_utf8_lossy(&compared.stderr));
    eprintln!("{}", said.trim());
}

/// Warnings that say that the cluster could not do what it was asked.
fn troubles(report: &Value) -> Vec<String> {
    let warnings = report["jobs"].as_array().unwrap().iter().flat_map(|job| job["warnings"].as_array().unwrap());
    warnings.filter_map(Value::as_str).filter(|warning| warning.contains("cluster")).map(str::to_owned).collect()
}

fn of_cluster(report: &Value, name: &str) -> u64 {
    report["jobs"].as_array().unwrap().iter().filter_map(|job| job["cluster"][name].as_u64()).sum()
}

/// Copies a folder's files into another one, each with a prefix to its name.
fn copy_tree_as(from: &Path, to: &Path, prefix: &str) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let name = name.to_str().unwrap();
        if path.is_dir() {
            copy_tree_as(&path, &to.join(name), prefix);
        } else {
            std::fs::copy(&path, to.join(format!("{prefix}{name}"))).unwrap();
        }
    }
}

fn files_below(folder: &Path) -> usize {
    names_below(folder).len()
}

fn names_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| entry.unwrap().path()).flat_map(|path| if path.is_dir() { names_below(&path) } else { vec![name(path)] }).collect()
}

/// What object_store keeps on local disk of an upload that was given up (`name#1`): no listing shows it.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn copy_tree(from: &Path, to: &Path) {
    copy_tree_as(from, to, "");
}

/// The cases of an entity that have no job or contract of their own, as one tree: one batch of all that can be in an object.
fn merged(entity: &Path, out: &Path) {
    for case in folders(entity).iter().filter(|case| !case.join("jobs").is_dir() && !case.join("schemas").is_dir()) {
        copy_tree_as(&case.join("bronze"), out, &format!("{}-", case.file_name().unwrap().to_str().unwrap()));
    }
}

/// Runs both engines over one tree of several entities; the reports must say the same.
fn both(server: &Server, bronze: &Path, out: &Path, entities: &[String], extra: &[&str]) -> (u64, u64) {
    let (mut proven, mut explained) = (0, 0);
    for entity in entities {
        let args = [&["--entity", entity.as_str(), "--country", "all"], extra].concat();
        let here = run(bronze, &out.join("here"), &args);
        let begun = Instant::now();
        let there = on(server, bronze, &out.join("there"), &args);
        let told = |name| of_cluster(&there.report, name);
        eprintln!(
            "{entity}: {} records, {} proven there, {} explained, {} objects there, {} here, {:.1} s",
            total(&there.report, "records", "read"),
            told("proven"),
            told("explained"),
            told("objects_there"),
            told("objects_here"),
            begun.elapsed().as_secs_f64()
        );
        let found = (there.code, summary(&there.report), codes(&there.report));
        assert_eq!(found, (here.code, summary(&here.report), codes(&here.report)), "{entity}: {}", there.stderr);
        // A damaged gzip fails the statement that reads it, and nothing else does.
        let damaged = codes(&here.report).get("corrupt_codec").is_some();
        let trouble = troubles(&there.report);
        assert!(trouble.is_empty() || (damaged && trouble.len() == 1), "{entity}: {trouble:?}");
        (proven, explained) = (proven + told("proven"), explained + told("explained"));
    }
    (proven, explained)
}

fn entities() -> Vec<String> {
    folders(&root().join("schemas")).iter().map(|folder| folder.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// 100,000 records of seven entities, most of them lines.
fn generated(folder: &Path, defects: &str) -> PathBuf {
    let seed = std::env::var("ETL_TEST_SEED").unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        (now.as_nanos() as u64 % 1_000_000_007).to_string()
    });
    eprintln!("generated bronze: ETL_TEST_SEED={seed}");
    let bronze = folder.join("bronze");
    let lines = ["--codec", "plain", "--delimiter", "newline", "--object-bytes", "1MiB", "--defects", defects];
    generate(&bronze, &[&["--records", "14300", "--mess", "0.01", "--seed", &seed, "--countries", "de"], lines.as_slice()].concat());
    bronze
}

/// Texts and names that would be SQL if they could get out of their quotes come back as they were.
fn quoting_holds(server: &Server) {
    let hostile = [
        "it's",
        "a\\",
        "\\'",
        "\\\\''",
        "'; DROP TABLE x; --",
        "/* */",
        "-- x",
        "${spark.app.name}",
        "{{x}}",
        "%s",
        "$1",
        ":a",
        "?",
        "\u{0}",
        "\n",
        "\r\n",
        "\t",
        "\u{1f}",
        "é\u{1f600}",
        "`a`",
        "\"b\"",
        "X'41'",
        "r'x'",
        "NULL",
        "",
        " ",
        "a;b",
        "\u{2028}",
        "\u{fffd}",
        "\\u0041",
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let session = Box::pin(Session::open(&server.address, "quoting", Patience::default())).await.unwrap();
        let mut random = Random::new("quoting");
        let mut texts: Vec<String> = hostile.map(str::to_owned).to_vec();
        for _ in 0..200 {
            texts.push((0..random.below(12)).map(|_| hostile[random.below(hostile.len())]).collect());
        }
        let all: Vec<String> = texts.iter().map(|text| format!("({})", sql::text(text))).collect();
        let query = format!("SELECT t FROM VALUES {} AS v(t)", all.join(", "));
        let found: Vec<String> = session.texts("quoted texts", &query).await.unwrap().into_iter().map(Option::unwrap_or_default).collect();
        assert_eq!(found, texts);
        for name in ["a`b", "a.b", "a b", "select", "a'b", "a\"b", "--", ";", "é"] {
            let query = format!("SELECT v.{0} AS t FROM (SELECT 'x' AS {0}) v", sql::name(name));
            assert_eq!(session.texts("a quoted name", &query).await.unwrap(), [Some("x".to_owned())], "{name}");
        }
        session.close().await;
    });
}

/// Bronze grows by one part a turn.
fn grown(folder: &Path, turn: usize) {
    let part = folder.join(format!("part-{turn}"));
    let seed = (turn + 7).to_string();
    // Ids are counted: more records are new ones beside those that come again.
    let records = (200 * (turn + 1)).to_string();
    generate(&part, &["--records", &records, "--mess", "0.03", "--seed", &seed, "--countries", "de", "--entities", "FaultData,StatusData"]);
    copy_tree_as(&part, &folder.join("bronze"), &format!("t{turn}-"));
}

/// Whether a ledger's log has the statements of a batch.
fn is_intended(log: &Path) -> bool {
    let entries = std::fs::read_dir(log).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|entry| entry.contains("MERGE INTO"))
}

const TURNS: [&str; 2] = ["FaultData", "StatusData"];
