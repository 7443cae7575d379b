//! What a message is, wherever it is: its id, its addresses, its envelope, our trace field. No I/O.

pub mod address;
pub mod content;
pub mod envelope;
pub mod header;
pub mod id;
pub mod trace;
