//! A batch's rows, put aside until all of them are read: in memory up to a bound, on local disk beyond it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the rows of a batch cannot be put aside in {}: {source}; let TMPDIR name a folder with room, or lower limits.batch", folder.display())]
    Disk { folder: PathBuf, source: std::io::Error },
    #[error("the rows of a batch cannot be put aside in {}: {source}", folder.display())]
    Arrow { folder: PathBuf, source: ArrowError },
}

/// Bytes that are written to disk, or read from it, in one go: the rows of a small object are many short pieces.
const BUFFER: usize = 1 << 20;

/// Rows in the order in which they came.
pub struct Spool {
    folder: PathBuf,
    limit: usize,
    held: usize,
    memory: Vec<RecordBatch>,
    /// Everything after what is in memory; the file has no name and goes with the process.
    disk: Option<StreamWriter<BufWriter<File>>>,
}

impl Spool {
    /// `limit` bytes stay in memory, the rest goes to `folder`.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self { folder: folder.to_owned(), limit: usize::try_from(limit).unwrap_or(usize::MAX), held: 0, memory: Vec::new(), disk: None }
    }

    pub fn push(&mut self, rows: RecordBatch) -> Result<(), SpoolError> {
        let bytes = rows.get_array_memory_size();
        if self.disk.is_none() && self.held + bytes <= self.limit {
            self.held += bytes;
            self.memory.push(rows);
            return Ok(());
        }
        self.spill(&rows).map_err(|source| failed(&self.folder, source))
    }

    fn spill(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            empty => {
                empty.insert(StreamWriter::try_new(BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(&self.folder)?), &rows.schema())?)
            }
        };
        disk.write(rows)
    }

    /// All rows again, as often as asked.
    pub fn read(&mut self) -> Result<impl Iterator<Item = Result<RecordBatch, SpoolError>> + '_, SpoolError> {
        let disk = self.rewind().map_err(|source| failed(&self.folder, source))?;
        let from_disk = disk.into_iter().flatten().map(|rows| rows.map_err(|source| failed(&self.folder, source)));
        Ok(self.memory.iter().cloned().map(Ok).chain(from_disk))
    }

    fn rewind(&mut self) -> Result<Option<StreamReader<BufReader<File>>>, ArrowError> {
        let Some(disk) = &mut self.disk else { return Ok(None) };
        disk.flush()?;
        let mut file = disk.get_ref().get_ref().try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        StreamReader::try_new(BufReader::with_capacity(BUFFER, file), None).map(Some)
    }
}

fn failed(folder: &Path, source: ArrowError) -> SpoolError {
    let folder = folder.to_owned();
    match source {
        ArrowError::IoError(_, source) => SpoolError::Disk { folder, source },
        source => SpoolError::Arrow { folder, source },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn rows_come_back_in_order_from_memory_and_disk() {
        let mut spool = Spool::new(Path::new("."), 3000);
        let batch = |from: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 100));
            RecordBatch::try_from_iter([("n", numbers)]).unwrap()
        };
        for part in 0..10 {
            spool.push(batch(part * 100)).unwrap();
        }
        assert!(spool.disk.is_some() && !spool.memory.is_empty());
        for _ in 0..2 {
            let rows: Vec<RecordBatch> = spool.read().unwrap().map(Result::unwrap).collect();
            assert_eq!(rows, (0..10).map(|part| batch(part * 100)).collect::<Vec<_>>());
        }
    }
}
