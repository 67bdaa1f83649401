//! Records that another engine could not prove sound, through this one's own steps: decode, reconcile, validate, enrich.
//!
//! They come as whole objects, or as lines that are one record each. Their rows are handed back with their order, for whoever
//! dedupes them among others; their refusals are staged for quarantine as ever.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::decode::{Origin, found};
use super::dedupe::Unique;
use super::enrich::{Account, Enriched, Part};
use super::frame::{FrameError, Framer, Frames};
use super::rows::{Program, transform};
use super::write::{Staged, Tables, Writer};
use super::{Engine, Piece, StageError, codec, read_ahead};
use crate::domain::json::Tape;
use crate::domain::{BronzeObject, NO_OFFSET, Records, Reject, RejectCode};
use crate::job::Mode;
use crate::plan::{BatchPlan, order};
use crate::silver::SilverError;

/// Bytes of an object that tell how its records are divided.
pub const HEAD: usize = 64 << 10;

/// One record on a line of its own, as another engine read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its place among the lines of its object, in as many digits as all others.
    pub nth: String,
    pub text: String,
}

pub struct Explainer<'p> {
    plan: &'p Arc<BatchPlan>,
    program: Program,
    writer: Writer<'p>,
    /// Of the rows that are handed back.
    schema: SchemaRef,
    rows: Vec<RecordBatch>,
    /// Records that were explained.
    pub read: u64,
}

impl<'p> Explainer<'p> {
    pub fn new(plan: &'p Arc<BatchPlan>, tables: &Tables, schema: SchemaRef) -> Self {
        Self { plan, program: Program::new(plan), writer: Writer::new(plan, tables), schema, rows: Vec::new(), read: 0 }
    }

    /// All records of some objects.
    pub async fn objects(&mut self, engine: &Engine, objects: Vec<BronzeObject>) -> Result<(), StageError> {
        let part = Arc::new(BatchPlan { objects, ..self.plan.as_ref().clone() });
        let mut pieces = read_ahead(engine, &part);
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Chunk(chunk) => self.take(*chunk, None, true).await?,
                Piece::End { layout, decoded, stored } => {
                    self.writer.object_read(layout, decoded);
                    (engine.progress.0)(stored);
                }
            }
        }
        Ok(())
    }

    /// Some lines of one object, each of which [`is_one_record`].
    pub async fn lines(&mut self, object: &BronzeObject, lines: &[Line]) -> Result<(), StageError> {
        let (mut bytes, mut records) = (BytesMut::new(), Vec::with_capacity(lines.len()));
        for line in lines {
            let text = line.text.trim_matches(SPACE);
            records.push(bytes.len()..bytes.len() + text.len());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(b"\n");
        }
        let starts: BTreeMap<u64, &Line> = records.iter().map(|range| range.start as u64).zip(lines).collect();
        let file: Arc<str> = object.key.as_str().into();
        let origin = Origin { object: Arc::new(object.clone()), file };
        let frames = Frames { bytes: bytes.freeze(), base: 0, records, refused: Vec::new() };
        let rows = transform(frames, &origin, self.plan, &self.program)?;
        self.take(rows, Some(&starts), false).await
    }

    /// What of an object was not proven, where some of its lines are not one record each: framed here as ever, so that it is known
    /// what they are. `false` where the frames are not the lines that were proven, so that all of the object is to be read here.
    pub async fn beside(&mut self, engine: &Engine, object: &BronzeObject, lines: &[Line], proven: u64) -> Result<bool, StageError> {
        let reader = engine.bronze.reader(&object.key, &object.version, object.size).await?;
        let (plan, shared, file) = (self.plan.clone(), object.clone(), object.key.clone());
        let texts: HashMap<String, VecDeque<Line>> = by_text(lines);
        let framed = tokio::task::spawn_blocking(move || frame_beside(reader, &shared, &plan, texts)).await;
        let framed = framed.map_err(|error| StageError::Task { file, message: error.to_string() })??;
        let found = framed.as_ref().map(|framed| framed.proven);
        let Some(framed) = framed.filter(|framed| framed.proven == proven) else {
            tracing::debug!(object = object.key, proven, ?found, "frames and lines are not the same; all of it is read here");
            return Ok(false);
        };
        let origin = Origin { object: Arc::new(object.clone()), file: object.key.as_str().into() };
        let starts: BTreeMap<u64, &Line> = framed.lines.iter().map(|(start, line)| (*start, line)).collect();
        for frames in framed.frames {
            let rows = transform(frames, &origin, self.plan, &self.program)?;
            self.take(rows, Some(&starts), true).await?;
        }
        Ok(true)
    }

    /// Lines of one object that were proven, and so are read and counted elsewhere.
    pub fn proven(&mut self, object: &BronzeObject, records: u64) {
        self.writer.proven(object.layout, records);
    }

    /// A line's key is taken by another content.
    pub async fn conflict(
        &mut self,
        object: &BronzeObject,
        file: &str,
        line: Line,
        offset: Option<i64>,
        version: u32,
    ) -> Result<(), StageError> {
        let raw = Bytes::from(line.text.trim_matches(SPACE).to_owned());
        let mut tape = Tape::new();
        let record = tape.parse(&raw, 0..raw.len(), usize::MAX).ok().map(|root| tape.value(&raw, root));
        let reject = Reject {
            code: RejectCode::KeyConflict,
            path: "$".to_owned(),
            message: "a record with this key and other content is already there".to_owned(),
            schema_version: Some(version),
            offset: offset.map_or(NO_OFFSET, i64::cast_unsigned),
            length: raw.len() as u64,
            found: found(&object.path, record),
            raw,
        };
        let origin = Origin { object: Arc::new(object.clone()), file: file.into() };
        let nothing = RecordBatch::new_empty(self.plan.of.columns.decoded.clone());
        // It was counted as read when it was proven or explained.
        let records = Records { quarantined: 1, ..Records::default() };
        let account = Account { origin, rejects: vec![reject], read: 0 };
        self.writer.write(Unique { rows: nothing, accounts: vec![account], records }).await
    }

    /// `lines`: by the offset at which each begins; `placed`: that is its offset in the object, too.
    async fn take(&mut self, chunk: Enriched, lines: Option<&BTreeMap<u64, &Line>>, placed: bool) -> Result<(), StageError> {
        let failed = |source| StageError::Silver(SilverError::Arrow { table: "silver".to_owned(), source });
        if chunk.rows.num_rows() > 0 {
            self.rows.push(self.with_order(&chunk, lines, placed).map_err(failed)?);
        }
        let Enriched { parts, rows, .. } = chunk;
        let mut accounts: Vec<Account> = parts.into_iter().map(Part::account).collect();
        if !placed {
            accounts.iter_mut().flat_map(|account| &mut account.rejects).for_each(|reject| reject.offset = NO_OFFSET);
        }
        let (read, refused) = accounts.iter().fold((0, 0), |(read, refused), one| (read + one.read, refused + one.rejects.len() as u64));
        self.read += read;
        let records = Records { read, quarantined: refused, ..Records::default() };
        self.writer.write(Unique { rows: rows.slice(0, 0), accounts, records }).await
    }

    /// Silver's columns, the order, and what else staged rows have.
    fn with_order(&self, chunk: &Enriched, lines: Option<&BTreeMap<u64, &Line>>, placed: bool) -> Result<RecordBatch, ArrowError> {
        let rows = chunk.rows.num_rows();
        let nth = |offset: u64| match lines {
            Some(lines) => lines.get(&offset).map(|line| line.nth.clone()).unwrap_or_default(),
            None => format!("{offset:020}"),
        };
        let nth: Vec<String> = chunk.records().map(|(part, place)| nth(part.offset(place))).collect();
        let tails = chunk.parts.iter().flat_map(|part| {
            let tail = order::tail(&part.origin.object, &part.origin.file);
            std::iter::repeat_n(tail, part.rows.len())
        });
        let orders = (0..).map(|row| chunk.prefixes.get(row)).zip(tails).zip(&nth);
        let orders: Vec<String> = orders.map(|((prefix, tail), nth)| format!("{prefix}{tail}{}{nth}", order::SEPARATOR)).collect();
        let keep = self.plan.of.job.mode == Mode::Append;
        let text = |(part, place): (&Part, _)| keep.then(|| String::from_utf8_lossy(&part.raw(place)).into_owned());
        let files: Vec<&Arc<str>> = chunk.records().map(|(part, _)| &part.origin.file).collect();
        let columns: Result<Vec<ArrayRef>, ArrowError> = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                Ok(match field.name().as_str() {
                    crate::plan::ORDER => Arc::new(StringArray::from_iter_values(&orders)) as ArrayRef,
                    "_deletes" => Arc::new(BooleanArray::from(chunk.deletes.clone())),
                    "_proven" => Arc::new(BooleanArray::from(vec![true; rows])),
                    "_line" => Arc::new(StringArray::from_iter(chunk.records().map(text))),
                    "_file" => Arc::new(StringArray::from_iter_values(&files)),
                    "_nth" => Arc::new(StringArray::from_iter_values(&nth)),
                    // A line has no place in its object that anybody knows.
                    "_source_offset" | "_source_length" if !placed => Arc::new(Int64Array::new_null(rows)),
                    named => match chunk.rows.column_by_name(named) {
                        Some(column) => cast(column, field.data_type())?,
                        None => arrow::array::new_null_array(field.data_type(), rows),
                    },
                })
            })
            .collect();
        RecordBatch::try_new(self.schema.clone(), columns?)
    }

    /// The rows so far, which are then forgotten.
    pub fn rows(&mut self) -> Result<Option<RecordBatch>, StageError> {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return Ok(None);
        }
        let failed = |source| StageError::Silver(SilverError::Arrow { table: "silver".to_owned(), source });
        concat_batches(&self.schema, &rows).map(Some).map_err(failed)
    }

    /// What is staged of the refusals, with the counts of all records that were read.
    pub async fn close(self) -> Result<Staged, StageError> {
        self.writer.close(None).await
    }
}

const SPACE: [char; 3] = [' ', '\t', '\r'];

/// Whether a line is one record for this engine, too, wherever it stands: neither more than that nor a part of one.
pub fn is_one_record(line: &str, plan: &BatchPlan) -> bool {
    let text = line.trim_matches(SPACE);
    let limits = &plan.of.job.limits;
    if !text.starts_with('{') || !text.ends_with('}') || text.contains('\u{fffd}') {
        return false;
    }
    let source = std::io::Cursor::new(text.as_bytes().to_vec());
    let Ok(streams) = codec::open(Box::new(source), text.len() as u64, u64::MAX, limits.archive) else { return false };
    let mut streams = streams.into_iter();
    let Some(stream) = streams.next() else { return false };
    let mut framer = Framer::new(stream, &plan.of.job.records_at, limits.record).with_block(text.len() + 1);
    let mut found = Vec::new();
    while let Ok(Some(frames)) = framer.next_frames() {
        if !frames.refused.is_empty() {
            return false;
        }
        found.extend(frames.records.into_iter().map(|range| (frames.base + range.start as u64, range.len())));
    }
    found == [(0, text.len())]
}

/// How an object is compressed and whether its records are lines, by its first bytes; `None` where the records are not lines as far as
/// can be seen.
pub fn lines_of(head: &Bytes, whole: bool, plan: &BatchPlan) -> Option<codec::Codec> {
    let found = codec::Codec::of(head);
    let mut text = Vec::new();
    let source = std::io::Cursor::new(head.clone());
    let mut stream = codec::open(Box::new(source), head.len() as u64, u64::MAX, 0).ok()?.into_iter().next()?;
    // A head ends where it ends; what was inflated until then is enough.
    loop {
        let want = HEAD.saturating_sub(text.len());
        if want == 0 || !stream.read_into(&mut text, want).is_ok_and(|count| count > 0) {
            break;
        }
    }
    let ends = text.len() < HEAD && whole;
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let first = lines.next()?;
    let complete = ends || text.iter().skip_while(|byte| byte.is_ascii_whitespace()).any(|byte| *byte == b'\n');
    // Some may be damaged; a document that is spread over lines looks otherwise.
    let (records, others): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with(b"{"));
    let line = std::str::from_utf8(first).ok()?;
    (complete && is_one_record(line, plan) && records.len() >= others.len()).then_some(found)
}

fn by_text(lines: &[Line]) -> HashMap<String, VecDeque<Line>> {
    let mut texts: HashMap<String, VecDeque<Line>> = HashMap::new();
    for line in lines {
        texts.entry(line.text.trim_matches(SPACE).to_owned()).or_default().push_back(line.clone());
    }
    texts
}

/// What is left of an object's frames when those are taken away that are lines which were proven.
struct Beside {
    frames: Vec<Frames>,
    lines: Vec<(u64, Line)>,
    proven: u64,
}

/// A line was proven if it is a frame and not among the texts that were not. `None` where a frame that could be a row is no line: nobody
/// knows its place among the lines then.
fn frame_beside(
    reader: Box<dyn std::io::Read + Send>,
    object: &BronzeObject,
    plan: &BatchPlan,
    mut texts: HashMap<String, VecDeque<Line>>,
) -> Result<Option<Beside>, StageError> {
    let limits = &plan.of.job.limits;
    let failed = |source: FrameError| StageError::Frame { file: object.key.clone(), source };
    let streams = codec::open(reader, object.size, limits.decoded_of(object.size), limits.archive)
        .map_err(|stop| failed(FrameError::Read { at: 0, source: stop.into_io() }))?;
    let mut beside = Beside { frames: Vec::new(), lines: Vec::new(), proven: 0 };
    for stream in streams {
        let mut framer = Framer::new(stream, &plan.of.job.records_at, limits.record);
        while let Some(frames) = framer.next_frames().map_err(failed)? {
            let Frames { bytes, base, records, refused } = frames;
            let mut left = Vec::new();
            for range in records {
                let alone = is_alone(&bytes, &range);
                let text = std::str::from_utf8(&bytes[range.clone()]).ok();
                match text.map(|text| (text, texts.get_mut(text))) {
                    Some((_, Some(same))) if alone => {
                        // Lines that say the same are one another's equals but for their place.
                        let line = if same.len() > 1 { same.pop_front() } else { same.front().cloned() };
                        beside.lines.extend(line.map(|line| (base + range.start as u64, line)));
                        left.push(range);
                    }
                    Some((_, None)) if alone => beside.proven += 1,
                    // Bytes that are no text make no row.
                    None => left.push(range),
                    Some(_) => return Ok(None),
                }
            }
            // Nothing else of the object stays in memory.
            if !left.is_empty() || !refused.is_empty() {
                beside.frames.push(Frames { bytes, base, records: left, refused });
            }
        }
    }
    Ok(Some(beside))
}

/// Whether a frame is all that its line has. A line that is cut by the end of a chunk is looked at as far as it goes: what belongs to it
/// is another frame, of which there would be one too few or too many in the end.
fn is_alone(bytes: &[u8], range: &std::ops::Range<usize>) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let before = bytes[..range.start].iter().rev().find(|byte| !blank(byte));
    let after = bytes[range.end..].iter().find(|byte| !blank(byte));
    let inside = bytes[range.clone()].contains(&b'\n');
    !inside && before.is_none_or(|byte| *byte == b'\n') && after.is_none_or(|byte| *byte == b'\n')
}

/// Offsets as a server gave them, which may be none.
pub fn offset_at(column: &ArrayRef, row: usize) -> Option<i64> {
    let offsets = column.as_primitive_opt::<Int64Type>()?;
    offsets.is_valid(row).then(|| offsets.value(row))
}
