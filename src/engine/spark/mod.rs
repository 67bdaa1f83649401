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

pub mod catalog;
#[cfg_attr(not(feature = "spark"), path = "absent.rs")]
pub mod client;
pub mod condition;
pub mod proof;
pub mod script;
pub mod sql;
pub mod statements;

use std::time::Duration;

/// What a server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Apache Spark from 4.0 on, and Databricks.
    Spark,
    /// Sail: no `_metadata`, no check of UTF-8 (its texts are), decimals in JSON are doubles.
    Sail,
}

/// What emitted SQL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlDialect {
    Databricks,
    Spark,
}

/// How long a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until it answers a call: one that has not by then is not there, or does not speak TLS where that was asked for.
    pub answer: Duration,
    /// Until something comes on the stream of a statement: then it is attached anew.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_mins(1), silence: Duration::from_mins(5) }
    }
}

/// The address without what is secret in it.
pub fn shown(remote: &str) -> String {
    remote.split(';').next().unwrap_or_default().trim_end_matches('/').to_owned()
}
