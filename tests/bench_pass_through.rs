//! `make bench-pass-through`: what passing through costs, against the same primary asked directly, by turns in one run.
//!
//! Throughput with Postfix's smtp-source and smtp-sink, latency with one session that sends one message after the other.

use std::{
    env,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use backupmx_relay_api::status::PrimaryState;
use support::{Client, Envelope, Relay, eventually, port::Port, tools};

const SESSIONS: &str = "64";
const MESSAGE_BYTES: usize = 8192;
const LATENCY_MESSAGES: usize = 2000;
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let is_quick = env::args().any(|argument| argument == "--quick");
    let (rounds, messages) = if is_quick { (1, 10_000) } else { (5, 40_000) };
    let sink = Sink::start();
    // As many connections as sessions: else they wait for each other, which is not what is measured.
    let relay = Relay::passing(sink.address).config("primary: {delivery: {maxConnections: 100}}\n").start();
    relay.until(LIMIT, "the sink is known to be up", |status| status.primary.state == PrimaryState::Up);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        direct.push(throughput(sink.address, messages));
        through.push(throughput(relay.smtp(), messages));
        eprintln!(
            "round {round} of {rounds}: {:.0} and {:.0} messages a second",
            direct[round - 1],
            through[round - 1]
        );
    }
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        near.extend(latency(sink.address));
        far.extend(latency(relay.smtp()));
    }
    let account = relay.account();
    assert_eq!(account.passed, account.accepted, "some were kept: {account:?}");
    let (direct, through) = (median(&mut direct), median(&mut through));
    println!("| {SESSIONS} sessions on kept connections, {MESSAGE_BYTES} bytes | messages a second |");
    println!("|---|---|");
    println!("| smtp-source to smtp-sink | {direct:.0} |");
    println!("| the same through the relay | {through:.0} ({:.0} %) |", 100.0 * through / direct);
    let ms = |values: &mut Vec<f64>, share: f64| quantile(values, share) * 1000.0;
    println!("\n| one session, MAIL to the last reply | median | p99 |");
    println!("|---|---|---|");
    println!("| to the sink | {:.2} ms | {:.2} ms |", ms(&mut near, 0.5), ms(&mut near, 0.99));
    println!("| through the relay | {:.2} ms | {:.2} ms |", ms(&mut far, 0.5), ms(&mut far, 0.99));
    println!("| added | {:.2} ms | |", ms(&mut far, 0.5) - ms(&mut near, 0.5));
}

/// Messages a second.
fn throughput(to: SocketAddr, messages: usize) -> f64 {
    let (messages_text, bytes) = (messages.to_string(), MESSAGE_BYTES.to_string());
    let arguments = ["-d", "-s", SESSIONS, "-m", &messages_text, "-l", &bytes];
    let addresses = ["-f", "robot@client.example", "-t", "list@example.org"];
    let begun = Instant::now();
    let ended = tools::smtp_source(to, &[&arguments[..], &addresses[..]].concat());
    assert_eq!(ended.code, Some(0), "{ended}");
    messages as f64 / begun.elapsed().as_secs_f64()
}

/// Seconds of each message.
fn latency(to: SocketAddr) -> Vec<f64> {
    let content = [b"Subject: x\r\n\r\n".as_slice(), &b"0123456789abcde\r\n".repeat(MESSAGE_BYTES / 17)].concat();
    let mut client = Client::hello(to).expect("it takes sessions");
    let envelope = Envelope::to("bob");
    let once = |_| {
        let begun = Instant::now();
        let reply = client.send(&envelope, &content).expect("the session lives");
        assert_eq!(reply.code, 250, "{reply}");
        begun.elapsed().as_secs_f64()
    };
    (0..LATENCY_MESSAGES).map(once).collect()
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

/// Postfix's smtp-sink. Dropping it ends it.
struct Sink {
    process: Child,
    address: SocketAddr,
}

impl Sink {
    fn start() -> Self {
        let port = Port::reserve();
        let address = port.address();
        // It speaks ESMTP with PIPELINING, and has room for all of them to connect at once.
        let mut command = Command::new("/usr/sbin/smtp-sink");
        command.args(["-c", "-u", "nobody", &format!("inet:{address}"), "1000"]).stdout(Stdio::null());
        drop(port);
        let process = command.spawn().unwrap_or_else(|cause| panic!("install postfix, for smtp-sink: {cause}"));
        let sink = Self { process, address };
        eventually(LIMIT, "the sink's greeting", || Client::hello(address).is_ok());
        sink
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
