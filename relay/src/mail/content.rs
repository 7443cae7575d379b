//! Where the bytes of a message come from when it is handed on, and where a large one is cut into pieces.

use std::{future::Future, io};

/// Content in pieces, as those who send it on want it. No piece is empty; `None` ends it.
///
/// An error of kind `InvalidData` says that the stored bytes are damaged: then the message must not be completed.
pub trait Source: Send {
    /// The next piece.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<Vec<u8>>>> + Send;
}

/// Content that is in memory anyway.
impl Source for Option<Vec<u8>> {
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.take().filter(|content| !content.is_empty()))
    }
}
