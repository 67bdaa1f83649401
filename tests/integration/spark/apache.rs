//! Against Apache Spark with the released Delta jars.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use super::*;

/// It takes long to start, so these tests share one, in turns.
static SPARK: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(spark()));

/// Runs statements in one session.
fn sql_on(server: &Server, statements: &[String]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let session = Box::pin(Session::open(&server.address, "test", Patience::default())).await.unwrap();
        for statement in statements {
            session.execute("a statement of the test", statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        session.close().await;
    });
}

/// The first column of each query.
fn asked(server: &Server, queries: &[String]) -> Vec<Vec<Option<String>>> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let session = Box::pin(Session::open(&server.address, "test", Patience::default())).await.unwrap();
        let mut answers = Vec::new();
        for query in queries {
            answers.push(session.texts("a query of the test", query).await.unwrap_or_else(|error| panic!("{query}: {error}")));
        }
        session.close().await;
        answers
    })
}

fn by_place(table: &Path) -> String {
    sql::table(&format!("file://{}", table.display()))
}

/// All engines read a table alike, Spark among them; and like another one, where that is given.
fn read_alike(server: &Server, tables: &[(PathBuf, Option<PathBuf>)], folder: &Path) {
    static NTH: AtomicUsize = AtomicUsize::new(0);
    let mut specs = Vec::new();
    let mut exports = Vec::new();
    for (table, like) in tables {
        let export = folder.join(format!("export-{}", NTH.fetch_add(1, Ordering::Relaxed)));
        let place = sql::text(&format!("file://{}", export.display()));
        exports.push(format!("INSERT OVERWRITE DIRECTORY {place} USING parquet SELECT * FROM {}", by_place(table)));
        let mut spec = json!({"table": table, "spark": export});
        if let Some(like) = like {
            spec["like"] = json!(like);
        }
        specs.push(spec);
    }
    sql_on(server, &exports);
    let list = folder.join("specs.json");
    std::fs::write(&list, json!(specs).to_string()).unwrap();
    let read = python("engines.py", &[list.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&read.stdout);
    assert!(read.status.success(), "{said}{}", String::from_utf8_lossy(&read.stderr));
    eprintln!("{}", said.trim());
}

fn succeeds(args: &[&str], silver: &Path) {
    let output = etl(args).arg("--silver").arg(silver).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn does_what_the_local_engine_does() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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

/// Cases that have a job or a contract of their own; those that share one are one tree.
#[test]
fn does_so_with_jobs_and_contracts_of_their_own() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (mut groups, mut cases, mut refused) = (Vec::new(), 0, 0);
    for entity in folders(&root().join("fixtures/cases")) {
        let name = entity.file_name().unwrap().to_str().unwrap().to_owned();
        let mut alike = std::collections::BTreeMap::<(String, String), Vec<PathBuf>>::new();
        for case in folders(&entity).into_iter().filter(|case| case.join("jobs").is_dir() || case.join("schemas").is_dir()) {
            alike.entry((contents(&case.join("jobs")), contents(&case.join("schemas")))).or_default().push(case);
        }
        for (at, of) in alike.into_values().enumerate() {
            let out = folder.path().join(format!("{name}-{at}"));
            for case in &of {
                copy_tree_as(&case.join("bronze"), &out.join("bronze"), &format!("{}-", case.file_name().unwrap().to_str().unwrap()));
            }
            let (jobs, schemas) = (own_or(&of[0], "jobs"), own_or(&of[0], "schemas"));
            let own = ["--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()];
            let emit = ["plan", "--emit", "sql", "--dialect", "spark", "--entity", &name, "--country", "de"];
            let said = etl(&emit).args(own).output().unwrap().stderr;
            if String::from_utf8_lossy(&said).contains("keywords that SQL cannot check") {
                refused += of.len();
                continue;
            }
            both(&server, &out.join("bronze"), &out, std::slice::from_ref(&name), &own);
            groups.push(vec![out.join("here"), out.join("there")]);
            cases += of.len();
        }
    }
    same(&groups, folder.path());
    eprintln!("{cases} cases, {refused} refused by name");
    assert!(cases > 15 && refused < 5, "{cases} cases, {refused} refused");
}

/// The files below a folder, with their names; nothing where it is not there.
fn contents(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return String::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let of = |path: &PathBuf| if path.is_dir() { contents(path) } else { std::fs::read_to_string(path).unwrap() };
    let named = |path: &PathBuf| [path.file_name().unwrap().to_str().unwrap().to_owned(), of(path)].join("\n");
    paths.iter().map(named).collect::<Vec<_>>().concat()
}

#[test]
fn killed_runs_change_nothing() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new("kills on Spark");
    let jobs = jobs_with(folder.path(), "lease: {duration: 2 s}");
    let (bronze, mut there, here) = (folder.path().join("bronze"), folder.path().join("there"), folder.path().join("here"));
    let args = ["--entity", "StatusData", "--country", "de", "--jobs", jobs.to_str().unwrap()];
    grown(folder.path(), 0);
    // A run that ended before it was killed shows how long one takes; it leaves nothing to do, so all begins anew.
    let (mut killed, mut turns, mut takes) = (0, 0, 9000);
    while killed < 4 {
        turns += 1;
        assert!(turns < 20, "{killed} runs were killed");
        let mut command = etl(&["run", "--output", "json", "--engine", "spark", "--remote", &server.address]);
        command.arg("--bronze").arg(&bronze).arg("--silver").arg(&there).args(args);
        let mut process = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let (started, after) = (std::time::Instant::now(), random.below(takes) as u128);
        let ended = loop {
            match process.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if started.elapsed().as_millis() >= after => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            takes = started.elapsed().as_millis().clamp(100, 9000) as usize;
            (there, killed) = (folder.path().join(format!("there-{turns}")), 0);
            continue;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        killed += 1;
        // Nobody renews its leases any more.
        std::thread::sleep(Duration::from_millis(2200));
    }
    let last = on(&server, &bronze, &there, &args);
    assert_eq!(last.code, 0, "{}", last.stderr);
    assert_eq!(run(&bronze, &here, &args).code, 0);
    let again = on(&server, &bronze, &there, &args);
    assert_eq!((again.code, total(&again.report, "records", "read")), (0, 0), "{}", again.stderr);
    same(&[vec![here, there]], folder.path());
}

/// A run dies while the server works on the statements of its commit; the next one sends them beside those that go on.
#[test]
fn statements_that_outlive_their_run_hold_nobody_up() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut random = Random::new("statements that outlive their run");
    for entity in TURNS {
        let folder = tempfile::tempdir().unwrap();
        let jobs = jobs_with(folder.path(), "lease: {duration: 2 s}");
        grown(folder.path(), 40);
        let (bronze, there, here) = (folder.path().join("bronze"), folder.path().join("there"), folder.path().join("here"));
        let args = ["--entity", entity, "--country", "de", "--jobs", jobs.to_str().unwrap()];
        let log = there.join(format!("_etl/ledger/{entity}/fleetdb_de/log"));
        let mut command = etl(&["run", "--engine", "spark", "--remote", &server.address]);
        command.arg("--bronze").arg(&bronze).arg("--silver").arg(&there).args(args);
        let mut process = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        while !is_intended(&log) {
            assert!(process.try_wait().unwrap().is_none(), "the run ended before its intent");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(random.below(300) as u64));
        process.kill().unwrap();
        process.wait().unwrap();
        // Nobody renews its leases any more.
        std::thread::sleep(Duration::from_millis(2200));
        let next = on(&server, &bronze, &there, &args);
        assert_eq!(next.code, 0, "{entity}: {}", next.stderr);
        assert_eq!(run(&bronze, &here, &args).code, 0);
        same(&[vec![here, there]], folder.path());
    }
}

/// Local engine → Spark's MERGE → local append or upsert, and compaction → Spark's OPTIMIZE → local engine.
#[test]
fn tables_pass_from_engine_to_engine() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, turns, alone) = (folder.path().join("bronze"), folder.path().join("turns"), folder.path().join("alone"));
    let tables: Vec<(PathBuf, Option<PathBuf>)> = TURNS.iter().map(|entity| (turns.join(entity), None)).collect();
    for turn in 0..4 {
        grown(folder.path(), turn);
        for entity in TURNS {
            let args = ["--entity", entity, "--country", "de"];
            let here = run(&bronze, &alone, &args);
            let other = if turn == 1 { on(&server, &bronze, &turns, &args) } else { run(&bronze, &turns, &args) };
            assert_eq!((other.code, summary(&other.report)), (here.code, summary(&here.report)), "{entity}, turn {turn}: {}", other.stderr);
        }
        read_alike(&server, &tables, folder.path());
        if turn == 2 {
            for entity in TURNS {
                succeeds(&["compact", "--entity", entity, "--force"], &turns);
            }
            read_alike(&server, &tables, folder.path());
            // What a compaction left is one file a partition: more files give Spark something to put together.
            grown(folder.path(), 9);
            for entity in TURNS {
                let args = ["--entity", entity, "--country", "de"];
                assert_eq!(run(&bronze, &alone, &args).code, run(&bronze, &turns, &args).code);
            }
            let versions = |entity: &str| std::fs::read_dir(turns.join(entity).join("_delta_log")).unwrap().count();
            let before = TURNS.map(versions);
            sql_on(&server, &TURNS.map(|entity| format!("OPTIMIZE {}", by_place(&turns.join(entity)))));
            assert!(TURNS.map(versions).iter().zip(before).all(|(after, before)| *after > before), "OPTIMIZE had nothing to do");
            read_alike(&server, &tables, folder.path());
        }
    }
    same(&[vec![alone, turns]], folder.path());
}

const TYPES: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema", "x-default-version": 1, "type": "object", "required": ["id", "at"],
  "properties": {
    "id": {"type": "string"},
    "at": {"type": "string", "format": "date-time"},
    "long": {"type": ["integer", "null"]},
    "double": {"type": ["number", "null"]},
    "exact": {"type": ["number", "null"], "x-decimal": [38, 9]},
    "small": {"type": ["number", "null"], "x-decimal": [9, 2]},
    "flag": {"type": ["boolean", "null"]},
    "text": {"type": ["string", "null"]},
    "date": {"type": ["string", "null"], "format": "date"},
    "lasts": {"type": ["string", "null"], "x-duration": true},
    "ref": {"type": ["object", "string", "null"], "x-ref": true, "required": ["id"], "properties": {"id": {"type": "string"}}},
    "any": {},
    "open": {"type": ["object", "null"]},
    "numbers": {"type": ["object", "null"], "additionalProperties": {"type": ["number", "null"]}},
    "times": {"type": ["array", "null"], "items": {"type": ["string", "null"], "format": "date-time"}},
    "nested": {"type": ["object", "null"], "properties": {
      "text": {"type": ["string", "null"]},
      "list": {"type": ["array", "null"], "items": {"type": ["object", "null"], "properties": {
        "exact": {"type": ["number", "null"], "x-decimal": [20, 5]}, "date": {"type": ["string", "null"], "format": "date"}}}},
      "map": {"type": ["object", "null"], "additionalProperties": {"type": ["array", "null"], "items": {"type": ["integer", "null"]}}}}}
  }
}"#;

/// Records at the edges of every type; the n-th of several passes.
fn of_every_type(pass: usize) -> String {
    let instants = [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00.000001Z",
        "1582-10-04T23:59:59.999999Z",
        "1582-10-15T00:00:00Z",
        "1677-09-21T00:12:43Z",
        "1899-12-31T23:59:59.999999Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00Z",
        "2025-03-30T01:59:59.999999+01:00",
        "2025-03-30T03:00:00+02:00",
        "2025-10-26T02:30:00.000001+02:00",
        "2025-10-26T02:30:00.000001+01:00",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ];
    let texts =
        ["", " ", "NULL", "null", "a%2Fb", "a/b=c d", "é\u{1f600}\u{301}", "\u{0}", "\u{2028}\n\t\r", "'; --", "\\", "\u{feff}x", "ß中"];
    let longs = [0, 1, -1, i64::MIN, i64::MAX, i64::from(i32::MIN) - 1];
    let doubles = ["0.1", "-0.0", "1e308", "5e-324", "1.7976931348623157e308", "123456789.123456789", "1e15", "-1e-7"];
    let exacts = ["0", "-0.000000001", "99999999999999999999999999999.999999999", "-99999999999999999999999999999.999999999", "1.5"];
    let mut lines = String::new();
    for n in 0..42 {
        let at = instants[n % instants.len()];
        let date = &at[..10];
        let (long, double, exact) = (longs[n % longs.len()], doubles[n % doubles.len()], exacts[n % exacts.len()]);
        let text = serde_json::to_string(texts[n % texts.len()]).unwrap();
        let record = if n % 7 == 3 {
            format!(
                "{{\"id\":\"{pass}-{n}\",\"at\":\"{at}\",\"long\":null,\"text\":null,\"nested\":null,\"open\":null,\"any\":null,\"numbers\":null}}"
            )
        } else {
            format!(
                "{{\"id\":\"{pass}-{n}\",\"at\":\"{at}\",\"long\":{long},\"double\":{double},\"exact\":{exact},\"small\":{}.{:02},\
                 \"flag\":{},\"text\":{text},\"date\":\"{date}\",\"lasts\":\"-{n}.23:59:59.9999999\",\"ref\":{{\"id\":{text}}},\
                 \"any\":[{{\"a\":{text}}},{long}],\"open\":{{\"k\":{text},{text}:1}},\"numbers\":{{{text}:{double},\"n\":null}},\
                 \"times\":[\"{at}\",null],\"nested\":{{\"text\":{text},\"list\":[{{\"exact\":1.00001,\"date\":\"{date}\"}},null,{{}}],\
                 \"map\":{{\"k\":[],\"a b\":[{long},null],{text}:null}}}}}}",
                n * 1000,
                n,
                n % 2 == 0,
            )
        };
        lines.push_str(&record);
        lines.push('\n');
    }
    lines
}

/// Every type that a contract has, at its edges, and partition values that need quoting: written here, read, copied and put together
/// by Spark, read here again.
#[test]
fn every_type_comes_back_as_it_was() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver, copy) = (folder.path().join("bronze"), folder.path().join("silver"), folder.path().join("copy"));
    let (jobs, schemas) = (folder.path().join("jobs"), folder.path().join("schemas"));
    std::fs::create_dir_all(schemas.join("Types")).unwrap();
    std::fs::create_dir_all(&jobs).unwrap();
    std::fs::write(schemas.join("Types/1.json"), TYPES).unwrap();
    let job = "entity: Types\ndatabase: 'a 50%20=b%_{country}'\ncountries: [de]\nkey: [id]\nevent_time: at\n\
               partitions:\n  year: {derive: at}\n  month: {derive: at}\n  day: {derive: at}\n";
    std::fs::write(jobs.join("Types.yaml"), job).unwrap();
    let day = bronze.join("database=a 50%20=b%_de/entity=Types/year=2025");
    std::fs::create_dir_all(&day).unwrap();
    let args = ["--entity", "Types", "--country", "de", "--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()];
    let mut files = Vec::new();
    for pass in 0..3 {
        std::fs::write(day.join(format!("{pass}.json")), of_every_type(pass)).unwrap();
        let ran = run(&bronze, &silver, &args);
        assert_eq!((ran.code, total(&ran.report, "records", "inserted")), (0, 42), "{}{}", ran.stderr, ran.report);
        files.push(ran);
    }
    let table = silver.join("Types");
    read_alike(&server, &[(table.clone(), None)], folder.path());
    let copied =
        format!("CREATE TABLE {} USING DELTA PARTITIONED BY (database, event_date) AS SELECT * FROM {}", by_place(&copy), by_place(&table));
    sql_on(&server, &[copied]);
    read_alike(&server, &[(copy.clone(), Some(table.clone()))], folder.path());
    sql_on(&server, &[format!("OPTIMIZE {}", by_place(&table))]);
    read_alike(&server, &[(table.clone(), Some(copy.clone()))], folder.path());
    // Ours again, from files of Spark's.
    std::fs::write(day.join("again.json"), of_every_type(0)).unwrap();
    let again = run(&bronze, &silver, &args);
    assert_eq!((again.code, total(&again.report, "records", "duplicate")), (0, 42), "{}{}", again.stderr, again.report);
    let compact = ["compact", "--entity", "Types", "--force", "--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()];
    succeeds(&compact, &silver);
    read_alike(&server, &[(table, Some(copy))], folder.path());
}

/// A table that another program gave features which we do not write is refused by name, and a cluster goes on with it.
#[test]
fn features_of_others_are_refused_here_and_kept_there() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver, here) = (folder.path().join("bronze"), folder.path().join("silver"), folder.path().join("here"));
    let args = ["--entity", "FaultData", "--country", "de"];
    grown(folder.path(), 0);
    assert_eq!(run(&bronze, &silver, &args).code, 0);
    let table = silver.join("FaultData");
    grown(folder.path(), 1);
    let features = [
        ("deletionVectors", "delta.enableDeletionVectors", "true"),
        ("rowTracking", "delta.enableRowTracking", "true"),
        ("inCommitTimestamp", "delta.enableInCommitTimestamps", "true"),
        ("typeWidening", "delta.enableTypeWidening", "true"),
        ("allowColumnDefaults", "delta.feature.allowColumnDefaults", "supported"),
        ("changeDataFeed", "delta.enableChangeDataFeed", "true"),
    ];
    for (nth, (feature, property, value)) in features.into_iter().enumerate() {
        // One at a time: which is named first is a matter of order.
        let pristine = folder.path().join(format!("of-{nth}"));
        copy_tree(&silver, &pristine);
        let own = by_place(&pristine.join("FaultData"));
        sql_on(&server, &[format!("ALTER TABLE {own} SET TBLPROPERTIES ({} = {})", sql::text(property), sql::text(value))]);
        let refused = run(&bronze, &pristine, &args);
        assert_eq!(refused.code, 2, "{feature}: {}", refused.stderr);
        assert!(refused.stderr.contains(feature) && refused.stderr.contains("--engine spark"), "{feature}: {}", refused.stderr);
        let compact = etl(&["compact", "--entity", "FaultData", "--force"]).arg("--silver").arg(&pristine).output().unwrap();
        assert_eq!(compact.status.code(), Some(2), "{feature}: {}", String::from_utf8_lossy(&compact.stderr));
    }
    // With two of them at once, one of which has our commits tell their time.
    let both = "('delta.enableDeletionVectors' = 'true', 'delta.enableInCommitTimestamps' = 'true')";
    sql_on(&server, &[format!("ALTER TABLE {} SET TBLPROPERTIES {both}", by_place(&table))]);
    for turn in 2..4 {
        grown(folder.path(), turn);
        let there = on(&server, &bronze, &silver, &args);
        assert_eq!(there.code, 0, "{}", there.stderr);
        assert_eq!(on(&server, &bronze, &silver, &args).report["outcome"], "nothing_to_do");
    }
    assert_eq!(run(&bronze, &here, &args).code, 0);
    let count = |table: &Path| format!("SELECT count(*) || ' ' || sum(hash(id, dateTime, failureMode)) AS c FROM {}", by_place(table));
    let sums = asked(&server, &[count(&table), count(&here.join("FaultData"))]);
    assert_eq!(sums[0], sums[1]);
}

/// A job's SQL files in their order, each with its statements.
fn statements_of(folder: &Path) -> Vec<(String, Vec<String>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 7);
    let statements = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        text.trim_end().trim_end_matches(';').split(";\n\n").map(str::to_owned).collect()
    };
    files.iter().map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), statements(file))).collect()
}

/// Runs a job's SQL files, each in a session of its own, as a warehouse runs them.
fn run_files(server: &Server, folder: &Path) {
    for (_, statements) in statements_of(folder) {
        sql_on(server, &statements);
    }
}

/// A run of SQL files that dies between silver and tombstones, and another one that begins anew: deletes are remembered.
#[test]
fn emitted_sql_remembers_deletes_though_a_run_died() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, here, there) = (folder.path().join("bronze"), folder.path().join("here"), folder.path().join("there"));
    let put = |name: &str, lines: &[String]| {
        let folder = bronze.join("database=fleetdb_de/entity=Trip/year=2025/month=03/day=01");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), lines.join("\n")).unwrap();
    };
    let trip = |id: usize, version: u32, deleted: bool| {
        let mut trip = json!({
            "id": format!("b{id:X}"), "device": {"id": format!("b{id:X}")}, "start": "2025-03-01T08:00:00.000Z",
            "stop": "2025-03-01T09:00:00.000Z", "nextTripStart": "2025-03-01T09:30:00.000Z", "drivingDuration": "01:00:00",
            "stopDuration": "00:30:00", "distance": 12.5, "version": format!("{version:016x}")
        });
        if deleted {
            trip["deletedDateTime"] = json!("2025-03-02T09:00:00Z");
        }
        trip.to_string()
    };
    let args = ["--entity", "Trip", "--country", "de"];
    let emit = etl(&["plan", "--emit", "sql", "--dialect", "spark"])
        .args(args)
        .arg("--bronze")
        .arg(&bronze)
        .arg("--silver")
        .arg(&there)
        .arg("--out")
        .arg(folder.path().join("sql"))
        .output()
        .unwrap();
    assert!(emit.status.success(), "{}", String::from_utf8_lossy(&emit.stderr));
    let sql = folder.path().join("sql/Trip_de");
    put("1.json", &(0..20).map(|id| trip(id, 1, false)).collect::<Vec<_>>());
    run_files(&server, &sql);
    assert_eq!(run(&bronze, &here, &args).code, 0);
    // Half of them are deleted, and the run dies with that done in silver and not remembered.
    put("2.json", &(0..20).map(|id| trip(id, 2, id % 2 == 0)).collect::<Vec<_>>());
    for (name, statements) in statements_of(&sql) {
        if name == "60_silver" {
            sql_on(&server, &statements[..1]);
            break;
        }
        sql_on(&server, &statements);
    }
    let count =
        |of: &Path, what: &str| asked(&server, &[format!("SELECT CAST(count(*) AS STRING) FROM {} {what}", by_place(of))])[0][0].clone();
    let (table, marks) = (there.join("Trip"), there.join("_etl/tombstones/Trip"));
    assert_eq!((count(&table, ""), count(&marks, "")), (Some("10".to_owned()), Some("0".to_owned())));
    run_files(&server, &sql);
    assert_eq!((count(&table, ""), count(&marks, "WHERE kind = 'deleted'")), (Some("10".to_owned()), Some("10".to_owned())));
    assert_eq!(run(&bronze, &here, &args).code, 0);
    // What is older than the deletes comes late, and brings nothing back.
    put("0.json", &(0..20).map(|id| trip(id, 0, false)).collect::<Vec<_>>());
    run_files(&server, &sql);
    assert_eq!(run(&bronze, &here, &args).code, 0);
    assert_eq!(count(&table, ""), Some("10".to_owned()));
    // The local engine finds all of it there already.
    let last = run(&bronze, &there, &args);
    let of = |name| total(&last.report, "records", name);
    assert_eq!((last.code, of("deleted") + of("duplicate")), (0, 60), "{} {}", last.stderr, last.report);
    same(&[vec![here, there]], folder.path());
}

/// `etl plan --emit sql`: no ledger and no etl at work, and the same rows.
#[test]
fn emitted_sql_brings_the_rows_that_a_run_brings() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (bronze, here, there) = (folder.path().join("bronze"), folder.path().join("here"), folder.path().join("there"));
    let sound = |turn: usize| {
        let part = folder.path().join(format!("sound-{turn}"));
        let seed = (turn + 3).to_string();
        let what = ["--records", "300", "--mess", "0", "--codec", "plain", "--delimiter", "newline", "--seed", &seed];
        generate(&part, &[what.as_slice(), &["--countries", "de", "--entities", "FaultData,StatusData"]].concat());
        copy_tree_as(&part, &bronze, &format!("s{turn}-"));
    };
    let counted = |query: String| asked(&server, &[query])[0][0].clone().unwrap();
    for entity in TURNS {
        let args = ["plan", "--emit", "sql", "--dialect", "spark", "--entity", entity, "--country", "de"];
        let mut command = etl(&args);
        command.arg("--bronze").arg(&bronze).arg("--silver").arg(&there).arg("--out").arg(folder.path().join("sql"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let own = |entity: &str, table: &str| by_place(&there.join(format!("_etl/sql/{entity}/fleetdb_de/{table}")));
    let rows = |of: &str| counted(format!("SELECT CAST(count(*) AS STRING) FROM {of}")).parse::<u64>().unwrap();
    for turn in 0..2 {
        sound(turn);
        for entity in TURNS {
            let local = run(&bronze, &here, &["--entity", entity, "--country", "de"]);
            assert_eq!(local.code, 0, "{}", local.stderr);
            run_files(&server, &folder.path().join(format!("sql/{entity}_de")));
            let of = |reason: &str| rows(&format!("{} WHERE reason = '{reason}'", own(entity, "unproven")));
            let (all, found) = (rows(&by_place(&here.join(entity))), rows(&by_place(&there.join(entity))));
            let (unproven, conflicts) = (of("unproven"), of("key_conflict"));
            eprintln!("{entity}, turn {turn}: {found} of {all} rows, {unproven} lines not proven, {conflicts} conflicts");
            assert!(found <= all && all <= found + unproven && 10 * unproven < found && found > 0);
            // Of the records that came again with other contents, in append mode.
            let told = codes(&local.report)["key_conflict"].as_u64().unwrap_or(0);
            assert!(conflicts <= told && told <= conflicts + 2 * unproven, "{told} conflicts by the local engine");
        }
    }
    // A run with nothing new, and one that begins anew after one that died before it was done with its files.
    let (table, sql) = (by_place(&there.join("FaultData")), folder.path().join("sql/FaultData_de"));
    let before = (rows(&table), rows(&own("FaultData", "unproven")));
    run_files(&server, &sql);
    assert_eq!(rows(&own("FaultData", "taken")), 0);
    sql_on(&server, &[format!("DELETE FROM {}", own("FaultData", "loaded"))]);
    run_files(&server, &sql);
    assert!(rows(&own("FaultData", "taken")) > 0);
    assert_eq!((rows(&table), rows(&own("FaultData", "unproven"))), before);
    // A line that is no record is kept aside; with too many of them the gate stops before silver.
    let day = bronze.join("database=fleetdb_de/entity=FaultData/year=2025/month=03/day=01");
    std::fs::create_dir_all(&day).unwrap();
    std::fs::write(day.join("odd.json"), "{\"id\": 7}\nno json\n").unwrap();
    run_files(&server, &sql);
    let kept = "SELECT concat_ws('|', sort_array(collect_list(line))) FROM ";
    let odd = format!("{kept}{} WHERE file LIKE '%/odd.json'", own("FaultData", "unproven"));
    assert_eq!(counted(odd), "no json|{\"id\": 7}");
    std::fs::write(day.join("worse.json"), "no json\n".repeat(5000)).unwrap();
    let before = rows(&table);
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_files(&server, &sql)));
    let said = *stopped.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("gate: 5000 of 5000 lines"), "{said}");
    assert_eq!(rows(&table), before);
    // The local engine, over the same bronze and tables, brings what was not proven and nothing else.
    std::fs::remove_file(day.join("worse.json")).unwrap();
    std::fs::remove_file(day.join("odd.json")).unwrap();
    for entity in TURNS {
        let local = run(&bronze, &there, &["--entity", entity, "--country", "de"]);
        assert_eq!(local.code, 0, "{}", local.stderr);
        assert!(total(&local.report, "records", "inserted") < 40, "{}", local.report);
        assert_eq!(rows(&by_place(&here.join(entity))), rows(&by_place(&there.join(entity))));
    }
    // Of StatusData's records that contradict each other the first that is proven is the row, which need not be the first of all.
    for silver in [&here, &there] {
        std::fs::remove_dir_all(silver.join("StatusData")).unwrap();
        std::fs::remove_dir_all(silver.join("StatusData_quarantine")).unwrap();
    }
    same(&[vec![here, there]], folder.path());
}

/// `etl register`: sent, the tables can be asked for by name, at the protocol that they had.
#[test]
fn registered_tables_are_found_by_name() {
    let server = SPARK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (silver, schemas) = (folder.path().join("silver"), folder.path().join("schemas"));
    grown(folder.path(), 0);
    let args = ["--entity", "FaultData", "--country", "de"];
    assert_eq!(run(&folder.path().join("bronze"), &silver, &args).code, 0);
    copy_tree(&root().join("schemas"), &schemas);
    let contract = schemas.join("FaultData/2.json");
    let mut described: Value = serde_json::from_slice(&std::fs::read(&contract).unwrap()).unwrap();
    described["properties"]["id"]["description"] = json!("it's ${the} key; \\ {{x}}\nof a \"fault\"");
    std::fs::write(&contract, described.to_string()).unwrap();
    let register = |more: &[&str]| {
        let mut command = etl(&["register", "--entity", "FaultData", "--into", "spark_catalog.default"]);
        let output = command.arg("--silver").arg(&silver).arg("--schemas").arg(&schemas).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let printed = register(&[]);
    assert!(printed.contains("ALTER COLUMN `id` COMMENT"), "{printed}");
    assert!(
        printed.contains("CREATE TABLE IF NOT EXISTS `spark_catalog`.`default`.`FaultData` USING DELTA LOCATION 'file://"),
        "{printed}"
    );
    register(&["--remote", &server.address]);
    let found = asked(&server, &["SELECT count(*) FROM spark_catalog.default.FaultData".to_owned()]);
    assert_ne!(found[0], [Some("0".to_owned())]);
    // The table says by now, to the letter, what was missing.
    assert!(!register(&[]).contains("ALTER TABLE"), "{}", register(&[]));
    read_alike(&server, &[(silver.join("FaultData"), None)], folder.path());
    grown(folder.path(), 1);
    assert_eq!(run(&folder.path().join("bronze"), &silver, &args).code, 0);
}
