//! The Spark engine against real servers, Sail and Apache Spark with Delta: what they make of bronze is what the local engine makes.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use silversmith::engine::spark::client::Session;
use silversmith::engine::spark::sql;

use crate::cases::{folders, own_or, summary};
use crate::support::{Ran, Random, etl, generate, jobs_with, python, ran, root, run, total};

/// What a cluster does not do, each refused by name before anything is sent.
const NOT_THERE: [&str; 2] = ["mode is snapshot", "keywords that SQL cannot check"];

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

/// One server for all tests that share it; they take turns, since Sail does not detect conflicts.
static SAIL: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(sail()));

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

#[test]
fn sail_ends_every_case_as_the_local_engine_does() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (mut groups, mut failures, mut refused, mut proven, mut explained) = (Vec::new(), Vec::new(), 0, 0, 0);
    for entity in folders(&root().join("fixtures/cases")) {
        let name = entity.file_name().unwrap().to_str().unwrap().to_owned();
        for case in folders(&entity) {
            let (jobs, schemas) = (own_or(&case, "jobs"), own_or(&case, "schemas"));
            let args = ["--entity", &name, "--country", "all", "--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()];
            let target = folder.path().join(&name).join(case.file_name().unwrap());
            let there = on(&server, &case.join("bronze"), &target.join("there"), &args);
            if let Some(error) = there.report["jobs"][0]["error"].as_str()
                && NOT_THERE.iter().any(|reason| error.contains(reason))
            {
                assert_eq!(there.code, 2, "{error}");
                assert!(!target.join("there").join(&name).join("_delta_log").exists() || error.contains(&name), "{error}");
                refused += 1;
                continue;
            }
            let here = run(&case.join("bronze"), &target.join("here"), &args);
            let mut trouble = troubles(&there.report);
            if case.ends_with("invalid_utf8") {
                // A defect of Sail: `SELECT * FROM text.`file`` fails over bytes that are no text. Its objects are read here then.
                assert!(trouble.len() == 1 && trouble[0].contains("invalid UTF-8"), "{trouble:?}");
                trouble.clear();
            }
            let found = (there.code, summary(&there.report), codes(&there.report), trouble);
            let expected = (here.code, summary(&here.report), codes(&here.report), Vec::new());
            if found != expected {
                failures.push(format!("{}:\n found    {found:?}\n expected {expected:?}\n{}", case.display(), there.stderr));
            }
            proven += of_cluster(&there.report, "proven");
            explained += of_cluster(&there.report, "explained");
            groups.push(vec![target.join("here"), target.join("there")]);
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), groups.len(), failures.join("\n"));
    assert!(groups.len() > 100 && refused < 20, "{} cases, {refused} refused", groups.len());
    same(&groups, folder.path());
    eprintln!("{} cases, {refused} refused by name, {proven} records proven there, {explained} explained here", groups.len());
    assert!(proven > 100 && explained > 50);
}

/// The cases of an entity that have no job or contract of their own, as one tree: one batch of all that can be in an object.
fn merged(entity: &Path, out: &Path) {
    for case in folders(entity).iter().filter(|case| !case.join("jobs").is_dir() && !case.join("schemas").is_dir()) {
        let bronze = case.join("bronze");
        let mut open = vec![bronze.clone()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let name = path.file_name().unwrap().to_str().unwrap();
                let target = out.join(folder.strip_prefix(&bronze).unwrap());
                std::fs::create_dir_all(&target).unwrap();
                let case = case.file_name().unwrap().to_str().unwrap();
                std::fs::copy(&path, target.join(format!("{case}-{name}"))).unwrap();
            }
        }
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

/// What the generator can do but for bytes that are no text, over which Sail fails as a whole.
const ON_SAIL: &str = "malformed_json,truncated_record,invalid_unicode,not_an_object,nesting_too_deep,duplicate_field,partition_conflict,\
    partition_invalid,unknown_version,missing_field,wrong_type,out_of_range,not_in_enum,invalid_format,length_limit,number_overflow,\
    invalid_timestamp,corrupt_codec,error_envelope,partition_missing,pattern_mismatch,key_conflict";

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

#[test]
fn sail_makes_of_generated_bronze_what_the_local_engine_does() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let bronze = generated(folder.path(), ON_SAIL);
    let (proven, _) = both(&server, &bronze, folder.path(), &entities(), &[]);
    same(&[vec![folder.path().join("here"), folder.path().join("there")]], folder.path());
    assert!(proven > 10_000, "{proven} records were proven on the server");
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
        let session = Session::open(&server.address, "quoting").await.unwrap();
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

#[test]
fn sail_reads_quoted_texts_as_they_are() {
    quoting_holds(&SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// Bronze grows by one part a turn.
fn grown(folder: &Path, turn: usize) {
    let part = folder.join(format!("part-{turn}"));
    let seed = (turn + 7).to_string();
    generate(&part, &["--records", "400", "--mess", "0.03", "--seed", &seed, "--countries", "de", "--entities", "FaultData,StatusData"]);
    let mut open = vec![part.clone()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let target = folder.join("bronze").join(at.strip_prefix(&part).unwrap());
            std::fs::create_dir_all(&target).unwrap();
            std::fs::copy(&path, target.join(format!("t{turn}-{}", path.file_name().unwrap().to_str().unwrap()))).unwrap();
        }
    }
}

const TURNS: [&str; 2] = ["FaultData", "StatusData"];

#[test]
fn sail_and_the_local_engine_take_turns() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, turns, alone) = (folder.path().join("bronze"), folder.path().join("turns"), folder.path().join("alone"));
    for turn in 0..4 {
        grown(folder.path(), turn);
        for entity in TURNS {
            let args = ["--entity", entity, "--country", "de"];
            let here = run(&bronze, &alone, &args);
            let other = if turn % 2 == 1 { on(&server, &bronze, &turns, &args) } else { run(&bronze, &turns, &args) };
            assert_eq!((other.code, summary(&other.report)), (here.code, summary(&here.report)), "{entity}, turn {turn}: {}", other.stderr);
            if turn == 2 {
                let compact = etl(&["compact", "--entity", entity, "--force", "--silver", turns.to_str().unwrap()]).output().unwrap();
                assert!(compact.status.success(), "{}", String::from_utf8_lossy(&compact.stderr));
            }
        }
    }
    same(&[vec![alone, turns]], folder.path());
}

#[test]
fn sail_finishes_what_a_killed_run_began() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new("kills on a cluster");
    let jobs = jobs_with(folder.path(), "lease: {duration: 1 s}");
    for turn in 0..3 {
        grown(folder.path(), turn);
    }
    let (bronze, there, here) = (folder.path().join("bronze"), folder.path().join("there"), folder.path().join("here"));
    let mut killed = 0;
    for entity in TURNS {
        let args = ["--entity", entity, "--country", "de", "--jobs", jobs.to_str().unwrap(), "--batch-objects", "2"];
        for _ in 0..8 {
            let mut command = etl(&["run", "--output", "json", "--engine", "spark", "--remote", &server.address]);
            command.arg("--bronze").arg(&bronze).arg("--silver").arg(&there).args(args).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(100 + random.below(900) as u64));
            let gone = process.try_wait().unwrap().is_some();
            let _ = process.kill();
            let _ = process.wait();
            killed += u32::from(!gone);
            // Nobody renews its leases any more.
            std::thread::sleep(Duration::from_millis(1200));
        }
        let last = on(&server, &bronze, &there, &args);
        assert_eq!(last.code, 0, "{}", last.stderr);
        assert_eq!(run(&bronze, &here, &args).code, 0);
        let again = on(&server, &bronze, &there, &args);
        assert_eq!((again.code, total(&again.report, "records", "read")), (0, 0), "{}", again.stderr);
    }
    eprintln!("{killed} runs were killed");
    assert!(killed > 1);
    same(&[vec![here, there]], folder.path());
}

#[test]
fn sail_and_a_local_run_keep_away_from_each_other() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path(), 0);
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    let args = ["--entity", "FaultData", "--country", "de"];
    let sign = silver.join("_etl/maintenance/FaultData/cluster.json");
    std::fs::create_dir_all(sign.parent().unwrap()).unwrap();
    let (now, later) = (chrono::Utc::now(), chrono::Utc::now() + chrono::TimeDelta::minutes(5));
    std::fs::write(&sign, json!({"run": "r", "since": now, "expires": later}).to_string()).unwrap();
    let local = run(&bronze, &silver, &args);
    assert_eq!(local.code, 4, "{}", local.stderr);
    assert!(local.stderr.contains("is a cluster's until"), "{}", local.stderr);
    std::fs::remove_file(&sign).unwrap();
    // A run that is alive and has objects in hand: its claim is there, its lease is renewed.
    let ledger = silver.join("_etl/ledger/FaultData/fleetdb_fr");
    std::fs::create_dir_all(ledger.join("log")).unwrap();
    std::fs::create_dir_all(ledger.join("leases")).unwrap();
    let claim =
        json!({"format": 1, "nonce": "n", "at": now, "what": {"claim": {"id": "c", "run": "other", "objects": [["k", "v"]], "at": now}}});
    std::fs::write(ledger.join("log/00000000000000000001.json"), claim.to_string()).unwrap();
    std::fs::write(ledger.join("leases/c.json"), json!({"expires": later}).to_string()).unwrap();
    let cluster = on(&server, &bronze, &silver, &args);
    assert_eq!(cluster.code, 4, "{}", cluster.stderr);
    assert!(cluster.stderr.contains("other"), "{}", cluster.stderr);
    std::fs::remove_file(ledger.join("leases/c.json")).unwrap();
    std::fs::write(
        ledger.join("log/00000000000000000002.json"),
        json!({"format": 1, "nonce": "m", "at": now, "what": {"release": {"claim": "c", "run": "other", "why": "test"}}}).to_string(),
    )
    .unwrap();
    let cluster = on(&server, &bronze, &silver, &args);
    assert_eq!(cluster.code, 0, "{}", cluster.stderr);
    assert_eq!(run(&bronze, &silver, &args).report["outcome"], "nothing_to_do");
}

#[test]
fn sail_is_told_from_what_is_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = root().join("fixtures/bronze");
    let args = ["--entity", "FaultData", "--country", "de"];
    let nobody = |address: &str| {
        let mut command = etl(&["run", "--output", "json", "--engine", "spark", "--remote", address]);
        ran(&command.arg("--bronze").arg(&bronze).arg("--silver").arg(folder.path().join("silver")).args(args).output().unwrap())
    };
    let gone = nobody(&format!("sc://127.0.0.1:{}", free_port()));
    assert_eq!(gone.code, 5, "{}", gone.stderr);
    let wrong = nobody("http://127.0.0.1:1");
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("sc://"), "{}", wrong.stderr);
    let secret = nobody("sc://lake.example:443/;token=SECRET-TOKEN");
    assert_eq!(secret.code, 2, "{}", secret.stderr);
    assert!(!secret.stderr.contains("SECRET-TOKEN") && !secret.report.to_string().contains("SECRET-TOKEN"), "{}", secret.stderr);
    let none = ran(&etl(&["run", "--output", "json", "--engine", "spark", "--entity", "FaultData", "--country", "de"]).output().unwrap());
    assert!(none.code == 2 && none.stderr.contains("--remote"), "{}", none.stderr);
}

#[test]
fn apache_spark_with_delta_does_what_the_local_engine_does() {
    let server = spark();
    quoting_holds(&server);
    let folder = tempfile::tempdir().unwrap();
    let (mut groups, mut proven) = (Vec::new(), 0);
    for entity in folders(&root().join("fixtures/cases")) {
        let name = entity.file_name().unwrap().to_str().unwrap().to_owned();
        let out = folder.path().join(&name);
        merged(&entity, &out.join("bronze"));
        proven += both(&server, &out.join("bronze"), &out, &[name], &[]).0;
        groups.push(vec![out.join("here"), out.join("there")]);
    }
    let bronze = generated(folder.path(), "all");
    proven += both(&server, &bronze, folder.path(), &entities(), &[]).0;
    groups.push(vec![folder.path().join("here"), folder.path().join("there")]);
    same(&groups, folder.path());
    assert!(proven > 10_000, "{proven} records were proven on the server");
}
