//! Where the bytes of an object go: a file, through a compressor or not, counted on both sides.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;

use crate::layout::Packing;

const FILE_BUFFER: usize = 256 * 1024;

/// A file that counts what it holds.
pub struct Stored {
    file: BufWriter<File>,
    bytes: u64,
}

impl Stored {
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(Self { file: BufWriter::with_capacity(FILE_BUFFER, File::create_new(path)?), bytes: 0 })
    }

    pub fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.bytes)
    }
}

impl Write for Stored {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Coder {
    Plain(Stored),
    Gzip(Box<GzEncoder<Stored>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Stored>>),
    Bzip2(Box<BzEncoder<Stored>>),
}

pub struct Sink {
    coder: Coder,
    decoded: u64,
}

impl Sink {
    pub fn create(path: &Path, packing: Packing) -> io::Result<Self> {
        let stored = Stored::create(path)?;
        let coder = match packing {
            Packing::Plain => Coder::Plain(stored),
            Packing::Gzip => Coder::Gzip(Box::new(gzip(stored))),
            Packing::Zstd => Coder::Zstd(Box::new(zstd::stream::write::Encoder::new(stored, 1)?)),
            Packing::Bzip2 => Coder::Bzip2(Box::new(BzEncoder::new(stored, bzip2::Compression::fast()))),
        };
        Ok(Self { coder, decoded: 0 })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.decoded += bytes.len() as u64;
        match &mut self.coder {
            Coder::Plain(coder) => coder.write_all(bytes),
            Coder::Gzip(coder) => coder.write_all(bytes),
            Coder::Zstd(coder) => coder.write_all(bytes),
            Coder::Bzip2(coder) => coder.write_all(bytes),
        }
    }

    /// Ends the gzip member and begins another one; the other codings go on.
    pub fn next_member(self) -> io::Result<Self> {
        let coder = match self.coder {
            Coder::Gzip(coder) => Coder::Gzip(Box::new(gzip(coder.finish()?))),
            other => other,
        };
        Ok(Self { coder, decoded: self.decoded })
    }

    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Completes the object. Its stored bytes.
    pub fn finish(self) -> io::Result<u64> {
        let stored = match self.coder {
            Coder::Plain(stored) => stored,
            Coder::Gzip(coder) => coder.finish()?,
            Coder::Zstd(coder) => coder.finish()?,
            Coder::Bzip2(coder) => coder.finish()?,
        };
        stored.finish()
    }
}

/// Always the same bytes: no name, no time in the header.
fn gzip(stored: Stored) -> GzEncoder<Stored> {
    GzEncoder::new(stored, flate2::Compression::fast())
}
