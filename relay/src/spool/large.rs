//! Messages over 256 KiB: a file each, written while they come in, read back in pieces.
//!
//! Layout and order of syncs: docs/spool.md. All functions block.

use std::{io, sync::Arc};

use xxhash_rust::xxh3::Xxh3;

use super::{
    disk::{Disk, DiskFile},
    field::Accepted,
    record::FIELDS_BYTES_MAX,
};
use crate::mail::id::MessageId;

/// Finished files.
pub const FOLDER: &str = "large";
/// Files that still come in; emptied at start.
pub const TEMPORARY_FOLDER: &str = "tmp";

const MAGIC: [u8; 8] = *b"BMXLARGE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
/// Pieces in which content is read: a few of them fill a socket buffer.
const PIECE_BYTES: u64 = 256 << 10;

/// Name of a finished file.
pub fn path(id: MessageId) -> String {
    format!("{FOLDER}/{id}")
}

fn temporary_path(id: MessageId) -> String {
    format!("{TEMPORARY_FOLDER}/{id}")
}

/// A file that still comes in. Dropped unfinished, it is removed.
pub struct LargeWriter {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    id: MessageId,
    fields_length: u32,
    content_bytes: u64,
    hash: Xxh3,
    /// What is to be removed if this is dropped.
    unfinished: Option<String>,
}

impl LargeWriter {
    /// Begins a file with the record's fields; its header is written at the end, when length and checksum are known.
    pub fn create(disk: Arc<dyn Disk>, id: MessageId, fields: &[u8]) -> io::Result<Self> {
        let file = disk.create(&temporary_path(id))?;
        let fields_length = u32::try_from(fields.len()).map_err(io::Error::other)?;
        let unfinished = Some(temporary_path(id));
        let mut hash = Xxh3::new();
        hash.update(fields);
        let writer = Self { disk, file, id, fields_length, content_bytes: 0, hash, unfinished };
        writer.file.write_at(fields, HEADER_BYTES as u64)?;
        Ok(writer)
    }

    /// Appends content.
    pub fn push(&mut self, content: &[u8]) -> io::Result<()> {
        let offset = HEADER_BYTES as u64 + u64::from(self.fields_length) + self.content_bytes;
        self.file.write_at(content, offset)?;
        self.hash.update(content);
        self.content_bytes += content.len() as u64;
        Ok(())
    }

    /// How long the content is so far.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// What was written so far, to be read once more.
    pub fn written(&self) -> Written {
        let offset = HEADER_BYTES as u64 + u64::from(self.fields_length);
        Written { file: self.file.clone(), offset, rest_bytes: self.content_bytes }
    }

    /// Makes the file durable under its final name.
    pub fn finish(mut self) -> io::Result<Finished> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&self.fields_length.to_le_bytes());
        header.extend_from_slice(&self.id.to_bytes());
        header.extend_from_slice(&self.content_bytes.to_le_bytes());
        header.extend_from_slice(&self.hash.digest().to_le_bytes());
        self.file.write_at(&header, 0)?;
        // The data first, then the name: a name in `large/` always stands for a whole file.
        self.file.sync()?;
        self.disk.rename(&temporary_path(self.id), &path(self.id))?;
        self.unfinished = Some(path(self.id));
        self.disk.sync_folder(FOLDER)?;
        Ok(Finished(self))
    }
}

/// Content of a file that still comes in. It was not synced, and need not be: this process wrote it.
pub struct Written {
    file: Arc<dyn DiskFile>,
    offset: u64,
    rest_bytes: u64,
}

/// Pieces in which it is read: they are held beside the session's own buffers.
const WRITTEN_PIECE_BYTES: u64 = 32 << 10;

impl Written {
    /// The next piece.
    pub fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let bytes = self.rest_bytes.min(WRITTEN_PIECE_BYTES);
        let mut piece = vec![0; bytes as usize];
        self.file.read_at(&mut piece, self.offset)?;
        (self.offset, self.rest_bytes) = (self.offset + bytes, self.rest_bytes - bytes);
        Ok((bytes > 0).then_some(piece))
    }
}

/// A file under its final name, of which no record speaks. Dropped, it is removed: its sender has gone.
pub struct Finished(LargeWriter);

impl Finished {
    /// Leaves the file to the record that is to be written: from now on it may refer to it, and returns the length of its
    /// content.
    pub fn release(mut self) -> u64 {
        self.0.unfinished = None;
        self.0.content_bytes
    }
}

impl Drop for LargeWriter {
    fn drop(&mut self) {
        if let Some(path) = self.unfinished.take() {
            // What cannot be removed now is removed at the next start.
            let _ = self.disk.remove(&path);
        }
    }
}

/// A finished file, read in pieces.
pub struct LargeReader {
    file: Arc<dyn DiskFile>,
    fields: Vec<u8>,
    position: u64,
    rest_bytes: u64,
    hash: Xxh3,
    checksum: u64,
}

/// What a file says of its message; `None` unless all of it checks. An error says nothing of the file: it may be whole.
pub fn accepted_of_whole(disk: &dyn Disk, id: MessageId) -> io::Result<Option<Accepted>> {
    match read_whole(disk, id) {
        Err(cause) if is_damage(&cause) => Ok(None),
        result => result,
    }
}

fn read_whole(disk: &dyn Disk, id: MessageId) -> io::Result<Option<Accepted>> {
    let mut reader = LargeReader::open(disk, id)?;
    let (fields, content_bytes) = (std::mem::take(&mut reader.fields), reader.rest_bytes);
    while reader.next_piece()?.is_some() {}
    let accepted = Accepted::decode(&fields).filter(|accepted| accepted.envelope.id == id);
    Ok(accepted.map(|accepted| Accepted { large_bytes: Some(content_bytes), ..accepted }))
}

/// What is missing or does not fit will not heal; all else may.
pub fn is_damage(cause: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(cause.kind(), InvalidData | UnexpectedEof | NotFound)
}

impl LargeReader {
    /// Opens the file of message `id`. A header that does not fit is `InvalidData`.
    pub fn open(disk: &dyn Disk, id: MessageId) -> io::Result<Self> {
        let file = disk.open(&path(id))?;
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, 0)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let fields_length = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        let (position, rest_bytes) = (HEADER_BYTES as u64 + u64::from(fields_length), number(32));
        let ours = header[..8] == MAGIC && header[8..12] == VERSION.to_le_bytes() && header[16..32] == id.to_bytes();
        let ours = ours && fields_length as usize <= FIELDS_BYTES_MAX;
        if !ours || position.checked_add(rest_bytes) != Some(file.length()?) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "large file: header does not fit"));
        }
        let mut fields = vec![0; fields_length as usize];
        file.read_at(&mut fields, HEADER_BYTES as u64)?;
        let mut hash = Xxh3::new();
        hash.update(&fields);
        Ok(Self { file, fields, position, rest_bytes, hash, checksum: number(40) })
    }

    /// Length of the content that is still to be read.
    pub fn rest_bytes(&self) -> u64 {
        self.rest_bytes
    }

    /// The next piece; the last one only if all of them together match the checksum, else `InvalidData`.
    pub fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.rest_bytes.min(PIECE_BYTES);
        let mut piece = vec![0; length as usize];
        self.file.read_at(&mut piece, self.position)?;
        self.position += length;
        self.rest_bytes -= length;
        self.hash.update(&piece);
        if self.rest_bytes == 0 && self.hash.digest() != self.checksum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "large file: checksum does not match"));
        }
        Ok((length > 0).then_some(piece))
    }
}
