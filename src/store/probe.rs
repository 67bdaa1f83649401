//! The probe: does a store really do what exactly-once rests on, and may this identity do it?
//!
//! A run asks silver once per place and keeps the answer beside it; `etl doctor` asks again whenever it is called. What is put there
//! is taken away again.

use futures::StreamExt;
use futures::future::join_all;
use object_store::ObjectStoreExt;
use serde::Serialize;

use super::{Action, Store, StoreError, fault};

/// Clocks that differ by more are worth a word; S3 refuses requests beyond 15 minutes.
const SKEW_WORTH_A_WORD: i64 = 30;
const RACERS: usize = 8;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: &'static str,
    /// The IAM action that it takes.
    pub iam: &'static str,
    pub passed: bool,
    /// What was found, or what is wrong and the remedy.
    pub found: String,
    #[serde(skip)]
    users: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{place} cannot be worked with: {what}: {found}")]
pub struct ProbeFailed {
    place: String,
    what: &'static str,
    found: String,
    users: bool,
}

impl ProbeFailed {
    pub fn is_users(&self) -> bool {
        self.users
    }

    /// The first check that failed, if one did.
    pub fn of(store: &Store, checks: &[Check]) -> Option<Self> {
        let failed = checks.iter().find(|check| !check.passed)?;
        Some(Self { place: store.address(), what: failed.what, found: failed.found.clone(), users: failed.users })
    }
}

fn passed(what: &'static str, iam: &'static str, found: impl Into<String>) -> Check {
    Check { what, iam, passed: true, found: found.into(), users: false }
}

fn failed(what: &'static str, iam: &'static str, found: impl Into<String>, users: bool) -> Check {
    Check { what, iam, passed: false, found: found.into(), users }
}

fn checked<T>(what: &'static str, action: Action, outcome: Result<T, StoreError>, found: impl Fn(T) -> Result<String, String>) -> Check {
    match outcome.map(found) {
        Ok(Ok(found)) => passed(what, action.iam(), found),
        Ok(Err(wrong)) => failed(what, action.iam(), wrong, true),
        Err(error) => failed(what, action.iam(), error.to_string(), error.is_users()),
    }
}

/// Can bronze be listed and read?
pub async fn of_bronze(bronze: &Store, folder: &str) -> Vec<Check> {
    // Folder markers are empty and tell nothing.
    let mut listed = bronze.list(folder).filter(|entry| std::future::ready(!matches!(entry, Ok((_, meta)) if meta.size == 0))).boxed();
    let mut checks = Vec::new();
    match listed.next().await {
        Some(Ok((key, meta))) => {
            checks.push(passed("list", Action::List.iam(), format!("{folder}: there are objects")));
            let archived = bronze.is_archived(&meta);
            let read = bronze.is_readable(&key, None).await;
            checks.push(checked("read", Action::Read, read, |readable| {
                let archive = if archived || !readable { ", in an archive class" } else { "" };
                Ok(format!("{key}{archive}"))
            }));
        }
        Some(Err(error)) => checks.push(failed("list", Action::List.iam(), error.to_string(), error.is_users())),
        None => checks.push(passed("list", Action::List.iam(), format!("{folder}: no object"))),
    }
    checks.extend(clock(bronze));
    checks
}

/// Can silver be listed, written, read and cleared, and does a create really refuse the second?
pub async fn of_silver(silver: &Store) -> Vec<Check> {
    let folder = silver.folder("_etl/doctor");
    let name = uuid::Uuid::new_v4().to_string();
    let mut checks = Vec::new();
    let listed = folder.list("").next().await.transpose();
    checks.push(checked("list", Action::List, listed, |_| Ok("_etl/doctor".to_owned())));
    let first = folder.create(&name, "first".into()).await;
    checks.push(checked("write", Action::Create, first, |new| new.then(|| "put-if-absent of a new object".to_owned()).ok_or_else(lost)));
    if checks.iter().all(|check| check.passed) {
        let again = folder.create(&name, "second".into()).await;
        checks.push(checked("put-if-absent", Action::Create, again, |new| {
            if new { Err(overwritten()) } else { Ok("the second writer was refused".into()) }
        }));
        let text = folder.get(&name).await;
        checks.push(checked("read", Action::Read, text, |text| match text {
            Some(text) if text.as_ref() == b"first" => Ok("what was written".to_owned()),
            _ => Err("the object does not read as it was written".to_owned()),
        }));
        checks.push(race(&folder, &name).await);
        checks.push(multipart(&folder, &name).await);
        let gone = folder.delete(&name).await;
        checks.push(checked("delete", Action::Delete, gone, |()| Ok("what was written".to_owned())));
        let _ = folder.delete(&format!("{name}-race")).await;
    }
    checks.extend(clock(silver));
    checks
}

fn lost() -> String {
    "the name of a new object was taken; a server that says so of its own write cannot be used".to_owned()
}

fn overwritten() -> String {
    "this server lets a second writer overwrite: commits would be lost; use S3, or a server that honours If-None-Match".to_owned()
}

/// Of several creates at once exactly one may win.
async fn race(folder: &Store, name: &str) -> Check {
    let key = format!("{name}-race");
    let outcomes = join_all((0..RACERS).map(|racer| folder.create(&key, racer.to_string().into()))).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Ok(true))).count();
    let wrong = outcomes.into_iter().find_map(Result::err);
    match (won, wrong) {
        (_, Some(error)) => failed("race", Action::Create.iam(), error.to_string(), error.is_users()),
        (1, None) => passed("race", Action::Create.iam(), format!("of {RACERS} writers at once one won")),
        _ => failed("race", Action::Create.iam(), format!("of {RACERS} writers at once {won} won; {}", overwritten()), true),
    }
}

async fn multipart(folder: &Store, name: &str) -> Check {
    let (what, iam) = ("multipart", "s3:AbortMultipartUpload");
    let here = folder.here();
    let outcome = async { here.put_multipart(&format!("{name}-parts").into()).await?.abort().await }.await;
    match outcome {
        Ok(()) => passed(what, iam, "begun and given up"),
        Err(error) => {
            let users = fault::refusal(&error).is_some_and(|refusal| refusal.users);
            failed(what, iam, format!("{}; {iam} is needed", fault::with_causes(&error)), users)
        }
    }
}

fn clock(store: &Store) -> Option<Check> {
    let skew = store.bucket.as_ref()?.seen.skew_seconds();
    let what = "clock";
    Some(if skew.abs() < SKEW_WORTH_A_WORD {
        passed(what, "", "the server's and this machine's agree")
    } else {
        failed(
            what,
            "",
            format!("this machine's clock is {} s {} the server's; set it (NTP)", skew.abs(), if skew > 0 { "behind" } else { "ahead of" }),
            true,
        )
    })
}

/// Asks silver what a run rests on, once per place; local disk need not be asked.
pub async fn once(silver: &Store) -> Result<(), StoreError> {
    let Some(bucket) = &silver.bucket else { return Ok(()) };
    let folder = silver.folder("_etl/doctor");
    let of = format!("{:?} {}", bucket.endpoint, bucket.region);
    let marker = format!("passed-{:016x}.json", xxhash_rust::xxh3::xxh3_64(of.as_bytes()));
    if folder.get(&marker).await?.is_some() {
        return Ok(());
    }
    let mut checks = of_silver(silver).await;
    // A clock that is off stops a run only where the store refuses it.
    checks.retain(|check| check.what != "clock");
    if let Some(failed) = ProbeFailed::of(silver, &checks) {
        return Err(failed.into());
    }
    let text = serde_json::json!({ "endpoint": bucket.endpoint, "region": bucket.region, "at": chrono::Utc::now().to_rfc3339(), "checks": checks });
    folder.put(&marker, text.to_string().into()).await
}
