//! Some rows of a batch, which nobody has copied yet: whoever encodes a column may read it where it stands.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

#[derive(Debug, Clone)]
pub struct Selected {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Positions in whole columns; `None` for all of them.
    at: Option<UInt32Array>,
    rows: usize,
}

#[derive(Debug, Clone)]
enum Column {
    Whole(ArrayRef),
    /// It has the selected rows only.
    Own(ArrayRef),
}

/// A column as it stands: its values, and the positions of those that are meant, if not all are.
pub type Standing<'c> = (&'c ArrayRef, Option<&'c [u32]>);

impl Selected {
    pub fn all(rows: &RecordBatch) -> Self {
        let columns = rows.columns().iter().cloned().map(Column::Own).collect();
        Self { schema: rows.schema(), columns, at: None, rows: rows.num_rows() }
    }

    /// The rows at these positions, in their order.
    pub fn some(rows: &RecordBatch, at: Vec<u32>) -> Self {
        if at.len() == rows.num_rows() && at.iter().copied().eq(0..) {
            return Self::all(rows);
        }
        let columns = rows.columns().iter().cloned().map(Column::Whole).collect();
        Self { schema: rows.schema(), columns, rows: at.len(), at: Some(at.into()) }
    }

    pub fn num_rows(&self) -> usize {
        self.rows
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn slice(&self, from: usize, count: usize) -> Self {
        let columns = self.columns.iter().map(|column| match column {
            Column::Own(values) => Column::Own(values.slice(from, count)),
            Column::Whole(values) => Column::Whole(values.clone()),
        });
        let at = self.at.as_ref().map(|at| at.slice(from, count));
        Self { schema: self.schema.clone(), columns: columns.collect(), at, rows: count }
    }

    pub fn standing(&self, column: usize) -> Standing<'_> {
        match &self.columns[column] {
            Column::Own(values) => (values, None),
            Column::Whole(values) => (values, self.at.as_ref().map(|at| &at.values()[..])),
        }
    }

    /// The values of the selected rows.
    pub fn column(&self, column: usize) -> Result<ArrayRef, ArrowError> {
        match (&self.columns[column], &self.at) {
            (Column::Whole(values), Some(at)) => take(values, at, None),
            (Column::Own(values) | Column::Whole(values), _) => Ok(values.clone()),
        }
    }

    pub fn named(&self, name: &str) -> Option<Result<ArrayRef, ArrowError>> {
        let (at, _) = self.schema.column_with_name(name)?;
        Some(self.column(at))
    }

    /// The selected rows of the last column, if there is one.
    pub fn last(&self) -> Option<Result<ArrayRef, ArrowError>> {
        Some(self.column(self.columns.len().checked_sub(1)?))
    }

    /// Whether a value is null.
    pub fn has_null(&self, column: usize) -> bool {
        let (values, at) = self.standing(column);
        let some = |at: &[u32], nulls: &arrow::buffer::NullBuffer| at.iter().any(|row| nulls.is_null(*row as usize));
        values.logical_null_count() > 0 && at.is_none_or(|at| values.logical_nulls().is_some_and(|nulls| some(at, &nulls)))
    }

    /// Without its last column.
    pub fn pop(mut self) -> Self {
        let kept = self.columns.len().saturating_sub(1);
        self.columns.truncate(kept);
        self.schema = Arc::new(Schema::new(self.schema.fields()[..kept].to_vec()));
        self
    }

    /// With one more column, which has the selected rows only.
    pub fn push(mut self, field: FieldRef, values: ArrayRef) -> Self {
        self.columns.push(Column::Own(values));
        self.schema = Arc::new(Schema::new(self.schema.fields().iter().cloned().chain([field]).collect::<Vec<_>>()));
        self
    }

    pub fn into_rows(self) -> Result<RecordBatch, ArrowError> {
        let columns: Result<Vec<ArrayRef>, ArrowError> = (0..self.columns.len()).map(|column| self.column(column)).collect();
        RecordBatch::try_new(self.schema, columns?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::compute::take_record_batch;
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn selected_rows_are_those_that_are_taken() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), None, Some(2), Some(3), Some(4)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d", "e"]));
        let rows = RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, false)]).unwrap();
        for at in [vec![], vec![0, 1, 2, 3, 4], vec![4, 2], vec![1], vec![0, 0, 3], vec![4, 3, 2, 1, 0]] {
            let taken = take_record_batch(&rows, &UInt32Array::from(at.clone())).unwrap();
            let selected = Selected::some(&rows, at.clone());
            assert_eq!(selected.clone().into_rows().unwrap(), taken);
            assert_eq!(selected.has_null(0), at.contains(&1));
            assert!(!selected.has_null(1));
            for from in 0..at.len() {
                assert_eq!(selected.slice(from, at.len() - from).into_rows().unwrap(), taken.slice(from, at.len() - from));
            }
            let more: ArrayRef = Arc::new(Int64Array::from_iter_values(0..at.len() as i64));
            let changed = selected.pop().push(Arc::new(Field::new("more", DataType::Int64, false)), more.clone());
            assert_eq!(changed.num_rows(), at.len());
            assert_eq!(changed.named("more").unwrap().unwrap().as_ref(), more.as_ref());
            assert_eq!(changed.slice(0, at.len()).into_rows().unwrap().column(0), taken.column(0));
            assert!(changed.named("t").is_none());
        }
    }
}
