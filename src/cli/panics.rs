//! What is said of a panic that a library itself catches: nothing.

use std::panic::{self, PanicHookInfo};

/// delta-rs gives an upload up that failed at its end by way of object_store's `BufWriter::abort`, which panics then, by design, and
/// catches that (deltalake-core 1.1.3, `datafile::writer`). The error that made it do so is reported; the panic is no news.
fn is_caught(panic: &PanicHookInfo<'_>) -> bool {
    let in_buffered =
        panic.location().is_some_and(|location| location.file().contains("object_store") && location.file().ends_with("buffered.rs"));
    in_buffered && panic.payload_as_str() == Some("Already shut down")
}

/// Leaves out of stderr what [`is_caught`]; all other panics are told as ever.
pub fn hush_caught_panics() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !is_caught(panic) {
            told(panic);
        }
    }));
}
