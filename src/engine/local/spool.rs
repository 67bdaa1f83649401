//! A batch's rows, put aside until all of them are read: in memory up to a bound, on local disk beyond it.
//!
//! What comes back from disk lies in large buffers that are used again once nobody holds their rows: fresh ones would be cleared twice,
//! by the allocator's caller and by the kernel.
//!
//! Rows are put aside many at a time, by a thread of its own ([`Aside`]): whoever brings them is who keeps everybody else at work.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::ipc::{MessageHeader, root_as_message};
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::silver::together::{Gathered, Together};

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the rows of a batch cannot be put aside in {}: {source}; let TMPDIR name a folder with room, or lower limits.batch", folder.display())]
    Disk { folder: PathBuf, source: std::io::Error },
    #[error("the rows of a batch cannot be put aside in {}: {source}", folder.display())]
    Arrow { folder: PathBuf, source: ArrowError },
    #[error("putting the rows of a batch aside ended early: {message}")]
    Ended { message: String },
}

/// Bytes that are written to disk, or read from it, in one go: the rows of a small object are many short pieces.
const BUFFER: usize = 1 << 20;

/// Rows that are put together until they are many, and then put aside while more of them come.
pub struct Aside {
    waiting: Together,
    spool: Filling,
}

enum Filling {
    Idle(Box<Spool>),
    Busy(JoinHandle<Result<Box<Spool>, SpoolError>>),
    /// An error was told, or whoever asked for the rows was given up.
    Lost,
}

impl Aside {
    pub fn new(spool: Spool, waiting: Together) -> Self {
        Self { waiting, spool: Filling::Idle(Box::new(spool)) }
    }

    pub async fn push(&mut self, rows: RecordBatch) -> Result<(), SpoolError> {
        match self.waiting.push(rows) {
            Some(gathered) => self.put(gathered).await,
            None => Ok(()),
        }
    }

    async fn put(&mut self, gathered: Gathered) -> Result<(), SpoolError> {
        let mut spool = self.idle().await?;
        self.spool = Filling::Busy(tokio::task::spawn_blocking(move || {
            let rows = gathered.into_one().map_err(|source| failed(&spool.folder, source))?;
            spool.push(rows)?;
            Ok(spool)
        }));
        Ok(())
    }

    async fn idle(&mut self) -> Result<Box<Spool>, SpoolError> {
        match std::mem::replace(&mut self.spool, Filling::Lost) {
            Filling::Idle(spool) => Ok(spool),
            Filling::Busy(writing) => writing.await.map_err(|error| SpoolError::Ended { message: error.to_string() })?,
            Filling::Lost => Err(SpoolError::Ended { message: "an earlier write failed".to_owned() }),
        }
    }

    /// All rows that came.
    pub async fn filled(&mut self) -> Result<&mut Spool, SpoolError> {
        if let Some(rest) = self.waiting.take() {
            self.put(rest).await?;
        }
        self.spool = Filling::Idle(self.idle().await?);
        match &mut self.spool {
            Filling::Idle(spool) => Ok(spool),
            _ => Err(SpoolError::Ended { message: "the rows are still being put aside".to_owned() }),
        }
    }
}

/// Rows in the order in which they came.
pub struct Spool {
    folder: PathBuf,
    limit: usize,
    held: usize,
    memory: Vec<RecordBatch>,
    /// Everything after what is in memory; the file has no name and goes with the process.
    disk: Option<StreamWriter<BufWriter<File>>>,
    /// Batches that are there.
    spilled: usize,
}

impl Spool {
    /// `limit` bytes stay in memory, the rest goes to `folder`.
    pub fn new(folder: &Path, limit: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            held: 0,
            memory: Vec::new(),
            disk: None,
            spilled: 0,
        }
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
        self.spilled += 1;
        disk.write(rows)
    }

    /// All rows again, as often as asked.
    pub fn read(&mut self) -> Result<impl Iterator<Item = Result<RecordBatch, SpoolError>> + '_, SpoolError> {
        let disk = self.rewind().map_err(|source| failed(&self.folder, source))?;
        let from_disk = disk.into_iter().flatten().map(|rows| rows.map_err(|source| failed(&self.folder, source)));
        Ok(self.memory.iter().cloned().map(Ok).chain(from_disk))
    }

    fn rewind(&mut self) -> Result<Option<FromDisk>, ArrowError> {
        let Some(disk) = &mut self.disk else { return Ok(None) };
        disk.flush()?;
        let mut file = disk.get_ref().get_ref().try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let file = BufReader::with_capacity(BUFFER, file);
        Ok(Some(FromDisk { file, left: self.spilled, decoder: StreamDecoder::new(), free: Arc::default() }))
    }
}

/// Rows as they come back, message by message of Arrow's stream format.
struct FromDisk {
    file: BufReader<File>,
    /// Batches that are still to come.
    left: usize,
    decoder: StreamDecoder,
    free: Free,
}

/// Buffers that nobody holds any more.
type Free = Arc<Mutex<Vec<Vec<u8>>>>;
/// Of them so many are kept.
const KEPT: usize = 4;
/// What precedes the length of a message.
const CONTINUATION: u32 = u32::MAX;

impl FromDisk {
    /// The next rows.
    fn rows(&mut self) -> Result<RecordBatch, ArrowError> {
        loop {
            let mut length = [0; 4];
            self.file.read_exact(&mut length)?;
            let mut head = length.to_vec();
            if u32::from_le_bytes(length) == CONTINUATION {
                self.file.read_exact(&mut length)?;
                head.extend(length);
            }
            let start = head.len();
            self.append(&mut head, u64::from(u32::from_le_bytes(length)))?;
            let message = root_as_message(&head[start..]).map_err(|error| ArrowError::IpcError(error.to_string()))?;
            let (is_rows, size) = (message.header_type() == MessageHeader::RecordBatch, message.bodyLength().max(0).cast_unsigned());
            self.decoder.decode(&mut Buffer::from_vec(head))?;
            let mut body = if is_rows { self.body(size)? } else { self.small(size)? };
            if let Some(rows) = self.decoder.decode(&mut body)? {
                return Ok(rows);
            }
        }
    }

    fn body(&mut self, size: u64) -> Result<Buffer, ArrowError> {
        let mut bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(size as usize);
        self.append(&mut bytes, size)?;
        Ok(Buffer::from(Bytes::from_owner(Lent { bytes, free: self.free.clone() })))
    }

    /// Texts of dictionaries outlive the rows that they came with.
    fn small(&mut self, size: u64) -> Result<Buffer, ArrowError> {
        let mut bytes = Vec::with_capacity(size as usize);
        self.append(&mut bytes, size)?;
        Ok(Buffer::from_vec(bytes))
    }

    fn append(&mut self, bytes: &mut Vec<u8>, size: u64) -> Result<(), ArrowError> {
        let read = self.file.by_ref().take(size).read_to_end(bytes)?;
        if (read as u64) < size { Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
    }
}

impl Iterator for FromDisk {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.rows())
    }
}

struct Lent {
    bytes: Vec<u8>,
    free: Free,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
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
    use arrow::array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn rows_come_back_in_order_from_memory_and_disk() {
        let mut spool = Spool::new(Path::new("."), 20_000);
        let batch = |from: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 100));
            let texts: ArrayRef =
                Arc::new((from..from + 100).map(|n| (n % 3 > 0).then(|| "t".repeat(n as usize % 50))).collect::<StringArray>());
            // Another dictionary in every other batch.
            let named = Arc::new(StringArray::from(vec![format!("file {}", from / 200), String::new()]));
            let coded: ArrayRef = Arc::new(DictionaryArray::new(Int32Array::from_iter_values((0..100).map(|n| n % 2)), named));
            RecordBatch::try_from_iter_with_nullable([("n", numbers, false), ("texts", texts, true), ("coded", coded, true)]).unwrap()
        };
        for part in 0..10 {
            spool.push(batch(part * 100)).unwrap();
        }
        assert!(spool.disk.is_some() && !spool.memory.is_empty());
        for _ in 0..2 {
            let rows: Vec<RecordBatch> = spool.read().unwrap().map(Result::unwrap).collect();
            assert_eq!(rows, (0..10).map(|part| batch(part * 100)).collect::<Vec<_>>());
        }
        spool.spilled += 1;
        let mut rows = spool.read().unwrap();
        assert!((0..10).all(|_| rows.next().is_some_and(|rows| rows.is_ok())));
        assert!(rows.next().is_some_and(|lost| lost.is_err()), "rows that are not there are missed");
    }
}
