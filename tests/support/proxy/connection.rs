//! One connection: its two sides, what both threads that hand on know of each other, and how it ends.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Condvar, Mutex, MutexGuard, OnceLock},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;

use super::{
    Exchange, Shared,
    backward::Backward,
    forward::Forward,
    harm::{Fault, Side, Step},
    lock,
};

pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// Between two looks of a thread that reads or writes whether the connection has been ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// For the server to take a connection. One that nobody answers is tried again meanwhile.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// From a cut to the close of its sockets. Closed at once, they would answer with RST what the other side still sends.
const LINGER_LIMIT: Duration = Duration::from_secs(2);
/// Between a look at one side and at the other.
const LINGER_PAUSE: Duration = Duration::from_millis(10);
/// Between two fragments: long enough that they are read one by one.
const FRAGMENT_PAUSE: Duration = Duration::from_millis(1);
/// Of a command, reply or content, so many go as fragments. More would only take more time.
pub(super) const FRAGMENTS_MAX: usize = 512;

/// How a connection ends other than by its client or server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// FIN both ways.
    Cut,
    /// RST both ways.
    Reset,
    /// The proxy ends.
    Stop,
}

pub(super) struct Connection {
    number: u64,
    pub(super) client: TcpStream,
    server: OnceLock<TcpStream>,
    pub(super) state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) end: Option<End>,
    /// Nothing goes any more, in either direction.
    pub(super) held: bool,
    /// Nothing goes to the server: a reply is on its way behind which nothing may follow.
    pub(super) after_reply: bool,
    /// Commands that are with the server, or on their way, until their reply was handed on.
    pub(super) awaited: VecDeque<Awaited>,
    /// Of DATA or STARTTLS: whether what it announces follows.
    pub(super) goes_on: Option<bool>,
    /// No reply will come any more.
    pub(super) server_has_ended: bool,
    reached: HashMap<Step, u64>,
}

#[derive(Clone)]
pub(super) struct Awaited {
    pub(super) step: Step,
    pub(super) nth: u64,
    /// Its reply may not be handed on, since a fault waits behind its command.
    pub(super) withheld: bool,
    /// Its reply may not be handed on earlier.
    pub(super) not_before: Option<Instant>,
}

impl Connection {
    pub(super) fn new(number: u64, client: TcpStream) -> Self {
        let (server, state, changed) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Self { number, client, server, state, changed }
    }

    /// Hands on what comes, until both sides have ended or a fault has ended them.
    pub(super) fn serve(&self, shared: &Shared) {
        // An error is the end of a connection, however it came.
        let _ = self.open(shared).map(|server| {
            thread::scope(|scope| {
                scope.spawn(|| Backward::new(self, shared, server).run());
                Forward::new(self, shared, server).run();
            });
        });
        self.linger();
    }

    fn open(&self, shared: &Shared) -> io::Result<&TcpStream> {
        ready(&self.client)?;
        let nth = self.reach(Step::Connect);
        let strike =
            |side| shared.harms.draw(Step::Connect, side, nth).into_iter().try_for_each(|fault| self.bear(&fault));
        strike(Side::BeforeCommand)?;
        let deadline = Instant::now() + CONNECT_LIMIT;
        let server = loop {
            match TcpStream::connect_timeout(&shared.server, BETWEEN_LOOKS) {
                Ok(server) => break server,
                Err(error) if error.kind() == ErrorKind::TimedOut && Instant::now() < deadline => self.check()?,
                Err(error) => {
                    self.end(End::Reset);
                    return Err(error);
                }
            }
        };
        ready(&server)?;
        let server = self.server.get_or_init(|| server);
        // An end that came meanwhile did not see this socket.
        self.check()?;
        strike(Side::AfterCommand)?;
        let nth = self.reach(Step::Greeting);
        lock(&self.state).awaited.push_back(Awaited { step: Step::Greeting, nth, withheld: false, not_before: None });
        Ok(server)
    }

    /// Ends the connection, unless it is ended already. The end of the proxy does not wait for that of a cut.
    pub(super) fn end(&self, how: End) {
        let mut state = lock(&self.state);
        if state.end.is_some_and(|end| (end, how) != (End::Cut, End::Stop)) {
            return;
        }
        state.end = Some(how);
        self.changed.notify_all();
        drop(state);
        for stream in [Some(&self.client), self.server.get()].into_iter().flatten() {
            // Fails where the other side was faster, which is as good.
            let _ = match how {
                End::Cut => stream.shutdown(Shutdown::Write),
                // RST goes out with the close, for which both threads must wake; that does it, and nobody else sees it.
                End::Reset => set_socket_linger(stream, Some(Duration::ZERO))
                    .map_err(io::Error::from)
                    .and_then(|()| stream.shutdown(Shutdown::Read)),
                End::Stop => stream.shutdown(Shutdown::Both),
            };
        }
    }

    /// Lets it go on if it is held.
    pub(super) fn release(&self) {
        lock(&self.state).held = false;
        self.changed.notify_all();
    }

    /// Reads what still comes after a cut, if it was one, and drops it.
    fn linger(&self) {
        let deadline = Instant::now() + LINGER_LIMIT;
        let mut buffer = [0; BUFFER_BYTES];
        let mut streams: Vec<_> = [Some(&self.client), self.server.get()].into_iter().flatten().collect();
        for stream in &streams {
            // Where that fails the longer time holds.
            let _ = stream.set_read_timeout(Some(LINGER_PAUSE));
        }
        while !streams.is_empty() && self.is_cut() && Instant::now() < deadline {
            streams.retain_mut(|stream| match stream.read(&mut buffer) {
                Ok(count) => count > 0,
                Err(error) => is_no_end(&error),
            });
        }
    }

    fn is_cut(&self) -> bool {
        lock(&self.state).end == Some(End::Cut)
    }

    /// Counts one more step of this kind.
    pub(super) fn reach(&self, step: Step) -> u64 {
        let mut state = lock(&self.state);
        let count = state.reached.entry(step).or_default();
        *count += 1;
        *count
    }

    /// Suffers what needs no bytes to strike.
    pub(super) fn bear(&self, fault: &Fault) -> io::Result<()> {
        match fault {
            Fault::Delay(time) => self.pause_until(Instant::now() + *time),
            Fault::Hold => {
                lock(&self.state).held = true;
                self.wait(None, |state| state.held)
            }
            Fault::Cut => self.ended(End::Cut),
            Fault::Reset => self.ended(End::Reset),
            Fault::Truncate | Fault::Duplicate | Fault::Fragment | Fault::Replace(_) => Ok(()),
        }
    }

    /// Ends the connection and says so.
    pub(super) fn ended(&self, how: End) -> io::Result<()> {
        self.end(how);
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        self.wait(None, |_| false)
    }

    pub(super) fn pause_until(&self, moment: Instant) -> io::Result<()> {
        match self.wait(Some(moment), |_| true) {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
            other => other,
        }
    }

    /// Returns once the state is `so` no more. An error if the connection is ended, or was until then.
    pub(super) fn wait(&self, until: Option<Instant>, so: impl Fn(&State) -> bool) -> io::Result<()> {
        let mut state = lock(&self.state);
        loop {
            if state.end.is_some() {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            if !so(&state) {
                return Ok(());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ErrorKind::TimedOut.into());
            }
            state = self.changed_within(state, left);
        }
    }

    fn changed_within<'a>(&self, state: MutexGuard<'a, State>, limit: Option<Duration>) -> MutexGuard<'a, State> {
        let poisoned = "no connection panics with the lock in its hand";
        match limit {
            Some(limit) => self.changed.wait_timeout(state, limit).expect(poisoned).0,
            None => self.changed.wait(state).expect(poisoned),
        }
    }

    pub(super) fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// The next bytes from one side; none at its end.
    pub(super) fn read(&self, mut from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let outcome = from.read(buffer);
            self.check()?;
            match outcome {
                Err(error) if is_no_end(&error) => {}
                Err(error) => {
                    // The other side must not hear of it while nothing goes.
                    self.wait(None, |state| state.held)?;
                    self.end(End::Reset);
                    return Err(error);
                }
                Ok(count) => return Ok(count),
            }
        }
    }

    /// Writes to one side, when nothing is `blocked`.
    pub(super) fn write(&self, mut to: &TcpStream, mut bytes: &[u8], blocked: fn(&State) -> bool) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(None, blocked)?;
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_no_end(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn write_fragments(&self, to: &TcpStream, bytes: &[u8], blocked: fn(&State) -> bool) -> io::Result<()> {
        let (fragments, rest) = bytes.split_at(bytes.len().min(FRAGMENTS_MAX));
        for byte in fragments {
            self.write(to, &[*byte], blocked)?;
            self.pause_until(Instant::now() + FRAGMENT_PAUSE)?;
        }
        self.write(to, rest, blocked)
    }

    /// Tells the client what became of a step, with all that strikes on the way. Returns whether what the step
    /// announces follows.
    pub(super) fn answer(&self, shared: &Shared, awaited: &Awaited, mut reply: Vec<u8>) -> io::Result<bool> {
        let &Awaited { step, nth, .. } = awaited;
        let (mut copies, mut is_fragmented, mut is_truncated) = (1, false, false);
        for fault in shared.harms.draw(step, Side::BeforeReply, nth) {
            match fault {
                Fault::Duplicate => copies = 2,
                Fault::Fragment => is_fragmented = true,
                Fault::Truncate => is_truncated = true,
                Fault::Replace(text) => reply = line(&text),
                Fault::Delay(_) | Fault::Cut | Fault::Reset | Fault::Hold => self.bear(&fault)?,
            }
        }
        let goes_on = step.goes_on(&reply);
        self.note(shared, awaited, &reply);
        let send = |bytes: &[u8]| match is_fragmented {
            true => self.write_fragments(&self.client, bytes, to_client_is_blocked),
            false => self.write(&self.client, bytes, to_client_is_blocked),
        };
        if is_truncated {
            send(&reply[..reply.len() / 2])?;
            self.ended(End::Cut)?;
        }
        let after = shared.harms.draw(step, Side::AfterReply, nth);
        // What the client says to the reply must not slip through before the fault strikes.
        self.change(|state| state.after_reply = !after.is_empty());
        if matches!(step, Step::Data | Step::StartTls) {
            self.change(|state| state.goes_on = Some(goes_on));
        }
        for _ in 0..copies {
            send(&reply)?;
        }
        after.iter().try_for_each(|fault| self.bear(fault))?;
        self.change(|state| state.after_reply = false);
        Ok(goes_on)
    }

    fn note(&self, shared: &Shared, awaited: &Awaited, reply: &[u8]) {
        let &Awaited { step, nth, .. } = awaited;
        let first = reply.split(|byte| *byte == b'\n').next().filter(|_| step != Step::Handshake).unwrap_or_default();
        let reply = String::from_utf8_lossy(first).trim_end().to_owned();
        lock(&shared.exchanges).push(Exchange { connection: self.number, step, nth, reply });
    }
}

pub(super) fn to_client_is_blocked(state: &State) -> bool {
    state.held
}

pub(super) fn to_server_is_blocked(state: &State) -> bool {
    state.held || state.after_reply
}

/// Each piece leaves at once, and nobody waits for long without a look at what became of the connection.
fn ready(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(BETWEEN_LOOKS))?;
    stream.set_write_timeout(Some(BETWEEN_LOOKS))
}

/// Whether this was only time to look.
fn is_no_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

pub(super) fn line(text: &str) -> Vec<u8> {
    format!("{text}\r\n").into_bytes()
}
