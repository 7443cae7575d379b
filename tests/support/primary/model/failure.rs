//! How a primary fails: a relapse for a time, or a storm of refusals. No I/O, no clock.

use std::time::{Duration, Instant};

use super::{
    Act, Moment,
    Stage::{self, Data, Dot, Greeting, Hello, Mail, Rcpt},
};

/// How it fails in a relapse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failing {
    /// 421 to everything, at the greeting and later.
    TurnsAway,
    /// 451 4.3.0 to MAIL.
    PutsOff,
    /// Connections are cut, wherever they are.
    Cuts,
}

/// What it refuses for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storm {
    /// Every connection.
    Greeting,
    /// EHLO and HELO.
    Hello,
    /// Every MAIL, that from `<>` among them.
    Mail,
    /// Every RCPT, postmaster's among them.
    Recipients,
    /// Every RCPT but postmaster's.
    RecipientsButPostmaster,
    /// Every content.
    Content,
}

impl Storm {
    pub(super) fn reply_to(self, moment: &Moment) -> Option<&'static str> {
        match (self, moment.stage) {
            (Self::Greeting, Greeting) => Some("554 5.3.2 no service"),
            (Self::Hello, Hello) => Some("550 5.7.1 not you"),
            (Self::Mail, Mail) => Some("550 5.7.1 not this sender"),
            (Self::Recipients, Rcpt) => Some("550 5.1.1 no such user"),
            (Self::RecipientsButPostmaster, Rcpt) if !moment.is_about_postmaster() => Some("550 5.1.1 no such user"),
            (Self::Content, Dot) => Some("554 5.6.0 looks like spam"),
            _ => None,
        }
    }
}

/// One time of failing.
pub(super) struct Relapse {
    how: Failing,
    lasts: Duration,
    messages_left: u64,
    began: Option<Instant>,
}

impl Relapse {
    pub(super) fn after(how: Failing, messages: u64, lasts: Duration) -> Self {
        Self { how, lasts, messages_left: messages, began: None }
    }

    pub(super) fn kept(&mut self, now: Instant) {
        self.messages_left = self.messages_left.saturating_sub(1);
        if self.messages_left == 0 {
            self.began.get_or_insert(now);
        }
    }

    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    pub(super) fn act_at(&self, moment: &Moment) -> Option<Act> {
        let is_failing = self.began.is_some_and(|began| moment.now < began + self.lasts);
        let answered = [Greeting, Hello, Mail, Rcpt, Data, Dot].contains(&moment.stage);
        match self.how {
            _ if !is_failing => None,
            Failing::TurnsAway => answered.then(|| Act::Answer("421 4.3.2 not now".to_owned())),
            Failing::PutsOff => (moment.stage == Mail).then(|| Act::Answer("451 4.3.0 out of order".to_owned())),
            // What was kept has been answered; its sender must hear so.
            Failing::Cuts => (moment.stage != Stage::Kept).then_some(Act::Close),
        }
    }
}
