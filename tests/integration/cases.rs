//! Every folder of `fixtures/cases/<Entity>/<case>` is a test: what a run makes of its bronze is what its `expected/` states,
//! read back by Python's deltalake and by DuckDB.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::buckets::Bucket;
use crate::support::{Ran, python, ran, root, run};

pub fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

pub fn own_or(case: &Path, name: &str) -> PathBuf {
    let own = case.join(name);
    if own.is_dir() { own } else { root().join(name) }
}

#[test]
fn every_case_ends_as_its_folder_says() {
    check_all(|_, bronze, silver, args| run(bronze, silver, args));
}

/// The same by way of S3: uploaded, run, and silver downloaded for the readers.
pub fn check_all_in(bucket: &Bucket) {
    let number = std::sync::atomic::AtomicUsize::new(0);
    check_all(|case, bronze, silver, args| {
        let prefix = format!("case-{}", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        bucket.upload(bronze, &format!("{prefix}/bronze"));
        let mut command = Bucket::etl(&bucket.endpoint, &["run", "--output", "json"]);
        let (from, to) = (format!("{prefix}/bronze"), format!("{prefix}/silver"));
        let ran = ran(&command.args(["--bronze", &bucket.url(&from), "--silver", &bucket.url(&to)]).args(args).output().unwrap());
        assert!(ran.report["jobs"][0]["requests"]["get"].as_u64() > Some(0), "{}: {}", case.display(), ran.report);
        bucket.download(&to, silver);
        ran
    });
}

fn check_all(how: impl Fn(&Path, &Path, &Path, &[&str]) -> Ran) {
    let silver = tempfile::tempdir().unwrap();
    let mut list = Vec::new();
    let mut failures = Vec::new();
    for entity in folders(&root().join("fixtures/cases")) {
        let name = entity.file_name().unwrap().to_str().unwrap().to_owned();
        for case in folders(&entity) {
            let target = silver.path().join(&name).join(case.file_name().unwrap());
            let (jobs, schemas) = (own_or(&case, "jobs"), own_or(&case, "schemas"));
            let places = ["--jobs", jobs.to_str().unwrap(), "--schemas", schemas.to_str().unwrap()];
            let ran = how(&case, &case.join("bronze"), &target, &[&["--entity", &name, "--country", "all"], &places[..]].concat());
            let expected: Value = serde_json::from_slice(&std::fs::read(case.join("expected/report.json")).unwrap()).unwrap();
            let found = summary(&ran.report);
            if ran.code != 0 || found != expected {
                failures.push(format!("{}: exit {}\n found    {found}\n expected {expected}\n {}", case.display(), ran.code, ran.stderr));
            }
            list.push(json!({"expected": case.join("expected"), "silver": target, "entity": name, "jobs": jobs, "schemas": schemas}));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(list.len() >= 125, "only {} cases found", list.len());
    let file = silver.path().join("cases.json");
    std::fs::write(&file, serde_json::to_vec(&list).unwrap()).unwrap();
    let read = python("readback.py", &["compare", file.to_str().unwrap()]);
    assert!(read.status.success(), "{}{}", String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
    eprintln!("{}", String::from_utf8_lossy(&read.stdout).trim());
}

/// The counts that a case states, summed over countries.
pub fn summary(report: &Value) -> Value {
    let sum = |path: &[&str]| -> u64 {
        let jobs = report["jobs"].as_array().unwrap();
        jobs.iter().map(|job| path.iter().fold(job, |value, step| &value[*step]).as_u64().unwrap()).sum()
    };
    let layout = |name| json!({"files": sum(&["layouts", name, "files"]), "records": sum(&["layouts", name, "records"])});
    json!({
        "read": sum(&["records", "read"]),
        "inserted": sum(&["records", "inserted"]),
        "updated": sum(&["records", "updated"]),
        "deleted": sum(&["records", "deleted"]),
        "duplicate": sum(&["records", "duplicate"]),
        "removed": sum(&["records", "removed"]),
        "quarantined": sum(&["records", "quarantined"]),
        "layouts": {"firehose": layout("firehose"), "year_root": layout("year_root")},
        "files": {"listed": sum(&["files", "listed"]), "skipped": sum(&["files", "skipped"])},
    })
}
