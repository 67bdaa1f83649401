//! Exactly once on local disk: killed runs, twin runs, many creators, changed and late objects, gates.

use std::path::Path;
use std::time::Duration;

use crate::support::{Random, assert_same, assert_same_contract, etl, generate, jobs_with, ran, run, total};

const RECORDS: &[&str] = &["--mess", "0.01", "--duplicates", "0.02", "--object-bytes", "32KiB", "--seed", "5"];

fn bronze(folder: &Path, args: &[&str]) -> std::path::PathBuf {
    let bronze = folder.join("bronze");
    generate(&bronze, &[args, RECORDS].concat());
    bronze
}

#[test]
fn a_run_that_is_killed_anywhere_is_finished_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = bronze(folder.path(), &["--entities", "FaultData", "--countries", "de", "--records", "6000"]);
    let jobs = jobs_with(folder.path(), "lease: {duration: 300 ms}");
    let args = ["--entity", "FaultData", "--country", "de", "--batch-objects", "3", "--jobs", jobs.to_str().unwrap()];
    let undisturbed = folder.path().join("undisturbed");
    assert_eq!(run(&bronze, &undisturbed, &args).code, 0);

    let mut random = Random::new("kills");
    let disturbed = folder.path().join("disturbed");
    let mut kills = 0;
    for _ in 0..25 {
        let mut command = etl(&["run", "--output", "json"]);
        command.arg("--bronze").arg(&bronze).arg("--silver").arg(&disturbed).args(args);
        let mut child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + random.next() % 250));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills >= 3, "only {kills} kills: the runs are too quick for this test");
    std::thread::sleep(Duration::from_millis(400));
    let last = run(&bronze, &disturbed, &args);
    assert_eq!(last.code, 0, "{}", last.stderr);
    assert_eq!(run(&bronze, &disturbed, &args).report["outcome"], "nothing_to_do");
    assert_same(&[&undisturbed, &disturbed]);
    assert_intents_without_gaps(&disturbed.join("FaultData"));
}

/// The `txn` versions of each application rise, and each stands once.
pub fn assert_intents_without_gaps(table: &Path) {
    let mut seen = std::collections::BTreeMap::<String, Vec<i64>>::new();
    let mut commits: Vec<_> = std::fs::read_dir(table.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.sort();
    for commit in commits.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        for line in std::fs::read_to_string(commit).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(txn) = action.get("txn") {
                seen.entry(txn["appId"].as_str().unwrap().to_owned()).or_default().push(txn["version"].as_i64().unwrap());
            }
        }
    }
    assert!(!seen.is_empty());
    for (app, versions) in seen {
        // A maintainer's token stands in all of its commits.
        let in_order = |pair: &[i64]| pair[0] < pair[1] || (pair[0] == pair[1] && app == silversmith::ledger::maintenance::APP_ID);
        assert!(versions.windows(2).all(in_order), "{app}: {versions:?}");
    }
}

#[test]
fn twins_and_five_countries_at_once_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = bronze(folder.path(), &["--entities", "FaultData", "--countries", "all", "--records", "1500"]);
    let alone = folder.path().join("alone");
    assert_eq!(run(&bronze, &alone, &["--entity", "FaultData", "--country", "all"]).code, 0);

    let together = folder.path().join("together");
    let children: Vec<_> = ["de", "fr", "it", "es", "uk", "de", "fr"]
        .into_iter()
        .map(|country| {
            let mut command = etl(&["run", "--output", "json", "--entity", "FaultData", "--batch-objects", "4", "--country", country]);
            command.arg("--bronze").arg(&bronze).arg("--silver").arg(&together);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let ran = ran(&child.wait_with_output().unwrap());
        // A twin may find everything done, or held by the other one.
        assert!([0, 4].contains(&ran.code), "exit {}: {}\n{}", ran.code, ran.report, ran.stderr);
    }
    let rest = run(&bronze, &together, &["--entity", "FaultData", "--country", "all"]);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    assert_same_contract(&[&alone, &together]);
    assert_intents_without_gaps(&together.join("FaultData"));
}

fn put(bronze: &Path, key: &str, text: &str) {
    let path = bronze.join("database=fleetdb_de/entity=LogRecord").join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn record(id: &str, speed: u32) -> String {
    format!(
        "{{\"dateTime\":\"2025-01-01T10:00:00.000Z\",\"device\":{{\"id\":\"b1\"}},\"id\":\"{id}\",\"latitude\":50.5,\"longitude\":8.5,\"speed\":{speed}}}\n"
    )
}

const LOGS: [&str; 4] = ["--entity", "LogRecord", "--country", "de"];

#[test]
fn one_new_object_is_one_small_commit_and_none_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    put(&bronze, "year=2025/month=01/day=01/a", &record("b1", 10));
    let first = run(&bronze, &silver, &LOGS);
    assert_eq!((first.code, first.report["outcome"].as_str()), (0, Some("committed")));
    assert!(silver.join("LogRecord_quarantine/_delta_log/00000000000000000000.json").exists());
    let second = run(&bronze, &silver, &LOGS);
    assert_eq!((second.code, second.report["outcome"].as_str()), (0, Some("nothing_to_do")));
    assert_eq!(second.report["jobs"][0]["files"]["known"], 1);
    // Late, and in the other layout.
    put(&bronze, "year=2024/late.json", &record("b2", 20));
    let third = run(&bronze, &silver, &LOGS);
    let commits = third.report["jobs"][0]["commits"].as_array().unwrap();
    assert_eq!((commits.len(), commits[0]["rows"].as_u64(), commits[0]["version"].as_u64()), (1, Some(1), Some(2)));
    assert_eq!(third.report["jobs"][0]["layouts"]["year_root"]["files"], 1);
    // An object whose records are all there already makes no commit at all.
    put(&bronze, "year=2025/month=01/day=02/again", &(record("b1", 10) + &record("b2", 20)));
    let fourth = run(&bronze, &silver, &LOGS);
    assert_eq!((total(&fourth.report, "records", "duplicate"), fourth.report["jobs"][0]["commits"].as_array().unwrap().len()), (2, 0));
    assert_eq!(run(&bronze, &silver, &LOGS).report["outcome"], "nothing_to_do");
}

/// Whoever removes a part of silver is told, and nothing is made of the rest.
#[test]
fn a_table_a_ledger_or_a_file_that_is_gone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let begin = |name: &str, runs: usize| {
        let (bronze, silver) = (folder.path().join(name).join("bronze"), folder.path().join(name).join("silver"));
        for number in 1..=runs {
            put(&bronze, &format!("year=2025/month=01/day=0{number}/a"), &record(&format!("b{number}"), 10));
            assert_eq!(run(&bronze, &silver, &LOGS).code, 0);
        }
        (bronze, silver)
    };
    let told = |bronze: &Path, silver: &Path, what: &str| {
        put(bronze, "year=2025/month=01/day=09/a", &record("b9", 10));
        for _ in 0..2 {
            let ran = run(bronze, silver, &LOGS);
            let error = ran.report["jobs"][0]["error"].as_str().unwrap_or_default();
            assert!(ran.code == 2 && error.contains(what) && error.contains("_etl/ledger/LogRecord/fleetdb_de"), "{what}: {}", ran.report);
        }
    };

    let (bronze, silver) = begin("ledger", 2);
    std::fs::rename(silver.join("_etl"), silver.join("kept")).unwrap();
    told(&bronze, &silver, "LogRecord has batch 2");
    assert!(!silver.join("_etl/ledger").exists(), "nothing was begun");
    let _ = std::fs::remove_dir_all(silver.join("_etl"));
    std::fs::rename(silver.join("kept"), silver.join("_etl")).unwrap();
    assert_eq!(total(&run(&bronze, &silver, &LOGS).report, "records", "inserted"), 1);

    for table in ["LogRecord", "LogRecord_quarantine"] {
        let (bronze, silver) = begin(table, 1);
        std::fs::remove_dir_all(silver.join(table)).unwrap();
        told(&bronze, &silver, &format!("table {table} is not there"));
        if table == "LogRecord" {
            // Everything anew, as it says.
            std::fs::remove_dir_all(silver.join("_etl/ledger")).unwrap();
            assert_eq!(total(&run(&bronze, &silver, &LOGS).report, "records", "inserted"), 2);
        }
    }

    // A table that another country's run has made anew: an older batch is not there, or files of the newest are not.
    for (runs, what) in [(2, "does not have batch 1"), (1, "was to be committed with LogRecord/database=fleetdb_de")] {
        let (bronze, silver) = begin(&format!("anew {runs}"), runs);
        std::fs::remove_dir_all(silver.join("LogRecord")).unwrap();
        let french = bronze.join("database=fleetdb_fr/entity=LogRecord/year=2025/month=01/day=01");
        std::fs::create_dir_all(&french).unwrap();
        std::fs::write(french.join("a"), record("b9", 1)).unwrap();
        assert_eq!(run(&bronze, &silver, &["--entity", "LogRecord", "--country", "fr"]).code, 0);
        told(&bronze, &silver, what);
    }
}

/// Rows of a backfill come in any order of their days.
#[test]
fn days_in_any_order_become_a_file_each() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = folder.path().join("bronze");
    let jobs = jobs_with(folder.path(), "limits: {spool: 64 KiB, open_partitions: 5}");
    let more = jobs_with(&folder.path().join("more"), "");
    let silver = ["few", "many"].map(|name| folder.path().join(name));
    let fault = "\"controller\":{\"id\":\"c\"},\"count\":1,\"diagnostic\":{\"id\":\"d\"},\"failureMode\":{\"id\":\"f\"},";
    for (entity, fields) in [("FaultData", fault), ("LogRecord", "\"latitude\":50.5,\"longitude\":8.5,\"speed\":1,")] {
        let line = |n: usize| {
            let (month, day) = (1 + n * 7 % 4, 1 + n * 11 % 13);
            format!("{{{fields}\"dateTime\":\"2024-{month:02}-{day:02}T15:25:14.193Z\",\"device\":{{\"id\":\"b1\"}},\"id\":\"b{n}\"}}\n")
        };
        let objects = bronze.join(format!("database=fleetdb_de/entity={entity}/year=2024"));
        std::fs::create_dir_all(&objects).unwrap();
        for part in 0..4 {
            let lines: String = (part * 1500..(part + 1) * 1500).map(line).collect();
            std::fs::write(objects.join(format!("backfill-{part}.json")), lines).unwrap();
        }
        for (silver, jobs) in silver.iter().zip([&jobs, &more]) {
            let args = ["--entity", entity, "--country", "de", "--jobs", jobs.to_str().unwrap()];
            let ran = run(&bronze, silver, &args);
            let commit = &ran.report["jobs"][0]["commits"][0];
            assert_eq!((commit["rows"].as_u64(), commit["files"].as_u64()), (Some(6000), Some(4 * 13)), "{}", ran.report);
        }
    }
    assert_same(&[&silver[0], &silver[1]]);
}

#[test]
fn a_changed_object_is_handled_as_the_job_says() {
    for (setting, code, outcome, inserted, duplicate) in
        [("reread", 0, "committed", 1, 1), ("ignore", 0, "nothing_to_do", 0, 0), ("stop", 3, "stopped", 0, 0)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
        let jobs = jobs_with(folder.path(), &format!("on_changed_object: {setting}"));
        let args = [&LOGS[..], &["--jobs", jobs.to_str().unwrap()]].concat();
        put(&bronze, "year=2025/month=01/day=01/a", &record("b1", 10));
        assert_eq!(run(&bronze, &silver, &args).code, 0);
        put(&bronze, "year=2025/month=01/day=01/a", &(record("b1", 10) + &record("b2", 20)));
        let changed = run(&bronze, &silver, &args);
        assert_eq!((changed.code, changed.report["outcome"].as_str()), (code, Some(outcome)), "{setting}: {}", changed.report);
        let found = (total(&changed.report, "records", "inserted"), total(&changed.report, "records", "duplicate"));
        assert_eq!(found, (inserted, duplicate), "{setting}");
    }
}

#[test]
fn the_gate_stops_before_anything_is_visible() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    let jobs = jobs_with(folder.path(), "gate: {max_reject_share: 0.5, share_from: 3}");
    let args = [&LOGS[..], &["--jobs", jobs.to_str().unwrap(), "--batch-objects", "1"]].concat();
    put(&bronze, "year=2025/month=01/day=01/a", &record("b1", 10));
    put(&bronze, "year=2025/month=01/day=02/b", &(record("b2", 1) + "{\"id\":1}\n{\"id\":2}\nnope\n{}\n"));
    let stopped = run(&bronze, &silver, &args);
    assert_eq!((stopped.code, stopped.report["outcome"].as_str()), (3, Some("stopped")), "{}", stopped.report);
    // What earlier batches committed stays; of the stopped one nothing is there, not even a staged file.
    assert_eq!(total(&stopped.report, "records", "inserted"), 1);
    assert_eq!(stopped.report["jobs"][0]["stopped"]["records"]["quarantined"], 4);
    let parquet = |table: &str| {
        let listed = std::process::Command::new("find").arg(silver.join(table)).args(["-name", "*.parquet"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap().lines().count()
    };
    assert_eq!((parquet("LogRecord"), parquet("LogRecord_quarantine")), (1, 0));
    // Its refusals can be listed, and a job that allows them lets the same batch pass.
    let list =
        etl(&["quarantine", "list", "--entity", "LogRecord", "--stopped", "--output", "json", "--silver"]).arg(&silver).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 4, "{listed}");
    let passed = run(&bronze, &silver, &LOGS);
    assert_eq!((passed.code, total(&passed.report, "records", "quarantined")), (0, 4));
}

#[test]
fn a_name_that_cannot_be_used_stops_its_source_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    put(&bronze, "year=2025/month=01/day=01/ 100 % ü?#x.json", &record("b2", 10));
    put(&bronze, "year=2025/month=01/day=01/line\nfeed", &record("b1", 10));
    let stopped = run(&bronze, &silver, &LOGS);
    assert_eq!(stopped.code, 2, "{}", stopped.report);
    assert!(stopped.stderr.contains("rename or move the file"), "{}", stopped.stderr);
    std::fs::remove_file(bronze.join("database=fleetdb_de/entity=LogRecord/year=2025/month=01/day=01/line\nfeed")).unwrap();
    assert_eq!(total(&run(&bronze, &silver, &LOGS).report, "records", "inserted"), 1);
}

#[test]
fn dates_and_shards_select_objects() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    for day in 1..=9 {
        put(&bronze, &format!("year=2025/month=01/day=0{day}/a"), &record(&format!("b{day}"), 1));
    }
    put(&bronze, "year=2024/old.json", &record("bA", 1));
    let some = run(&bronze, &silver, &[&LOGS[..], &["--from", "2025-01-03", "--to", "2025-01-05"]].concat());
    assert_eq!(total(&some.report, "records", "inserted"), 3);
    let old = run(&bronze, &silver, &[&LOGS[..], &["--to", "2024-06-30"]].concat());
    assert_eq!(total(&old.report, "records", "inserted"), 1);
    let shards: u64 = (1..=3)
        .map(|i| total(&run(&bronze, &silver, &[&LOGS[..], &["--shard", &format!("{i}/3")]].concat()).report, "records", "inserted"))
        .sum();
    assert_eq!(shards, 6);
    assert_eq!(run(&bronze, &silver, &LOGS).report["outcome"], "nothing_to_do");
}

#[test]
fn a_contract_that_adds_a_field_adds_a_column_and_an_older_program_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    let schemas = folder.path().join("schemas/LogRecord");
    std::fs::create_dir_all(&schemas).unwrap();
    std::fs::copy(crate::support::root().join("schemas/LogRecord/1.json"), schemas.join("1.json")).unwrap();
    let old_args = LOGS.to_vec();
    let dir = folder.path().join("schemas");
    let new_args = [&LOGS[..], &["--schemas", dir.to_str().unwrap()]].concat();
    put(&bronze, "year=2025/month=01/day=01/a", &record("b1", 10));
    assert_eq!(run(&bronze, &silver, &old_args).code, 0);

    let mut second: serde_json::Value = serde_json::from_slice(&std::fs::read(schemas.join("1.json")).unwrap()).unwrap();
    second["properties"]["heading"] = serde_json::json!({"type": "number", "description": "degrees"});
    second["x-upcast"] = serde_json::json!([{"default": {"field": "heading", "value": 1.5}}]);
    std::fs::write(schemas.join("2.json"), second.to_string()).unwrap();
    let with_heading = record("b2", 5).replace("\"speed\"", "\"heading\":12.5,\"schemaVersion\":2,\"speed\"");
    // b1 again, as it was: still a duplicate, although a new row would have the default that the older file lacks.
    put(&bronze, "year=2025/month=01/day=02/b", &(with_heading + &record("b1", 10)));
    let new = run(&bronze, &silver, &new_args);
    assert_eq!(new.code, 0, "{}", new.stderr);
    let counts = ["inserted", "duplicate", "quarantined"].map(|name| total(&new.report, "records", name));
    assert_eq!(counts, [1, 1, 0], "{}", new.report);
    let older = run(&bronze, &silver, &old_args);
    assert_eq!(older.code, 2);
    assert!(older.stderr.contains("contract version 2"), "{}", older.stderr);
}

#[test]
fn vacuum_finds_what_dead_batches_left_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (bronze, silver) = (folder.path().join("bronze"), folder.path().join("silver"));
    put(&bronze, "year=2025/month=01/day=01/a", &(record("b1", 10) + "nope\n"));
    assert_eq!(run(&bronze, &silver, &LOGS).code, 0);
    let left = silver.join("LogRecord/database=fleetdb_de/event_date=2025-01-01/part-00000-left-c000.zstd.parquet");
    std::fs::write(&left, "left by a batch that died").unwrap();
    let vacuum = |args: &[&str]| {
        let output =
            etl(&[&["vacuum", "--entity", "LogRecord", "--output", "json"], args].concat()).arg("--silver").arg(&silver).output().unwrap();
        (output.status.code(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    // Too young, then too short a retention without saying so, then dry, then done.
    assert_eq!(vacuum(&[]).1["tables"][0]["files"].as_array().unwrap().len(), 0);
    assert_eq!(vacuum(&["--retention", "0 s"]).0, Some(2));
    let dry = vacuum(&["--retention", "0 s", "--force-retention"]);
    let found: Vec<usize> = dry.1["tables"].as_array().unwrap().iter().map(|table| table["files"].as_array().unwrap().len()).collect();
    assert_eq!((dry.0, found), (Some(0), vec![1, 0]), "{}", dry.1);
    assert!(left.exists());
    assert_eq!(vacuum(&["--retention", "0 s", "--force-retention", "--execute"]).0, Some(0));
    assert!(!left.exists());
    put(&bronze, "year=2025/month=01/day=02/b", &(record("b1", 10) + &record("b2", 5)));
    let again = run(&bronze, &silver, &LOGS);
    assert_eq!((total(&again.report, "records", "duplicate"), total(&again.report, "records", "inserted")), (1, 1));
}

#[test]
fn a_signal_ends_the_run_after_the_batch_in_hand() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = bronze(folder.path(), &["--entities", "FaultData", "--countries", "de", "--records", "2500"]);
    let silver = folder.path().join("silver");
    let args = ["--entity", "FaultData", "--country", "de", "--batch-objects", "1"];
    let mut command = etl(&["run", "--output", "json"]);
    command.arg("--bronze").arg(&bronze).arg("--silver").arg(&silver).args(args);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let second_commit = silver.join("FaultData/_delta_log/00000000000000000002.json");
    for _ in 0..2000 {
        if second_commit.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let ended = ran(&child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.report["outcome"].as_str()), (143, Some("terminated")), "{}\n{}", ended.report, ended.stderr);
    let first = total(&ended.report, "records", "read");
    assert!(first > 0);
    let rest = run(&bronze, &silver, &args);
    assert_eq!((rest.code, first + total(&rest.report, "records", "read")), (0, 2500));
}

/// A file system of its own, so small that it fills up.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(std::process::Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let bronze = bronze(folder.path(), &["--entities", "FaultData", "--countries", "de", "--records", "4000"]);
    let args = ["--entity", "FaultData", "--country", "de"];
    let undisturbed = folder.path().join("undisturbed");
    assert_eq!(run(&bronze, &undisturbed, &args).code, 0);
    let silver = folder.path().join("small");
    let Some(disk) = SmallDisk::mount(&silver, "160k") else {
        eprintln!("SKIPPED: this process may not mount a file system");
        return;
    };
    let full = run(&bronze, &silver, &args);
    assert_eq!(full.code, 5, "{}\n{}", full.report, full.stderr);
    assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
    disk.grow("64m");
    let next = run(&bronze, &silver, &args);
    assert_eq!(next.code, 0, "{}", next.stderr);
    assert_same(&[&undisturbed, &silver]);
}
