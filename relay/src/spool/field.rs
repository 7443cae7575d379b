//! Tagged fields, the inside of records: readers pass over tags they do not know, so records can grow. No I/O.

use std::net::IpAddr;

use backupmx_relay_api::status::Account;
use jiff::Timestamp;

use super::record::Kind;
use crate::mail::{
    address::Address,
    envelope::{Body, Envelope, Flow, Notify, Protocol, Recipient, Ret},
    id::MessageId,
};

/// What a field means. Numbers are on disk: never reuse one.
mod tag {
    pub const ID: u16 = 1;
    pub const TIME_MS: u16 = 2;
    pub const CLIENT: u16 = 3;
    pub const HELO: u16 = 4;
    pub const PROTOCOL: u16 = 5;
    pub const REVERSE_PATH: u16 = 6;
    pub const RECIPIENT: u16 = 7;
    pub const BODY: u16 = 8;
    pub const TRACE: u16 = 9;
    pub const LARGE_BYTES: u16 = 10;
    pub const STATES: u16 = 11;
    pub const DEFERRALS: u16 = 12;
    pub const REASON: u16 = 13;
    pub const SMTPUTF8: u16 = 14;
    pub const RET: u16 = 15;
    pub const ENVID: u16 = 16;
    /// Of the recipient before.
    pub const NOTIFY: u16 = 17;
    /// Of the recipient before.
    pub const ORCPT: u16 = 18;
    pub const LINE_END_ADDED: u16 = 19;
    pub const BY: u16 = 20;
    pub const FATE: u16 = 21;
    pub const HELD_AS: u16 = 22;
    pub const HELD_SINCE_MS: u16 = 23;
    pub const TOTALS: u16 = 30;
}

/// What an `Accepted` record tells, apart from the content.
#[derive(Clone, PartialEq, Debug)]
pub struct Accepted {
    /// Who sends to whom.
    pub envelope: Envelope,
    /// Our `Received:` field.
    pub trace: Vec<u8>,
    /// The content came by BDAT without its last line end, and got one.
    pub line_end_added: bool,
    /// Length of the content, if it stands in a file of its own.
    pub large_bytes: Option<u64>,
    /// How far it has come, if the record is a copy of an older one or adopts a file.
    pub standing: Option<Standing>,
}

/// How far a message has come. It stands in the copy of its `Accepted` record, so that neither is there without the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// One for each recipient.
    pub states: Vec<State>,
    /// Attempts that deferred somebody.
    pub deferrals: u16,
    /// What recovery said of it in words; else empty.
    pub reason: String,
    /// Why and since when somebody is held, unless nobody is.
    pub held: Option<HeldNote>,
}

/// Why and since when somebody in a message is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldNote {
    /// When somebody was last held, in milliseconds since 1970.
    pub since_ms: i64,
    /// Why.
    pub reason: HeldReason,
}

/// Why somebody is held. It decides how that can end (docs/delivery.md, "Holding, and ends").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HeldReason {
    /// Nothing is known of it, or a newer program knows it.
    Unknown = 0,
    /// The primary refused it for good.
    Undeliverable = 1,
    /// It needs what the primary no longer offers.
    Capability = 2,
    /// It waited as long as it may.
    Expired = 3,
    /// Its stored bytes are damaged.
    Damaged = 4,
    /// Its record is lost; it was made anew from its large file.
    Recovered = 5,
    /// A person wants it so.
    Person = 6,
}

impl HeldReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Undeliverable,
        Self::Capability,
        Self::Expired,
        Self::Damaged,
        Self::Recovered,
        Self::Person,
    ];

    /// The word for it in docs/delivery.md, and everywhere else.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Undeliverable => "undeliverable",
            Self::Capability => "capability",
            Self::Expired => "expired",
            Self::Damaged => "damaged",
            Self::Recovered => "recovered",
            Self::Person => "person",
        }
    }

    /// What a newer program may write is no damage.
    fn of(value: &[u8]) -> Self {
        Self::ALL.into_iter().find(|known| [*known as u8] == value).unwrap_or(Self::Unknown)
    }
}

/// How one recipient stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is to be tried.
    Waiting = 0,
    /// Kept for a person to decide.
    Held = 1,
    /// It has its end.
    Ended = 2,
}

/// What a record tells that changes how recipients stand.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// What kind of event it is. An `Attempt` that leaves nobody open is written as `Closed`.
    pub kind: Kind,
    /// Whose.
    pub id: MessageId,
    /// When.
    pub at: Timestamp,
    /// Of an attempt, the `host:port` that it was made at; of all else, who or what wanted it.
    pub by: String,
    /// For each recipient that is meant: its place in the envelope, what became of it, and the words said.
    pub fates: Vec<(u32, Fate, String)>,
    /// Why those that it holds are held. Each change that holds somebody has it; records of older programs have none.
    pub held_as: Option<HeldReason>,
}

/// What became of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The primary has it.
    Delivered = 0,
    /// It is tried again.
    Deferred = 1,
    /// It was refused for good, cannot be read, or somebody wanted it so: kept for a person to decide.
    Held = 2,
    /// It is held no longer.
    Released = 3,
    /// Its sender was told that it could not be delivered.
    Bounced = 4,
    /// It was kept as long as it should be.
    Expired = 5,
    /// A person deleted it.
    Deleted = 6,
    /// Another relay has it.
    Moved = 7,
    /// Its bytes are gone; what is left of them lies in quarantine.
    Damaged = 8,
    /// Its client heard 4xx after all, and sends again.
    Withdrawn = 9,
}

impl Fate {
    const ALL: [Self; 10] = [
        Self::Delivered,
        Self::Deferred,
        Self::Held,
        Self::Released,
        Self::Bounced,
        Self::Expired,
        Self::Deleted,
        Self::Moved,
        Self::Damaged,
        Self::Withdrawn,
    ];

    /// How a recipient that stood like this stands afterwards.
    pub fn state_after(self, before: State) -> State {
        match self {
            // A person may have held it while the attempt was under way: the end of that does not release it.
            Self::Deferred => before,
            Self::Released => State::Waiting,
            Self::Held => State::Held,
            Self::Delivered
            | Self::Bounced
            | Self::Expired
            | Self::Deleted
            | Self::Moved
            | Self::Damaged
            | Self::Withdrawn => State::Ended,
        }
    }
}

/// What the index needs of an `Accepted` record; a footer holds no more.
#[derive(PartialEq, Debug)]
pub struct Arrival {
    /// Which message.
    pub id: MessageId,
    /// Whose mail it is.
    pub flow: Flow,
    /// How many recipients its envelope names.
    pub recipients: usize,
    /// See [`Accepted::large_bytes`].
    pub large_bytes: Option<u64>,
    /// See [`Accepted::standing`].
    pub standing: Option<Standing>,
}

/// The primary's words, or a person's, are for people: one reply line (RFC 5321 section 4.5.3.1.5) tells them enough.
const WORDS_BYTES_MAX: usize = 512;
/// Place and fate, before the words.
const FATE_BYTES: usize = 5;

impl Accepted {
    /// The fields of the record.
    pub fn encode(&self) -> Vec<u8> {
        let Self { envelope, trace, line_end_added, large_bytes, standing } = self;
        let Envelope { id, received_at, client, helo, protocol, reverse_path, recipients, body, smtputf8, ret, envid } =
            envelope;
        let mut fields = Vec::with_capacity(256 + trace.len() + 64 * recipients.len());
        put(&mut fields, tag::ID, &id.to_bytes());
        put(&mut fields, tag::TIME_MS, &received_at.as_millisecond().to_le_bytes());
        put(&mut fields, tag::CLIENT, client.to_string().as_bytes());
        put(&mut fields, tag::HELO, helo.as_bytes());
        put(&mut fields, tag::PROTOCOL, &[*protocol as u8]);
        if let Some(reverse_path) = reverse_path {
            put(&mut fields, tag::REVERSE_PATH, reverse_path.as_str().as_bytes());
        }
        for Recipient { address, notify, orcpt } in recipients {
            put(&mut fields, tag::RECIPIENT, address.as_str().as_bytes());
            if let Some(notify) = notify {
                put(&mut fields, tag::NOTIFY, &[notify_bits(*notify)]);
            }
            if let Some(orcpt) = orcpt {
                put(&mut fields, tag::ORCPT, orcpt.as_bytes());
            }
        }
        put(&mut fields, tag::BODY, &[*body as u8]);
        if *smtputf8 {
            put(&mut fields, tag::SMTPUTF8, &[]);
        }
        if let Some(ret) = ret {
            put(&mut fields, tag::RET, &[*ret as u8]);
        }
        if let Some(envid) = envid {
            put(&mut fields, tag::ENVID, envid.as_bytes());
        }
        put(&mut fields, tag::TRACE, trace);
        if *line_end_added {
            put(&mut fields, tag::LINE_END_ADDED, &[]);
        }
        if let Some(large_bytes) = large_bytes {
            put(&mut fields, tag::LARGE_BYTES, &large_bytes.to_le_bytes());
        }
        if let Some(Standing { states, deferrals, reason, held }) = standing {
            put(&mut fields, tag::STATES, &states.iter().map(|state| *state as u8).collect::<Vec<_>>());
            put(&mut fields, tag::DEFERRALS, &deferrals.to_le_bytes());
            put(&mut fields, tag::REASON, reason.as_bytes());
            if let Some(HeldNote { since_ms, reason }) = held {
                put(&mut fields, tag::HELD_AS, &[*reason as u8]);
                put(&mut fields, tag::HELD_SINCE_MS, &since_ms.to_le_bytes());
            }
        }
        fields
    }

    /// What the index needs of it.
    pub fn arrival(&self) -> Arrival {
        let Self { envelope, trace: _, line_end_added: _, large_bytes, standing } = self;
        let (flow, recipients) = (envelope.flow(), envelope.recipients.len());
        Arrival { id: envelope.id, flow, recipients, large_bytes: *large_bytes, standing: standing.clone() }
    }

    /// Reads them back; `None` if one that is needed is missing or not as [`Accepted::encode`] writes it.
    pub fn decode(fields: &[u8]) -> Option<Self> {
        let (mut id, mut received_at, mut client) = (None, None, None);
        let (mut helo, mut protocol, mut body) = (String::new(), Protocol::Esmtp, Body::Unsaid);
        let (mut reverse_path, mut recipients, mut trace, mut large_bytes) =
            (None, Vec::<Recipient>::new(), Vec::new(), None);
        let (mut smtputf8, mut ret, mut envid, mut line_end_added) = (false, None, None, false);
        let mut standing = StandingFields::default();
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                tag::ID => id = Some(MessageId::from_bytes(value.try_into().ok()?)),
                tag::TIME_MS => received_at = Some(time(value)?),
                tag::CLIENT => client = Some(text(value)?.parse::<IpAddr>().ok()?),
                tag::HELO => helo = text(value)?.to_owned(),
                tag::PROTOCOL => protocol = protocol_of(value)?,
                tag::REVERSE_PATH => reverse_path = Some(Address::stored(text(value)?)?),
                tag::RECIPIENT => recipients.push(Address::stored(text(value)?)?.into()),
                tag::NOTIFY => recipients.last_mut()?.notify = Some(notify_of(value)?),
                tag::ORCPT => recipients.last_mut()?.orcpt = Some(text(value)?.into()),
                tag::BODY => body = body_of(value)?,
                tag::SMTPUTF8 => smtputf8 = true,
                tag::RET => ret = Some(ret_of(value)?),
                tag::ENVID => envid = Some(text(value)?.into()),
                tag::TRACE => trace = value.to_vec(),
                tag::LINE_END_ADDED => line_end_added = true,
                tag::LARGE_BYTES => large_bytes = Some(u64::from_le_bytes(value.try_into().ok()?)),
                _ => standing.take(tag, value)?,
            }
        }
        let (id, received_at, client) = (id?, received_at?, client?);
        let standing = standing.finish(id, recipients.len())?;
        let envelope =
            Envelope { id, received_at, client, helo, protocol, reverse_path, recipients, body, smtputf8, ret, envid };
        Some(Self { envelope, trace, line_end_added, large_bytes, standing })
    }
}

impl Arrival {
    /// Reads what it needs from the fields of an `Accepted` record, whole or as a footer holds them.
    pub fn decode(fields: &[u8]) -> Option<Self> {
        let (mut id, mut reverse_path, mut recipients, mut large_bytes) = (None, None, 0, None);
        let mut standing = StandingFields::default();
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                tag::ID => id = Some(MessageId::from_bytes(value.try_into().ok()?)),
                tag::REVERSE_PATH => reverse_path = Some(text(value)?),
                tag::RECIPIENT => recipients += 1,
                tag::LARGE_BYTES => large_bytes = Some(u64::from_le_bytes(value.try_into().ok()?)),
                _ => standing.take(tag, value)?,
            }
        }
        let (id, flow) = (id?, Flow::of(reverse_path));
        Some(Self { id, flow, recipients, large_bytes, standing: standing.finish(id, recipients)? })
    }
}

/// The fields of a [`Standing`] as they come.
#[derive(Default)]
struct StandingFields {
    states: Option<Vec<State>>,
    deferrals: u16,
    reason: String,
    held_as: Option<HeldReason>,
    held_since_ms: Option<i64>,
}

impl StandingFields {
    fn take(&mut self, tag: u16, value: &[u8]) -> Option<()> {
        match tag {
            tag::STATES => self.states = Some(value.iter().map(|byte| state_of(*byte)).collect::<Option<_>>()?),
            tag::DEFERRALS => self.deferrals = u16::from_le_bytes(value.try_into().ok()?),
            tag::REASON => self.reason = text(value)?.to_owned(),
            tag::HELD_AS => self.held_as = Some(HeldReason::of(value)),
            tag::HELD_SINCE_MS => self.held_since_ms = Some(i64::from_le_bytes(value.try_into().ok()?)),
            _ => {}
        }
        Some(())
    }

    fn finish(self, id: MessageId, recipients: usize) -> Option<Option<Standing>> {
        let Self { states, deferrals, reason, held_as, held_since_ms } = self;
        let Some(states) = states else { return Some(None) };
        let held = states.contains(&State::Held).then(|| HeldNote {
            since_ms: held_since_ms.unwrap_or(id.made_at_ms()),
            reason: held_as.unwrap_or(HeldReason::Unknown),
        });
        (states.len() == recipients).then_some(Some(Standing { states, deferrals, reason, held }))
    }
}

/// The fields that a footer keeps: what the index needs, and the addresses, for a search.
pub fn for_footer(kind: Kind, fields: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(fields.len().min(256));
    for (tag, value) in Fields(fields).flatten() {
        match (kind, tag) {
            (_, tag::ID | tag::TIME_MS | tag::LARGE_BYTES | tag::STATES | tag::DEFERRALS)
            | (_, tag::HELD_AS | tag::HELD_SINCE_MS)
            | (Kind::Accepted, tag::REVERSE_PATH | tag::RECIPIENT) => put(&mut kept, tag, value),
            // Place and fate, without the words.
            (_, tag::FATE) => put(&mut kept, tag, &value[..value.len().min(FATE_BYTES)]),
            _ => {}
        }
    }
    kept
}

/// Reverse-path and recipients as text, from fields whole or as a footer holds them.
pub fn addresses(fields: &[u8]) -> impl Iterator<Item = &str> {
    let is_address = |tag: u16| matches!(tag, tag::REVERSE_PATH | tag::RECIPIENT);
    Fields(fields).flatten().filter(move |(tag, _)| is_address(*tag)).filter_map(|(_, value)| text(value))
}

/// The recipients as text, from the fields of `Accepted`, whole or as a footer holds them.
pub fn recipients(fields: &[u8]) -> impl Iterator<Item = &str> {
    Fields(fields).flatten().filter(|(tag, _)| *tag == tag::RECIPIENT).filter_map(|(_, value)| text(value))
}

/// Whose record it is, from fields whole or as a footer holds them.
pub fn id(fields: &[u8]) -> Option<MessageId> {
    first(fields, tag::ID).and_then(|value| Some(MessageId::from_bytes(value.try_into().ok()?)))
}

/// When it was written, or of `Accepted`, when the message came; from fields whole or as a footer holds them.
pub fn at(fields: &[u8]) -> Option<Timestamp> {
    first(fields, tag::TIME_MS).and_then(time)
}

/// The reverse-path as text, from the fields of `Accepted`, whole or as a footer holds them; `None` is the null one.
pub fn reverse_path(fields: &[u8]) -> Option<&str> {
    first(fields, tag::REVERSE_PATH).and_then(text)
}

fn first(fields: &[u8], wanted: u16) -> Option<&[u8]> {
    Fields(fields).flatten().find(|(tag, _)| *tag == wanted).map(|(_, value)| value)
}

impl Change {
    /// The fields of the record.
    pub fn encode(&self) -> Vec<u8> {
        let Self { kind: _, id, at, by, fates, held_as } = self; // the kind stands in the record's header
        let mut fields = Vec::with_capacity(128 + 64 * fates.len());
        put(&mut fields, tag::ID, &id.to_bytes());
        put(&mut fields, tag::TIME_MS, &at.as_millisecond().to_le_bytes());
        put(&mut fields, tag::BY, by.as_bytes());
        for (place, fate, words) in fates {
            let mut value = place.to_le_bytes().to_vec();
            value.push(*fate as u8);
            value.extend_from_slice(&words.as_bytes()[..words.floor_char_boundary(WORDS_BYTES_MAX)]);
            put(&mut fields, tag::FATE, &value);
        }
        if let Some(reason) = held_as {
            put(&mut fields, tag::HELD_AS, &[*reason as u8]);
        }
        fields
    }

    /// Why those that it holds are held.
    pub fn held_reason(&self) -> HeldReason {
        self.held_as.unwrap_or(match self.kind {
            Kind::Attempt | Kind::Closed => HeldReason::Undeliverable,
            Kind::Held => HeldReason::Person,
            Kind::Accepted | Kind::Mark | Kind::Released | Kind::Withdrawn | Kind::Moved | Kind::Later => {
                HeldReason::Unknown
            }
        })
    }

    /// Reads them back; `None` as in [`Accepted::decode`].
    pub fn decode(kind: Kind, fields: &[u8]) -> Option<Self> {
        let (mut id, mut at, mut by, mut fates, mut held_as) = (None, None, String::new(), Vec::new(), None);
        for field in Fields(fields) {
            let (tag, value) = field?;
            match tag {
                tag::ID => id = Some(MessageId::from_bytes(value.try_into().ok()?)),
                tag::TIME_MS => at = Some(time(value)?),
                tag::BY => by = text(value)?.to_owned(),
                tag::FATE => {
                    let (place, rest) = value.split_first_chunk()?;
                    let (fate, words) = rest.split_first()?;
                    let words = String::from_utf8_lossy(words).into_owned();
                    fates.push((u32::from_le_bytes(*place), fate_of(*fate)?, words));
                }
                tag::HELD_AS => held_as = Some(HeldReason::of(value)),
                _ => {}
            }
        }
        Some(Self { kind, id: id?, at: at?, by, fates, held_as })
    }
}

/// Totals of the account as headers and marks hold them.
pub const TOTALS_BYTES: usize = 64;

/// The totals; `queued` is not stored, since the index counts it.
pub fn encode_totals(account: &Account) -> Vec<u8> {
    let Account { accepted, passed, delivered, bounced, expired, deleted, moved, damaged, queued: _ } = *account;
    let totals = [accepted, passed, delivered, bounced, expired, deleted, moved, damaged];
    totals.iter().flat_map(|total| total.to_le_bytes()).collect()
}

/// Reads them back.
pub fn decode_totals(bytes: &[u8]) -> Option<Account> {
    let bytes: &[u8; TOTALS_BYTES] = bytes.try_into().ok()?;
    let mut totals = bytes.chunks_exact(8).filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)));
    let mut next = || totals.next();
    Some(Account {
        accepted: next()?,
        passed: next()?,
        delivered: next()?,
        bounced: next()?,
        expired: next()?,
        deleted: next()?,
        moved: next()?,
        damaged: next()?,
        queued: 0,
    })
}

/// The fields of a `Mark` record.
pub fn encode_mark(account: &Account) -> Vec<u8> {
    let mut fields = Vec::new();
    put(&mut fields, tag::TOTALS, &encode_totals(account));
    fields
}

/// The account as a `Mark` record states it.
pub fn decode_mark(fields: &[u8]) -> Option<Account> {
    Fields(fields).flatten().find(|(tag, _)| *tag == tag::TOTALS).and_then(|(_, totals)| decode_totals(totals))
}

fn put(fields: &mut Vec<u8>, tag: u16, value: &[u8]) {
    fields.extend_from_slice(&tag.to_le_bytes());
    // No field comes near 4 GiB: the longest are bounded by the limits of a command line.
    fields.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    fields.extend_from_slice(value);
}

/// Steps through fields; an item of `None` says that the rest cannot be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let step = || {
            let (tag, rest) = self.0.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some((u16::from_le_bytes(*tag), value, rest))
        };
        let Some((tag, value, rest)) = step() else {
            self.0 = &[];
            return Some(None);
        };
        self.0 = rest;
        Some(Some((tag, value)))
    }
}

fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok()
}

fn time(value: &[u8]) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::from_le_bytes(value.try_into().ok()?)).ok()
}

fn protocol_of(value: &[u8]) -> Option<Protocol> {
    [Protocol::Smtp, Protocol::Esmtp, Protocol::Esmtps].into_iter().find(|known| [*known as u8] == value)
}

fn body_of(value: &[u8]) -> Option<Body> {
    [Body::Unsaid, Body::SevenBit, Body::EightBitMime].into_iter().find(|known| [*known as u8] == value)
}

fn ret_of(value: &[u8]) -> Option<Ret> {
    [Ret::Full, Ret::Headers].into_iter().find(|known| [*known as u8] == value)
}

fn notify_bits(Notify { success, failure, delay }: Notify) -> u8 {
    u8::from(success) | u8::from(failure) << 1 | u8::from(delay) << 2
}

fn notify_of(value: &[u8]) -> Option<Notify> {
    let [bits @ 0..8] = value else { return None };
    Some(Notify { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 })
}

fn fate_of(byte: u8) -> Option<Fate> {
    Fate::ALL.into_iter().find(|known| *known as u8 == byte)
}

fn state_of(byte: u8) -> Option<State> {
    [State::Waiting, State::Held, State::Ended].into_iter().find(|known| *known as u8 == byte)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn accepted(id: MessageId, recipients: usize) -> Accepted {
        let recipients =
            (0..recipients).map(|n| Address::parse(&format!("u{n}@example.org")).unwrap().into()).collect();
        let envelope = Envelope {
            id,
            received_at: "2026-11-22T14:53:47.123Z".parse().unwrap(),
            client: "2001:db8::1".parse().unwrap(),
            helo: "mail.example.net".into(),
            protocol: Protocol::Esmtp,
            reverse_path: Some(Address::parse(r#""a b"@example.net"#).unwrap()),
            recipients,
            body: Body::EightBitMime,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        let trace = b"Received: x\r\n".to_vec();
        Accepted { envelope, trace, line_end_added: false, large_bytes: None, standing: None }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let states = vec![State::Waiting, State::Held, State::Ended];
        let held = Some(HeldNote { since_ms: 1_795_359_227_123, reason: HeldReason::Recovered });
        let standing = Some(Standing { states, deferrals: 7, reason: "recovered".into(), held });
        let mut accepted =
            Accepted { line_end_added: true, large_bytes: Some(1 << 40), standing, ..accepted(MessageId::new(), 3) };
        accepted.envelope.smtputf8 = true;
        (accepted.envelope.ret, accepted.envelope.envid) = (Some(Ret::Headers), Some("QQ+3D1".into()));
        accepted.envelope.recipients[1].notify = Some(Notify { success: false, failure: true, delay: true });
        accepted.envelope.recipients[1].orcpt = Some("rfc822;Bob@example.org".into());
        accepted.envelope.recipients[2].notify = Some(Notify { success: false, failure: false, delay: false });
        assert_eq!(Accepted::decode(&accepted.encode()), Some(accepted));
        let attempt = Change {
            kind: Kind::Attempt,
            id: MessageId::new(),
            at: "2026-11-22T14:53:47Z".parse().unwrap(),
            by: "mx1.example.org:25".into(),
            fates: vec![
                (0, Fate::Delivered, "250 ok".into()),
                (1, Fate::Deferred, String::new()),
                (2, Fate::Held, "550".into()),
            ],
            held_as: Some(HeldReason::Undeliverable),
        };
        assert_eq!(Change::decode(Kind::Attempt, &attempt.encode()), Some(attempt));
    }

    #[test]
    fn a_footer_keeps_what_the_index_needs_and_the_addresses() {
        let held = Some(HeldNote { since_ms: 5, reason: HeldReason::Person });
        let standing = Some(Standing { states: vec![State::Held; 2], deferrals: 1, reason: String::new(), held });
        let accepted = Accepted { large_bytes: Some(9), standing, ..accepted(MessageId::new(), 2) };
        let whole = accepted.encode();
        let kept = for_footer(Kind::Accepted, &whole);
        assert!(kept.len() < whole.len());
        assert_eq!(Arrival::decode(&kept), Some(accepted.arrival()));
        assert_eq!(Arrival::decode(&whole), Some(accepted.arrival()));
        let Envelope { id: of, received_at, .. } = accepted.envelope;
        assert_eq!(
            (id(&kept), at(&kept), reverse_path(&kept)),
            (Some(of), Some(received_at), Some(r#""a b"@example.net"#))
        );
        assert_eq!(addresses(&kept).collect::<Vec<_>>(), [r#""a b"@example.net"#, "u0@example.org", "u1@example.org"]);
        let change = Change {
            kind: Kind::Attempt,
            id: MessageId::new(),
            at: "2026-11-22T14:53:47Z".parse().unwrap(),
            by: "mx1.example.org:25".into(),
            fates: vec![(3, Fate::Held, "550 no".into())],
            held_as: Some(HeldReason::Capability),
        };
        let read = Change::decode(Kind::Attempt, &for_footer(Kind::Attempt, &change.encode())).unwrap();
        assert_eq!(read, Change { by: String::new(), fates: vec![(3, Fate::Held, String::new())], ..change });
    }

    #[test]
    fn a_tag_of_a_later_version_is_passed_over() {
        let accepted = accepted(MessageId::new(), 1);
        let mut fields = accepted.encode();
        put(&mut fields, 999, b"from the future");
        assert_eq!(Accepted::decode(&fields), Some(accepted));
    }

    #[test]
    fn why_somebody_is_held_is_guessed_for_old_records_and_unknown_for_newer_ones() {
        let id = MessageId::from_bytes([1; 16]);
        let at = "2026-11-22T14:53:47Z".parse().unwrap();
        let fates = vec![(0, Fate::Held, String::new())];
        for (kind, reason) in [(Kind::Attempt, HeldReason::Undeliverable), (Kind::Held, HeldReason::Person)] {
            let old = Change { kind, id, at, by: String::new(), fates: fates.clone(), held_as: None };
            let mut fields = old.encode();
            assert_eq!(Change::decode(kind, &fields).unwrap().held_reason(), reason);
            for newer in [&[200][..], &[], &[1, 2]] {
                put(&mut fields, tag::HELD_AS, newer);
                assert_eq!(Change::decode(kind, &fields).unwrap().held_reason(), HeldReason::Unknown, "{newer:?}");
            }
        }
        let standing = Some(Standing { states: vec![State::Held], deferrals: 0, reason: String::new(), held: None });
        let old_copy = Accepted { standing, ..accepted(id, 1) };
        let held = Arrival::decode(&old_copy.encode()).unwrap().standing.unwrap().held;
        assert_eq!(held, Some(HeldNote { since_ms: id.made_at_ms(), reason: HeldReason::Unknown }));
    }

    #[test]
    fn cut_fields_are_told_and_never_panic() {
        let whole = accepted(MessageId::new(), 2).encode();
        for length in 0..whole.len() {
            let cut = Accepted::decode(&whole[..length]);
            assert!(cut.is_none_or(|cut| cut.envelope.recipients.len() <= 2), "cut at {length}");
        }
    }
}
