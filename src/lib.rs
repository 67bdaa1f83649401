//! silversmith: bronze JSON in, ACID silver out.
//!
//! `etl run` reads what is new in two bronze layouts (Firehose's day folders, the backfills' year folders), reconciles the
//! partition columns that may stand in the path, in the payload or in both, enforces versioned JSON Schemas, and commits one
//! Delta table per entity, exactly once. Every record read becomes a row, a duplicate, or a row of quarantine with its bytes.
//!
//! To find your way: `cli/run.rs` is the command, [`run::run`] the job, [`run::batch::run_batch`] one batch (plan → stage → gate →
//! intent → commit → settle), [`engine::local::stage`] its seven steps, each a file of its own beside it.
//!
//! Modules import downward only, in the order below read from the bottom; a test holds them to it. The invariants (one record in,
//! one outcome out; the Delta log is the only truth; nothing visible before the gate; exactly once) are checked where they are
//! decided: `engine::local` (bytes), `run::batch` (outcomes), `ledger` and `silver::commit` (once).

pub mod bronze;
pub mod cli;
pub mod contract;
pub mod domain;
pub mod engine;
pub mod job;
pub mod ledger;
pub mod plan;
pub mod run;
pub mod silver;
pub mod store;
