//! `make demo`: the main job told as a story, on real SMTP. A mail server goes away, mail comes in, the server returns,
//! and every message arrives byte for byte. Ends by itself; exit code 0 says that all of it was true.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use backupmx_relay_api::path;
use support::{
    Client, DOMAIN, Envelope, Primary, Relay,
    hash::{Hash, sha256},
    load::Load,
    messages, trace_field,
};
use tokio::signal::unix::{SignalKind, signal};

const MESSAGES: usize = 200;
/// Between two messages, so that one sees them come in.
const BETWEEN_MESSAGES: Duration = Duration::from_millis(10);
/// Time to read what was said, and for an outage to feel like one.
const READING_TIME: Duration = Duration::from_secs(3);
/// Between two looks at the queue.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Longer than any of this may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set by Ctrl-C. The story looks at it wherever it waits, so that relay, servers and folders go as at its end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How the story ended, if nobody interrupted it.
enum End {
    AllArrived,
    Different(Vec<String>),
}

fn main() -> ExitCode {
    thread::spawn(hear_signals);
    // In a thread of its own: a defect in it panics, which must not look like success.
    let story = thread::Builder::new().name("demo".to_owned()).spawn(|| Story::begin().tell());
    match story.expect("a thread can be started").join() {
        Ok(Some(End::AllArrived)) => {
            println!("\nVerdict: all {MESSAGES} messages arrived, byte for byte. Nothing was lost.");
            ExitCode::SUCCESS
        }
        Ok(Some(End::Different(differences))) => {
            println!("\nVerdict: FAILED.\n  {}", differences.join("\n  "));
            ExitCode::FAILURE
        }
        Ok(None) => {
            println!("\nStopped, and cleaned up.");
            ExitCode::from(130)
        }
        Err(_) => {
            println!("\nVerdict: FAILED, as said above.");
            ExitCode::FAILURE
        }
    }
}

struct Story {
    began: Instant,
    primary: Primary,
    relay: Relay,
    /// What was sent, by recipient.
    sent: BTreeMap<String, Hash>,
    in_place: bool,
}

impl Story {
    fn begin() -> Self {
        let primary = Primary::start();
        let relay = Relay::passing(primary.address()).apart().start();
        println!("BackupMx: the mail server of {DOMAIN} goes away, and no mail is lost.\n");
        println!("  the primary mail server   {} (a small one, made for this demo)", primary.address());
        println!("  BackupMx, its backup      {} (told only the two names and this address)", relay.smtp());
        println!("  what it says of itself    http://{}{}", relay.observe(), path::STATUS);
        println!("  the same for Prometheus   http://{}{}\n", relay.observe(), path::METRICS);
        Self { began: Instant::now(), primary, relay, sent: BTreeMap::new(), in_place: io::stdout().is_terminal() }
    }

    /// `None`: Ctrl-C.
    fn tell(mut self) -> Option<End> {
        self.say("Both run. In the DNS, BackupMx stands behind the primary, so senders turn to it only in need.");
        self.pause(READING_TIME / 2)?;
        self.primary.go_away();
        self.say("The primary goes away: its port is closed, as if its machine had lost power.");
        self.pause(READING_TIME / 2)?;

        self.say(&format!("{MESSAGES} messages come in: large and small, 8-bit, binary, signed, full of lone dots."));
        let last_reply = self.send_all()?;
        let status = self.relay.status();
        let (messages, megabytes) = (status.queue.messages, status.queue.bytes as f64 / 1e6);
        self.say(&format!("Each was on disk before it was answered. The last answer: \"{last_reply}\""));
        self.say(&format!("{messages} messages wait, {megabytes:.1} MB. The primary: {}", status.primary.reason));
        self.pause(READING_TIME)?;

        let returned = self.primary.return_now();
        self.say("The primary is back. Nobody tells BackupMx; it looks every two seconds while mail waits.");
        self.watch_queue(0)?;
        if let [first, .., last] = &self.primary.mails()[..] {
            let seconds = |arrived: Instant| arrived.duration_since(returned).as_secs_f64();
            let (first, last) = (seconds(first.arrived), seconds(last.arrived));
            self.say(&format!("First message {first:.1} s after the return, last one after {last:.1} s."));
        }
        self.say("Comparing SHA-256 of what was sent and what arrived, less the one Received field added on the way.");
        Some(self.verdict())
    }

    fn send_all(&mut self) -> Option<String> {
        let mut last_reply = String::new();
        let mut client = Client::hello(self.relay.smtp()).expect("the relay takes connections");
        for (number, content) in mails().into_iter().enumerate() {
            let envelope = Envelope::to(&format!("m{number}"));
            let reply = client.send(&envelope, &content).expect("the relay answers").to_string();
            assert!(reply.starts_with("250 "), "a message was not taken: {reply}");
            last_reply = reply;
            self.sent.insert(envelope.recipients[0].clone(), sha256(&content));
            if number % 10 == 9 {
                self.progress(self.relay.status().queue.messages, MESSAGES as u64);
            }
            self.pause(BETWEEN_MESSAGES)?;
        }
        self.end_progress();
        Some(last_reply)
    }

    /// Shows the queue while it changes, until it holds `target` messages.
    fn watch_queue(&self, target: u64) -> Option<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut shown = None;
        while Instant::now() < deadline {
            let queue = self.relay.status().queue.messages;
            if shown.replace(queue) != Some(queue) {
                self.progress(queue, MESSAGES as u64);
            }
            if queue == target {
                break;
            }
            self.pause(BETWEEN_LOOKS)?;
        }
        self.end_progress();
        Some(())
    }

    fn verdict(&self) -> End {
        let mut differences = Vec::new();
        let mut arrived: BTreeMap<String, u32> = BTreeMap::new();
        for mail in self.primary.mails() {
            let recipient = mail.recipients.join(", ");
            let (_, content) = trace_field::split(&mail.content);
            if self.sent.get(&recipient) != Some(&sha256(content)) {
                differences.push(format!("what arrived for {recipient} is not what was sent"));
            }
            *arrived.entry(recipient).or_default() += 1;
        }
        for recipient in self.sent.keys() {
            match arrived.get(recipient) {
                Some(1) => {}
                Some(times) => differences.push(format!("the message for {recipient} arrived {times} times")),
                None => differences.push(format!("the message for {recipient} did not arrive")),
            }
        }
        let account = self.relay.status().account;
        if (account.accepted, account.delivered) != (MESSAGES as u64, MESSAGES as u64) {
            differences.push(format!("the relay's own account does not say so: {account:?}"));
        }
        if differences.is_empty() { End::AllArrived } else { End::Different(differences) }
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// A line that is written over while it changes; where that cannot be, a line each time.
    fn progress(&self, queue: u64, of: u64) {
        let filled = (queue * 40).div_ceil(of.max(1)) as usize;
        let line = format!("         queue {queue:>4}  [{:40}]", "#".repeat(filled.min(40)));
        if self.in_place {
            print!("\r{line}");
            // A terminal that is gone is no reason to stop.
            let _ = io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    fn end_progress(&self) {
        if self.in_place {
            println!();
        }
    }

    fn pause(&self, time: Duration) -> Option<()> {
        let deadline = Instant::now() + time;
        loop {
            if INTERRUPTED.load(Ordering::Relaxed) {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(());
            }
            thread::sleep(left.min(BETWEEN_LOOKS));
        }
    }
}

/// All awkward messages, and ordinary ones of growing size.
fn mails() -> Vec<Vec<u8>> {
    let awkward = messages::awkward().into_iter().map(|message| message.content);
    let ordinary = (0..).map(|number| {
        let bytes = 300 + number * number * 3;
        Load { messages: 1, bytes, sessions: 1, seed: 1 }.message(number as u64)
    });
    awkward.chain(ordinary).take(MESSAGES).collect()
}

fn hear_signals() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let hear = |kind| signal(kind).expect("a signal can be listened for");
        let (mut interrupt, mut terminate) = (hear(SignalKind::interrupt()), hear(SignalKind::terminate()));
        let mut hangup = hear(SignalKind::hangup());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
}
