//! Content on its way in: from 354, or the first BDAT, to the reply that says whose the message is now.

use std::net::IpAddr;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    connection::{Connection, Ended, Said},
    data::{ChunkReader, DataReader, Fault},
    memory::{NARROW_READ_BYTES, READ_BYTES, SESSION_BYTES_MAX, beyond_own},
    passing,
    reply::Reply,
    session::{Chunk, Draft, refuse},
};
use crate::{
    foreign::shown,
    mail::{
        envelope::{Envelope, Flow},
        header::HeaderReader,
        id::MessageId,
        trace::{self, Circumstances},
    },
    pass_through::{AtEnd, Maybe, Why},
    policy::{Question, Refusal},
    queue::scheduler::Lane,
    spool::{Incoming, NotKept},
};

/// Content over the limit is read to its end, so that the sender hears why; this many limits of it, then we close.
const OVERSIZE_FACTOR_MAX: u64 = 2;
/// A read may end a line whose CR came with the one before.
const CARRIED_BYTES: usize = 2;

/// A message that comes by BDAT, of which more is to come.
pub(super) struct Partial {
    message: Message,
    reader: ChunkReader,
}

/// A message that is coming in.
pub(super) struct Message {
    pub incoming: Incoming,
    pub arrival: Arrival,
    header: HeaderReader,
    /// Whether the spool could take its content so far.
    pub written: Result<(), NotKept>,
    /// What its recipients count for.
    envelope_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// From 354 to the reply to the final dot.
    pub async fn receive(&mut self, draft: Draft) -> Result<Said, Ended> {
        if let Some(reply) = self.begin_content().await? {
            return Ok(Said::Reply(reply));
        }
        let mut message = self.begin(draft);
        self.pass_trace(&message).await;
        Reply::start_data().write(self.wire.output());
        let mut reader = DataReader::new(self.session.offer().message_bytes_max);
        loop {
            self.read(&mut message).await?;
            let before = message.incoming.buffer().len();
            let (taken, ended) = message.append(|content| reader.feed(self.wire.input(), content));
            self.wire.consume(taken);
            self.pass_content(&mut message, before, reader.fault().is_some(), !ended).await;
            self.put_away(&mut message, reader.content_bytes()).await;
            if reader.content_bytes() > self.skipped_bytes_max() {
                return Ok(Said::Last(Reply::far_too_large()));
            }
            if ended {
                break;
            }
        }
        match reader.fault() {
            // Its sender and we may not agree on where it ended: what follows may be part of it, and nobody's command.
            Some(fault @ Fault::BareLineEnd) => Ok(Said::Last(unacceptable(fault))),
            Some(fault @ Fault::TooLarge) => Ok(Said::Reply(unacceptable(fault))),
            None => self.keep(message, reader.content_bytes()).await,
        }
    }

    /// A part of a message that comes by BDAT, to its end.
    pub async fn receive_chunk(&mut self, Chunk { bytes, is_last, begins }: Chunk) -> Result<Said, Ended> {
        if let Some(draft) = begins {
            if let Some(reply) = self.begin_content().await? {
                self.session.chunk_failed();
                return self.skip(bytes, reply).await;
            }
            let reader = ChunkReader::new(self.session.offer().message_bytes_max);
            let message = self.begin(draft);
            self.pass_trace(&message).await;
            self.partial = Some(Partial { message, reader });
        }
        let Some(Partial { mut message, mut reader }) = self.partial.take() else {
            return self.skip(bytes, Reply::local_error()).await;
        };
        if reader.content_bytes().saturating_add(bytes) > self.skipped_bytes_max() {
            return Ok(Said::Last(Reply::far_too_large()));
        }
        let mut rest = bytes;
        while rest > 0 {
            self.read(&mut message).await?;
            let before = message.incoming.buffer().len();
            let (piece, taken) = self.piece(rest);
            message.append(|content| reader.feed(piece, content));
            self.wire.consume(taken);
            rest -= taken as u64;
            self.pass_content(&mut message, before, reader.fault().is_some(), rest > 0 || !is_last).await;
            self.put_away(&mut message, reader.content_bytes()).await;
        }
        if is_last && reader.finish(message.incoming.buffer()) {
            message.incoming.line_end_was_added();
            message.arrival.line_end_added = true;
        }
        if let Some(fault) = reader.fault() {
            self.give_up_passing();
            self.session.chunk_failed();
            return Ok(Said::Reply(unacceptable(fault)));
        }
        if is_last || message.written.is_err() {
            let said = self.keep(message, reader.content_bytes()).await;
            self.session.chunk_failed(); // if it was not the last one, there is no message to go on with
            return said;
        }
        self.partial = Some(Partial { message, reader });
        Ok(Said::Reply(Reply::chunk_ok(bytes)))
    }

    /// Reads over what belongs to nothing, then says why.
    pub async fn skip(&mut self, bytes: u64, reply: Reply) -> Result<Said, Ended> {
        if bytes > self.skipped_bytes_max() {
            return Ok(Said::Last(Reply::far_too_large()));
        }
        let mut rest = bytes;
        while rest > 0 {
            if self.wire.input().is_empty() {
                self.more(Instant::now(), Some(NARROW_READ_BYTES)).await?;
            }
            let (_, taken) = self.piece(rest);
            self.wire.consume(taken);
            rest -= taken as u64;
        }
        Ok(Said::Reply(reply))
    }

    fn begin(&self, draft: Draft) -> Message {
        let recipient_bytes = draft.recipient_bytes;
        let envelope = self.envelope(draft);
        let hostname = &self.rules.terms.hostname;
        let cipher = self.wire.cipher();
        let circumstances = Circumstances { client_name: self.name.get(), cipher: cipher.as_deref() };
        let trace = trace::received_field(&envelope, hostname, circumstances).into_bytes();
        let arrival = Arrival::of(&envelope, self.name.get());
        let incoming = self.door.spool.begin(envelope, trace);
        let (header, envelope_bytes) = (HeaderReader::new(hostname), beyond_own(recipient_bytes));
        Message { incoming, arrival, header, written: Ok(()), envelope_bytes }
    }

    /// Waits until there is content to be used, in as much memory as there is for it.
    async fn read(&mut self, message: &mut Message) -> Result<(), Ended> {
        let bytes = self.memory_for_a_read(message).await;
        if self.wire.input().is_empty() {
            self.more(Instant::now(), Some(bytes)).await?;
        }
        Ok(())
    }

    /// Makes room in memory for the next read, and for what it adds to the content. Where memory is used up, content goes
    /// to its file early.
    async fn memory_for_a_read(&mut self, message: &mut Message) -> usize {
        let wanted_bytes = message.bytes_with_a_read();
        if wanted_bytes > SESSION_BYTES_MAX || !self.share.resize(wanted_bytes) {
            message.spill_now().await;
            message.incoming.buffer().shrink_to(READ_BYTES);
            if !self.share.resize(message.bytes_with_a_read()) {
                self.share.resize(message.envelope_bytes);
                message.incoming.buffer().shrink_to(NARROW_READ_BYTES);
                return NARROW_READ_BYTES;
            }
        }
        message.incoming.buffer().reserve_exact(READ_BYTES + CARRIED_BYTES);
        READ_BYTES
    }

    /// After each read: large content goes to its file, and more room on the volume is promised if it is needed.
    async fn put_away(&mut self, message: &mut Message, content_bytes: u64) {
        let (door, rules) = (self.door, self.rules);
        let piece_bytes = door.memory.piece_bytes();
        message.spill(piece_bytes).await;
        let content = message.incoming.buffer();
        if content.is_empty() {
            content.shrink_to(piece_bytes); // it was just put away
        }
        let has_room = |promised| door.has_room(rules, promised);
        let is_covered = self.promise.as_mut().is_none_or(|promise| promise.covers(content_bytes, has_room));
        if !is_covered && message.written.is_ok() {
            message.written = Err(NotKept::Full);
        }
    }

    /// As much of the input as belongs to a part of which so much is missing.
    fn piece(&self, rest_bytes: u64) -> (&[u8], usize) {
        let input = self.wire.input();
        let taken = input.len().min(usize::try_from(rest_bytes).unwrap_or(usize::MAX));
        (&input[..taken], taken)
    }

    /// Content over the limit is read up to here, so that its sender hears why.
    fn skipped_bytes_max(&self) -> u64 {
        self.session.offer().message_bytes_max.saturating_mul(OVERSIZE_FACTOR_MAX)
    }

    /// All of a message has come.
    async fn keep(&mut self, message: Message, content_bytes: u64) -> Result<Said, Ended> {
        if let Err(refusal) = self.ask(&Question::Content(message.header.trail())) {
            self.give_up_passing();
            if refusal == Refusal::SentBack {
                tracing::error!(client = %self.client, "the primary sends back what it got from here");
                self.door.primary.sends_back();
            }
            return Ok(Said::Reply(refuse(refusal)));
        }
        if message.written.is_err() {
            self.give_up_passing(); // without a whole copy the primary's silence would lose it
        }
        let kept = match self.end_passing(&message).await? {
            None => None,
            Some(AtEnd::Ours(why, maybe)) => Some((why, maybe)),
            Some(AtEnd::No(no)) => return Ok(Said::Reply(passing::reply(&no))),
            Some(AtEnd::Unreadable) => {
                return self.session.kept(Err(NotKept::Disk)).map(Said::Reply).ok_or(Ended::Unanswerable);
            }
            Some(AtEnd::Passed { proof, next_hop }) => {
                let Message { incoming, arrival, .. } = message;
                self.door.metrics.passed.inc();
                self.door.spool.passed(incoming.recipients().len());
                arrival.log_passed(content_bytes, &next_hop, &proof.words());
                incoming.discard().await;
                return Ok(Said::Reply(self.session.passed(&proof, arrival.id)));
            }
        };
        self.keep_here(message, content_bytes, kept).await
    }

    /// It is ours to keep. `kept`: why, if it should have passed, and whether the primary may have it, too.
    async fn keep_here(
        &mut self,
        message: Message,
        content_bytes: u64,
        kept: Option<(Why, Option<Box<Maybe>>)>,
    ) -> Result<Said, Ended> {
        let Message { incoming, arrival, written, .. } = message;
        let outcome = match written {
            Ok(()) => incoming.keep().await,
            Err(reason) => Err(reason),
        };
        match &outcome {
            Ok(receipt) => {
                let (id, recipients) = (receipt.id(), arrival.recipients as u32); // config.rs bounds them
                self.door.metrics.accepted.inc();
                arrival.log(content_bytes, kept.as_ref().map(|(why, _)| why.label()));
                if let Some((why, _)) = &kept {
                    self.door.metrics.pass_kept.with_label_values(&[why.label()]).inc();
                }
                self.door.primary.kept_meanwhile(id, content_bytes);
                match kept.and_then(|(_, maybe)| maybe) {
                    Some(maybe) => self.door.pass_through.settle(*maybe, id, arrival.flow, recipients),
                    None => self.door.queue.spooled(id, arrival.flow, Lane::New),
                }
            }
            Err(reason) => tracing::error!(id = %arrival.id, client = %self.client, ?reason, "not kept"),
        }
        self.session.kept(outcome).map(Said::Reply).ok_or(Ended::Unanswerable)
    }
}

impl Message {
    /// Lets `feed` append to the content, and reads along.
    fn append<T>(&mut self, feed: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let content = self.incoming.buffer();
        let before = content.len();
        let fed = feed(content);
        self.header.feed(&content[before..]);
        fed
    }

    async fn spill(&mut self, piece_bytes: usize) {
        if self.written.is_ok() {
            self.written = self.incoming.spill(piece_bytes).await;
        } else {
            self.incoming.buffer().clear(); // what could not be taken once is only read over
        }
    }

    /// What it takes of memory, and a read more.
    fn bytes_with_a_read(&mut self) -> usize {
        let content = self.incoming.buffer();
        self.envelope_bytes + content.capacity().max(content.len() + READ_BYTES) + READ_BYTES
    }

    async fn spill_now(&mut self) {
        if self.incoming.buffer().is_empty() {
            return; // a file that may never be needed
        }
        if self.written.is_ok() {
            self.written = self.incoming.spill_now().await;
        }
        self.incoming.buffer().clear();
    }
}

fn unacceptable(fault: Fault) -> Reply {
    match fault {
        Fault::BareLineEnd => Reply::bare_line_end(),
        Fault::TooLarge => Reply::too_large(),
    }
}

/// What the log says of a message that came in.
pub(super) struct Arrival {
    pub id: MessageId,
    client: IpAddr,
    client_name: String,
    sender: String,
    flow: Flow,
    recipients: usize,
    /// The content came by BDAT without its last line end, and got one.
    pub line_end_added: bool,
}

impl Arrival {
    fn of(envelope: &Envelope, client_name: Option<&str>) -> Self {
        let sender = envelope.reverse_path.as_ref().map_or_else(String::new, |path| shown(path.as_str()));
        Self {
            id: envelope.id,
            client: envelope.client,
            client_name: client_name.map_or_else(String::new, shown),
            sender,
            flow: envelope.flow(),
            recipients: envelope.recipients.len(),
            line_end_added: false,
        }
    }

    /// The primary has it.
    fn log_passed(&self, content_bytes: u64, next_hop: &str, words: &str) {
        let Self { id, client, client_name, sender, recipients, .. } = self;
        let reply = shown(words);
        tracing::info!(%id, %client, client_name, sender, recipients, bytes = content_bytes, next_hop, reply, "passed");
    }

    /// `kept_because`: the primary did not take it, though mail passes through.
    fn log(&self, content_bytes: u64, kept_because: Option<&str>) {
        let Self { id, client, client_name, sender, flow: _, recipients, line_end_added } = self;
        tracing::info!(%id, %client, client_name, sender, recipients, bytes = content_bytes, kept_because, "accepted");
        if *line_end_added {
            tracing::info!(%id, "its content came without a last line end, and got one");
        }
    }
}
