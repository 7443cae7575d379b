//! Senders that come one after the other at an even pace, each with a message and a connection of its own, as the internet's do: what
//! they meet while servers are replaced. A sender that was told "later", or whose connection broke, comes again, as RFC 5321 section
//! 4.5.4.1 asks of it.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Envelope},
    load::{Load, Sent},
};

/// Before a sender comes again. Short, so that a test sees all accepted soon.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often a sender comes. Real ones come for days.
const TRIES_MAX: u32 = 60;
/// Senders at a time. More wait for their turn: a server that hangs must not take all of this machine.
const SENDERS_MAX: usize = 200;

/// What the senders met.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// What became of the messages.
    pub sent: Sent,
    /// Connections that nobody took, with the reason.
    pub unconnected: Vec<String>,
    /// Replies that said "later", among them at greeting.
    pub deferred: u64,
    /// Connections that ended without a reply.
    pub broken: u64,
    /// How long senders came.
    pub lasted: Duration,
}

impl Met {
    /// Checks that so many came a second: a machine that could not send them would prove nothing.
    #[track_caller]
    pub fn expect_pace(&self, per_second: u32) {
        let expected = self.lasted.as_secs_f64() * f64::from(per_second);
        let taken = self.sent.accepted.len();
        assert!(
            taken as f64 >= 0.8 * expected,
            "{taken} messages in {:?}: too few for {per_second} a second",
            self.lasted
        );
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, unconnected, deferred, broken, .. } = self;
        let (taken, refused) = (sent.accepted.len(), unconnected.len());
        write!(
            f,
            "{taken} messages taken, {deferred} told to come later, {broken} connections broken, {refused} refused"
        )
    }
}

/// Senders under way.
pub struct Senders {
    stop: Arc<AtomicBool>,
    pacer: JoinHandle<Met>,
}

/// Begins to send messages of this load, so many a second, until [`Senders::stop`]. They are numbered from 0.
pub fn begin(load: Load, per_second: u32, to: SocketAddr) -> Senders {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // Threads live in the network of the thread that makes them.
    let pacer = thread::spawn(move || pace(load, per_second, to, &stopped));
    Senders { stop, pacer }
}

impl Senders {
    /// No new message from now on; waits until those under way were accepted or given up.
    pub fn stop(self) -> Met {
        self.stop.store(true, Ordering::Relaxed);
        self.pacer.join().expect("senders do not panic")
    }
}

fn pace(load: Load, per_second: u32, to: SocketAddr, stop: &AtomicBool) -> Met {
    let met = Arc::new(Mutex::new(Met::default()));
    let begun = Instant::now();
    let mut senders: Vec<JoinHandle<()>> = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = begun + Duration::from_secs(1) * number as u32 / per_second;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        senders.retain(|sender| !sender.is_finished());
        if senders.len() >= SENDERS_MAX {
            senders.remove(0).join().expect("senders do not panic");
        }
        let met = Arc::clone(&met);
        senders.push(thread::spawn(move || send_patiently(load, number, to, &met)));
    }
    let lasted = begun.elapsed();
    for sender in senders {
        sender.join().expect("senders do not panic");
    }
    let met = std::mem::take(&mut *met.lock().unwrap_or_else(PoisonError::into_inner));
    Met { lasted, ..met }
}

fn send_patiently(load: Load, number: u64, to: SocketAddr, met: &Mutex<Met>) {
    for _ in 0..TRIES_MAX {
        let tried = send(load, number, to);
        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
        match tried {
            Tried::Accepted => {
                met.sent.accepted.insert(number);
                return;
            }
            Tried::Unconnected(why) => met.unconnected.push(why),
            Tried::Deferred => met.deferred += 1,
            Tried::Broken => met.broken += 1,
        }
        drop(met);
        thread::sleep(AGAIN_AFTER);
    }
    met.lock().unwrap_or_else(PoisonError::into_inner).sent.unanswered += 1;
}

enum Tried {
    Accepted,
    Unconnected(String),
    Deferred,
    Broken,
}

fn send(load: Load, number: u64, to: SocketAddr) -> Tried {
    let mut client = match Client::connect(to) {
        Ok(client) => client,
        Err(error) => return Tried::Unconnected(error.to_string()),
    };
    let mut converse = || -> io::Result<Tried> {
        if client.reply()?.code != 220 || client.say("EHLO client.example")?.code != 250 {
            return Ok(Tried::Deferred);
        }
        let reply = client.send(&Envelope::to(&format!("m{number}")), &load.message(number))?;
        let _ = client.say("QUIT");
        Ok(if reply.code == 250 { Tried::Accepted } else { Tried::Deferred })
    };
    converse().unwrap_or(Tried::Broken)
}
