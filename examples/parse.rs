//! Parses files of newline-delimited JSON and makes nothing of them: what benches/scaling.py measures the program's scaling beside.
//!
//! `parse <file>...` prints the seconds that it took, and how many records there were.

#![allow(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::error::Error;
use std::time::Instant;

use serde::de::IgnoredAny;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut records, mut bytes) = (0_u64, 0);
    let started = Instant::now();
    for path in std::env::args().skip(1) {
        let text = std::fs::read(&path)?;
        bytes += text.len();
        for record in serde_json::Deserializer::from_slice(&text).into_iter::<IgnoredAny>() {
            record?;
            records += 1;
        }
    }
    println!("{{\"seconds\": {:.4}, \"records\": {records}, \"bytes\": {bytes}}}", started.elapsed().as_secs_f64());
    Ok(())
}
