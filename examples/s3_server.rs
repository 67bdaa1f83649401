//! An S3 server in memory, as a process of its own, for benchmarks and for trying things out.
//!
//! `cargo run --release --example s3_server -- --port 9000 --latency-ms 20 --page 1000 --dir /tmp/buckets`
//!
//! It prints where it listens and serves until SIGTERM, or until its standard input ends: so it does not outlive the
//! script that has started it with a pipe. `--dir` loads files first, as `bucket/key`. `GET /_stats` counts requests, bytes
//! and the CPU seconds of the process; `POST /_reset` sets the counts to 0. Everything it holds is in memory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]
#![allow(clippy::expect_used, reason = "shared with the tests")]

#[path = "../tests/integration/http/mod.rs"]
mod http;

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::http::s3::{Options, S3Server};

const USAGE: &str = "s3_server [--port PORT] [--latency-ms MS] [--page KEYS] [--threads N] [--concurrent N] [--dir DIR]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut options = Options::default();
    let mut folder = None;
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        if ["-h", "--help"].contains(&name.as_str()) {
            println!("{USAGE}");
            return Ok(());
        }
        let value = args.next().ok_or(USAGE)?;
        match name.as_str() {
            "--port" => options.port = value.parse()?,
            "--latency-ms" => options.latency = Duration::from_millis(value.parse()?),
            "--page" => options.page = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--concurrent" => options.concurrent = value.parse()?,
            "--dir" => folder = Some(PathBuf::from(value)),
            _ => return Err(format!("{name}: {USAGE}").into()),
        }
    }
    let server = S3Server::start(options)?;
    if let Some(folder) = folder {
        eprintln!("{} objects loaded", server.load(&folder)?);
    }
    println!("listening {}", server.url());
    wait()
}

#[tokio::main(flavor = "current_thread")]
async fn wait() -> Result<(), Box<dyn Error>> {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = [0; 1024];
        while std::io::stdin().read(&mut ignored).is_ok_and(|length| length > 0) {}
        ended.send(())
    });
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = end => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}
