//! All integration tests, in one binary. Sections (see `tests/run`) are the modules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod again;
mod buckets;
mod care;
mod cases;
mod cli;
mod container;
mod contracts;
mod decoding;
mod differential;
mod faults;
mod framing;
mod generated;
mod history;
mod http;
mod http_proxy;
mod interleavings;
mod layers;
mod matrix;
mod migrate;
mod parallel;
mod s3;
#[cfg(feature = "spark")]
mod spark;
mod stores;
mod support;
mod world;
