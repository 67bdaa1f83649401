//! Readers of one object: a file on disk, or a download that runs ahead of its reader.
//!
//! A download is pinned to the ETag that the listing showed, so that an object overwritten meanwhile is noticed and never mixed. Up
//! to [`SPLIT`] it is one request, read as it comes; beyond, ranges of [`PART`] are fetched [`PARTS_AHEAD`] at a time.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Stored bytes from which on an object is fetched in ranges.
const SPLIT: u64 = 64 << 20;
const PART: u64 = 16 << 20;
const PARTS_AHEAD: usize = 3;
/// Bytes of one download that wait for their reader.
pub const WINDOW: u64 = 4 << 20;

/// Bytes in memory that opening an object may cost.
pub fn cost_of(size: u64) -> u64 {
    if size > SPLIT { PART * PARTS_AHEAD as u64 } else { size.min(WINDOW) }
}

/// Marks an error of the store on its way through a decoder.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceFailed(pub String);

/// A local file whose failures are the store's, not the content's.
pub struct LocalReader(pub std::fs::File);

impl Read for LocalReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(std::io::Error::other(SourceFailed(error.to_string()))),
            outcome => outcome,
        }
    }
}

type Parts = BoxStream<'static, object_store::Result<Bytes>>;

/// A download, read from a thread that may block.
pub struct Download {
    handle: tokio::runtime::Handle,
    parts: mpsc::UnboundedReceiver<(object_store::Result<Bytes>, Option<OwnedSemaphorePermit>)>,
    current: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl Download {
    pub fn start(mut parts: Parts) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(WINDOW as usize));
        tokio::spawn(async move {
            while let Some(part) = parts.next().await {
                let weight = part.as_ref().map_or(0, |bytes| (bytes.len() as u64).min(WINDOW)) as u32;
                let room = tokio::select! {
                    room = window.clone().acquire_many_owned(weight) => room.ok(),
                    // The reader is gone: nobody wants the rest.
                    () = sender.closed() => return,
                };
                if sender.send((part, room)).is_err() {
                    return;
                }
            }
        });
        Self { handle: tokio::runtime::Handle::current(), parts: receiver, current: Bytes::new(), room: None }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.handle.block_on(self.parts.recv()) {
                None => return Ok(0),
                Some((Ok(bytes), room)) => (self.current, self.room) = (bytes, room),
                Some((Err(error), _)) => {
                    return Err(std::io::Error::other(SourceFailed(super::fault::with_causes(&error))));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        if self.current.is_empty() {
            self.room = None;
        }
        Ok(count)
    }
}

fn pinned(version: &str) -> GetOptions {
    GetOptions { if_match: Some(format!("\"{version}\"")), ..GetOptions::default() }
}

/// The bytes of an object as it was when it was listed, and the ETag that the answer had.
pub async fn fetch(store: Arc<dyn ObjectStore>, location: Path, size: u64, version: &str) -> object_store::Result<(Parts, Option<String>)> {
    if size <= SPLIT {
        let found = store.get_opts(&location, pinned(version)).await?;
        let tag = found.meta.e_tag.clone();
        return Ok((found.into_stream(), tag));
    }
    let ranges: Vec<_> = (0..size.div_ceil(PART)).map(|part| part * PART..((part + 1) * PART).min(size)).collect();
    let get = move |range: std::ops::Range<u64>, options: GetOptions| {
        let (store, location) = (store.clone(), location.clone());
        async move {
            let found = store.get_opts(&location, GetOptions { range: Some(GetRange::Bounded(range)), ..options }).await?;
            let tag = found.meta.e_tag.clone();
            Ok::<_, object_store::Error>((found.bytes().await?, tag))
        }
    };
    let mut ranges = ranges.into_iter();
    let first = ranges.next().unwrap_or(0..0);
    let (bytes, tag) = get(first, pinned(version)).await?;
    let version = version.to_owned();
    let rest = futures::stream::iter(ranges).map(move |range| get(range, pinned(&version))).buffered(PARTS_AHEAD - 1);
    let rest = rest.map(|part| part.map(|(bytes, _)| bytes));
    Ok((futures::stream::once(async move { Ok(bytes) }).chain(rest).boxed(), tag))
}
