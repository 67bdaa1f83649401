//! Against Sail, which starts in under a second.

use std::process::Stdio;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use serde_json::json;

use super::*;

/// What a cluster does not do, each refused by name before anything is sent.
const NOT_THERE: [&str; 2] = ["mode is snapshot", "keywords that SQL cannot check"];

/// One server for all tests that share it; they take turns, since Sail does not detect conflicts.
static SAIL: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(sail()));

#[test]
fn ends_every_case_as_the_local_engine_does() {
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

/// What the generator can do but for bytes that are no text, over which Sail fails as a whole.
const ON_SAIL: &str = "malformed_json,truncated_record,invalid_unicode,not_an_object,nesting_too_deep,duplicate_field,partition_conflict,\
    partition_invalid,unknown_version,missing_field,wrong_type,out_of_range,not_in_enum,invalid_format,length_limit,number_overflow,\
    invalid_timestamp,corrupt_codec,error_envelope,partition_missing,pattern_mismatch,key_conflict";

#[test]
fn makes_of_generated_bronze_what_the_local_engine_does() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let bronze = generated(folder.path(), ON_SAIL);
    let (proven, _) = both(&server, &bronze, folder.path(), &entities(), &[]);
    same(&[vec![folder.path().join("here"), folder.path().join("there")]], folder.path());
    assert!(proven > 10_000, "{proven} records were proven on the server");
}

#[test]
fn reads_quoted_texts_as_they_are() {
    quoting_holds(&SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

#[test]
fn and_the_local_engine_take_turns() {
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
fn finishes_what_a_killed_run_began() {
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
    // What they staged is nobody's any more.
    let mut left = 0;
    for entity in TURNS {
        let staged = there.join("_etl/spark").join(entity);
        std::fs::create_dir_all(staged.join("dead/staged")).unwrap();
        std::fs::write(staged.join("dead/staged/rows.parquet"), "of a run that died").unwrap();
        left += files_below(&staged);
        let args = ["vacuum", "--entity", entity, "--retention", "0 s", "--force-retention", "--execute", "--jobs", jobs.to_str().unwrap()];
        let vacuum = etl(&args).arg("--silver").arg(&there).output().unwrap();
        assert!(vacuum.status.success(), "{}", String::from_utf8_lossy(&vacuum.stderr));
        assert_eq!(files_below(&staged), 0);
    }
    eprintln!("{killed} runs were killed, and left {left} staged files");
    assert!(killed > 1);
    same(&[vec![here, there]], folder.path());
}

#[test]
fn and_a_local_run_keep_away_from_each_other() {
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
fn is_told_from_what_is_no_server() {
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
