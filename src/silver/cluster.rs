//! Rows of a bin in an order that narrows searches: sorted, or along a Z-curve. In bounded memory: what does not fit waits on disk.
//!
//! DataFusion sorts. A Z-curve needs numbers that are spread evenly, which keys and times are not: so the values of each column are
//! ranked against bounds that a sample of the bin's rows gives, and the bits of the ranks are interleaved into one number to sort by.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext, col};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::compact::rows_of_files;
use super::{LiveFile, SilverError, Table};
use crate::job::ClusterBy;
use crate::job::care::Curve;

/// The column that is sorted by and not written.
const PLACE: &str = "__place";
/// Bounds that split a column's values.
const BOUNDS: usize = 1 << 12;
/// Rows of a bin that bounds are taken from.
const SAMPLE: u64 = 200_000;

/// What one bin may hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Bytes of rows that are sorted; the rest of them waits on disk.
    pub sort: usize,
    /// Streams that are sorted side by side.
    pub streams: usize,
}

/// Some files as DataFusion reads them.
struct Part {
    table: Table,
    files: Vec<LiveFile>,
    fields: Fields,
    schema: SchemaRef,
    curve: Option<Arc<ZCurve>>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({})", self.files.len())
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = rows_of_files(&self.table, self.files.clone(), self.fields.clone());
        let (curve, schema) = (self.curve.clone(), self.schema.clone());
        let placed = rows.map(move |batch| {
            let batch = batch.map_err(|error| DataFusionError::External(Box::new(error)))?;
            match &curve {
                Some(curve) => Ok(curve.placed(&batch, &schema)?),
                None => Ok(batch),
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), placed))
    }
}

/// The rows of `files`, `fields` of them, in order.
pub(super) async fn in_order(
    table: &Table,
    files: &[LiveFile],
    fields: &Fields,
    by: &ClusterBy,
    memory: Memory,
) -> Result<BoxStream<'static, Result<RecordBatch, SilverError>>, SilverError> {
    // A column that all rows of a partition share orders nothing.
    let columns: Vec<String> = by.columns().filter(|name| fields.find(name).is_some()).cloned().collect();
    if columns.is_empty() {
        return Ok(rows_of_files(table, files.to_vec(), fields.clone()));
    }
    let curve = match by.curve {
        Curve::ZOrder => Some(Arc::new(ZCurve::of(table, files, fields, &columns).await?)),
        Curve::Sort => None,
    };
    let failed = {
        let name = table.name.clone();
        move |error: DataFusionError| unwrapped(name.clone(), error)
    };
    let place = curve.is_some().then(|| Arc::new(Field::new(PLACE, DataType::UInt64, false)));
    let schema = Arc::new(Schema::new(fields.iter().cloned().chain(place).collect::<Vec<_>>()));
    let streams = memory.streams.clamp(1, files.len().max(1));
    let parts = (0..streams).map(|stream| {
        let files = files.iter().skip(stream).step_by(streams).cloned().collect();
        Arc::new(Part { table: table.clone(), files, fields: fields.clone(), schema: schema.clone(), curve: curve.clone() })
            as Arc<dyn PartitionStream>
    });
    let source = StreamingTable::try_new(schema.clone(), parts.collect()).map_err(failed.clone())?;
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory.sort))).build_arc();
    // Enough to merge what was put aside, however small the rest is.
    let config = SessionConfig::new().with_target_partitions(streams).with_sort_spill_reservation_bytes(memory.sort / 8 / streams);
    let context = SessionContext::new_with_config_rt(config, runtime.map_err(failed.clone())?);
    let names = if curve.is_some() { vec![PLACE.to_owned()] } else { columns };
    // Names stand as they are written: `col` would fold their case.
    let order = names.into_iter().map(|name| col(datafusion::common::Column::from_name(name)).sort(true, true)).collect();
    let frame = context.read_table(Arc::new(source)).and_then(|frame| frame.sort(order)).map_err(failed.clone())?;
    let sorted = frame.execute_stream().await.map_err(failed.clone())?;
    let width = fields.len();
    let name = table.name.clone();
    let rows = sorted.map_err(failed).map(move |batch| {
        let batch = batch?;
        let wanted: Vec<usize> = (0..width).collect();
        batch.project(&wanted).map_err(|source| SilverError::Arrow { table: name.clone(), source })
    });
    Ok(rows.boxed())
}

/// An error of ours that went through DataFusion, as it was.
fn unwrapped(table: String, error: DataFusionError) -> SilverError {
    match error {
        DataFusionError::External(ours) => match ours.downcast::<SilverError>() {
            Ok(ours) => *ours,
            Err(other) => SilverError::Query { table, source: Box::new(DataFusionError::External(other)) },
        },
        error => SilverError::Query { table, source: Box::new(error) },
    }
}

/// Ranks values of some columns and interleaves them.
struct ZCurve {
    columns: Vec<Ranked>,
    /// Bits of each rank.
    bits: u32,
}

/// One column's values as bytes that compare as they do, cut to what tells most of them apart.
struct Ranked {
    name: String,
    converter: RowConverter,
    /// Leading bytes that all sampled values share.
    shared: usize,
    bounds: Vec<u128>,
}

impl Ranked {
    fn new(field: &Field) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(vec![SortField::new(field.data_type().clone())])?;
        Ok(Self { name: field.name().clone(), converter, shared: 0, bounds: Vec::new() })
    }

    fn bound_by(&mut self, mut sample: Vec<Box<[u8]>>) {
        sample.sort_unstable();
        let (Some(first), Some(last)) = (sample.first(), sample.last()) else { return };
        self.shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let every = sample.len().div_ceil(BOUNDS).max(1);
        self.bounds = sample.iter().step_by(every).map(|value| start(value, self.shared)).collect();
        self.bounds.dedup();
    }

    /// Values that begin alike for longer than is looked at share a rank.
    fn rank(&self, value: &[u8]) -> u64 {
        let start = start(value, self.shared);
        self.bounds.partition_point(|bound| *bound <= start) as u64
    }
}

/// The bytes after `skip`, as many as a number has.
fn start(value: &[u8], skip: usize) -> u128 {
    let rest = value.get(skip..).unwrap_or_default();
    let mut bytes = [0; 16];
    let length = rest.len().min(bytes.len());
    bytes[..length].copy_from_slice(&rest[..length]);
    u128::from_be_bytes(bytes)
}

impl ZCurve {
    async fn of(table: &Table, files: &[LiveFile], fields: &Fields, columns: &[String]) -> Result<Self, SilverError> {
        let arrow = |source| SilverError::Arrow { table: table.name.clone(), source };
        let wanted: Fields = columns.iter().filter_map(|name| fields.find(name)).map(|(_, field)| field.clone()).collect();
        let rows: u64 = files.iter().filter_map(LiveFile::rows).sum();
        let step = rows.div_ceil(SAMPLE).max(1) as usize;
        let mut ranked = wanted.iter().map(|field| Ranked::new(field)).collect::<Result<Vec<_>, _>>().map_err(arrow)?;
        let mut samples: Vec<Vec<Box<[u8]>>> = vec![Vec::new(); ranked.len()];
        let mut batches = rows_of_files(table, files.to_vec(), wanted);
        while let Some(batch) = batches.try_next().await? {
            let some = UInt32Array::from_iter_values((0..batch.num_rows() as u32).step_by(step));
            for ((ranked, sample), column) in ranked.iter().zip(&mut samples).zip(batch.columns()) {
                let values = take(column, &some, None).map_err(arrow)?;
                let rows = ranked.converter.convert_columns(&[values]).map_err(arrow)?;
                sample.extend(rows.iter().map(|row| row.as_ref().into()));
            }
        }
        for (ranked, sample) in ranked.iter_mut().zip(samples) {
            ranked.bound_by(sample);
        }
        let bits = 64 / ranked.len().max(1) as u32;
        Ok(Self { columns: ranked, bits: bits.min(BOUNDS.ilog2() + 1) })
    }

    /// The batch and each row's place on the curve.
    fn placed(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let mut places = vec![0_u64; batch.num_rows()];
        let width = self.columns.len() as u32;
        for (nth, ranked) in (0_u32..).zip(&self.columns) {
            let column = batch.column_by_name(&ranked.name);
            let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no column {}", ranked.name)))?;
            let rows = ranked.converter.convert_columns(std::slice::from_ref(column))?;
            for (row, place) in rows.iter().zip(&mut places) {
                *place |= spread(ranked.rank(row.as_ref()), self.bits, width) << (width - 1 - nth);
            }
        }
        let places: ArrayRef = Arc::new(UInt64Array::from(places));
        RecordBatch::try_new(schema.clone(), batch.columns().iter().cloned().chain([places]).collect())
    }
}

/// Bit n of `rank` at bit n × `width`.
fn spread(rank: u64, bits: u32, width: u32) -> u64 {
    (0..bits).fold(0, |spread, bit| spread | (((rank >> bit) & 1) << (bit * width)))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn ranks_interleave() {
        let place = |x: u64, y: u64| (spread(x, 13, 2) << 1) | spread(y, 13, 2);
        assert_eq!([place(0, 0), place(0, 1), place(1, 0), place(1, 1), place(2, 0)], [0, 1, 2, 3, 8]);
    }
}
