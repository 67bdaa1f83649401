//! A build without the feature `spark`: it knows the statements and has nothing to send them with.

use std::time::Duration;

use arrow::array::RecordBatch;

use super::{Dialect, Patience};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("this build has no Spark engine (cargo feature `spark`); run with --engine local")]
    Absent,
}

impl ClientError {
    pub fn exit_code(&self) -> u8 {
        2
    }

    pub fn is_refusal(&self) -> bool {
        false
    }
}

/// There is none.
#[derive(Debug)]
pub enum Session {}

impl Session {
    pub async fn open(_: &str, _: &str, _: Patience) -> Result<Self, ClientError> {
        Err(ClientError::Absent)
    }

    pub fn dialect(&self) -> Dialect {
        match *self {}
    }

    pub async fn execute(&self, _: &'static str, _: &str) -> Result<(), ClientError> {
        match *self {}
    }

    pub async fn execute_beside_others(&self, _: &'static str, _: &str, _: Duration) -> Result<(), ClientError> {
        match *self {}
    }

    pub async fn query(&self, _: &'static str, _: &str) -> Result<Vec<RecordBatch>, ClientError> {
        match *self {}
    }

    pub async fn interrupt(&self) {
        match *self {}
    }

    pub async fn close(self) {
        match self {}
    }
}
