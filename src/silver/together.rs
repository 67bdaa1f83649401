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
    pub fn push(&mut self, batch: RecordBatch) -> Option<Gathered> {
        self.held.0 += batch.num_rows();
        self.held.1 += batch.get_array_memory_size();
        self.waiting.push(batch);
        if self.held.0 >= self.rows || self.held.1 >= self.bytes { self.take() } else { None }
    }

    /// What has waited.
    pub fn take(&mut self) -> Option<Gathered> {
        self.held = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        (!waiting.is_empty()).then_some(Gathered(waiting))
    }
}

/// At least one batch.
#[derive(Debug)]
pub struct Gathered(Vec<RecordBatch>);

impl Gathered {
    pub fn into_one(mut self) -> Result<RecordBatch, ArrowError> {
        if self.0.len() > 1 {
            return concat_batches(self.0[0].schema_ref(), &self.0);
        }
        self.0.pop().ok_or_else(|| ArrowError::InvalidArgumentError("nothing was gathered".to_owned()))
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
        let one = |gathered: Option<Gathered>| gathered.map(|gathered| gathered.into_one().unwrap());
        let mut together = Together::new(25, 1 << 20);
        assert_eq!(one(together.take()), None);
        assert_eq!(one(together.push(batch(0))), None);
        assert_eq!(one(together.push(batch(10))), None);
        let all: ArrayRef = Arc::new(Int64Array::from_iter_values(0..30));
        assert_eq!(one(together.push(batch(20))).unwrap().column(0), &all);
        assert_eq!(one(together.push(batch(30))), None);
        assert_eq!(one(together.take()), Some(batch(30)));
        assert_eq!(one(Together::new(25, 1).push(batch(0))), Some(batch(0)));
    }
}
