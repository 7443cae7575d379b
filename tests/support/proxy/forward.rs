//! From client to server: hands on commands and content, and does what strikes before and behind them.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    Shared,
    connection::{Awaited, BUFFER_BYTES, Connection, End, FRAGMENTS_MAX, line, to_server_is_blocked},
    harm::{Fault, Side, Step},
    lock,
    reader::{Commands, Piece},
};

/// For the replies to commands that are already with the server, before a fault may take its turn.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// So smooth is a slow client, unless it sends less than so many bytes a second.
const SLICES_PER_SECOND: u64 = 20;

pub(super) struct Forward<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    server: &'a TcpStream,
    commands: Commands,
    /// Which message's content, and how much of it was handed on.
    content: (u64, u64),
    /// A part of this message came by BDAT, and more will.
    in_parts: bool,
    chunk: Option<Chunk>,
}

/// What waits for a chunk.
struct Chunk {
    /// What strikes behind it.
    after: Vec<Fault>,
    /// The cut comes after so many bytes.
    cut_after: Option<usize>,
}

/// What a command meets on its way.
enum Way {
    Goes,
    GoesFragmented,
    GoesHalf,
    /// It is answered in place of the server.
    Ends(String),
}

impl<'a> Forward<'a> {
    pub(super) fn new(connection: &'a Connection, shared: &'a Shared, server: &'a TcpStream) -> Self {
        Self { connection, shared, server, commands: Commands::new(), content: (0, 0), in_parts: false, chunk: None }
    }

    pub(super) fn run(mut self) {
        // If the server takes nothing any more, it may still have something to say: the other thread sees to that.
        let _ = self.hand_on();
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let count = self.connection.read(&self.connection.client, &mut buffer)?;
            if count == 0 {
                let rest = self.commands.rest();
                self.write(&rest)?;
                self.connection.wait(None, to_server_is_blocked)?;
                return self.server.shutdown(Shutdown::Write);
            }
            self.commands.feed(&buffer[..count]);
            while let Some(piece) = self.commands.next() {
                self.piece(piece)?;
            }
        }
    }

    fn piece(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::Command(step, line) => self.command(step, &line),
            Piece::Bdat(line, length, is_last) => self.bdat(&line, length, is_last),
            Piece::Content(bytes) => self.content(&bytes),
            Piece::ChunkEnd => {
                let after = self.chunk.take().map(|chunk| chunk.after).unwrap_or_default();
                self.strike_after(&after)
            }
            Piece::Dot => self.step(Step::Dot, b".\r\n"),
            Piece::Handshake(record) => self.step(Step::Handshake, &record),
            Piece::Opaque(bytes) => self.write(&bytes),
        }
    }

    fn command(&mut self, step: Step, line: &[u8]) -> io::Result<()> {
        if matches!(step, Step::Mail | Step::Rset | Step::Ehlo) {
            self.in_parts = false;
        }
        self.step(step, line)?;
        if !matches!(step, Step::Data | Step::StartTls) {
            return Ok(());
        }
        self.connection.wait(None, |state| state.goes_on.is_none() && !state.server_has_ended)?;
        let goes_on = lock(&self.connection.state).goes_on.take().unwrap_or_default();
        match step {
            Step::Data if goes_on => {
                self.content = (self.connection.reach(Step::Content), 0);
                self.commands.expect_content();
            }
            Step::StartTls if goes_on => self.commands.expect_handshake(),
            _ => {}
        }
        Ok(())
    }

    fn step(&mut self, step: Step, bytes: &[u8]) -> io::Result<()> {
        let nth = self.connection.reach(step);
        match self.strike_before(step, nth)? {
            way @ (Way::Goes | Way::GoesFragmented) => {
                let after = self.expect_reply(step, nth);
                if matches!(way, Way::Goes) {
                    self.write(bytes)?;
                } else {
                    self.connection.write_fragments(self.server, bytes, to_server_is_blocked)?;
                }
                self.strike_after(&after)
            }
            Way::GoesHalf => {
                self.write(&bytes[..bytes.len() / 2])?;
                self.connection.ended(End::Cut)
            }
            Way::Ends(reply) => {
                let awaited = Awaited { step, nth, withheld: false, not_before: None };
                self.connection.answer(self.shared, &awaited, line(&reply)).map(drop)
            }
        }
    }

    fn bdat(&mut self, line: &[u8], length: u64, is_last: bool) -> io::Result<()> {
        if !self.in_parts {
            self.content = (self.connection.reach(Step::Content), 0);
        }
        self.in_parts = !is_last;
        let nth = self.connection.reach(Step::Bdat);
        match self.strike_before(Step::Bdat, nth)? {
            Way::GoesHalf if length == 0 => {
                self.write(&line[..line.len() / 2])?;
                self.connection.ended(End::Cut)
            }
            Way::GoesHalf => {
                let cut_after = usize::try_from(length / 2).unwrap_or(usize::MAX);
                self.chunk = Some(Chunk { after: Vec::new(), cut_after: Some(cut_after) });
                self.write(line)
            }
            way => {
                self.chunk = Some(Chunk { after: self.expect_reply(Step::Bdat, nth), cut_after: None });
                if matches!(way, Way::GoesFragmented) {
                    return self.connection.write_fragments(self.server, line, to_server_is_blocked);
                }
                self.write(line)
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (nth, from) = self.content;
        self.content.1 += bytes.len() as u64;
        let end = self.chunk.as_ref().and_then(|chunk| chunk.cut_after).filter(|end| *end <= bytes.len());
        let cut = end.map(|end| (from + end as u64, Fault::Cut));
        let mut faults = self.shared.harms.draw_within(nth, &(from..from + bytes.len() as u64));
        faults.retain(|(at, _)| cut.as_ref().is_none_or(|(end, _)| at < end));
        let mut done = 0;
        for (at, fault) in faults.into_iter().chain(cut) {
            let at = usize::try_from(at - from).map_or(bytes.len(), |at| at.clamp(done, bytes.len()));
            self.write(&bytes[done..at])?;
            done = at;
            if fault == Fault::Fragment {
                done = bytes.len().min(at + FRAGMENTS_MAX);
                self.connection.write_fragments(self.server, &bytes[at..done], to_server_is_blocked)?;
            }
            self.settle(&fault, usize::from(self.chunk.is_some()))?;
            self.connection.bear(&fault)?;
        }
        if let Some(left) = self.chunk.as_mut().and_then(|chunk| chunk.cut_after.as_mut()) {
            *left -= bytes.len();
        }
        self.write(&bytes[done..])
    }

    /// What strikes before a command, and how it goes on from there.
    fn strike_before(&self, step: Step, nth: u64) -> io::Result<Way> {
        let mut way = Way::Goes;
        for fault in self.shared.harms.draw(step, Side::BeforeCommand, nth) {
            self.settle(&fault, 0)?;
            match fault {
                Fault::Truncate => way = Way::GoesHalf,
                Fault::Fragment => way = Way::GoesFragmented,
                Fault::Replace(reply) => way = Way::Ends(reply),
                _ => self.connection.bear(&fault)?,
            }
        }
        Ok(way)
    }

    /// From now on a reply to this is awaited. Returns what is to strike once it is handed on; its reply waits for
    /// that.
    fn expect_reply(&self, step: Step, nth: u64) -> Vec<Fault> {
        let after = self.shared.harms.draw(step, Side::AfterCommand, nth);
        let delay = after.iter().filter_map(|fault| if let Fault::Delay(time) = fault { Some(*time) } else { None });
        let delay: Duration = delay.sum();
        let not_before = (!delay.is_zero()).then(|| Instant::now() + delay);
        let withheld = after.iter().any(|fault| !matches!(fault, Fault::Delay(_)));
        self.connection.change(|state| state.awaited.push_back(Awaited { step, nth, withheld, not_before }));
        after
    }

    fn strike_after(&self, after: &[Fault]) -> io::Result<()> {
        for fault in after.iter().filter(|fault| !matches!(fault, Fault::Delay(_))) {
            self.settle(fault, 1)?;
            if *fault == Fault::Hold {
                // In one go, so that the reply does not slip through between them.
                self.connection.change(|state| {
                    state.held = true;
                    state.awaited.iter_mut().for_each(|awaited| awaited.withheld = false);
                });
            }
            self.connection.bear(fault)?;
        }
        Ok(())
    }

    /// Waits until the client has the replies to all commands but the last `left`, if the fault would keep them from
    /// it: so a test knows what the client has heard, whatever the commands that came together.
    fn settle(&self, fault: &Fault, left: usize) -> io::Result<()> {
        if matches!(fault, Fault::Delay(_) | Fault::Fragment) {
            return Ok(());
        }
        let limit = Instant::now() + SETTLE_LIMIT;
        self.connection.wait(Some(limit), |state| state.awaited.len() > left && !state.server_has_ended)
    }

    /// Hands on bytes as fast as a client may send.
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let speed = self.shared.speed.load(Ordering::Relaxed);
            if speed == 0 {
                return self.connection.write(self.server, bytes, to_server_is_blocked);
            }
            let slice_bytes = usize::try_from(speed / SLICES_PER_SECOND).unwrap_or(usize::MAX);
            let (slice, rest) = bytes.split_at(slice_bytes.clamp(1, bytes.len()));
            self.connection.write(self.server, slice, to_server_is_blocked)?;
            let time = Duration::from_secs_f64(slice.len() as f64 / speed as f64);
            self.connection.pause_until(Instant::now() + time)?;
            bytes = rest;
        }
        Ok(())
    }
}
