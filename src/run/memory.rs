//! What a run may hold at once, so that it stays within the memory that it was given: slower rather than killed.
//!
//! What grows with its work are the open Parquet files (up to a row group each), the rows of a batch that wait in memory, the keys of
//! a batch (some 80 bytes a record, which may have come from a tenth of that in a compressed object), the table's keys that it is compared
//! with in append mode, and what is being decoded on each thread. Each gets its share; a job's own limits count where they are lower.
//! What is left is the program's own. Files are not closed sooner, their row groups end sooner (in what a batch stages; compaction has its
//! own reckoning): every chunk of a feed has rows of many days, and fewer open files would mean one for each of them. A single object, or a
//! snapshot's day, is one batch however large.

use crate::job::Job;

/// Of the memory: 1 / n each.
const OPEN_FILES: u64 = 4;
const SPOOL: u64 = 16;
const BATCH: u64 = 16;
const TABLE_KEYS: u64 = 8;
/// Bytes of a row group that are worth a place in a file's footer.
const LEAST_ROW_GROUP: u64 = 256 << 10;
/// Bytes that a thread may need for the chunks that it frames and decodes.
const A_THREAD: u64 = 48 << 20;

/// A job whose limits are no wider than the memory allows.
#[must_use]
pub fn within(memory: u64, mut job: Job) -> Job {
    let each = (memory / OPEN_FILES / job.limits.open_partitions.max(1) as u64).max(LEAST_ROW_GROUP);
    job.limits.row_group = job.limits.row_group.min(each);
    job.limits.spool = job.limits.spool.min(memory / SPOOL);
    job.limits.table_keys = job.limits.table_keys.min(memory / TABLE_KEYS);
    job.limits.batch = job.limits.batch.min((memory / BATCH).max(1));
    job
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
        let wide = within(64 << 30, job.clone());
        assert_eq!((wide.table, wide.limits.spool, wide.limits.batch), (job.table, job.limits.spool, job.limits.batch));
        assert_eq!((wide.limits.table_keys, within(256 << 20, job.clone()).limits.table_keys), (256 << 20, 32 << 20));
        assert!(wide.limits.row_group >= job.table.row_group);
        let narrow = within(256 << 20, job.clone());
        assert_eq!((narrow.limits.row_group, narrow.limits.spool, narrow.limits.batch), (1 << 20, 16 << 20, 16 << 20));
        assert_eq!((narrow.limits.open_partitions, narrow.table), (job.limits.open_partitions, job.table));
        assert_eq!(within(1 << 20, job).limits.row_group, LEAST_ROW_GROUP);
        assert_eq!((threads(64 << 30, 16), threads(512 << 20, 16), threads(1 << 20, 16)), (16, 5, 1));
    }
}
