//! Against Sail, which starts in under a second.

use std::process::Stdio;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use serde_json::json;

use super::*;

/// What a cluster does not do, each refused by name before anything is sent.
const NOT_THERE: [&str; 1] = ["keywords that SQL cannot check"];

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

/// A defect of Sail, against Sail alone: one line that is no text, and none of the others can be read. Spark reads them.
#[test]
fn does_not_read_a_file_with_bytes_that_are_no_text() {
    let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lines.json"), b"{\"a\": 1}\n\xff\n").unwrap();
    let query = format!("SELECT value FROM text.`{}`", folder.path().join("lines.json").display());
    let told = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let session = Box::pin(Session::open(&server.address, "a defect", Patience::default())).await.unwrap();
        Box::pin(session.query("lines", &query)).await.unwrap_err().to_string()
    });
    assert!(told.contains("invalid UTF-8"), "{told}");
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

/// A job, a contract and bronze of the test's own, and two silvers.
struct Thing {
    folder: tempfile::TempDir,
    server: std::sync::MutexGuard<'static, Server>,
}

impl Thing {
    fn new(job: &str) -> Self {
        let server = SAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let thing = Self { folder: tempfile::tempdir().unwrap(), server };
        thing.write(
            "jobs/Thing.yaml",
            &format!("entity: Thing\nkey: [id]\nlease: {{duration: 1 s}}\ncompact: {{after_run: false}}\n{job}\n"),
        );
        thing.contract(9);
        thing
    }

    fn contract(&self, maximum: u32) {
        let contract = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "required": ["id"],
            "properties": {"id": {"type": "string"}, "value": {"type": "integer", "maximum": maximum}}
        });
        self.write("schemas/Thing/1.json", &contract.to_string());
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// An object of some records `id`, `value`.
    fn put(&self, day: &str, name: &str, records: &[(&str, u32)]) {
        let lines: Vec<String> = records.iter().map(|(id, value)| json!({"id": id, "value": value}).to_string()).collect();
        self.write(&format!("bronze/database=fleetdb_de/entity=Thing/year=2024/month=03/day={day}/{name}"), &lines.join("\n"));
    }

    fn silver(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn args(&self) -> Vec<String> {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        ["--entity".into(), "Thing".into(), "--country".into(), "de".into(), "--jobs".into(), at("jobs"), "--schemas".into(), at("schemas")]
            .into()
    }

    /// Here, and on the server or here into a silver of its own: both say the same.
    fn turn(&self, silver: &str, there: bool) -> Value {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let bronze = self.folder.path().join("bronze");
        let alone = run(&bronze, &self.silver(&format!("{silver}-alone")), &args);
        let other = self.silver(silver);
        let other = if there { on(&self.server, &bronze, &other, &args) } else { run(&bronze, &other, &args) };
        let found = (other.code, summary(&other.report), codes(&other.report));
        assert_eq!(found, (alone.code, summary(&alone.report), codes(&alone.report)), "{silver}: {}", other.stderr);
        assert!(!there || of_cluster(&other.report, "objects_here") == 0, "{}", other.report);
        other.report
    }

    fn same(&self, silvers: &[&str]) {
        let groups: Vec<Vec<PathBuf>> =
            silvers.iter().map(|silver| vec![self.silver(&format!("{silver}-alone")), self.silver(silver)]).collect();
        same(&groups, self.folder.path());
    }
}

/// An object that comes again with other content, each of its readings by either engine.
#[test]
fn and_the_local_engine_correct_each_other() {
    let thing = Thing::new("mode: upsert\ndelete_when: value = 9");
    thing.put("01", "first", &[("d", 5)]);
    thing.put("02", "o", &[("long before the others", 1), ("a", 5), ("b", 9), ("c", 5), ("d", 5)]);
    thing.put("03", "later", &[("c", 7)]);
    let silvers = [("there-here", true, false), ("here-there", false, true), ("there-there", true, true)];
    for (silver, first, _) in silvers {
        thing.turn(silver, first);
    }
    thing.put("02", "o", &[("a", 4), ("b", 4), ("c", 4), ("d", 4)]);
    for (silver, _, second) in silvers {
        let report = thing.turn(silver, second);
        let of = |name| total(&report, "records", name);
        assert_eq!((of("updated"), of("inserted"), of("duplicate")), (2, 1, 1), "{silver}: {report}");
    }
    thing.same(&silvers.map(|(silver, ..)| silver));
}

/// Rows of a cluster have no offset; which records they were is known all the same.
#[test]
fn and_a_later_reprocessing_here_leave_every_record_in_one_place() {
    for mode in ["append", "upsert"] {
        let thing = Thing::new(&format!("mode: {mode}"));
        thing.put("01", "o", &[("a", 1), ("b", 8), ("c", 3), ("d", 9)]);
        thing.put("02", "p", &[("e", 7), ("f", 2)]);
        thing.turn(mode, true);
        let again = |quarantined: u64, removed: u64| {
            for silver in [mode.to_owned(), format!("{mode}-alone")] {
                let silver = thing.silver(&silver);
                let mut command = etl(&["reprocess", "--day", "2024-03-01", "--execute", "--output", "json"]);
                command.args(thing.args()).arg("--bronze").arg(thing.folder.path().join("bronze")).arg("--silver").arg(&silver);
                let ran = ran(&command.output().unwrap());
                let of = |name| total(&ran.report, "records", name);
                assert_eq!((ran.code, of("read")), (0, 4), "{mode} {}: {} {}", silver.display(), ran.stderr, ran.report);
                assert_eq!((of("quarantined"), of("removed")), (quarantined, removed), "{mode} {}: {}", silver.display(), ran.report);
            }
            thing.same(&[mode]);
        };
        // As it was, stricter, as it is by now, and as it was.
        again(0, 0);
        thing.contract(5);
        again(2, 2);
        again(2, 0);
        thing.contract(9);
        again(0, 0);
    }
}

#[test]
fn and_the_local_engine_take_turns_at_a_snapshots_days() {
    let thing = Thing::new("mode: snapshot");
    for there_first in [true, false] {
        let silver = format!("turns-{there_first}");
        let bronze = thing.folder.path().join("bronze");
        if bronze.exists() {
            std::fs::remove_dir_all(&bronze).unwrap();
        }
        let mut there = there_first;
        let mut turn = |day: &str, name: &str, records: &[(&str, u32)], removed: u64| {
            thing.put(day, name, records);
            let report = thing.turn(&silver, there);
            assert_eq!(total(&report, "records", "removed"), removed, "{silver}, {day} {name}: {report}");
            there = !there;
        };
        turn("01", "a", &[("a", 1), ("b", 1), ("c", 10)], 0);
        // The day is read again as a whole, its refusal is not doubled.
        turn("01", "b", &[("d", 1)], 0);
        turn("02", "c", &[("a", 2), ("d", 1), ("e", 1)], 1);
        // A day that is over changes nothing.
        turn("01", "late", &[("f", 1)], 0);
        turn("02", "d", &[("f", 3), ("a", 2)], 0);
        turn("03", "e", &[("x", 1)], 4);
        // A day without a sound record says nothing.
        turn("04", "f", &[("x", 10)], 0);
        turn("05", "g", &[("y", 1)], 1);
        thing.same(&[&silver]);
    }
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
        // A statement of a run that was killed may go on writing for a while.
        let mut seen = Vec::new();
        for _ in 0..10 {
            let vacuum = etl(&args).arg("--silver").arg(&there).output().unwrap();
            assert!(vacuum.status.success(), "{}", String::from_utf8_lossy(&vacuum.stderr));
            seen = names_below(&staged);
            seen.retain(|name| !is_unfinished(name));
            if seen.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(seen.is_empty(), "{seen:?}");
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
