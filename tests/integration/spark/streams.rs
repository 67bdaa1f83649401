//! What a network does to the streams of statements: nothing of it reaches a table.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::grpc::{Call, Fault, GrpcProxy};
use std::time::Duration;

use super::*;

const ARGS: [&str; 4] = ["--entity", "FaultData", "--country", "de"];

/// A server of its own, and a proxy before it.
fn behind(plan: impl FnMut(&str) -> Option<Fault> + Send + 'static) -> (Server, GrpcProxy) {
    let server = sail();
    let to = server.address.trim_start_matches("sc://").parse().unwrap();
    (server, GrpcProxy::start(to, plan))
}

fn through(proxy: &GrpcProxy, options: &str, bronze: &Path, silver: &Path, args: &[&str]) -> Ran {
    let mut command = etl(&["run", "--output", "json", "--engine", "spark", "--remote", &format!("{}{options}", proxy.address)]);
    ran(&command.arg("--bronze").arg(bronze).arg("--silver").arg(silver).args(args).output().unwrap())
}

/// Statements with an effect that the server got to see.
fn arrived(calls: &[Call]) -> usize {
    let changes = |call: &&Call| call.body.windows(10).any(|window| window == b"MERGE INTO");
    let seen = |call: &&Call| call.method == "ExecutePlan" && !matches!(call.fault, Some(Fault::Lost | Fault::Silence));
    calls.iter().filter(changes).filter(seen).count()
}

fn of(calls: &[Call], method: &str) -> usize {
    calls.iter().filter(|call| call.method == method).count()
}

#[test]
fn broken_streams_are_taken_up_again_and_no_statement_runs_twice() {
    let folder = tempfile::tempdir().unwrap();
    for turn in 0..3 {
        grown(folder.path(), turn);
    }
    let (bronze, here) = (folder.path().join("bronze"), folder.path().join("here"));
    let args = [ARGS.as_slice(), &["--batch-objects", "3"]].concat();
    let local = run(&bronze, &here, &args);
    let (_quiet, undisturbed) = behind(|_| None);
    let quiet = through(&undisturbed, "", &bronze, &folder.path().join("quiet"), &args);
    assert_eq!(summary(&quiet.report), summary(&local.report), "{}", quiet.stderr);
    let mut random = Random::new("broken streams");
    let (_server, proxy) = behind(move |method| {
        let frames = random.below(3);
        match (method, random.below(8)) {
            ("ExecutePlan" | "ReattachExecute", 0 | 1) => Some(Fault::Cut(frames)),
            ("ExecutePlan" | "ReattachExecute", 2) => Some(Fault::HangUp(frames)),
            ("ExecutePlan" | "ReattachExecute", 3) => Some(Fault::End(frames)),
            ("ExecutePlan", 4) => Some(Fault::Lost),
            _ => None,
        }
    });
    let there = folder.path().join("there");
    let broken = through(&proxy, "", &bronze, &there, &args);
    assert_eq!((broken.code, summary(&broken.report)), (local.code, summary(&local.report)), "{}", broken.stderr);
    same(&[vec![here, folder.path().join("quiet"), there.clone()]], folder.path());
    let calls = proxy.calls();
    eprintln!("{} statements, {} sent, {} attached again", arrived(&calls), of(&calls, "ExecutePlan"), of(&calls, "ReattachExecute"));
    assert!(of(&calls, "ReattachExecute") > 3);
    // Queries are asked again where Sail has lost their answer; what has an effect is not, for it would be there twice.
    assert_eq!(arrived(&calls), arrived(&undisturbed.calls()));
    // Every operation's responses are let go of.
    assert!(of(&undisturbed.calls(), "ReleaseExecute") >= arrived(&undisturbed.calls()));
    assert_eq!(of(&undisturbed.calls(), "ReleaseSession"), 1);
    let again = through(&proxy, "", &bronze, &there, &args);
    assert_eq!((again.code, total(&again.report, "records", "read")), (0, 0), "{}", again.stderr);
    assert_eq!(proxy.calls().len(), calls.len(), "a run with nothing to do asks nothing of a cluster");
}

/// Gives every file below a folder another time.
fn age(folder: &Path, to: std::time::SystemTime) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            age(&path, to);
        } else {
            std::fs::File::options().append(true).open(&path).unwrap().set_modified(to).unwrap();
        }
    }
}

/// A run is cut off from the cluster as soon as the ledger has its intent: what it staged is needed until the next run is done.
#[test]
fn staged_rows_of_an_open_intent_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs_with(folder.path(), "lease: {duration: 1 s}");
    grown(folder.path(), 0);
    let (bronze, here, there) = (folder.path().join("bronze"), folder.path().join("here"), folder.path().join("there"));
    let log = there.join("_etl/ledger/FaultData/fleetdb_de/log");
    let asked = log.clone();
    let (server, proxy) = behind(move |method| (method == "ExecutePlan" && is_intended(&asked)).then_some(Fault::Lost));
    let mut command = etl(&["run", "--engine", "spark", "--remote", &proxy.address]);
    command.arg("--bronze").arg(&bronze).arg("--silver").arg(&there).args(ARGS).args(["--jobs", jobs.to_str().unwrap()]);
    let mut process = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !is_intended(&log) {
        assert!(process.try_wait().unwrap().is_none(), "the run ended before its intent");
        std::thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    // Nobody renews its leases any more.
    std::thread::sleep(Duration::from_millis(1200));
    let staging = there.join("_etl/spark/FaultData");
    let staged = files_below(&staging);
    assert!(staged > 0);
    // All of it is older than anything that vacuum waits for.
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(24 * 30);
    age(&staging, long_ago);
    std::fs::create_dir_all(staging.join("dead/staged")).unwrap();
    std::fs::write(staging.join("dead/staged/rows.parquet"), "of a run that died").unwrap();
    age(&staging.join("dead"), long_ago);
    let vacuum = || {
        let output = etl(&["vacuum", "--entity", "FaultData", "--execute"]).arg("--silver").arg(&there).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    vacuum();
    assert_eq!(files_below(&staging), staged);
    // A local run leaves the intent alone, one on the cluster finishes it.
    let local = run(&bronze, &there, &ARGS);
    assert!(local.code == 4 && local.stderr.contains("--engine spark"), "{}", local.stderr);
    let finished = on(&server, &bronze, &there, &ARGS);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(run(&bronze, &here, &ARGS).code, 0);
    same(&[vec![here, there.clone()]], folder.path());
    vacuum();
    assert_eq!(files_below(&staging), 0);
}

#[test]
fn every_call_has_what_databricks_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path(), 0);
    let (_server, proxy) = behind(|_| None);
    let options = "/;token=SECRET-TOKEN;x-databricks-cluster-id=0123-abc;user_id=me";
    let ran = through(&proxy, options, &folder.path().join("bronze"), &folder.path().join("silver"), &ARGS);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!format!("{}{}", ran.stderr, ran.report).contains("SECRET-TOKEN"));
    let calls = proxy.calls();
    for method in ["Config", "ExecutePlan", "ReleaseExecute", "ReleaseSession"] {
        assert!(of(&calls, method) > 0, "{method}");
    }
    for call in calls {
        let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(header("authorization"), "Bearer SECRET-TOKEN", "{}", call.method);
        assert_eq!(header("x-databricks-cluster-id"), "0123-abc", "{}", call.method);
        assert!(header("user-agent").starts_with("silversmith/"), "{}: {}", call.method, header("user-agent"));
    }
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path(), 0);
    let (bronze, here, there) = (folder.path().join("bronze"), folder.path().join("here"), folder.path().join("there"));
    let (_server, mute) = behind(|method| (method == "Config").then_some(Fault::Silence));
    let ran = through(&mute, "", &bronze, &there, &[ARGS.as_slice(), &["--remote-answer", "2 s"]].concat());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(ran.stderr.contains("did not answer within 2 s") && ran.stderr.contains("--remote-answer"), "{}", ran.stderr);
    let stalls = AtomicUsize::new(0);
    let (_other, stalling) = behind(move |method| match method {
        // The first is the session's time zone, which is within the first answer.
        "ExecutePlan" => match stalls.fetch_add(1, Ordering::Relaxed) {
            2 => Some(Fault::Stall(0)),
            4 => Some(Fault::Silence),
            6 => Some(Fault::Stall(1)),
            _ => None,
        },
        _ => None,
    });
    let local = run(&bronze, &here, &ARGS);
    let ran = through(&stalling, "", &bronze, &there, &[ARGS.as_slice(), &["--remote-silence", "1 s"]].concat());
    assert_eq!((ran.code, summary(&ran.report)), (local.code, summary(&local.report)), "{}", ran.stderr);
    assert!(of(&stalling.calls(), "ReattachExecute") >= 3);
    same(&[vec![here, there]], folder.path());
}
