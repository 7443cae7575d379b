//! The driver of one session: reads, asks policy, hands content to the spool, writes, counts and logs.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    certificates::Certificates,
    clients::Clients,
    command::Command,
    memory::{Memory, Share, beyond_own},
    names::ClientName,
    places::Place,
    promises::{Promise, Promises},
    receive::Partial,
    reply::Reply,
    session::{Offer, Session, Step, Terms},
    wire::{LINE_READ_BYTES, Line, Wire, WireError},
};
use crate::{
    metrics::Metrics,
    pass_through::{PassThrough, Passing},
    policy::{self, Facts, Question, Refusal, client::Networks, recipient::Domains},
    primary::Primary,
    queue::Queue,
    spool::Spool,
};

/// What all connections share.
pub struct Door {
    /// What sessions go by that begin now; each goes by it to its end.
    pub rules: ArcSwap<Rules>,
    /// Whether no more mail is taken.
    pub cordoned: watch::Sender<bool>,
    /// Where mail goes while the primary is up.
    pub pass_through: Arc<PassThrough>,
    /// Where mail goes.
    pub spool: Spool,
    /// Who is told of it.
    pub queue: Arc<Queue>,
    /// Who looks after the primary when a client comes.
    pub primary: Arc<Primary>,
    /// For STARTTLS.
    pub certificates: Arc<Certificates>,
    /// For buffers.
    pub memory: Arc<Memory>,
    /// For room on the volume.
    pub promises: Promises,
    /// Who came.
    pub clients: Arc<Clients>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What the configuration says of sessions.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What sessions go by.
    pub terms: Terms,
    /// What drivers go by.
    pub limits: Limits,
    /// Whether the primary is asked while its clients wait.
    pub passes: bool,
    /// Whose mail we take.
    pub domains: Domains,
    /// Who may say ETRN, besides the primary.
    pub etrn: Networks,
    /// Who may speak for clients, where proxies connect.
    pub proxies: Networks,
}

/// What a connection is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest message, whatever the primary takes.
    pub message_bytes_max: u64,
    /// Longest command line.
    pub line_bytes_max: usize,
    /// To keep free on the volume.
    pub room_bytes_min: u64,
    /// Silence while there are places enough.
    pub idle: Duration,
    /// While places are scarce, after MAIL.
    pub busy: Duration,
    /// While places are scarce, before MAIL.
    pub busy_before_mail: Duration,
}

impl Limits {
    /// How long a client may be silent.
    fn patience(&self, is_busy: bool, in_transaction: bool) -> Duration {
        match (is_busy, in_transaction) {
            (false, _) => self.idle,
            (true, true) => self.busy.min(self.idle),
            (true, false) => self.busy_before_mail.min(self.idle),
        }
    }
}

/// Who is served.
pub struct Visitor {
    /// Where the connection comes from, or whom the proxy names.
    pub address: IpAddr,
    /// From which port; behind a proxy that is not known.
    pub port: Option<u16>,
    /// What DNS calls it.
    pub name: ClientName,
    /// What it has said already, behind the proxy's header.
    pub said: Vec<u8>,
    /// Its place among all sessions.
    pub place: Place,
    /// False for a proxy that speaks for itself.
    pub is_client: bool,
}

/// Serves one client to its end. Content that is coming in when `stop` is called is still taken.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    visitor: Visitor,
    door: &Door,
    stop: &CancellationToken,
) {
    let Visitor { address: client, port, name, said, place, is_client } = visitor;
    let rules = &door.rules.load_full();
    let (message_bytes_max, parameters) = door.primary.offers(rules.limits.message_bytes_max);
    let etrn = door.primary.has_address(client) || rules.etrn.contain(client);
    let offer = Offer { message_bytes_max, parameters, tls: door.certificates.state(), etrn };
    let mut connection = Connection {
        wire: Wire::new(stream, said, rules.limits.line_bytes_max),
        session: Session::new(&rules.terms, offer),
        partial: None,
        passing: None,
        promise: None,
        share: door.memory.share(),
        client,
        port,
        name,
        place,
        is_to_be_counted: is_client && !door.primary.has_address(client),
        door,
        rules,
    };
    let greeting = connection.session.greeting();
    connection.say(&greeting);
    let ended = connection.converse(stop).await;
    connection.give_up_passing();
    match ended {
        Ok(last) => {
            connection.say(&last);
            if !last.is_goodbye() {
                return connection.wire.close_upon().await;
            }
        }
        Err(Ended::Stopped) => connection.say(&Reply::shutting_down()),
        Err(Ended::Cordoned) => connection.say(&Reply::cordoned()),
        Err(Ended::GaveWay) => connection.say(&Reply::make_room()),
        Err(Ended::Wire(WireError::Idle)) => connection.say(&Reply::idle()),
        Err(Ended::Unanswerable) => return, // no reply would be true: close without one
        Err(Ended::Wire(cause)) => {
            match cause {
                WireError::Tls(_) => connection.count("tls_handshake"),
                _ if connection.promise.is_some() => connection.count("vanished"), // in the middle of a message
                _ => {}
            }
            tracing::debug!(%client, %cause, "session ended");
            return;
        }
    }
    connection.wire.close().await;
}

/// One client's connection.
pub(super) struct Connection<'a, S> {
    pub wire: Wire<S>,
    pub session: Session<'a>,
    /// The message that comes by BDAT.
    pub partial: Option<Partial>,
    /// The message that has begun, if the primary is asked about it.
    pub passing: Option<Passing>,
    /// Room for the message that has begun.
    pub promise: Option<Promise<'a>>,
    /// Memory for its buffers.
    pub share: Share,
    pub client: IpAddr,
    pub port: Option<u16>,
    pub name: ClientName,
    place: Place,
    /// It has not said hello yet, and is neither the primary nor a proxy's own look at us.
    is_to_be_counted: bool,
    pub door: &'a Door,
    pub rules: &'a Rules,
}

/// Why a conversation ended before its client said so.
pub(super) enum Ended {
    /// The process stops.
    Stopped,
    /// No more mail is taken.
    Cordoned,
    /// Somebody else needs the place.
    GaveWay,
    /// Neither yes nor no would be true.
    Unanswerable,
    /// The connection is of no more use.
    Wire(WireError),
}

impl From<WireError> for Ended {
    fn from(cause: WireError) -> Self {
        Self::Wire(cause)
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    /// Goes on until somebody ends it. Returns the last thing to say.
    async fn converse(&mut self, stop: &CancellationToken) -> Result<Reply, Ended> {
        loop {
            let line = self.line(stop).await?;
            let step = match line {
                Line::Whole(line) => self.session.hear(Command::parse(&line)),
                Line::BareLf => self.session.bad_line("Line must end in CR LF"),
                Line::TooLong => self.session.bad_line("Line too long"),
                Line::Tls => Step::Close(Reply::not_tls_yet()),
            };
            if !self.session.is_chunked() && !matches!(step, Step::Chunk(_)) {
                self.partial = None; // RSET, or EHLO
            }
            if self.is_to_be_counted && self.session.has_said_hello() {
                self.is_to_be_counted = false;
                self.door.clients.count(self.client, Instant::now().into_std());
            }
            match self.take(step, stop).await? {
                Said::Reply(reply) => self.say(&reply),
                Said::Last(reply) => return Ok(reply),
                Said::Nothing => {}
            }
            if !self.session.is_in_transaction() {
                self.promise = None;
                self.share.resize(0);
                self.give_up_passing();
            }
        }
    }

    /// Does what follows from what was heard.
    async fn take(&mut self, step: Step, stop: &CancellationToken) -> Result<Said, Ended> {
        match step {
            Step::Say(reply) => Ok(Said::Reply(reply)),
            Step::Close(reply) => Ok(Said::Last(reply)),
            Step::Ask(question) => {
                // The envelope is a part of what a session may hold.
                let bytes = beyond_own(self.session.recipient_bytes());
                let verdict =
                    self.ask(&question).and_then(|()| self.share.resize(bytes).then_some(()).ok_or(Refusal::Memory));
                if verdict.is_ok()
                    && let Some(reply) = self.ask_primary().await?
                {
                    return Ok(Said::Reply(self.session.not_taken(reply)));
                }
                Ok(Said::Reply(self.session.decided(verdict)))
            }
            Step::Receive(draft) => self.receive(draft).await,
            Step::Chunk(chunk) => self.receive_chunk(chunk).await,
            Step::Skip(bytes, reply) => self.skip(bytes, reply).await,
            Step::Etrn(domain) => Ok(Said::Reply(self.etrn(&domain))),
            Step::StartTls(reply) => {
                self.say(&reply);
                self.start_tls(stop).await
            }
        }
    }

    /// The next line. Its client has the time of one silence for all of it: a byte now and then does not keep us.
    ///
    /// A message that has begun is taken, whatever the configuration says of others by now.
    async fn line(&mut self, stop: &CancellationToken) -> Result<Line, Ended> {
        let since = Instant::now();
        let (mut cordoned, in_transaction) = (self.door.cordoned.subscribe(), self.session.is_in_transaction());
        loop {
            if !in_transaction && *cordoned.borrow_and_update() {
                return Err(Ended::Cordoned);
            }
            if let Some(line) = self.wire.line() {
                return Ok(line);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Stopped),
                _ = cordoned.wait_for(|cordoned| *cordoned), if !in_transaction => {}
                filled = self.more(since, None) => filled?,
            }
        }
    }

    /// Waits for input. `since`: when its client was last heard; `read_bytes`: of content, how much to read at a time.
    pub async fn more(&mut self, since: Instant, read_bytes: Option<usize>) -> Result<(), Ended> {
        let Self { wire, place, rules, session, passing, .. } = self;
        let in_transaction = read_bytes.is_some() || session.is_in_transaction();
        let mut busy = place.busy();
        place.waits(since.into_std(), in_transaction);
        let mut fill = pin!(wire.fill(read_bytes.unwrap_or(LINE_READ_BYTES)));
        loop {
            let is_busy = *busy.borrow_and_update();
            let deadline = since + rules.limits.patience(is_busy, in_transaction);
            let slow_at = passing.as_ref().and_then(Passing::slow_at);
            tokio::select! {
                biased;
                filled = &mut fill => {
                    place.works();
                    return Ok(filled?);
                }
                () = place.must_give_way() => return Err(Ended::GaveWay),
                () = sleep_until(deadline) => return Err(WireError::Idle.into()),
                () = sleep_until(slow_at.unwrap_or(deadline)), if slow_at.is_some() => {
                    passing.iter_mut().for_each(Passing::set_aside);
                }
                changed = busy.changed() => if changed.is_err() { return Err(Ended::GaveWay) },
            }
        }
    }

    /// Policy's answer. A yes to MAIL comes with room on the volume.
    pub fn ask(&mut self, question: &Question) -> Result<(), Refusal> {
        let (door, rules, is_from_primary) = (self.door, self.rules, self.door.primary.has_address(self.client));
        let Question::Sender { size } = question else {
            return policy::decide(question, &door.facts(rules, door.promises.bytes(), is_from_primary));
        };
        let is_left = |promised| policy::decide(question, &door.facts(rules, promised, is_from_primary));
        self.promise = Some(door.promises.make(*size, is_left)?);
        Ok(())
    }

    fn etrn(&self, domain: &str) -> Reply {
        if !self.rules.domains.contain(domain) {
            return Reply::etrn_foreign();
        }
        if self.door.queue.waiting() == 0 {
            return Reply::etrn_nothing(); // what is held waits for a person
        }
        let messages = self.door.queue.flush();
        self.door.primary.probe_at_once();
        tracing::info!(messages, client = %self.client, "flush was ordered by ETRN");
        Reply::etrn_started()
    }

    async fn start_tls(&mut self, stop: &CancellationToken) -> Result<Said, Ended> {
        self.place.waits(Instant::now().into_std(), false);
        let acceptor = self.door.certificates.acceptor();
        let injected_bytes = tokio::select! {
            begun = self.wire.start_tls(&acceptor) => begun?,
            () = stop.cancelled() => return Err(Ended::Stopped),
            () = self.place.must_give_way() => return Err(Ended::GaveWay),
        };
        self.place.works();
        if injected_bytes > 0 {
            self.count("injected");
            tracing::warn!(client = %self.client, injected_bytes, "commands behind STARTTLS, in clear, were thrown away");
        }
        self.session.encrypted();
        Ok(Said::Nothing)
    }

    /// Writes a reply, and counts it if it refuses something.
    pub fn say(&mut self, reply: &Reply) {
        if let Some(reason) = reply.refused_for() {
            self.count(reason);
            tracing::debug!(client = %self.client, reason, "refused");
        }
        reply.write(self.wire.output());
    }

    fn count(&self, reason: &str) {
        self.door.metrics.refused.with_label_values(&[reason]).inc();
    }
}

/// What follows from a step.
pub(super) enum Said {
    /// The client hears this, and may go on.
    Reply(Reply),
    /// The client hears this, and we close.
    Last(Reply),
    /// The client heard it already.
    Nothing,
}

impl Door {
    /// What policy goes by, while so much room is promised.
    fn facts<'a>(&self, rules: &'a Rules, promised_bytes: u64, is_from_primary: bool) -> Facts<'a> {
        let (Rules { domains, limits, .. }, spool) = (rules, &self.spool);
        let (room_bytes, room_bytes_min) = (spool.room_bytes().saturating_sub(promised_bytes), limits.room_bytes_min);
        Facts { domains, room_bytes, room_bytes_min, is_writable: spool.is_writable(), is_from_primary }
    }

    /// Whether room for a little more is left, while so much is promised.
    pub(super) fn has_room(&self, rules: &Rules, promised_bytes: u64) -> bool {
        policy::room::is_left(None, &self.facts(rules, promised_bytes, false)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use backupmx_relay_api::config::{Delivery, Document, Host, PrimaryTls, WhenPrimaryUp};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::{
        config,
        delivery::{encryption::Encryption, hop::Caller},
        running::{Origin, Running},
        smtp::{
            memory,
            places::{Bounds, Places},
        },
        spool::{Watchers, disk::RealDisk},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn door(folder: &std::path::Path) -> Door {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (spool, _) =
            Spool::open(Arc::new(RealDisk::new(folder)), Watchers { synced: Box::new(|_| {}), rot: Box::new(|_| {}) })
                .unwrap();
        let queue = Arc::new(Queue::new(&Delivery::default(), WhenPrimaryUp::Queue));
        let hostname = "mx2.example.org".to_owned();
        let mut document =
            Document { domains: vec!["example.org".into()], hostname: hostname.clone(), ..Document::default() };
        document.primary.hosts = vec![Host { host: "mx1.example.org".into(), port: 25, xclient: false }];
        let encryption = Arc::new(Encryption::new(&PrimaryTls::default()).unwrap());
        let caller = Caller::new(hostname.clone(), encryption, Vec::new());
        let config = config::check(document).unwrap();
        let primary = Arc::new(Primary::new(&config, caller, queue.clone(), metrics.clone(), folder));
        let running = Arc::new(Running::new(config.clone(), Origin::default(), jiff::Timestamp::now()));
        let pass_through = PassThrough::new(primary.clone(), queue.clone(), spool.clone(), metrics.clone(), running);
        let terms = Terms {
            hostname,
            postmaster_domain: "example.org".into(),
            recipients_max: 100,
            errors_max: 20,
            junk_commands_max: 100,
        };
        let limits = Limits {
            message_bytes_max: 1000,
            line_bytes_max: 2048,
            room_bytes_min: 0,
            idle: 5 * MINUTE,
            busy: MINUTE,
            busy_before_mail: MINUTE / 6,
        };
        let (etrn, proxies) = (Networks::default(), Networks::default());
        let rules = Rules { terms, limits, passes: false, domains: config.domains, etrn, proxies };
        Door {
            rules: ArcSwap::from_pointee(rules),
            cordoned: watch::Sender::new(false),
            pass_through,
            spool,
            queue,
            primary,
            certificates: Arc::new(Certificates::new(Vec::new()).unwrap()),
            memory: Memory::new(1 << 20, 10),
            promises: Promises::default(),
            clients: Arc::default(),
            metrics,
        }
    }

    fn limit(door: &Door, change: impl FnOnce(&mut Limits)) {
        let mut rules = Rules::clone(&door.rules.load());
        change(&mut rules.limits);
        door.rules.store(Arc::new(rules));
    }

    fn places(sessions_max: usize) -> Arc<Places> {
        Places::new(Bounds { sessions_max, sessions_per_client_max: 10 }, Instant::now().into_std())
    }

    fn visitor(places: &Arc<Places>) -> Visitor {
        let address = "192.0.2.1".parse().unwrap();
        let place = places.admit(address, Instant::now().into_std()).unwrap();
        Visitor { address, port: None, name: ClientName::none(), said: Vec::new(), place, is_client: true }
    }

    /// Says all of it and then nothing more, and returns what is heard until the relay closes.
    async fn then_silence(door: &Door, places: &Arc<Places>, said: &str) -> String {
        let (mut client, server): (DuplexStream, _) = tokio::io::duplex(64 << 10);
        client.write_all(said.as_bytes()).await.unwrap();
        let (stop, mut heard) = (CancellationToken::new(), String::new());
        let serving = serve(server, visitor(places), door, &stop);
        tokio::join!(serving, async { client.read_to_string(&mut heard).await.unwrap() });
        heard
    }

    const TO_MAIL: &str = "EHLO c\r\nMAIL FROM:<>\r\n";
    const TO_DATA: &str = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_is_told_wherever_it_is_and_sooner_when_places_are_scarce() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        let half_a_message = format!("{TO_DATA}Subject: never fini");
        for (said, seconds_busy) in [
            ("", 10),
            ("EHLO c\r\n", 10),
            ("EHLO c\r\nMAIL FR", 10),
            (TO_MAIL, 60),
            (TO_DATA, 60),
            (&half_a_message, 60),
        ] {
            for (sessions_max, seconds) in [(10, 300), (1, seconds_busy)] {
                let begun = Instant::now();
                let heard = then_silence(&door, &places(sessions_max), said).await;
                assert!(heard.ends_with("421 4.4.2 Nothing came for too long; closing\r\n"), "{said:?}: {heard}");
                assert_eq!(begun.elapsed().as_secs(), seconds, "{said:?}, {sessions_max} places");
            }
        }
        assert_eq!((door.spool.counts().messages, door.promises.bytes()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_trickles_in_is_not_waited_for_longer() {
        let folder = tempfile::tempdir().unwrap();
        let (door, places, stop) = (door(folder.path()), places(10), CancellationToken::new());
        let (mut client, server) = tokio::io::duplex(4096);
        let begun = Instant::now();
        let trickle = async {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(MINUTE).await
            }
        };
        tokio::join!(
            async {
                tokio::select! { () = trickle => {}, () = tokio::time::sleep(10 * MINUTE) => {} }
            },
            async {
                serve(server, visitor(&places), &door, &stop).await;
                assert_eq!(begun.elapsed().as_secs(), 300);
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_replies_is_not_waited_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let (door, places, stop) = (door(folder.path()), places(10), CancellationToken::new());
        // Too narrow for the greeting, and for a reply to what follows it: a minute, and then the last word.
        for (width, said, seconds) in [(30, "EHLO c\r\n", 63), (40, "QUIT\r\n", 3), (40, "GET / HTTP/1.1\r\n", 3)] {
            let (mut client, server) = tokio::io::duplex(width);
            let begun = Instant::now();
            tokio::join!(serve(server, visitor(&places), &door, &stop), async {
                client.write_all(said.as_bytes()).await.unwrap();
            });
            assert_eq!(begun.elapsed().as_secs(), seconds, "{said:?}");
            drop(client);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_idle_one_is_told_and_the_newcomer_served() {
        let folder = tempfile::tempdir().unwrap();
        let (door, places, stop) = (door(folder.path()), places(1), CancellationToken::new());
        let (mut idle, server) = tokio::io::duplex(4096);
        let mut heard = String::new();
        let started = std::time::Instant::now();
        tokio::join!(serve(server, visitor(&places), &door, &stop), async {
            // Paused time does not move the clock by which places reckon.
            tokio::task::yield_now().await;
            let later = started + Duration::from_secs(6);
            let newcomer = places.admit("192.0.2.2".parse().unwrap(), later);
            assert!(newcomer.is_some());
            idle.read_to_string(&mut heard).await.unwrap();
        });
        assert!(
            heard.ends_with("421 4.4.2 Others wait and nothing came from you; closing, try again soon\r\n"),
            "{heard}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_far_over_the_limit_is_cut_off_and_a_small_excess_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        let line = "x".repeat(98) + "\r\n";
        for (lines, end, told) in [
            (10, ".\r\n", "250 2.0.0 Kept as "),
            (11, ".\r\n", "552 5.3.4 Message is larger"),
            (21, "", "552 5.3.4 Message is far larger"),
        ] {
            let heard = then_silence(&door, &places(10), &format!("{TO_DATA}{}{end}", line.repeat(lines))).await;
            let reply = heard.lines().skip_while(|line| !line.starts_with("354")).nth(1).unwrap();
            assert!(reply.starts_with(told), "{lines} lines: {reply}");
        }
        assert_eq!(door.spool.counts().messages, 1);
    }

    #[tokio::test]
    async fn cordoned_it_takes_the_message_that_has_begun_and_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let (door, stop) = (door(folder.path()), CancellationToken::new());
        const TOLD: &str = "421 4.3.2 This server takes no mail for now; try the next one, or again later\r\n";
        for (before, after, kept) in [
            ("", "", false),
            ("EHLO c\r\n", "", false),
            ("EHLO c\r\nMAIL FR", "", false),
            (TO_MAIL, "RSET\r\n", false),
            (TO_MAIL, "RCPT TO:<a@example.org>\r\nDATA\r\nx\r\n.\r\nMAIL FROM:<>\r\n", true),
            (TO_DATA, "x\r\n.\r\nQUIT\r\n", true),
            ("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nBDAT 1\r\nx", "BDAT 1 LAST\r\ny", true),
        ] {
            door.cordoned.send_replace(false);
            let (client, server) = tokio::io::duplex(100_000);
            let (mut hears, mut says) = tokio::io::split(client);
            let (mut heard, places) = (String::new(), places(10));
            tokio::join!(serve(server, visitor(&places), &door, &stop), async {
                let mut piece = [0; 4096];
                says.write_all(before.as_bytes()).await.unwrap();
                let commands = before.matches("\r\n").count();
                while heard.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).count() < 1 + commands {
                    let read = hears.read(&mut piece).await.unwrap();
                    heard += std::str::from_utf8(&piece[..read]).unwrap();
                }
                door.cordoned.send_replace(true);
                let _ = says.write_all(after.as_bytes()).await;
                hears.read_to_string(&mut heard).await.unwrap();
            });
            assert!(heard.ends_with(TOLD), "{before:?}, {after:?}: {heard}");
            assert_eq!(heard.contains("250 2.0.0 Kept as"), kept, "{before:?}, {after:?}: {heard}");
        }
    }

    #[tokio::test]
    async fn where_memory_is_used_up_content_goes_to_its_file_and_arrives_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut door = door(folder.path());
        door.memory = Memory::new(0, 10);
        limit(&door, |limits| limits.message_bytes_max = 1_000_000);
        let content = "0123456789abcdef0123456789abcdef\r\n".repeat(10_000);
        let (client, server) = tokio::io::duplex(100_000);
        let (mut hears, mut says) = tokio::io::split(client);
        let (stop, mut heard) = (CancellationToken::new(), String::new());
        let places = places(10);
        tokio::join!(
            serve(server, visitor(&places), &door, &stop),
            async { says.write_all(format!("{TO_DATA}{content}.\r\nQUIT\r\n").as_bytes()).await.unwrap() },
            async { hears.read_to_string(&mut heard).await.unwrap() },
        );
        assert!(heard.contains("250 2.0.0 Kept as"), "{heard}");
        let id = heard.split("Kept as ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
        let mut stored = door.spool.read(id).await.unwrap().unwrap();
        let mut arrived = Vec::new();
        while let Some(piece) = stored.content.next_piece().unwrap() {
            arrived.extend(piece);
        }
        assert!(arrived == content.as_bytes(), "{} of {} bytes", arrived.len(), content.len());
    }

    #[tokio::test]
    async fn recipients_that_do_not_fit_into_memory_are_put_off_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut door = door(folder.path());
        door.memory = Memory::new(10 * memory::OWN_BYTES + 20_000, 10);
        let long = "a".repeat(255);
        let rcpts: String = (0..60).map(|_| format!("RCPT TO:<{long}@example.org>\r\n")).collect();
        let heard = then_quit(&door, &format!("EHLO c\r\nMAIL FROM:<>\r\n{rcpts}DATA\r\nx\r\n.\r\n")).await;
        let (taken, put_off) = (heard.matches("250 2.1.5").count(), heard.matches("452 4.3.1").count());
        assert!(taken > 5 && put_off > 5 && taken + put_off == 60, "{heard}");
        assert!(heard.contains("250 2.0.0 Kept as"), "{heard}");
    }

    #[tokio::test]
    async fn a_message_without_room_on_the_volume_is_refused_at_mail_or_when_it_outgrows_its_promise() {
        let folder = tempfile::tempdir().unwrap();
        let door = door(folder.path());
        limit(&door, |limits| {
            limits.message_bytes_max = 10_000_000;
            limits.room_bytes_min = door.spool.room_bytes() - (2 << 20);
        });
        let heard = then_quit(&door, "EHLO c\r\nMAIL FROM:<> SIZE=9000000\r\n").await;
        assert!(heard.contains("\r\n452 4.3.1"), "{heard}");
        let mut too_long = format!("{TO_DATA}{}", "x".repeat(98).repeat(30_000));
        too_long += "\r\n.\r\n";
        let heard = then_quit(&door, &too_long).await;
        assert!(heard.contains("354 ") && heard.contains("\r\n452 4.3.1"), "{heard}");
        assert_eq!(door.promises.bytes(), 0);
    }

    async fn then_quit(door: &Door, said: &str) -> String {
        let (client, server) = tokio::io::duplex(100_000);
        let (mut hears, mut says) = tokio::io::split(client);
        let (stop, mut heard, places) = (CancellationToken::new(), String::new(), places(10));
        tokio::join!(
            serve(server, visitor(&places), door, &stop),
            async { says.write_all(format!("{said}QUIT\r\n").as_bytes()).await.unwrap() },
            async { hears.read_to_string(&mut heard).await.unwrap() },
        );
        heard
    }
}
