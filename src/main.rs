//! `etl`: parse, dispatch, exit code. The story is in `lib.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(silversmith::cli::main())
}
