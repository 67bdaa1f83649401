//! The container, run for real: not root, nothing writable but /tmp, stopped, killed by its memory limit, and run again.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::buckets::{Bucket, moto, text};
use crate::http::proxy::{Fault, FaultProxy, Rule};
use crate::support::{assert_same, generate, jobs_with, ran, root, run};

struct Image {
    state: tempfile::TempDir,
}

impl Image {
    /// `None`, said loudly, where there is no package manager or no runc.
    fn build() -> Option<Self> {
        let state = tempfile::tempdir().unwrap();
        let image = Self { state };
        let installed = Self::script(&["install"]);
        if installed.status.code() == Some(77) {
            eprintln!("SKIPPED: no containers here: {}", text(&installed));
            return None;
        }
        assert!(installed.status.success(), "{}", text(&installed));
        let built = Self::script(&["build", env!("CARGO_BIN_EXE_etl"), image.state()]);
        assert!(built.status.success(), "{}", text(&built));
        Some(image)
    }

    fn state(&self) -> &str {
        self.state.path().to_str().unwrap()
    }

    fn command(args: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg(root().join("tests/servers/container.sh")).args(args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn script(args: &[&str]) -> Output {
        Self::command(args).output().unwrap()
    }

    /// A container that runs `etl run` against a server.
    fn etl(&self, name: &str, endpoint: &str, podman: &[&str], places: &[String]) -> Command {
        let endpoint = format!("AWS_ENDPOINT_URL_S3={endpoint}");
        let env = ["AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "ETL_OUTPUT=json", &endpoint];
        let env: Vec<&str> = env.iter().flat_map(|variable| ["--env", variable]).collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let etl = ["--", "run", "--entity", "LogRecord", "--country", "de"];
        Self::command(&[&["run", self.state(), name], podman, &env, &etl, &places].concat())
    }
}

#[test]
fn the_container_runs_is_stopped_is_killed_and_goes_on() {
    let Some(image) = Image::build() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (bronze, alone) = (folder.path().join("bronze"), folder.path().join("alone"));
    let made = ["--entities", "LogRecord", "--countries", "de", "--records", "3000", "--mess", "0.01", "--object-bytes", "16KiB"];
    generate(&bronze, &[&made[..], &["--seed", "9"]].concat());
    assert_eq!(run(&bronze, &alone, &["--entity", "LogRecord", "--country", "de"]).code, 0);
    let bucket = Bucket::new(moto());
    bucket.upload(&bronze, "bronze");
    let places = |silver: &str| ["--bronze", &bucket.url("bronze"), "--silver", &bucket.url(silver)].map(str::to_owned).to_vec();
    let downloaded = |silver: &str| -> PathBuf {
        let to = folder.path().join(silver);
        bucket.download(silver, &to);
        to
    };

    let whole = ran(&image.etl("whole", &bucket.endpoint, &["--memory", "512m"], &places("whole")).output().unwrap());
    assert_eq!((whole.code, whole.report["outcome"].as_str()), (0, Some("committed")), "{}", whole.stderr);
    assert_same(&[&alone, &downloaded("whole")]);

    // SIGTERM while an object does not come.
    let proxy = FaultProxy::start(bucket.endpoint.strip_prefix("http://").unwrap().parse().unwrap());
    let reads = |method: &str, target: &str| method == "GET" && target.contains("/bronze/database");
    proxy.add(Rule::new(Fault::Hang(Duration::from_mins(2))).when(reads).after(3));
    let timeout = ["--env", "ETL_STOP_TIMEOUT=9"];
    let child = image.etl("stopped", &proxy.url(), &timeout, &places("stopped")).spawn().unwrap();
    let begun = Instant::now();
    while !proxy.seen().iter().any(|seen| seen.method == "PUT" && seen.path.contains("/log/")) {
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", proxy.seen());
        std::thread::sleep(Duration::from_millis(50));
    }
    let stopped = Image::script(&["stop", image.state(), "stopped", "20"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    let stopped = ran(&child.wait_with_output().unwrap());
    assert_eq!((stopped.code, stopped.report["outcome"].as_str()), (143, Some("terminated")), "{}", stopped.stderr);
    let next = ran(&image.etl("next", &bucket.endpoint, &[], &places("stopped")).output().unwrap());
    assert_eq!(next.code, 0, "{}", next.stderr);
    assert_same(&[&alone, &downloaded("stopped")]);

    // Too little memory kills it, without a word of its own; with enough it goes on.
    let jobs = format!("{}:/jobs:ro", jobs_with(folder.path(), "lease: {duration: 2 s}").display());
    let own = ["--volume", &jobs, "--env", "ETL_JOBS=/jobs"];
    let little = [&own[..], &["--memory", "12m", "--memory-swap", "12m"]].concat();
    let killed = image.etl("small", &bucket.endpoint, &little, &places("small")).output().unwrap();
    assert_eq!(killed.status.code(), Some(137), "{}", text(&killed));
    std::thread::sleep(Duration::from_millis(2100));
    let after = ran(&image.etl("after", &bucket.endpoint, &own, &places("small")).output().unwrap());
    assert_eq!(after.code, 0, "{}", after.stderr);
    assert_same(&[&alone, &downloaded("small")]);
}
