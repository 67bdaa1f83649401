//! The Spark engine: the same batch on a cluster, as self-contained SQL statements sent through Spark Connect.
//!
//! **Prove there, explain here.** SQL can prove that a record is sound ([`proof`]): that it is one JSON value, of the newest contract
//! version, with no field that the contract does not know, and every value of its type and within its bounds. What it cannot prove it
//! does not judge: such records (refused ones, older versions, odd spellings) are few, come back to this machine, and go through the
//! local engine's own steps. So codes, messages and values are the local engine's wherever there is anything to decide, by
//! construction, and no server's leniency can let a record in: a proof is only a sufficient condition.
//!
//! A batch is six statements ([`statements`]), each complete in itself: bronze → staged rows; what is not proven (read back); staged rows
//! and what was explained here, against silver and tombstones → settled rows with a fate each; counts (read back, for the gate); then,
//! once the ledger has the intent, tombstones and silver, which change nothing when they are repeated. Stage and settled rows are Delta
//! tables under `_etl/`, made by us, so every statement reads and writes tables by their place and needs no catalog.
//!
//! Servers differ in a few words ([`Dialect`]).

#[cfg_attr(not(feature = "spark"), path = "absent.rs")]
pub mod client;
pub mod condition;
pub mod proof;
pub mod sql;
pub mod statements;

/// What a server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Apache Spark from 4.0 on, and Databricks.
    Spark,
    /// Sail: no `_metadata`, no check of UTF-8 (its texts are), decimals in JSON are doubles.
    Sail,
}
