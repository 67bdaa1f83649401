//! Framer and decoder under a fuzzer: `bash tests/fuzz <minutes>`.

#![no_main]
#![allow(unsafe_code, reason = "the library's entry point is called from C")]
#![allow(clippy::unwrap_used, reason = "a panic is what is looked for")]

use libfuzzer_sys::fuzz_target;

#[path = "../tests/integration/differential.rs"]
mod differential;

fuzz_target!(|input: &[u8]| differential::examine(input));
