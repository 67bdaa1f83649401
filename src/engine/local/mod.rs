//! The local engine: one batch from bronze objects to staged files, on this machine.
//!
//! [`stage`] is its seven steps in order. Objects are read ahead, a few at a time, each by a thread of its own that inflates and
//! frames; every chunk of frames is decoded, reconciled, validated and enriched by whatever thread is free; the chunks meet again
//! in the order of the plan, where they are deduped and written. Small objects are taken together, read and decoded by one thread into
//! columns that they share: handing each of them on would cost more than reading it, and so would columns of its own. The outcome does
//! not depend on how many threads there are, and memory is bounded by the chunks in flight, [`CHUNKS_AHEAD`] for each object being read
//! and [`CHUNKS_A_THREAD`] that are decoded, and by [`READ_AHEAD_BYTES`] of objects that are being downloaded.

pub mod codec;
pub mod columns;
pub mod decode;
pub mod dedupe;
pub mod enrich;
pub mod explain;
pub mod frame;
pub mod reconcile;
pub mod rows;
mod spool;
mod straight;
pub mod validate;
pub mod write;

use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, Peekable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::domain::{BronzeObject, Layout};
use crate::plan::BatchPlan;
use crate::silver::SilverError;
use crate::store::{SourceFailed, Store, StoreError, ahead};

use decode::Origin;
use dedupe::Dedupe;
pub use dedupe::rebase;
use enrich::{EnrichError, Enriched};
use frame::{Coverage, FrameError, Framer, Frames};
use rows::{Program, Rows, transform};
use spool::SpoolError;
use write::Writer;
pub use write::{Example, RejectSummary, Staged, Tables};

/// Chunks of one object that wait for their turn.
const CHUNKS_AHEAD: usize = 2;
/// Chunks for each thread that are decoded or wait for their turn.
const CHUNKS_A_THREAD: usize = 3;
/// Objects that are opened before their turn, and the bytes of them that may wait in memory (of a remote store's: files are opened by whoever
/// reads them); more where there are many threads and large objects.
const OBJECTS_AHEAD: usize = 64;
/// Small objects that are read together: how many, and their stored bytes.
const TOGETHER: usize = 20;
const TOGETHER_BYTES: u64 = 1 << 20;
const READ_AHEAD_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Silver(#[from] SilverError),
    #[error(transparent)]
    Enrich(#[from] EnrichError),
    #[error("{file}: {source}")]
    Frame { file: String, source: FrameError },
    #[error("{file}: of {decoded} decoded bytes {covered} were accounted for; this is a bug, nothing was committed")]
    Coverage { file: String, decoded: u64, covered: u64 },
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("reading {file} ended early: {message}")]
    Task { file: String, message: String },
}

impl StageError {
    /// What the store of bronze said, be it at an object's first byte or further on.
    pub fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Frame { source: FrameError::Read { source, .. }, .. } => SourceFailed::of(source),
            _ => None,
        }
    }
}

/// What stages batches.
#[derive(Debug, Clone)]
pub struct Engine {
    pub bronze: Store,
    /// Objects read at the same time.
    pub threads: usize,
    /// Decoded bytes per chunk.
    pub chunk: usize,
    /// Local folder for rows that do not fit in memory.
    pub spill: std::path::PathBuf,
    /// Called with the stored bytes of each object that was read.
    pub progress: Progress,
}

/// Hears of every object that was read.
#[derive(Clone)]
pub struct Progress(pub Arc<dyn Fn(u64) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// What the reader of an object sends on: chunks of frames, which become rows.
enum Piece<C> {
    Chunk(C),
    End { layout: Layout, decoded: u64, stored: u64 },
}

type Framed = Piece<(Frames, Origin)>;
type Read = Piece<Box<Enriched>>;

/// What comes from whoever reads an object: frames that are still to be decoded, or rows already.
enum Ahead {
    Framed(Framed),
    Read(Read),
}

/// Stages a batch: frame, object by object; → decode → reconcile → validate → enrich, chunk by chunk ([`rows`]); → dedupe → write, in order.
pub async fn stage(engine: &Engine, plan: &Arc<BatchPlan>, tables: &Tables) -> Result<Staged, StageError> {
    let mut writer = Writer::new(plan, tables);
    let mut pieces = read_ahead(engine, plan);
    let mut dedupe = meanwhile(Dedupe::open(engine, plan, tables), &mut pieces).await?;
    if let Err(error) = settle_all(pieces, engine, plan, &mut dedupe, &mut writer).await {
        writer.abort().await;
        return Err(error);
    }
    writer.close(Some(dedupe)).await
}

/// Steps 6 and 7 for all chunks. Where the table has too many keys to be compared with as they come, nothing of a first reading stays.
async fn settle_all<'p>(
    mut pieces: Pieces,
    engine: &Engine,
    plan: &'p Arc<BatchPlan>,
    dedupe: &mut Dedupe,
    writer: &mut Writer<'p>,
) -> Result<(), StageError> {
    while let Some(piece) = pieces.next().await {
        settle(piece, engine, dedupe, writer).await?;
    }
    if dedupe.reads_again().await? {
        let tables = writer.tables().clone();
        std::mem::replace(writer, Writer::new(plan, &tables)).abort().await;
        // They were heard of already.
        let quiet = Engine { progress: Progress(Arc::new(|_| {})), ..engine.clone() };
        let mut pieces = read_ahead(&quiet, plan);
        while let Some(piece) = pieces.next().await {
            settle(piece, &quiet, dedupe, writer).await?;
        }
    }
    dedupe.finish(writer).await
}

/// Looks at the table while the first objects are already being read.
async fn meanwhile<S: futures::Stream + Unpin>(
    open: impl Future<Output = Result<Dedupe, StageError>>,
    pieces: &mut Peekable<S>,
) -> Result<Dedupe, StageError> {
    let mut pieces = Pin::new(pieces);
    let (dedupe, _) = futures::join!(open, pieces.as_mut().peek());
    dedupe
}

async fn settle(piece: Result<Read, StageError>, engine: &Engine, dedupe: &mut Dedupe, writer: &mut Writer<'_>) -> Result<(), StageError> {
    match piece? {
        Piece::Chunk(chunk) => writer.write(dedupe.dedupe(*chunk).await?).await,
        Piece::End { layout, decoded, stored } => {
            writer.object_read(layout, decoded);
            dedupe.object_read(stored);
            (engine.progress.0)(stored);
            Ok(())
        }
    }
}

/// What was read, in the order of the plan.
type Pieces = Peekable<BoxStream<'static, Result<Read, StageError>>>;

type Opened = Result<(BronzeObject, Box<dyn std::io::Read + Send>, Option<OwnedSemaphorePermit>), StageError>;

/// Opens objects ahead of their turn, reads them ahead of it too, `threads` and the one whose turn it is, and yields their pieces in the order
/// of the plan.
///
/// Bytes are budgeted and threads are given in the order of the plan, so that no object waits for one behind it.
fn read_ahead(engine: &Engine, plan: &Arc<BatchPlan>) -> Pieces {
    let (chunk, threads, program) = (engine.chunk, engine.threads.max(1), Arc::new(Program::new(plan)));
    let (framing, decoding) = (plan.clone(), program.clone());
    let counts: Vec<usize> = together(plan.objects.iter().map(|object| object.size));
    let readers = in_groups(open_ahead(engine, plan.objects.clone()), counts).map(move |group| {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (plan, program) = (framing.clone(), (group.len() > 1).then(|| decoding.clone()));
        tokio::spawn(async move { read_objects(group, plan, program, chunk, sender).await });
        Ok(receiver)
    });
    // By a task of its own: whoever drains the first of them does not look for the next.
    let readers = ahead(readers, threads, |error| StageError::Task { file: "objects to come".to_owned(), message: error.to_string() });
    let framed = readers.flat_map(|receiver| match receiver {
        Ok(receiver) => {
            let sent =
                futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|pieces| (pieces, receiver)) });
            sent.flat_map(futures::stream::iter).boxed()
        }
        Err(error) => futures::stream::iter([Err(error)]).boxed(),
    });
    let plan = plan.clone();
    let pieces = framed.map(move |piece| to_rows(piece, plan.clone(), program.clone())).buffered(threads * CHUNKS_A_THREAD);
    pieces.boxed().peekable()
}

/// Steps 2 to 5 for one chunk, on a thread of their own.
async fn to_rows(piece: Result<Ahead, StageError>, plan: Arc<BatchPlan>, program: Arc<Program>) -> Result<Read, StageError> {
    let (frames, origin) = match piece? {
        Ahead::Framed(Piece::Chunk(chunk)) => chunk,
        Ahead::Framed(Piece::End { layout, decoded, stored }) => return Ok(Piece::End { layout, decoded, stored }),
        Ahead::Read(read) => return Ok(read),
    };
    let file = origin.file.to_string();
    let rows = tokio::task::spawn_blocking(move || transform(frames, &origin, &plan, &program)).await;
    let rows = rows.map_err(|error| StageError::Task { file, message: error.to_string() })?;
    Ok(Piece::Chunk(Box::new(rows?)))
}

fn open_ahead(engine: &Engine, objects: Vec<BronzeObject>) -> impl futures::Stream<Item = Opened> + use<> {
    // Every thread may hold an object of the costliest kind.
    let bytes = READ_AHEAD_BYTES.max(engine.threads as u64 * engine.bronze.cost_of(u64::MAX));
    let budget = Arc::new(Semaphore::new(bytes as usize));
    let bronze = engine.bronze.clone();
    let budgeted = futures::stream::iter(objects).then(move |object| {
        let (budget, bronze) = (budget.clone(), bronze.clone());
        async move {
            let cost = bronze.cost_of(object.size).min(bytes) as u32;
            (object, bronze, budget.acquire_many_owned(cost).await.ok())
        }
    });
    let opened = budgeted.map(|(object, bronze, held)| async move {
        let reader = bronze.reader(&object.key, &object.version, object.size).await?;
        Ok((object, reader, held))
    });
    opened.buffered(OBJECTS_AHEAD)
}

/// How many objects that follow each other are read together, from their sizes: one at a time, but for small ones.
fn together(sizes: impl Iterator<Item = u64>) -> Vec<usize> {
    let mut counts: Vec<usize> = Vec::new();
    let mut bytes = u64::MAX;
    for size in sizes {
        bytes = bytes.saturating_add(size);
        match counts.last_mut() {
            Some(count) if *count < TOGETHER && bytes <= TOGETHER_BYTES => *count += 1,
            _ => {
                counts.push(1);
                bytes = size;
            }
        }
    }
    counts
}

fn in_groups(opened: impl futures::Stream<Item = Opened>, counts: Vec<usize>) -> impl futures::Stream<Item = Vec<Opened>> {
    futures::stream::unfold((Box::pin(opened), counts.into_iter()), |(mut opened, mut counts)| async move {
        let group = opened.as_mut().take(counts.next()?).collect().await;
        Some((group, (opened, counts)))
    })
}

/// Where there is a `program`, what is framed is decoded at once, on the same thread, into columns that small objects share: arrays of
/// a hundred rows cost more than their rows do.
async fn read_objects(
    group: Vec<Opened>,
    plan: Arc<BatchPlan>,
    program: Option<Arc<Program>>,
    chunk: usize,
    sender: mpsc::Sender<Vec<Result<Ahead, StageError>>>,
) {
    let first = group.iter().flatten().next().map(|(object, ..)| object.key.clone()).unwrap_or_default();
    let blocking = sender.clone();
    let read = tokio::task::spawn_blocking(move || {
        let send = |pieces: Vec<_>| blocking.blocking_send(pieces).is_ok();
        let read = match &program {
            Some(program) => {
                read_together(group, &plan, program, chunk, |pieces| send(pieces.into_iter().map(Ahead::Read).map(Ok).collect()))
            }
            None => group.into_iter().try_for_each(|opened| {
                let (object, reader, _held) = opened?;
                frame_object(reader, &object, &plan, chunk, |piece| Ok(send(vec![Ok(Ahead::Framed(piece))])))
            }),
        };
        if let Err(error) = read {
            send(vec![Err(error)]);
        }
    });
    if let Err(error) = read.await {
        let _ = sender.send(vec![Err(StageError::Task { file: first, message: error.to_string() })]).await;
    }
}

/// Steps 1 to 5 for small objects, on one thread. Objects that are read once more are told apart one by one, and share nothing.
fn read_together(
    group: Vec<Opened>,
    plan: &BatchPlan,
    program: &Program,
    chunk: usize,
    send: impl Fn(Vec<Read>) -> bool,
) -> Result<(), StageError> {
    let (enough, objects) = (if plan.again.is_empty() { chunk } else { 0 }, group.len());
    let finished = |rows: Rows<'_>| rows.finish().map(|rows| Piece::Chunk(Box::new(rows)));
    let (mut rows, mut ends, mut wanted) = (None::<Rows<'_>>, Vec::new(), true);
    for opened in group {
        let (object, reader, _held) = opened?;
        frame_object(reader, &object, plan, chunk, |piece| match piece {
            Piece::Chunk((frames, origin)) => {
                // The others will be like it.
                let alike = objects.min(1 + chunk / frames.bytes.len().max(1));
                let open = rows.get_or_insert_with(|| Rows::new(frames.records.len() * alike, plan, program));
                open.read(frames, &origin);
                let Some(full) = rows.take_if(|rows| rows.bytes() >= enough) else { return Ok(true) };
                let pieces = [finished(full)?].into_iter().chain(ends.drain(..)).collect();
                wanted = send(pieces);
                Ok(wanted)
            }
            Piece::End { layout, decoded, stored } => {
                ends.push(Piece::End { layout, decoded, stored });
                Ok(true)
            }
        })?;
        if !wanted {
            return Ok(());
        }
    }
    let rest = rows.map(finished).transpose()?;
    send(rest.into_iter().chain(ends).collect());
    Ok(())
}

/// Step 1, on one thread. `send` says whether anybody still listens; if not, the batch was given up.
fn frame_object(
    reader: Box<dyn std::io::Read + Send>,
    object: &BronzeObject,
    plan: &BatchPlan,
    chunk: usize,
    mut send: impl FnMut(Framed) -> Result<bool, StageError>,
) -> Result<(), StageError> {
    let limits = &plan.of.job.limits;
    let failed = |file: &str| {
        let file = file.to_owned();
        move |source: FrameError| StageError::Frame { file, source }
    };
    let streams = codec::open(reader, object.size, limits.decoded_of(object.size), limits.archive)
        .map_err(|stop| failed(&object.key)(FrameError::Read { at: 0, source: stop.into_io() }))?;
    let shared = Arc::new(object.clone());
    let mut decoded = 0;
    // Compressed ones decode to more; members of an archive share it.
    let expected = object.size / streams.len().max(1) as u64;
    for stream in streams {
        let file: Arc<str> = match &stream.member {
            Some(member) => format!("{}!/{member}", object.key).into(),
            None => object.key.as_str().into(),
        };
        let origin = Origin { object: shared.clone(), file: file.clone() };
        let mut framer = Framer::new(stream, &plan.of.job.records_at, limits.record).with_block(chunk).expecting(expected);
        while let Some(frames) = framer.next_frames().map_err(failed(&file))? {
            if !send(Piece::Chunk((frames, origin.clone())))? {
                return Ok(());
            }
        }
        decoded += check_coverage(&file, framer.coverage())?;
    }
    send(Piece::End { layout: object.layout, decoded, stored: object.size })?;
    Ok(())
}

/// Invariant 1, by bytes: records + delimiters + refused ranges = decoded bytes.
fn check_coverage(file: &str, coverage: Coverage) -> Result<u64, StageError> {
    if coverage.balances() {
        return Ok(coverage.decoded);
    }
    let covered = coverage.records + coverage.delimiters + coverage.refused;
    Err(StageError::Coverage { file: file.to_owned(), decoded: coverage.decoded, covered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_are_read_together_and_large_ones_alone() {
        let (small, large) = (200 << 10, 10 << 20);
        assert_eq!(together([small, small, small, small, small, small, large, small, large].into_iter()), [5, 1, 1, 1, 1]);
        assert_eq!(together([1; 50].into_iter()), [20, 20, 10]);
        assert_eq!(together(std::iter::empty()), [0; 0]);
    }
}
