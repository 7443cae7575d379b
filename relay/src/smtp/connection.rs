//! The driver of one session: reads, asks policy, hands content to the spool, writes, counts and logs.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{
    command::Command,
    data::{ChunkReader, DataReader, Fault},
    reply::Reply,
    session::{Chunk, Draft, Session, Step, Terms},
    wire::{Line, Wire, WireError},
};
use crate::{
    foreign::shown,
    mail::{envelope::Envelope, id::MessageId, trace},
    metrics::Metrics,
    policy::{self, Facts, recipient::Domains},
    primary::Primary,
    queue::Queue,
    spool::{Incoming, NotKept, Spool},
};

/// Waiting for a command or for content: RFC 5321 section 4.5.3.2.7 asks for 5 minutes at least.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Content over the limit is read to its end, so that the sender hears why; this many limits of it, then we close.
const OVERSIZE_FACTOR_MAX: u64 = 2;

/// What all connections share.
pub struct Door {
    /// What sessions go by.
    pub terms: Terms,
    /// Whose mail we take.
    pub domains: Domains,
    /// Where it goes.
    pub spool: Spool,
    /// Who is told of it.
    pub queue: Arc<Queue>,
    /// Who looks after the primary when a client comes.
    pub primary: Arc<Primary>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Serves one client to its end. Content that is coming in when `stop` is called is still taken.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    client: IpAddr,
    door: &Door,
    stop: &CancellationToken,
) {
    let (wire, session) = (Wire::new(stream), Session::new(&door.terms));
    let mut connection = Connection { wire, session, partial: None, client, door };
    let greeting = connection.session.greeting();
    connection.say(&greeting);
    match connection.converse(stop).await {
        Ok(Some(last)) => connection.say(&last),
        Ok(None) => return, // no reply would be true: close without one
        Err(WireError::Idle) => connection.say(&Reply::idle()),
        Err(cause @ (WireError::Closed | WireError::Io(_))) => {
            tracing::debug!(%client, %cause, "session ended");
            return;
        }
    }
    connection.wire.close().await;
}

struct Connection<'a, S> {
    wire: Wire<S>,
    session: Session<'a>,
    /// The message that comes by BDAT.
    partial: Option<Partial>,
    client: IpAddr,
    door: &'a Door,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Goes on until somebody ends it. Returns the last thing to say, `None` for nothing.
    async fn converse(&mut self, stop: &CancellationToken) -> Result<Option<Reply>, WireError> {
        loop {
            let line = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Some(Reply::shutting_down())),
                line = self.wire.line(IDLE_MAX) => line?,
            };
            let step = self.hear(&line);
            if !self.session.is_chunked() && !matches!(step, Step::Chunk(_)) {
                self.partial = None; // RSET, or EHLO
            }
            let reply = match step {
                Step::Say(reply) => reply,
                Step::Ask(question) => {
                    let verdict = policy::decide(&question, &self.facts());
                    self.session.decided(verdict)
                }
                Step::Receive(draft) => match self.receive(draft).await?.said() {
                    Ok(reply) => reply,
                    Err(last) => return Ok(last),
                },
                Step::Chunk(chunk) => match self.receive_chunk(chunk).await?.said() {
                    Ok(reply) => reply,
                    Err(last) => return Ok(last),
                },
                Step::Skip(bytes, _) if bytes > self.skipped_bytes_max() => return Ok(Some(Reply::far_too_large())),
                Step::Skip(bytes, reply) => {
                    self.octets(bytes, None).await?;
                    reply
                }
                Step::Close(reply) => return Ok(Some(reply)),
            };
            self.say(&reply);
        }
    }

    fn hear(&mut self, line: &Line) -> Step {
        match line {
            Line::Whole(line) => self.session.hear(Command::parse(line)),
            Line::BareLf => self.session.bad_line("Line must end in CR LF"),
            Line::TooLong => self.session.bad_line("Line too long"),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let Door { domains, spool, .. } = self.door;
        Facts { domains, free_bytes: spool.room_bytes(), is_writable: spool.is_writable() }
    }

    /// Writes a reply, and counts it if it refuses something.
    fn say(&mut self, reply: &Reply) {
        if let Some(reason) = reply.refused_for() {
            self.door.metrics.refused.with_label_values(&[reason]).inc();
            tracing::debug!(client = %self.client, reason, "refused");
        }
        reply.write(self.wire.output());
    }

    /// From 354 to the reply to the final dot.
    async fn receive(&mut self, draft: Draft) -> Result<Received, WireError> {
        let (mut incoming, arrival) = self.begin(draft);
        Reply::start_data().write(self.wire.output());
        let Content { ended, fault, bytes, written } = self.content(&mut incoming).await?;
        if !ended {
            return Ok(Received::FarTooLarge);
        }
        if let Some(fault) = fault {
            return Ok(Received::Answered(unacceptable(fault)));
        }
        self.keep(incoming, arrival, written, bytes).await
    }

    fn begin(&self, draft: Draft) -> (Incoming, Arrival) {
        let envelope = self.envelope(draft);
        let trace = trace::received_field(&envelope, &self.door.terms.hostname).into_bytes();
        let arrival = Arrival::of(&envelope);
        (self.door.spool.begin(envelope, trace), arrival)
    }

    /// A part of a message that comes by BDAT, to its end.
    async fn receive_chunk(&mut self, Chunk { bytes, is_last, begins }: Chunk) -> Result<Received, WireError> {
        let most = self.door.terms.message_bytes_max;
        if let Some(draft) = begins {
            let (incoming, arrival) = self.begin(draft);
            self.partial = Some(Partial { incoming, arrival, reader: ChunkReader::new(most), written: Ok(()) });
        }
        let Some(mut partial) = self.partial.take() else { return Ok(Received::Answered(Reply::local_error())) };
        if partial.reader.content_bytes().saturating_add(bytes) > self.skipped_bytes_max() {
            return Ok(Received::FarTooLarge);
        }
        self.octets(bytes, Some(&mut partial)).await?;
        let Partial { mut incoming, mut arrival, mut reader, written } = partial;
        arrival.line_end_added = is_last && reader.finish(incoming.buffer());
        if let Some(fault) = reader.fault() {
            self.session.chunk_failed();
            return Ok(Received::Answered(unacceptable(fault)));
        }
        if is_last || written.is_err() {
            let received = self.keep(incoming, arrival, written, reader.content_bytes()).await;
            self.session.chunk_failed(); // if it was not the last one, there is no message to go on with
            return received;
        }
        self.partial = Some(Partial { incoming, arrival, reader, written });
        Ok(Received::Answered(Reply::chunk_ok(bytes)))
    }

    /// Reads so many bytes of content, and over them if there is nothing that they belong to.
    async fn octets(&mut self, bytes: u64, mut into: Option<&mut Partial>) -> Result<(), WireError> {
        let mut rest = bytes;
        while rest > 0 {
            let input = self.wire.input(IDLE_MAX).await?;
            let taken = input.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            if let Some(Partial { incoming, reader, .. }) = into.as_deref_mut() {
                reader.feed(&input[..taken], incoming.buffer());
            }
            self.wire.consume(taken);
            rest -= taken as u64;
            if let Some(Partial { incoming, written, .. }) = into.as_deref_mut() {
                spill(incoming, written).await;
            }
        }
        Ok(())
    }

    /// Content over the limit is read up to here, so that its sender hears why.
    fn skipped_bytes_max(&self) -> u64 {
        self.door.terms.message_bytes_max.saturating_mul(OVERSIZE_FACTOR_MAX)
    }

    /// All of a message has come. `written`: whether the spool could take its content.
    async fn keep(
        &mut self,
        incoming: Incoming,
        arrival: Arrival,
        written: Result<(), NotKept>,
        content_bytes: u64,
    ) -> Result<Received, WireError> {
        let outcome = match written {
            Ok(()) => incoming.keep().await,
            Err(reason) => Err(reason),
        };
        match &outcome {
            Ok(receipt) => {
                self.door.metrics.accepted.inc();
                arrival.log(content_bytes);
                self.door.queue.spooled(receipt.id());
            }
            Err(reason) => tracing::error!(id = %arrival.id, client = %self.client, ?reason, "not kept"),
        }
        Ok(self.session.kept(outcome).map_or(Received::Unanswerable, Received::Answered))
    }

    fn envelope(&self, draft: Draft) -> Envelope {
        let Draft { helo, protocol, reverse_path, recipients, body } = draft;
        let (id, received_at, client) = (MessageId::new(), Timestamp::now(), self.client);
        Envelope { id, received_at, client, helo, protocol, reverse_path, recipients, body }
    }

    /// Reads content to its end. What cannot be written is read all the same: the reply belongs behind the final dot.
    async fn content(&mut self, incoming: &mut Incoming) -> Result<Content, WireError> {
        let most = self.door.terms.message_bytes_max;
        let mut reader = DataReader::new(most);
        let mut written = Ok(());
        loop {
            let (taken, ended) = {
                let input = self.wire.input(IDLE_MAX).await?;
                reader.feed(input, incoming.buffer())
            };
            self.wire.consume(taken);
            spill(incoming, &mut written).await;
            let bytes = reader.content_bytes();
            if ended || bytes > self.skipped_bytes_max() {
                return Ok(Content { ended, fault: reader.fault(), bytes, written });
            }
        }
    }
}

/// What came of a message.
enum Received {
    /// The sender hears this, and may go on.
    Answered(Reply),
    /// It went on and on: the sender hears why, and we close.
    FarTooLarge,
    /// No reply would be true.
    Unanswerable,
}

impl Received {
    /// What to say before going on, or the last thing to say.
    fn said(self) -> Result<Reply, Option<Reply>> {
        match self {
            Self::Answered(reply) => Ok(reply),
            Self::FarTooLarge => Err(Some(Reply::far_too_large())),
            Self::Unanswerable => Err(None),
        }
    }
}

/// What the spool could not take once is only read over.
async fn spill(incoming: &mut Incoming, written: &mut Result<(), NotKept>) {
    if written.is_ok() {
        *written = incoming.spill().await;
    } else {
        incoming.buffer().clear();
    }
}

fn unacceptable(fault: Fault) -> Reply {
    match fault {
        Fault::BareLineEnd => Reply::bare_line_end(),
        Fault::TooLarge => Reply::too_large(),
    }
}

/// A message that comes by BDAT, of which more is to come.
struct Partial {
    incoming: Incoming,
    arrival: Arrival,
    reader: ChunkReader,
    written: Result<(), NotKept>,
}

/// What came behind 354.
struct Content {
    /// False if it went on beyond all bounds.
    ended: bool,
    /// Why it cannot be kept.
    fault: Option<Fault>,
    bytes: u64,
    /// Whether the spool could take it so far.
    written: Result<(), NotKept>,
}

/// What the log says of a message that came in.
struct Arrival {
    id: MessageId,
    client: IpAddr,
    sender: String,
    recipients: usize,
    /// The content came by BDAT without its last line end, and got one.
    line_end_added: bool,
}

impl Arrival {
    fn of(envelope: &Envelope) -> Self {
        let sender = envelope.reverse_path.as_ref().map_or_else(String::new, |path| shown(path.as_str()));
        Self {
            id: envelope.id,
            client: envelope.client,
            sender,
            recipients: envelope.recipients.len(),
            line_end_added: false,
        }
    }

    fn log(&self, content_bytes: u64) {
        let Self { id, client, sender, recipients, line_end_added } = self;
        tracing::info!(%id, %client, sender, recipients, bytes = content_bytes, "accepted");
        if *line_end_added {
            tracing::info!(%id, "its content came without a last line end, and got one");
        }
    }
}

#[cfg(test)]
mod tests {
    use backupmx_relay_api::config::{Delivery, Host, Probe};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::spool::{Watchers, disk::RealDisk};

    fn door(folder: &std::path::Path) -> Door {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (spool, _) =
            Spool::open(Arc::new(RealDisk::new(folder)), Watchers { synced: Box::new(|_| {}), rot: Box::new(|_| {}) })
                .unwrap();
        let queue = Arc::new(Queue::new(&Delivery::default()));
        let hosts = vec![Host { host: "mx1.example.org".into(), port: 25 }];
        let primary = Primary::new(hosts, "mx2.example.org".into(), Probe::default(), queue.clone(), metrics.clone());
        let terms = Terms {
            hostname: "mx2.example.org".into(),
            postmaster_domain: "example.org".into(),
            message_bytes_max: 1000,
            recipients_max: 100,
        };
        let domains = Domains::new(&["example.org".into()]).unwrap();
        Door { terms, domains, spool, queue, primary: Arc::new(primary), metrics }
    }

    /// Says all of it and then nothing more, and returns what is heard until the relay closes.
    async fn then_silence(door: &Door, said: &str) -> String {
        let (mut client, server): (DuplexStream, _) = tokio::io::duplex(64 << 10);
        client.write_all(said.as_bytes()).await.unwrap();
        let (address, stop) = ("192.0.2.1".parse().unwrap(), CancellationToken::new());
        let mut heard = String::new();
        tokio::join!(serve(server, address, door, &stop), async { client.read_to_string(&mut heard).await.unwrap() });
        heard
    }

    const TO_DATA: &str = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_is_told_after_five_minutes_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        let half_a_message = format!("{TO_DATA}Subject: never fini");
        for said in ["", "EHLO c\r\n", "EHLO c\r\nMAIL FR", TO_DATA, &half_a_message] {
            let begun = tokio::time::Instant::now();
            let heard = then_silence(&door, said).await;
            assert!(heard.ends_with("421 4.4.2 Nothing came for too long; closing\r\n"), "{said:?}: {heard}");
            assert_eq!(begun.elapsed().as_secs(), IDLE_MAX.as_secs(), "{said:?}");
        }
        assert_eq!(door.spool.counts().messages, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_far_over_the_limit_is_cut_off_and_a_small_excess_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        let line = "x".repeat(98) + "\r\n";
        for (lines, end, told) in
            [(10, ".\r\n", "250 2.0.0 Kept as "), (11, ".\r\n", "552 5.3.4 "), (21, "", "421 4.3.4 ")]
        {
            let heard = then_silence(&door, &format!("{TO_DATA}{}{end}", line.repeat(lines))).await;
            let reply = heard.lines().skip_while(|line| !line.starts_with("354")).nth(1).unwrap();
            assert!(reply.starts_with(told), "{lines} lines: {reply}");
        }
        assert_eq!(door.spool.counts().messages, 1);
    }
}
