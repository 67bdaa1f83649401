//! Questions to a table, by DataFusion.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::TableProvider;
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionContext};
use deltalake::DeltaTable;

use super::{SilverError, Table};

impl Table {
    /// The rows of `shape`d table, collected: for questions whose answer is small.
    pub async fn query(
        &self,
        shape: impl FnOnce(DataFrame) -> Result<DataFrame, datafusion::error::DataFusionError>,
    ) -> Result<Vec<RecordBatch>, SilverError> {
        let failed = |source| SilverError::Query { table: self.name.clone(), source: Box::new(source) };
        let mut table = DeltaTable::new(self.log.clone());
        table.load().await.map_err(|source| self.delta(source))?;
        let provider: Arc<dyn TableProvider> = table.table_provider().await.map_err(failed)?;
        let frame = SessionContext::new().read_table(provider).map_err(failed)?;
        shape(frame).map_err(failed)?.collect().await.map_err(failed)
    }

    /// The same over Parquet files that no table names.
    pub async fn query_files(
        &self,
        urls: Vec<String>,
        shape: impl FnOnce(DataFrame) -> Result<DataFrame, datafusion::error::DataFusionError>,
    ) -> Result<Vec<RecordBatch>, SilverError> {
        if urls.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |source| SilverError::Query { table: self.name.clone(), source: Box::new(source) };
        let context = SessionContext::new();
        context.register_object_store(self.store.url(), self.store.root());
        let frame = context.read_parquet(urls, ParquetReadOptions::default()).await.map_err(failed)?;
        shape(frame).map_err(failed)?.collect().await.map_err(failed)
    }
}
