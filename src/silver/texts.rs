//! A column of texts as a Parquet column chunk: its dictionary and pages of codes, or pages of differences where texts hardly come again.
//!
//! The generic encoder hashes every value, and compares it with the least and the greatest so far, though it be one of a handful, and
//! most were codes of a dictionary already when they came here. This one looks a code of such a dictionary up once a batch, tells a
//! text that follows its equal by comparing the two, and asks for bounds only of the codes that a page has. Pages are version 1, codes
//! run-length encoded or bit-packed, everything zstd; once the dictionary is larger than [`DICTIONARY`] the pages that follow have
//! the texts themselves, so that no reader meets anything that it does not know from other writers. What hardly comes again is
//! [`Differences`] from the start.

use std::cell::RefCell;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::datatypes::Int32Type;
use bytes::Bytes;
use hashbrown::HashTable;
use parquet::basic::{BoundaryOrder, Compression, Encoding, PageType, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, LevelHistogram, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use xxhash_rust::xxh3::xxh3_64;

use super::differences::Differences;
use super::hybrid::{bits, hybrid, run};
use super::selected::Standing;

/// Bytes of a dictionary.
const DICTIONARY: usize = 1 << 20;
/// Bytes of a page of texts.
const PAGE: usize = 1 << 20;
/// Bytes of a bound that is told.
const BOUND: usize = 64;
const NULL: u32 = u32::MAX;

pub(super) struct TextColumn {
    leaf: ColumnDescPtr,
    level: ZstdLevel,
    page_rows: usize,
    nullable: bool,
    /// Whether the least and the greatest text are told.
    bounded: bool,
    dictionary: Dictionary,
    /// Texts that are no codes.
    loose: Option<Loose>,
    page: OpenPage,
    pages: Vec<EncodedPage>,
}

enum Loose {
    Plain(Vec<u8>),
    Differences(Differences),
}

#[derive(Default)]
struct Dictionary {
    codes: HashTable<u32>,
    /// As Parquet has them: a length and the bytes, each.
    texts: Vec<u8>,
    ends: Vec<u32>,
    /// The page that last had each code.
    seen: Vec<u32>,
}

#[derive(Default)]
struct OpenPage {
    /// One for each row that has a text, while they are codes.
    codes: Vec<u32>,
    /// For each row whether it has a text, 1 or 0, once one has none.
    valid: Vec<u8>,
    rows: usize,
    nulls: usize,
    /// Bytes of the texts.
    bytes: usize,
    bounds: Bounds,
    /// Codes that the page has, each once.
    distinct: Vec<u32>,
}

struct EncodedPage {
    bytes: Bytes,
    uncompressed: usize,
    rows: usize,
    nulls: usize,
    text_bytes: usize,
    encoding: Encoding,
    bounds: Bounds,
}

impl TextColumn {
    /// Of texts that come again.
    pub fn of_codes(leaf: ColumnDescPtr, level: ZstdLevel, page_rows: usize) -> Self {
        let nullable = leaf.max_def_level() > 0;
        let (dictionary, page) = (Dictionary::default(), OpenPage::default());
        Self { leaf, level, page_rows: page_rows.max(1), nullable, bounded: true, dictionary, loose: None, page, pages: Vec::new() }
    }

    /// Of texts that hardly do.
    pub fn of_differences(leaf: ColumnDescPtr, level: ZstdLevel, page_rows: usize, bounded: bool) -> Self {
        Self { loose: Some(Loose::Differences(Differences::default())), bounded, ..Self::of_codes(leaf, level, page_rows) }
    }

    /// Texts, or codes of texts.
    pub fn write(&mut self, (column, at): Standing<'_>) -> Result<(), ParquetError> {
        match at {
            Some(at) => self.write_rows(column, at.iter().map(|row| *row as usize)),
            None => self.write_rows(column, 0..column.len()),
        }
    }

    fn write_rows(&mut self, column: &ArrayRef, rows: impl ExactSizeIterator<Item = usize>) -> Result<(), ParquetError> {
        if column.null_count() == column.len() {
            return self.push_nulls(rows.len());
        }
        if let Some(coded) = column.as_any_dictionary_opt() {
            let (Some(keys), Some(texts)) = (coded.keys().as_primitive_opt::<Int32Type>(), coded.values().as_string_opt::<i32>()) else {
                return Err(unlike(column));
            };
            return self.write_codes(keys, texts, rows);
        }
        let Some(texts) = column.as_string_opt::<i32>() else { return Err(unlike(column)) };
        self.write_texts(texts, rows)
    }

    fn write_codes(&mut self, keys: &Int32Array, texts: &StringArray, rows: impl Iterator<Item = usize>) -> Result<(), ParquetError> {
        let mut known = vec![NULL; texts.len()];
        let text_of = |key: i32| usize::try_from(key).ok().filter(|key| *key < texts.len() && texts.is_valid(*key));
        let mut nulls = 0;
        for row in rows {
            let Some(key) = keys.is_valid(row).then(|| text_of(keys.value(row))).flatten() else {
                nulls += 1;
                continue;
            };
            self.push_nulls(std::mem::take(&mut nulls))?;
            if self.loose.is_some() {
                self.push_loose(texts.value(key).as_bytes())?;
                continue;
            }
            if known[key] == NULL {
                known[key] = self.dictionary.code(texts.value(key).as_bytes());
            }
            self.push_code(known[key], texts.value_length(key) as usize)?;
        }
        self.push_nulls(nulls)
    }

    fn write_texts(&mut self, texts: &StringArray, rows: impl Iterator<Item = usize>) -> Result<(), ParquetError> {
        let valid = texts.nulls().filter(|nulls| nulls.null_count() > 0);
        let (mut last, mut nulls): ((&[u8], u32), usize) = ((b"", NULL), 0);
        for row in rows {
            if valid.is_some_and(|valid| valid.is_null(row)) {
                nulls += 1;
                continue;
            }
            self.push_nulls(std::mem::take(&mut nulls))?;
            let text = texts.value(row).as_bytes();
            if self.loose.is_some() {
                self.push_loose(text)?;
                continue;
            }
            if last.1 == NULL || !same(last.0, text) {
                last = (text, self.dictionary.code(text));
            }
            self.push_code(last.1, text.len())?;
        }
        self.push_nulls(nulls)
    }

    fn push_code(&mut self, code: u32, bytes: usize) -> Result<(), ParquetError> {
        self.page.codes.push(code);
        let (page, seen) = (self.pages.len() as u32 + 1, &mut self.dictionary.seen[code as usize]);
        if *seen != page {
            *seen = page;
            self.page.distinct.push(code);
        }
        self.pushed(bytes)
    }

    fn push_loose(&mut self, text: &[u8]) -> Result<(), ParquetError> {
        match &mut self.loose {
            Some(Loose::Plain(plain)) => {
                plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
                plain.extend_from_slice(text);
            }
            Some(Loose::Differences(differences)) => differences.push(text),
            None => {}
        }
        if self.bounded {
            widen(&mut self.page.bounds, text, text);
        }
        self.pushed(text.len())
    }

    fn pushed(&mut self, bytes: usize) -> Result<(), ParquetError> {
        let page = &mut self.page;
        if page.nulls > 0 {
            page.valid.push(1);
        }
        page.rows += 1;
        page.bytes += bytes;
        self.look()
    }

    fn push_nulls(&mut self, mut count: usize) -> Result<(), ParquetError> {
        if count > 0 && !self.nullable {
            return Err(ParquetError::General(format!("{} has a null and must not have one", self.leaf.path())));
        }
        while count > 0 {
            let page = &mut self.page;
            if page.nulls == 0 {
                page.valid = vec![1; page.rows];
            }
            let here = count.min(self.page_rows - page.rows);
            page.rows += here;
            page.nulls += here;
            page.valid.resize(page.rows, 0);
            count -= here;
            self.look()?;
        }
        Ok(())
    }

    /// Ends the page where it is full, and the dictionary where that is.
    fn look(&mut self) -> Result<(), ParquetError> {
        let overflows = self.loose.is_none() && self.dictionary.texts.len() > DICTIONARY;
        let full = self.page.rows >= self.page_rows || self.loose.as_ref().is_some_and(|loose| loose.size() >= PAGE);
        if overflows || full {
            self.end_page()?;
        }
        if overflows {
            self.loose = Some(Loose::Plain(Vec::new()));
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), ParquetError> {
        let page = std::mem::take(&mut self.page);
        if page.rows == 0 {
            return Ok(());
        }
        let mut body = Vec::new();
        if self.nullable {
            body.extend_from_slice(&[0; 4]);
            if page.nulls == 0 {
                run(page.rows, 1, 1, &mut body);
            } else {
                bits(&page.valid, &mut body);
            }
            let length = body.len() as u32 - 4;
            body[..4].copy_from_slice(&length.to_le_bytes());
        }
        let mut bounds = page.bounds;
        let encoding = match &mut self.loose {
            Some(Loose::Plain(plain)) => {
                body.append(plain);
                Encoding::PLAIN
            }
            Some(Loose::Differences(differences)) => {
                differences.take(&mut body);
                Encoding::DELTA_BYTE_ARRAY
            }
            None => {
                for code in page.distinct {
                    let text = self.dictionary.text(code);
                    widen(&mut bounds, text, text);
                }
                let width = (u32::BITS - (self.dictionary.ends.len().saturating_sub(1) as u32).leading_zeros()) as u8;
                body.push(width);
                hybrid(&page.codes, width, &mut body);
                Encoding::RLE_DICTIONARY
            }
        };
        let (uncompressed, bytes) = (body.len(), compressed(&body, self.level)?);
        let OpenPage { rows, nulls, bytes: text_bytes, .. } = page;
        self.pages.push(EncodedPage { bytes, uncompressed, rows, nulls, text_bytes, encoding, bounds });
        Ok(())
    }

    /// Encoded bytes, those of the open page as they are reckoned.
    pub fn size(&self) -> usize {
        let ended: usize = self.pages.iter().map(|page| page.bytes.len()).sum();
        let width = self.dictionary.ends.len().next_power_of_two().trailing_zeros() as usize;
        ended + self.dictionary.texts.len() + self.page.codes.len() * width / 8 + self.loose.as_ref().map_or(0, Loose::size)
    }

    /// The chunk, and what the footer says of it.
    pub fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        self.end_page()?;
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut chunk = Chunk::new(self.nullable);
        let coded = self.pages.iter().any(|page| page.encoding == Encoding::RLE_DICTIONARY);
        if coded {
            let Dictionary { texts, ends, .. } = &self.dictionary;
            let buf = compressed(texts, self.level)?;
            let page = Page::DictionaryPage { buf, num_values: ends.len() as u32, encoding: Encoding::PLAIN, is_sorted: false };
            chunk.uncompressed += writer.write_page(CompressedPage::new(page, texts.len()))?.uncompressed_size;
            chunk.count(PageType::DICTIONARY_PAGE, Encoding::PLAIN);
        }
        for page in self.pages {
            let data = Page::DataPage {
                buf: page.bytes.clone(),
                num_values: page.rows as u32,
                encoding: page.encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            let written = writer.write_page(CompressedPage::new(data, page.uncompressed))?;
            chunk.uncompressed += written.uncompressed_size;
            chunk.add(page, written.offset as i64, written.compressed_size as i32);
        }
        writer.close()?;
        let bytes: Bytes = sink.into_inner()?.into();
        let close = chunk.told(self.leaf, self.level, bytes.len(), coded, self.bounded)?;
        Ok((bytes, close))
    }
}

impl Loose {
    fn size(&self) -> usize {
        match self {
            Self::Plain(plain) => plain.len(),
            Self::Differences(differences) => differences.size(),
        }
    }
}

impl Dictionary {
    fn code(&mut self, text: &[u8]) -> u32 {
        let hash = xxh3_64(text);
        if let Some(code) = self.codes.find(hash, |code| same(self.text(*code), text)) {
            return *code;
        }
        let code = self.ends.len() as u32;
        let Self { codes, texts, ends, .. } = self;
        codes.insert_unique(hash, code, |code| xxh3_64(text_at(texts, ends, *code)));
        self.texts.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.texts.extend_from_slice(text);
        self.ends.push(self.texts.len() as u32);
        self.seen.push(0);
        code
    }

    fn text(&self, code: u32) -> &[u8] {
        text_at(&self.texts, &self.ends, code)
    }
}

fn text_at<'t>(texts: &'t [u8], ends: &[u32], code: u32) -> &'t [u8] {
    let code = code as usize;
    let start = code.checked_sub(1).map_or(0, |before| ends[before] as usize) + size_of::<u32>();
    &texts[start..ends[code] as usize]
}

/// Whether short texts are equal, word by word: a call would take longer.
fn same(a: &[u8], b: &[u8]) -> bool {
    let ((words_a, rest_a), (words_b, rest_b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    if a.len() != b.len() || !words_a.iter().eq(words_b) {
        return false;
    }
    match (a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(last_a), Some(last_b)) => last_a == last_b,
        _ => rest_a.iter().eq(rest_b),
    }
}

/// What is known of a chunk, page by page.
struct Chunk {
    nullable: bool,
    rows: usize,
    nulls: usize,
    text_bytes: usize,
    uncompressed: usize,
    first_page: Option<i64>,
    bounds: Bounds,
    index: ColumnIndexBuilder,
    offsets: OffsetIndexBuilder,
    pages: Vec<PageEncodingStats>,
    /// Bounds of the page before, and whether those of the pages only ever rise, or fall.
    before: Bounds,
    rising: bool,
    falling: bool,
}

impl Chunk {
    fn new(nullable: bool) -> Self {
        Self {
            nullable,
            rows: 0,
            nulls: 0,
            text_bytes: 0,
            uncompressed: 0,
            first_page: None,
            bounds: None,
            index: ColumnIndexBuilder::new(Type::BYTE_ARRAY),
            offsets: OffsetIndexBuilder::new(),
            pages: Vec::new(),
            before: None,
            rising: true,
            falling: true,
        }
    }

    fn count(&mut self, page_type: PageType, encoding: Encoding) {
        match self.pages.last_mut().filter(|last| last.page_type == page_type && last.encoding == encoding) {
            Some(last) => last.count += 1,
            None => self.pages.push(PageEncodingStats { page_type, encoding, count: 1 }),
        }
    }

    fn add(&mut self, page: EncodedPage, offset: i64, size: i32) {
        self.count(PageType::DATA_PAGE, page.encoding);
        self.first_page.get_or_insert(offset);
        self.rows += page.rows;
        self.nulls += page.nulls;
        self.text_bytes += page.text_bytes;
        self.offsets.append_row_count(page.rows as i64);
        self.offsets.append_offset_and_size(offset, size);
        self.offsets.append_unencoded_byte_array_data_bytes(Some(page.text_bytes as i64));
        if self.nullable {
            self.index.append_histograms(&None, &Some(levels(page.rows, page.nulls)));
        }
        let Some((least, most)) = page.bounds else {
            self.index.append(true, Vec::new(), Vec::new(), page.nulls as i64);
            return;
        };
        widen(&mut self.bounds, &least, &most);
        self.index.append(false, least_bound(&least).0.into_vec(), most_bound(&most).0.into_vec(), page.nulls as i64);
        if let Some((least_before, most_before)) = &self.before {
            self.rising &= *least_before <= least && *most_before <= most;
            self.falling &= *least_before >= least && *most_before >= most;
        }
        self.before = Some((least, most));
    }

    fn told(
        mut self,
        leaf: ColumnDescPtr,
        level: ZstdLevel,
        bytes: usize,
        coded: bool,
        bounded: bool,
    ) -> Result<ColumnCloseResult, ParquetError> {
        let (least, most) = self.bounds.map(|(least, most)| (least_bound(&least), most_bound(&most))).unzip();
        let is_exact = |bound: &Option<(Box<[u8]>, bool)>| bound.as_ref().is_some_and(|(_, exact)| *exact);
        let exact = (is_exact(&least), is_exact(&most));
        let value = |bound: Option<(Box<[u8]>, bool)>| bound.map(|(bound, _)| ByteArray::from(bound.into_vec()));
        let statistics = ValueStatistics::new(value(least), value(most), None, Some(self.nulls as u64), false);
        let mut encodings: Vec<Encoding> = self.pages.iter().map(|page| page.encoding).chain([Encoding::RLE]).collect();
        encodings.dedup();
        let metadata = ColumnChunkMetaData::builder(leaf)
            .set_compression(Compression::ZSTD(level))
            .set_encodings(encodings)
            .set_page_encoding_stats(self.pages)
            .set_total_compressed_size(bytes as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_num_values(self.rows as i64)
            .set_dictionary_page_offset(coded.then_some(0))
            .set_data_page_offset(self.first_page.unwrap_or(0))
            .set_unencoded_byte_array_data_bytes(Some(self.text_bytes as i64))
            .set_definition_level_histogram(self.nullable.then(|| levels(self.rows, self.nulls)));
        let statistics = Statistics::ByteArray(statistics.with_min_is_exact(exact.0).with_max_is_exact(exact.1));
        let metadata = if bounded { metadata.set_statistics(statistics) } else { metadata };
        self.index.set_boundary_order(match (self.rising, self.falling) {
            (true, _) => BoundaryOrder::ASCENDING,
            (false, true) => BoundaryOrder::DESCENDING,
            (false, false) => BoundaryOrder::UNORDERED,
        });
        Ok(ColumnCloseResult {
            bytes_written: bytes as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: if bounded { Some(self.index.build()?) } else { None },
            offset_index: Some(self.offsets.build()),
        })
    }
}

/// How many rows have no text, and how many have one.
fn levels(rows: usize, nulls: usize) -> LevelHistogram {
    vec![nulls as i64, (rows - nulls) as i64].into()
}

/// The least and the greatest of some texts.
type Bounds = Option<(Vec<u8>, Vec<u8>)>;

fn widen(bounds: &mut Bounds, least: &[u8], most: &[u8]) {
    match bounds {
        Some((low, high)) => {
            if least < low.as_slice() {
                low.clear();
                low.extend_from_slice(least);
            }
            if most > high.as_slice() {
                high.clear();
                high.extend_from_slice(most);
            }
        }
        None => *bounds = Some((least.into(), most.into())),
    }
}

/// A text that is not greater and not too long, and whether it is the same.
fn least_bound(text: &[u8]) -> (Box<[u8]>, bool) {
    let cut = cut(text);
    (cut.as_bytes().into(), cut.len() == text.len())
}

/// A text that is not less and not too long, if there is one, and whether it is the same.
fn most_bound(text: &[u8]) -> (Box<[u8]>, bool) {
    let begin = cut(text);
    if begin.len() == text.len() {
        return (text.into(), true);
    }
    let after = |letter: char| (u32::from(letter) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
    let next = begin.char_indices().rev().find_map(|(at, letter)| Some(format!("{}{}", &begin[..at], after(letter)?)));
    next.map_or_else(|| (text.into(), true), |next| (next.into_bytes().into(), false))
}

/// The text's first letters.
fn cut(text: &[u8]) -> &str {
    let text = std::str::from_utf8(text).unwrap_or_default();
    &text[..text.floor_char_boundary(BOUND)]
}

fn compressed(bytes: &[u8], level: ZstdLevel) -> Result<Bytes, ParquetError> {
    thread_local! {
        /// One for each thread: making one costs more than most pages.
        static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    }
    let level = level.compression_level();
    let failed = |error: std::io::Error| ParquetError::External(Box::new(error));
    COMPRESSOR.with_borrow_mut(|held| {
        let fitting = held.take().filter(|(of, _)| *of == level);
        let (_, compressor) = match fitting {
            Some(fitting) => held.insert(fitting),
            None => held.insert((level, zstd::bulk::Compressor::new(level).map_err(failed)?)),
        };
        let mut compressed = compressor.compress(bytes).map_err(failed)?;
        // As much room was made as could be needed.
        compressed.shrink_to_fit();
        Ok(compressed.into())
    })
}

fn unlike(column: &ArrayRef) -> ParquetError {
    ParquetError::General(format!("a column of texts cannot be {}", column.data_type()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, RecordBatch};
    use arrow::compute::{cast, concat, concat_batches};
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    use parquet::file::metadata::PageIndexPolicy;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};
    use parquet::file::writer::SerializedFileWriter;

    use super::*;

    const PAGE_ROWS: usize = 100;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum As {
        Codes,
        Differences { bounded: bool },
    }

    fn properties(way: As) -> WriterProperties {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let properties = properties.set_data_page_row_count_limit(PAGE_ROWS).set_write_batch_size(PAGE_ROWS);
        let told = |bounded| if bounded { EnabledStatistics::Page } else { EnabledStatistics::None };
        match way {
            As::Codes => properties,
            As::Differences { bounded } => properties
                .set_dictionary_enabled(false)
                .set_encoding(Encoding::DELTA_BYTE_ARRAY)
                .set_column_statistics_enabled("text".into(), told(bounded)),
        }
        .build()
    }

    fn schema(nullable: bool) -> Arc<Schema> {
        Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, nullable)]))
    }

    fn begun(nullable: bool, way: As) -> (SerializedFileWriter<Vec<u8>>, TextColumn) {
        let writer = ArrowWriter::try_new(Vec::new(), schema(nullable), Some(properties(way))).unwrap();
        let (file, _) = writer.into_serialized_writer().unwrap();
        let (leaf, level) = (file.schema_descr().column(0), ZstdLevel::default());
        let column = match way {
            As::Codes => TextColumn::of_codes(leaf, level, PAGE_ROWS),
            As::Differences { bounded } => TextColumn::of_differences(leaf, level, PAGE_ROWS, bounded),
        };
        (file, column)
    }

    fn own(parts: &[ArrayRef], nullable: bool, way: As) -> Bytes {
        let (file, mut column) = begun(nullable, way);
        for part in parts {
            column.write((part, None)).unwrap();
        }
        finished(file, column)
    }

    /// The same of rows that stand among others.
    fn own_of_some(parts: &[ArrayRef], nullable: bool, way: As) -> Bytes {
        let (file, mut column) = begun(nullable, way);
        for part in parts {
            let twice = concat(&[part, part]).unwrap();
            let at: Vec<u32> = (0..part.len() as u32).map(|row| row + row % 3 / 2 * part.len() as u32).collect();
            column.write((&twice, Some(&at))).unwrap();
        }
        finished(file, column)
    }

    fn finished(mut file: SerializedFileWriter<Vec<u8>>, column: TextColumn) -> Bytes {
        let (bytes, told) = column.close().unwrap();
        let mut group = file.next_row_group().unwrap();
        group.append_column(&bytes, told).unwrap();
        group.close().unwrap();
        file.finish().unwrap();
        std::mem::take(file.inner_mut()).into()
    }

    fn generic(parts: &[ArrayRef], nullable: bool, way: As) -> Bytes {
        let mut writer = ArrowWriter::try_new(Vec::new(), schema(nullable), Some(properties(way))).unwrap();
        for part in parts {
            writer.write(&rows(part, nullable)).unwrap();
        }
        writer.into_inner().unwrap().into()
    }

    fn rows(part: &ArrayRef, nullable: bool) -> RecordBatch {
        RecordBatch::try_new(schema(nullable), vec![cast(part, &DataType::Utf8).unwrap()]).unwrap()
    }

    fn read(file: Bytes) -> (RecordBatch, Arc<parquet::file::metadata::ParquetMetaData>) {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
        let (schema, footer) = (reader.schema().clone(), reader.metadata().clone());
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        (concat_batches(&schema, &batches).unwrap(), footer)
    }

    fn like_the_generic_one(parts: &[ArrayRef], nullable: bool, name: &str) {
        for way in [As::Codes, As::Differences { bounded: true }, As::Differences { bounded: false }] {
            like_the_generic_one_as(way, parts, nullable, &format!("{name}, {way:?}"));
        }
    }

    /// The generic encoder's rows, bounds and pages.
    fn like_the_generic_one_as(way: As, parts: &[ArrayRef], nullable: bool, name: &str) {
        let all: Vec<RecordBatch> = parts.iter().map(|part| rows(part, nullable)).collect();
        let expected = concat_batches(&schema(nullable), &all).unwrap();
        let file = own(parts, nullable, way);
        assert_eq!(own_of_some(parts, nullable, way), file, "{name}");
        let ((ours, our_footer), (theirs, their_footer)) = (read(file), read(generic(parts, nullable, way)));
        assert_eq!(ours.column(0), expected.column(0), "{name}");
        assert_eq!(theirs.column(0), expected.column(0), "{name}");
        let (our_chunk, their_chunk) = (our_footer.row_group(0).column(0), their_footer.row_group(0).column(0));
        assert_eq!(our_chunk.statistics(), their_chunk.statistics(), "{name}");
        assert_eq!(our_chunk.num_values(), their_chunk.num_values(), "{name}");
        if way != (As::Differences { bounded: false }) {
            assert_eq!(our_chunk.unencoded_byte_array_data_bytes(), their_chunk.unencoded_byte_array_data_bytes(), "{name}");
        }
        let encodings = |chunk: &ColumnChunkMetaData| chunk.encodings().map(|encoding| encoding as i32).collect::<HashSet<_>>();
        assert_eq!(encodings(our_chunk), encodings(their_chunk), "{name}");
        let coded = our_chunk.dictionary_page_offset().is_some();
        assert!(!coded || way == As::Codes, "{name}");
        if (coded || way != As::Codes) && !name.contains("many") {
            let (ours, theirs) = (our_footer.offset_index().unwrap(), their_footer.offset_index().unwrap());
            let firsts = |index: &parquet::file::page_index::offset_index::OffsetIndexMetaData| {
                index.page_locations().iter().map(|page| page.first_row_index).collect::<Vec<_>>()
            };
            assert_eq!(firsts(&ours[0][0]), firsts(&theirs[0][0]), "{name}");
            let indexed = |footer: &parquet::file::metadata::ParquetMetaData| footer.column_index().map(|index| index[0][0].clone());
            assert_eq!(indexed(&our_footer), indexed(&their_footer), "{name}");
        }
    }

    fn texts(of: impl Iterator<Item = Option<String>>) -> ArrayRef {
        Arc::new(of.collect::<StringArray>())
    }

    #[test]
    fn rows_bounds_and_pages_are_those_of_the_generic_encoder() {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let long = |n: u64| format!("{}{n}", "\u{10ffff}é".repeat(n as usize % 40));
        for (name, distinct) in [("one", 1), ("two", 2), ("few", 9), ("some", 300), ("very many", 300_000)] {
            for (nulls, nullable) in [(0, false), (0, true), (3, true)] {
                let count = if distinct > 1000 { 120_000 } else { 900 };
                let mut value = |_| (nulls == 0 || next(10) >= nulls).then(|| long(next(distinct)));
                let plain: Vec<ArrayRef> = (0..3).map(|_| texts((0..count).map(&mut value))).collect();
                like_the_generic_one(&plain, nullable, name);
                let coded: Vec<ArrayRef> = plain
                    .iter()
                    .map(|part| cast(part, &DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))).unwrap())
                    .collect();
                like_the_generic_one(&coded, nullable, name);
            }
        }
        let runs = texts((0..3000).map(|n| Some(format!("{}", n / 37 % 5))));
        like_the_generic_one(&[runs], true, "runs");
        let gaps = texts((0..3000).map(|n| (n / 37 % 3 > 0).then(|| format!("{}", n % 5))));
        like_the_generic_one(&[gaps], true, "gaps");
        let nothing = texts((0..300).map(|_| None));
        like_the_generic_one(std::slice::from_ref(&nothing), true, "nothing");
        like_the_generic_one(&[nothing, texts((0..300).map(|n| Some(long(n))))], true, "nothing first");
        let rising = texts((0..1000).map(|n| Some(format!("{n:06}"))));
        like_the_generic_one(&[rising], true, "rising");
    }

    #[test]
    fn a_null_inside_of_a_dictionary_is_a_null() {
        let values = Arc::new(StringArray::from(vec![Some("a"), None]));
        let coded: ArrayRef = Arc::new(DictionaryArray::new(Int32Array::from(vec![Some(0), Some(1), None, Some(0)]), values));
        like_the_generic_one(std::slice::from_ref(&coded), true, "null inside");
        let file = ArrowWriter::try_new(Vec::new(), schema(false), None).unwrap();
        let (file, _) = file.into_serialized_writer().unwrap();
        let mut column = TextColumn::of_codes(file.schema_descr().column(0), ZstdLevel::default(), PAGE_ROWS);
        assert!(column.write((&coded, None)).unwrap_err().to_string().contains("must not have one"));
    }

    #[test]
    fn every_width_is_read_as_it_was_written() {
        for width in 0..=20_u8 {
            let most = (1_u64 << width) as u32;
            let values: ArrayRef = texts((0..most.min(5000)).map(|n| Some(format!("{n}"))));
            let keys = Int32Array::from_iter_values(
                (0..6000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 7).cast_signed().abs() % values.len() as i32),
            );
            like_the_generic_one(&[Arc::new(DictionaryArray::new(keys, values))], true, &format!("width {width}"));
        }
    }
}
