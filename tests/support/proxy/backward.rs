//! From server to client: hands on replies, each as that to the command that awaits it longest.

use std::{
    io,
    net::{Shutdown, TcpStream},
};

use super::{
    Shared,
    connection::{BUFFER_BYTES, Connection, End, to_client_is_blocked},
    harm::Step,
    lock,
    reader::Replies,
};

pub(super) struct Backward<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    server: &'a TcpStream,
}

impl<'a> Backward<'a> {
    pub(super) fn new(connection: &'a Connection, shared: &'a Shared, server: &'a TcpStream) -> Self {
        Self { connection, shared, server }
    }

    pub(super) fn run(self) {
        let outcome = self.hand_on();
        self.connection.change(|state| state.server_has_ended = true);
        if outcome.is_err() {
            // One side is gone without a word, so the other one gets none either.
            self.connection.end(End::Reset);
        }
    }

    fn hand_on(&self) -> io::Result<()> {
        let Self { connection, server, .. } = *self;
        let mut replies = Replies::new();
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let count = connection.read(server, &mut buffer)?;
            if count == 0 {
                let rest = replies.rest();
                connection.write(&connection.client, &rest, to_client_is_blocked)?;
                connection.wait(None, to_client_is_blocked)?;
                // Fails where the client was faster.
                let _ = connection.client.shutdown(Shutdown::Write);
                return Ok(());
            }
            replies.feed(&buffer[..count]);
            while let Some(reply) = replies.next() {
                if self.reply(reply)? {
                    replies.expect_handshake();
                }
            }
            let overflow = replies.overflow().unwrap_or_default();
            connection.write(&connection.client, &overflow, to_client_is_blocked)?;
        }
    }

    /// Hands on one reply. Returns whether a handshake follows, and no more replies.
    fn reply(&self, reply: Vec<u8>) -> io::Result<bool> {
        let connection = self.connection;
        let Some(first) = lock(&connection.state).awaited.front().cloned() else {
            // Nobody has asked: 421 on a server's own account, or TLS.
            connection.write(&connection.client, &reply, to_client_is_blocked)?;
            return Ok(false);
        };
        connection.wait(None, |state| state.awaited.front().is_some_and(|awaited| awaited.withheld))?;
        if let Some(moment) = first.not_before {
            connection.pause_until(moment)?;
        }
        let goes_on = connection.answer(self.shared, &first, reply)?;
        connection.change(|state| {
            state.awaited.pop_front();
        });
        Ok(goes_on && first.step == Step::StartTls)
    }
}
