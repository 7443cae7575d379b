//! How a primary misbehaves: rules, each for one stage of the conversation.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::lock;

/// Where in the conversation a rule applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// A client has connected.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS, in place of 220. If the answer begins with 220 the handshake follows all the same, so that more can be
    /// said behind it.
    StartTls,
    /// 220 is said and the client has begun, in place of the handshake.
    Handshake,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, in place of 354.
    Data,
    /// The first bytes of the content have come; with BDAT its first part.
    Content,
    /// The final dot has come; with BDAT its last part.
    Dot,
    /// The message is kept and answered 250; this goes out together with that reply.
    Kept,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
}

/// What happens there in place of the usual.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// This line, be it a reply or not. After 421 the connection is closed, as RFC 5321 section 3.8 has it. If it
    /// begins with 354 the content is read all the same.
    Answer(String),
    /// These bytes, without a line's end.
    Raw(Vec<u8>),
    /// The connection is closed.
    Close,
    /// At the dot: the message is kept, but the connection is closed before the reply. Nobody can prevent that it
    /// comes twice (RFC 1047).
    KeepAndClose,
    /// Nothing, for as long as the client stays.
    Stall,
    /// The usual, after this time.
    Slow(Duration),
    /// The usual, but from now on each reply leaves a byte at a time, with this pause behind each.
    Trickle(Duration),
}

/// One misbehaviour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    stage: Stage,
    act: Act,
    about: Option<String>,
    messages_min: u64,
    times_max: u64,
}

impl Rule {
    /// Answers with this line.
    pub fn answer(stage: Stage, line: &str) -> Self {
        Self::act(stage, Act::Answer(line.to_owned()))
    }

    /// Closes the connection.
    pub fn close(stage: Stage) -> Self {
        Self::act(stage, Act::Close)
    }

    /// Any act.
    pub fn act(stage: Stage, act: Act) -> Self {
        Self { stage, act, about: None, messages_min: 0, times_max: u64::MAX }
    }

    /// Only for commands that contain this text, for instance a recipient.
    pub fn about(self, text: &str) -> Self {
        Self { about: Some(text.to_owned()), ..self }
    }

    /// Only on connections that have brought so many messages.
    pub fn after_messages(self, messages_min: u64) -> Self {
        Self { messages_min, ..self }
    }

    /// Only so often.
    pub fn times(self, times_max: u64) -> Self {
        Self { times_max, ..self }
    }
}

/// All rules.
#[derive(Default)]
pub(super) struct Script {
    rules: Mutex<Vec<(Rule, u64)>>,
    followed: AtomicU64,
}

impl Script {
    pub(super) fn add(&self, rule: Rule) {
        lock(&self.rules).push((rule, 0));
    }

    pub(super) fn clear(&self) {
        lock(&self.rules).clear();
        self.followed.store(0, Ordering::Relaxed);
    }

    pub(super) fn followed(&self) -> u64 {
        self.followed.load(Ordering::Relaxed)
    }

    /// How often those rules were followed that `wanted` is true of.
    fn followed_by(&self, wanted: impl Fn(&Rule) -> bool) -> u64 {
        lock(&self.rules).iter().filter(|(rule, _)| wanted(rule)).map(|(_, times)| times).sum()
    }

    pub(super) fn followed_about(&self, text: &str) -> u64 {
        self.followed_by(|rule| rule.about.as_deref() == Some(text))
    }

    pub(super) fn followed_at(&self, stage: Stage) -> u64 {
        self.followed_by(|rule| rule.stage == stage)
    }

    /// What to do at `stage`, where `command` was said, if it is not the usual. `messages`: that came over this
    /// connection so far.
    pub(super) fn act_at(&self, stage: Stage, command: &str, messages: u64) -> Option<Act> {
        let mut rules = lock(&self.rules);
        let (rule, times) = rules.iter_mut().find(|(rule, times)| {
            let about = rule.about.as_ref().is_none_or(|text| command.contains(text));
            rule.stage == stage && about && messages >= rule.messages_min && *times < rule.times_max
        })?;
        *times += 1;
        self.followed.fetch_add(1, Ordering::Relaxed);
        Some(rule.act.clone())
    }
}
