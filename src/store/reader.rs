//! Readers of one object: a file on disk, or a download that runs ahead of its reader.
//!
//! A download is pinned to the ETag that the listing showed, so that an object overwritten meanwhile is noticed and never mixed. Up
//! to [`SPLIT`] it is one request, read as it comes; beyond, ranges of [`PART`] are fetched [`PARTS_AHEAD`] at a time.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::StoreError;

/// Stored bytes from which on an object is fetched in ranges.
const SPLIT: u64 = 64 << 20;
const PART: u64 = 8 << 20;
const PARTS_AHEAD: usize = 3;
/// Bytes of one download that wait for their reader.
pub const WINDOW: u64 = 4 << 20;

/// Bytes in memory that opening an object may cost.
pub fn cost_of(size: u64) -> u64 {
    if size > SPLIT { PART * PARTS_AHEAD as u64 } else { size.min(WINDOW) }
}

/// Marks an error of the store on its way through a decoder.
#[derive(Debug, thiserror::Error)]
pub enum SourceFailed {
    #[error(transparent)]
    Store(Box<StoreError>),
    #[error("{0}")]
    Disk(std::io::Error),
}

impl SourceFailed {
    /// What the store said, where it is the store that made reading fail.
    pub fn of(error: &std::io::Error) -> Option<&StoreError> {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(Self::Store(error)) => Some(error),
            _ => None,
        }
    }
}

/// Opens a local file as it was when it was listed.
pub type Open = Box<dyn FnMut() -> Result<File, StoreError> + Send>;

/// A local file, opened by the thread that reads it; its failures are the store's, not the content's.
pub enum LocalReader {
    Closed(Open),
    Open(File),
}

impl Read for LocalReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Self::Closed(open) = self {
            let file = open().map_err(|error| std::io::Error::other(SourceFailed::Store(Box::new(error))))?;
            *self = Self::Open(file);
        }
        let Self::Open(file) = self else { return Ok(0) };
        match file.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(std::io::Error::other(SourceFailed::Disk(error))),
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
    told: Told,
}

/// Makes of a store's error what is told of the object.
pub type Told = Box<dyn Fn(object_store::Error) -> StoreError + Send>;

impl Download {
    pub fn start(mut parts: Parts, told: Told) -> Self {
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
        Self { handle: tokio::runtime::Handle::current(), parts: receiver, current: Bytes::new(), room: None, told }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.handle.block_on(self.parts.recv()) {
                None => return Ok(0),
                Some((Ok(bytes), room)) => (self.current, self.room) = (bytes, room),
                Some((Err(error), _)) => {
                    return Err(std::io::Error::other(SourceFailed::Store(Box::new((self.told)(error)))));
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

/// A request for an object as it was listed, or for a part of it.
async fn get(
    store: &Arc<dyn ObjectStore>,
    location: &Path,
    version: &str,
    range: Option<std::ops::Range<u64>>,
) -> object_store::Result<GetResult> {
    let options = GetOptions { if_match: Some(format!("\"{version}\"")), range: range.map(GetRange::Bounded), ..GetOptions::default() };
    let found = store.get_opts(location, options).await?;
    match &found.meta.e_tag {
        // A server that does not know If-Match answers with what it has.
        Some(tag) if tag.trim_matches('"') != version => {
            Err(object_store::Error::Precondition { path: location.to_string(), source: format!("answered with {tag}").into() })
        }
        _ => Ok(found),
    }
}

/// The bytes of an object as it was when it was listed: every part is of that version, or the last one is an error.
pub async fn fetch(store: Arc<dyn ObjectStore>, location: Path, size: u64, version: &str) -> object_store::Result<Parts> {
    let version = version.to_owned();
    if size <= SPLIT {
        let parts = get(&store, &location, &version, None).await?.into_stream();
        return Ok(resumed(Resume { store, location, size, version, parts, at: 0, resumes: 0 }));
    }
    let part = move |number: u64| {
        let (store, location, version) = (store.clone(), location.clone(), version.clone());
        let range = number * PART..((number + 1) * PART).min(size);
        async move { whole(&store, &location, &version, range).await }
    };
    let first = part(0).await?;
    let rest = futures::stream::iter(1..size.div_ceil(PART)).map(part).buffered(PARTS_AHEAD - 1);
    Ok(futures::stream::once(async move { Ok(first) }).chain(rest).boxed())
}

/// Times that one download is taken up again. object_store does so, too, but only for a while after it began, and a reader that has other
/// objects before this one may come later than that.
const RESUMES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// A part of an object. Nobody may have asked for it for so long that its connection is gone: then it is asked for again.
async fn whole(store: &Arc<dyn ObjectStore>, location: &Path, version: &str, range: Range<u64>) -> object_store::Result<Bytes> {
    let mut resumes = 0;
    loop {
        match get(store, location, version, Some(range.clone())).await?.bytes().await {
            Err(error) if resumes < RESUMES => {
                tracing::debug!(path = %location, at = range.start, error = super::fault::shown(&error), "a download broke off");
                tokio::time::sleep(PAUSE * (1 << resumes)).await;
                resumes += 1;
            }
            ended => return ended,
        }
    }
}

struct Resume {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
    version: String,
    parts: Parts,
    at: u64,
    resumes: u32,
}

fn resumed(download: Resume) -> Parts {
    futures::stream::unfold(Some(download), |download| async move {
        let mut download = download?;
        loop {
            let error = match download.parts.next().await? {
                Ok(bytes) => {
                    download.at += bytes.len() as u64;
                    return Some((Ok(bytes), Some(download)));
                }
                Err(_) if download.at >= download.size => return None,
                Err(error) if download.resumes == RESUMES => return Some((Err(error), None)),
                Err(error) => error,
            };
            tracing::debug!(path = %download.location, at = download.at, error = super::fault::shown(&error), "a download broke off");
            tokio::time::sleep(PAUSE * (1 << download.resumes)).await;
            download.resumes += 1;
            let rest = Some(download.at..download.size);
            match get(&download.store, &download.location, &download.version, rest).await {
                Ok(found) => download.parts = found.into_stream(),
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
    .boxed()
}
