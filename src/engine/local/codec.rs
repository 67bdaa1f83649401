//! Stored bytes → decoded bytes. The codec is told by magic bytes, never by name.
//!
//! gzip (multi-member), zstd (multi-frame), bzip2 (multi-stream), snappy (framed, Hadoop's, snappy-java's), zip (member by
//! member) or none. What comes out is bounded: at the job's limit the stream stops with [`Stop::Limit`] at exactly that byte,
//! whatever the block sizes. A damaged stream delivers what decodes, then says [`Stop::Corrupt`].

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::store::SourceFailed;

const SNIFF_BYTES: usize = 64;
const SNAPPY_FRAMED: &[u8] = b"\xff\x06\x00\x00sNaPpY";
const SNAPPY_JAVA: &[u8] = b"\x82SNAPPY\x00";
/// Blocks of Hadoop's and snappy-java's streams are far smaller; a larger length is no length.
const MAX_SNAPPY_BLOCK: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    SnappyFramed,
    SnappyHadoop,
    SnappyJava,
    Zip,
}

impl Codec {
    /// From the first bytes of an object.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Self::Zip,
            _ if head.starts_with(SNAPPY_FRAMED) => Self::SnappyFramed,
            _ if head.starts_with(SNAPPY_JAVA) => Self::SnappyJava,
            _ if is_hadoop_snappy(head) => Self::SnappyHadoop,
            _ => Self::Plain,
        }
    }
}

/// Hadoop's blocks have no magic: a plausible length, a plausible compressed length, and snappy's own length within the block.
fn is_hadoop_snappy(head: &[u8]) -> bool {
    let (Some(block), Some(chunk)) = (be_u32(head, 0), be_u32(head, 4)) else { return false };
    let Some(preamble) = head.get(8..) else { return false };
    (1..=MAX_SNAPPY_BLOCK).contains(&block)
        && (1..=MAX_SNAPPY_BLOCK).contains(&chunk)
        && snap::raw::decompress_len(preamble).is_ok_and(|length| (1..=block).contains(&length))
}

fn be_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(word) as usize)
}

/// Why a decoded stream ends before its end.
#[derive(Debug)]
pub enum Stop {
    /// The compression is damaged here.
    Corrupt(String),
    /// The object decodes to more than it may.
    Limit(u64),
    /// The store failed; nothing is known about the object.
    Io(io::Error),
}

impl Stop {
    /// As an error of reading: a store's failure stays what it is.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Io(source) => source,
            other => io::Error::other(format!("{other:?}")),
        }
    }
}

type BoxRead = Box<dyn Read + Send>;

/// Decoded bytes that one object may have.
struct Budget {
    left: Arc<AtomicU64>,
    limit: u64,
}

impl Budget {
    fn new(limit: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(limit)), limit }
    }
}

/// One decoded stream: an object, or a member of an archive.
pub struct Decoded {
    /// Name within an archive.
    pub member: Option<String>,
    reader: BoxRead,
    /// Decoded bytes that the object may still have, all of its members together.
    left: Arc<AtomicU64>,
    limit: u64,
    /// Why nothing more comes after what was handed out.
    pending: Option<Stop>,
}

impl Decoded {
    fn new(member: Option<String>, reader: BoxRead, budget: &Budget) -> Self {
        Self { member, reader, left: budget.left.clone(), limit: budget.limit, pending: None }
    }

    fn broken(member: Option<String>, message: String) -> Self {
        let mut stream = Self::new(member, Box::new(io::empty()), &Budget::new(0));
        stream.pending = Some(Stop::Corrupt(message));
        stream
    }

    /// Appends up to `want` bytes and returns how many; 0 at the end. What decodes before a failure comes before it.
    pub fn read_into(&mut self, buffer: &mut Vec<u8>, want: usize) -> Result<usize, Stop> {
        if let Some(stop) = self.pending.take() {
            return Err(stop);
        }
        let start = buffer.len();
        let left = self.left.load(Ordering::Relaxed);
        // One byte beyond the limit tells an object that ends there from one that goes on.
        let room = (want as u64).min(left.saturating_add(1));
        let failure = self.reader.by_ref().take(room).read_to_end(buffer).err().map(|error| {
            let from_store = error.get_ref().and_then(|inner| inner.downcast_ref::<SourceFailed>()).is_some();
            if from_store { Stop::Io(error) } else { Stop::Corrupt(error.to_string()) }
        });
        let mut count = (buffer.len() - start) as u64;
        self.pending = failure;
        if count > left {
            count = left;
            buffer.truncate(start + count as usize);
            self.pending = Some(Stop::Limit(self.limit));
        }
        self.left.store(left - count, Ordering::Relaxed);
        match self.pending.take() {
            Some(stop) if count == 0 => Err(stop),
            held => {
                self.pending = held;
                Ok(count as usize)
            }
        }
    }
}

/// Opens an object of `stored` bytes. `limit` bounds the decoded bytes of each stream, `archive_limit` the stored bytes of a zip.
pub fn open(mut source: BoxRead, stored: u64, limit: u64, archive_limit: u64) -> Result<Vec<Decoded>, Stop> {
    let mut head = Vec::with_capacity(SNIFF_BYTES);
    if let Err(error) = source.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut head) {
        return Err(Stop::Io(error));
    }
    let codec = Codec::of(&head);
    let whole: BoxRead = Box::new(Cursor::new(head).chain(source));
    let budget = Budget::new(limit);
    let reader: BoxRead = match codec {
        Codec::Plain => whole,
        Codec::Gzip => Box::new(GzipMembers { current: Some(flate2::bufread::GzDecoder::new(BufReader::new(whole))) }),
        Codec::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Codec::SnappyFramed => Box::new(snap::read::FrameDecoder::new(whole)),
        Codec::SnappyHadoop => Box::new(SnappyBlocks::new(whole, true)),
        Codec::SnappyJava => Box::new(SnappyBlocks::new(whole, false)),
        Codec::Zstd => match zstd::stream::read::Decoder::new(whole) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return Ok(vec![Decoded::broken(None, error.to_string())]),
        },
        Codec::Zip => return members(whole, stored, &budget, archive_limit),
    };
    Ok(vec![Decoded::new(None, reader, &budget)])
}

/// gzip members one after the other; zero bytes after the last one are padding, as gzip(1) has it.
struct GzipMembers {
    current: Option<flate2::bufread::GzDecoder<BufReader<BoxRead>>>,
}

impl Read for GzipMembers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.current {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(member) = self.current.take() else { break };
            let mut rest = member.into_inner();
            loop {
                let next = rest.fill_buf()?;
                let zeros = next.iter().take_while(|byte| **byte == 0).count();
                if zeros == 0 {
                    break;
                }
                rest.consume(zeros);
            }
            if !rest.fill_buf()?.is_empty() {
                self.current = Some(flate2::bufread::GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// The files of a zip object; what macOS adds beside them is left out.
fn members(mut whole: BoxRead, stored: u64, budget: &Budget, archive_limit: u64) -> Result<Vec<Decoded>, Stop> {
    if stored > archive_limit {
        let message = format!("a zip of {stored} bytes is larger than limits.archive ({archive_limit} bytes)");
        return Ok(vec![Decoded::broken(None, message)]);
    }
    let mut bytes = Vec::with_capacity(stored as usize);
    whole.read_to_end(&mut bytes).map_err(Stop::Io)?;
    let bytes = Bytes::from(bytes);
    let mut archive = match zip::ZipArchive::new(Cursor::new(bytes.clone())) {
        Ok(archive) => archive,
        Err(error) => return Ok(vec![Decoded::broken(None, error.to_string())]),
    };
    let mut found = Vec::with_capacity(archive.len());
    let entries = directory_entries(&bytes, archive.central_directory_start());
    if entries > archive.len() {
        let message = format!("the archive has {entries} members under {} names: of those of one name only one can be read", archive.len());
        found.push(Decoded::broken(None, message));
    }
    for index in 0..archive.len() {
        let name = match archive.name_for_index(index) {
            Some(Ok(name)) => name.into_owned(),
            _ => format!("member {index}"),
        };
        if name.ends_with('/') || name.starts_with("__MACOSX/") {
            continue;
        }
        found.push(match member(&mut archive, index, &bytes) {
            Ok(reader) => Decoded::new(Some(name), reader, budget),
            Err(message) => Decoded::broken(Some(name), message),
        });
    }
    Ok(found)
}

/// Entries of an archive's directory, from where it begins: whoever reads it by names sees only one of each.
fn directory_entries(bytes: &[u8], start: u64) -> usize {
    /// Bytes before an entry's name; the lengths of name, extra field and comment are the last but others of them.
    const HEAD: usize = 46;
    let mut rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
    let mut entries = 0;
    while rest.starts_with(b"PK\x01\x02") && rest.len() >= HEAD {
        let length = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
        let end = HEAD + length(28) + length(30) + length(32);
        rest = rest.get(end..).unwrap_or_default();
        entries += 1;
    }
    entries
}

/// A member's decoded bytes, as they are asked for.
fn member(archive: &mut zip::ZipArchive<Cursor<Bytes>>, index: usize, bytes: &Bytes) -> Result<BoxRead, String> {
    let file = archive.by_index_raw(index).map_err(|error| error.to_string())?;
    if file.encrypted() {
        return Err("the member is encrypted".to_owned());
    }
    let start = usize::try_from(file.data_start().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(file.compressed_size()).unwrap_or(usize::MAX));
    if end > bytes.len() {
        return Err("the member reaches beyond the archive".to_owned());
    }
    let stored = Cursor::new(bytes.slice(start..end));
    let decoder: BoxRead = match file.compression() {
        zip::CompressionMethod::Stored => Box::new(stored),
        zip::CompressionMethod::Deflated => Box::new(flate2::read::DeflateDecoder::new(stored)),
        other => return Err(format!("zip method {other} is not supported (stored and deflate are)")),
    };
    Ok(Box::new(Checked { decoder, crc: flate2::Crc::new(), expected: file.crc32() }))
}

/// Says at the end whether the bytes were the right ones.
struct Checked {
    decoder: BoxRead,
    crc: flate2::Crc,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.crc.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the member's checksum is wrong"));
        }
        Ok(count)
    }
}

/// Hadoop's block stream (a block's length, then chunks with their compressed lengths) and snappy-java's (chunks only,
/// after a header of 16 bytes).
struct SnappyBlocks {
    source: BoxRead,
    blocks: bool,
    started: bool,
    /// Decoded bytes that the block still owes.
    owed: usize,
    chunk: Vec<u8>,
    at: usize,
}

impl SnappyBlocks {
    fn new(source: BoxRead, blocks: bool) -> Self {
        Self { source, blocks, started: false, owed: 0, chunk: Vec::new(), at: 0 }
    }

    /// A big-endian length, or `None` at a clean end.
    fn length(&mut self) -> io::Result<Option<usize>> {
        let mut word = Vec::with_capacity(4);
        self.source.by_ref().take(4).read_to_end(&mut word)?;
        match be_u32(&word, 0) {
            Some(length) if length <= MAX_SNAPPY_BLOCK => Ok(Some(length)),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "snappy: a block length beyond reason")),
            None if word.is_empty() => Ok(None),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn next_chunk(&mut self) -> io::Result<bool> {
        if !self.started && !self.blocks {
            io::copy(&mut self.source.by_ref().take(16), &mut io::sink())?;
        }
        self.started = true;
        while self.blocks && self.owed == 0 {
            match self.length()? {
                Some(length) => self.owed = length,
                None => return Ok(false),
            }
        }
        let Some(length) = self.length()? else {
            return if self.blocks { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
        };
        let mut compressed = Vec::with_capacity(length);
        self.source.by_ref().take(length as u64).read_to_end(&mut compressed)?;
        if compressed.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if snap::raw::decompress_len(&compressed).is_ok_and(|length| length > MAX_SNAPPY_BLOCK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "snappy: a chunk length beyond reason"));
        }
        self.chunk = snap::raw::Decoder::new()
            .decompress_vec(&compressed)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        self.at = 0;
        self.owed = self.owed.saturating_sub(self.chunk.len());
        Ok(true)
    }
}

impl Read for SnappyBlocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn decode(bytes: Vec<u8>, limit: u64) -> (Vec<u8>, Option<String>) {
        let stored = bytes.len() as u64;
        let mut streams = open(Box::new(Cursor::new(bytes)), stored, limit, 1 << 20).unwrap();
        let mut out = Vec::new();
        let mut stream = streams.remove(0);
        loop {
            match stream.read_into(&mut out, 7) {
                Ok(0) => return (out, None),
                Ok(_) => {}
                Err(Stop::Limit(at)) => return (out, Some(format!("limit {at}"))),
                Err(Stop::Corrupt(_)) => return (out, Some("corrupt".to_owned())),
                Err(Stop::Io(error)) => panic!("{error}"),
            }
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_members_follow_each_other() {
        let mut bytes = [gzip(b"{\"a\":1}"), gzip(b"{\"a\":2}")].concat();
        assert_eq!(decode(bytes.clone(), 1000), (b"{\"a\":1}{\"a\":2}".to_vec(), None));
        bytes.extend([0; 512]);
        assert_eq!(decode(bytes.clone(), 1000), (b"{\"a\":1}{\"a\":2}".to_vec(), None));
        bytes.extend(b"more");
        assert_eq!(decode(bytes, 1000), (b"{\"a\":1}{\"a\":2}".to_vec(), Some("corrupt".to_owned())));
    }

    #[test]
    fn a_cut_stream_is_corrupt_and_a_long_one_stops_at_its_limit() {
        let whole = gzip(&b"{\"a\":1}\n".repeat(100));
        assert_eq!(decode(whole[..whole.len() - 9].to_vec(), 10_000).1.as_deref(), Some("corrupt"));
        assert_eq!(decode(whole.clone(), 80), (b"{\"a\":1}\n".repeat(10), Some("limit 80".to_owned())));
        assert_eq!(decode(whole, 800), (b"{\"a\":1}\n".repeat(100), None));
    }

    #[test]
    fn hadoop_snappy_has_no_magic_and_is_found() {
        let text = b"{\"a\":1}\n".repeat(50);
        let packed = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
        bytes.extend((packed.len() as u32).to_be_bytes());
        bytes.extend(packed);
        assert_eq!(Codec::of(&bytes), Codec::SnappyHadoop);
        assert_eq!(decode(bytes, 1000), (text, None));
        assert_eq!(Codec::of(b"{\"a\":1}{\"a\":1}"), Codec::Plain);
    }

    #[test]
    fn a_damaged_member_is_said_and_its_neighbours_are_read() {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for name in ["a.json", "b.json", "__MACOSX/a.json", "c.json"] {
            let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            writer.start_file(name, options).unwrap();
            writer.write_all(b"{\"a\":1}\n").unwrap();
        }
        let mut bytes = writer.finish().unwrap().into_inner();
        let second = memchr::memmem::find_iter(&bytes, b"PK\x03\x04").nth(1).unwrap();
        bytes[second] = 0;
        let stored = bytes.len() as u64;
        let streams = open(Box::new(Cursor::new(bytes)), stored, 1000, 1 << 20).unwrap();
        let read = |mut stream: Decoded| {
            let mut out = Vec::new();
            let ended = stream.read_into(&mut out, 100);
            (stream.member.unwrap(), out, ended.is_ok())
        };
        let found: Vec<_> = streams.into_iter().map(read).collect();
        let line = b"{\"a\":1}\n".to_vec();
        let whole = |name: &str| (name.to_owned(), line.clone(), true);
        assert_eq!(found, [whole("a.json"), ("b.json".to_owned(), vec![], false), whole("c.json")]);
    }

    #[test]
    fn of_members_of_one_name_it_is_said_that_they_are_not_read() {
        let archive = |names: [&str; 3]| {
            let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
            for name in names {
                writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                writer.write_all(b"{\"a\":1}\n").unwrap();
            }
            writer.finish().unwrap().into_inner()
        };
        let streams = |bytes: Vec<u8>| {
            let stored = bytes.len() as u64;
            open(Box::new(Cursor::new(bytes)), stored, 1000, 1 << 20).unwrap()
        };
        let mut twice = archive(["a", "b", "c"]);
        assert_eq!(streams(twice.clone()).len(), 3);
        // This writer makes no such archive: both of the names of b become c.
        for at in memchr::memmem::find_iter(&twice.clone(), b"b").collect::<Vec<_>>() {
            twice[at] = b'c';
        }
        let mut streams = streams(twice);
        assert_eq!(streams.len(), 3);
        match streams.remove(0).read_into(&mut Vec::new(), 10) {
            Err(Stop::Corrupt(message)) => assert!(message.contains("3 members under 2 names"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}
