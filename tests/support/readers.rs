//! The relay's readers of content, fed piece by piece without a network between.

use backupmx_relay::smtp::data::{ChunkReader, DataReader, Fault};

use crate::reading::Reading;

/// Longer than anything that is read here.
const CONTENT_BYTES_MAX: u64 = 1 << 30;

/// What the reader for DATA makes of these pieces, and what it leaves behind the end. `None` if it finds no end.
pub fn data(pieces: &[&[u8]]) -> Option<(Reading, Vec<u8>)> {
    let (mut reader, mut content) = (DataReader::new(CONTENT_BYTES_MAX), Vec::new());
    for (place, piece) in pieces.iter().enumerate() {
        let (taken, ended) = reader.feed(piece, &mut content);
        if ended {
            let rest = [&piece[taken..], &pieces[place + 1..].concat()].concat();
            return Some((reading(reader.fault(), content), rest));
        }
        assert_eq!(taken, piece.len(), "all of a piece is taken, unless the end is in it");
    }
    None
}

/// What the reader for BDAT makes of these pieces.
pub fn parts(pieces: &[&[u8]]) -> Reading {
    let (mut reader, mut content) = (ChunkReader::new(CONTENT_BYTES_MAX), Vec::new());
    pieces.iter().for_each(|piece| reader.feed(piece, &mut content));
    reader.finish(&mut content);
    reading(reader.fault(), content)
}

fn reading(fault: Option<Fault>, content: Vec<u8>) -> Reading {
    match fault {
        None => Reading::Content(content),
        Some(Fault::BareLineEnd) => Reading::BareLineEnd,
        Some(Fault::TooLarge) => panic!("less than {CONTENT_BYTES_MAX} bytes are said to be too many"),
    }
}
