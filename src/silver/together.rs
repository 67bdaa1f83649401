//! Small batches are put together before they are worked on.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;

/// Batches that wait until they are many rows, or large.
#[derive(Debug)]
pub struct Together {
    rows: usize,
    bytes: usize,
    waiting: Vec<RecordBatch>,
    /// Rows and bytes that wait.
    held: (usize, usize),
}

impl Together {
    /// Waits for so many rows, or so many bytes.
    pub fn new(rows: usize, bytes: u64) -> Self {
        Self { rows, bytes: usize::try_from(bytes).unwrap_or(usize::MAX), waiting: Vec::new(), held: (0, 0) }
    }

    /// What has waited, with this, once it is enough.
    pub fn push(&mut self, batch: RecordBatch) -> Result<Option<RecordBatch>, ArrowError> {
        self.held.0 += batch.num_rows();
        self.held.1 += batch.get_array_memory_size();
        self.waiting.push(batch);
        if self.held.0 >= self.rows || self.held.1 >= self.bytes { self.take() } else { Ok(None) }
    }

    /// What has waited.
    pub fn take(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        self.held = (0, 0);
        let mut waiting = std::mem::take(&mut self.waiting);
        match waiting.len() {
            0 | 1 => Ok(waiting.pop()),
            _ => concat_batches(waiting[0].schema_ref(), &waiting).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn batches_wait_for_rows_or_bytes_and_keep_their_order() {
        let batch = |from: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
            RecordBatch::try_from_iter([("n", numbers)]).unwrap()
        };
        let mut together = Together::new(25, 1 << 20);
        assert_eq!(together.take().unwrap(), None);
        assert_eq!(together.push(batch(0)).unwrap(), None);
        assert_eq!(together.push(batch(10)).unwrap(), None);
        let all: ArrayRef = Arc::new(Int64Array::from_iter_values(0..30));
        assert_eq!(together.push(batch(20)).unwrap().unwrap().column(0), &all);
        assert_eq!(together.push(batch(30)).unwrap(), None);
        assert_eq!(together.take().unwrap(), Some(batch(30)));
        assert_eq!(Together::new(25, 1).push(batch(0)).unwrap(), Some(batch(0)));
    }
}
