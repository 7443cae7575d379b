//! What a session has to do with the primary while its mail passes through: asks it at RCPT, hands it content, and turns its verdict into
//! our replies.

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::{Connection, Ended},
    receive::Message,
    reply::Reply,
    session::Draft,
};
use crate::{
    delivery::xclient::Client,
    mail::{
        envelope::{Envelope, Protocol},
        id::MessageId,
    },
    pass_through::{AtEnd, AtRecipient, No, Offer, Passing},
};

/// For our trace field, in what the primary is told of the length; it is written only when the recipients are known.
const TRACE_BYTES: u64 = 1 << 10;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Asks the primary about the recipient that policy has nothing against. A reply if it is not to be taken.
    pub async fn ask_primary(&mut self) -> Result<Option<Reply>, Ended> {
        if !self.rules.passes {
            return Ok(None);
        }
        let Some(to) = self.session.asked_recipient().cloned() else { return Ok(None) };
        self.say_what_is_due().await?;
        let at = match &mut self.passing {
            Some(passing) => passing.recipient(&to).await,
            None => {
                let Some(draft) = self.session.begun() else { return Ok(None) };
                let bytes = draft.parameters.size.map(|bytes| bytes.saturating_add(TRACE_BYTES));
                let client = self.told_to_primary(&draft);
                let envelope = self.envelope(draft);
                let through = self.door.pass_through.clone();
                let (passing, at) = Passing::begin(through, envelope, bytes, client, &to).await;
                self.passing = Some(passing);
                at
            }
        };
        Ok(match at {
            AtRecipient::Taken | AtRecipient::Ours => None,
            AtRecipient::No(no) => Some(reply(&no)),
        })
    }

    /// Replies to what came before go out before we wait for the primary: who hears nothing for minutes gives up.
    async fn say_what_is_due(&mut self) -> Result<(), Ended> {
        if self.passing.as_ref().is_none_or(Passing::asks) {
            self.wire.flush().await?;
        }
        Ok(())
    }

    fn told_to_primary(&self, draft: &Draft) -> Client {
        Client {
            address: self.client,
            port: self.port,
            name: self.name.get().map(ToOwned::to_owned),
            helo: draft.helo.clone(),
            is_esmtp: draft.protocol != Protocol::Smtp,
        }
    }

    /// The envelope of a draft. One that passes through has had its name since its first recipient.
    pub(super) fn envelope(&self, draft: Draft) -> Envelope {
        let Draft { helo, protocol, reverse_path, recipients, recipient_bytes: _, parameters } = draft;
        let id = self.passing.as_ref().map_or_else(MessageId::new, |passing| passing.envelope().id);
        Envelope {
            id,
            received_at: Timestamp::now(),
            client: self.client,
            helo,
            protocol,
            reverse_path,
            recipients,
            body: parameters.body,
            smtputf8: parameters.smtputf8,
            ret: parameters.ret,
            envid: parameters.envid,
        }
    }

    /// Says DATA to the primary. A reply if no content is wanted.
    pub(super) async fn begin_content(&mut self) -> Result<Option<Reply>, Ended> {
        if self.passing.is_none() {
            return Ok(None);
        }
        self.say_what_is_due().await?;
        let Some(passing) = &mut self.passing else { return Ok(None) };
        let Some(no) = passing.data().await else { return Ok(None) };
        self.passing = None;
        Ok(Some(reply(&no)))
    }

    /// Our trace field goes first.
    pub(super) async fn pass_trace(&mut self, message: &Message) {
        if let Some(passing) = &mut self.passing {
            passing.content(message.incoming.trace(), false).await;
        }
    }

    /// What was appended behind `before` goes on to the primary, unless something is wrong with it: then the primary never gets its end.
    pub(super) async fn pass_content(&mut self, message: &mut Message, before: usize, is_faulty: bool, goes_out: bool) {
        let Some(passing) = &mut self.passing else { return };
        if is_faulty || message.written.is_err() {
            self.give_up_passing();
        } else {
            passing.content(&message.incoming.buffer()[before..], goes_out).await;
        }
    }

    /// The message does not pass, whatever the primary has heard of it.
    pub fn give_up_passing(&mut self) {
        if let Some(passing) = self.passing.take() {
            passing.give_up();
        }
    }

    /// Our copy is whole: now the primary may have the end. `None` if the message does not pass.
    pub(super) async fn end_passing(&mut self, message: &Message) -> Result<Option<AtEnd>, Ended> {
        if self.passing.is_none() {
            return Ok(None);
        }
        self.say_what_is_due().await?;
        let Some(mut passing) = self.passing.take() else { return Ok(None) };
        let incoming = &message.incoming;
        let offer = Offer {
            recipients: incoming.recipients(),
            trace: incoming.trace(),
            content: incoming.so_far(),
            content_bytes: incoming.content_bytes(),
            line_end_added: message.arrival.line_end_added,
        };
        Ok(Some(passing.end(offer).await))
    }
}

/// What a sender hears.
pub(super) fn reply(no: &No) -> Reply {
    match no {
        No::Words(answer) => Reply::of_primary(answer),
        No::JudgesUs => Reply::primary_judges_us(),
        No::Busy => Reply::primary_busy(),
        No::Unclear => Reply::primary_unclear(),
        No::TooMany => Reply::too_many_recipients(),
        No::Changed => Reply::recipients_changed(),
        No::Lacking => Reply::primary_lacks_smtputf8(),
    }
}
