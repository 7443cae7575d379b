//! A policy server for Postfix that greylists, as postgrey does: Postfix asks it about each recipient over TCP, in lines of
//! `name=value` with an empty line behind them, and is answered in the same way (SMTPD_POLICY_README).

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::port::Port;

/// What it knows of who has come: client, sender and recipient.
type FirstSeen = Mutex<HashMap<[String; 3], Instant>>;

/// The policy server. Dropping it ends it.
pub struct Greylist {
    port: Port,
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
    asked: Arc<Mutex<u64>>,
}

impl Greylist {
    /// One that puts off who comes for the first time, until `delay` has passed.
    pub fn start(delay: Duration) -> Self {
        let port = Port::reserve();
        let listener = port.listen();
        let asked = Arc::new(Mutex::new(0));
        let (accepting, counting) = (listener.try_clone().expect("a socket can be cloned"), Arc::clone(&asked));
        let acceptor = thread::spawn(move || {
            let first_seen = Arc::new(FirstSeen::default());
            while let Ok((stream, _)) = accepting.accept() {
                let (first_seen, counting) = (Arc::clone(&first_seen), Arc::clone(&counting));
                // Ends when Postfix closes the connection.
                thread::spawn(move || answer(stream, delay, &first_seen, &counting));
            }
        });
        Self { port, listener, acceptor: Some(acceptor), asked }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        *self.asked.lock().expect("no connection panics with the count in its hand")
    }
}

impl Drop for Greylist {
    fn drop(&mut self) {
        // Wakes the thread that waits in accept; nothing else does.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

fn answer(stream: TcpStream, delay: Duration, first_seen: &FirstSeen, asked: &Mutex<u64>) -> io::Result<()> {
    let mut question = HashMap::new();
    let mut replies = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Some((name, value)) = line.split_once('=') {
            question.insert(name.to_owned(), value.to_owned());
            continue;
        }
        *asked.lock().expect("no connection panics with the count in its hand") += 1;
        let triple = ["client_address", "sender", "recipient"].map(|name| question.remove(name).unwrap_or_default());
        let mut first_seen = first_seen.lock().expect("no connection panics with the list in its hand");
        let is_new = first_seen.entry(triple).or_insert_with(Instant::now).elapsed() < delay;
        let action = if is_new { "450 4.7.1 greylisted, try again" } else { "DUNNO" };
        replies.write_all(format!("action={action}\n\n").as_bytes())?;
        question.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Envelope, eventually, postfix::Postfix};

    #[test]
    fn postfix_puts_off_who_comes_for_the_first_time() {
        const DELAY: Duration = Duration::from_millis(500);
        let greylist = Greylist::start(DELAY);
        let postfix = Postfix::prepare_with_policy(greylist.address());
        postfix.start();
        let begun = Instant::now();
        let send = || {
            let mut client = Client::hello(postfix.address()).unwrap();
            client.send(&Envelope::to("bob"), b"Subject: x\r\n\r\nbody\r\n").unwrap()
        };
        assert!(send().is("450 4.7.1"));
        eventually(Duration::from_secs(30), "it is taken", || send().code == 250);
        assert!(begun.elapsed() >= DELAY && greylist.asked() >= 2);
    }
}
