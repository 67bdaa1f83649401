//! What a run may hold at once, so that it stays within the memory that it was given: slower rather than killed.
//!
//! What grows with its work are the open Parquet files (up to a row group each), the rows of a batch that wait in memory, the keys of
//! a batch (some 80 bytes a record, which may have come from a tenth of that in a compressed object), and what is being decoded on each
//! thread. Each gets its share; a job's own limits count where they are lower. What is left is the program's own.

use crate::job::{Job, Limits};

/// Of the memory: 1 / n each.
const OPEN_FILES: u64 = 2;
const SPOOL: u64 = 8;
const BATCH: u64 = 8;
/// Bytes that a thread may need for the chunks that it frames and decodes.
const A_THREAD: u64 = 48 << 20;

/// A job's limits, none of them wider than the memory allows.
pub fn within(memory: u64, job: &Job) -> Limits {
    let Limits { open_partitions, spool, batch, .. } = job.limits;
    let files = usize::try_from(memory / OPEN_FILES / job.table.row_group).unwrap_or(usize::MAX).max(1);
    Limits { open_partitions: open_partitions.min(files), spool: spool.min(memory / SPOOL), batch: batch.min(memory / BATCH), ..job.limits }
}

/// Threads that it has room for.
pub fn threads(memory: u64, wanted: usize) -> usize {
    wanted.min(usize::try_from(memory / 2 / A_THREAD).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_narrows_and_much_changes_nothing() {
        let job = Job::from_text("jobs/X.yaml", "entity: X\nkey: [id]\n".to_owned()).unwrap();
        assert_eq!(within(64 << 30, &job), job.limits);
        let narrow = within(512 << 20, &job);
        assert_eq!((narrow.open_partitions, narrow.spool, narrow.batch), (8, 64 << 20, 64 << 20));
        assert_eq!(within(1 << 20, &job).open_partitions, 1);
        assert_eq!((threads(64 << 30, 16), threads(512 << 20, 16), threads(1 << 20, 16)), (16, 5, 1));
    }
}
