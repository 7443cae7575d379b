//! The conditions: their types, their reasons, and how one is written. docs/conditions.md is the contract. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::text::{MESSAGE_CHARS_MAX, shown};

/// An enum whose names are what is written, and a list of them all for the test that compares them with the documentation.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $word:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$doc])* $word,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$word,)*];

            /// As it stands in a condition.
            pub fn word(self) -> &'static str {
                match self { $($name::$word => stringify!($word),)* }
            }
        }
    };
}

words! {
    /// Types of conditions.
    Kind {
        /// Mail is taken and kept now.
        Ready,
        /// The resource can be used.
        Accepted,
        /// SMTP answers somewhere where senders can reach it.
        Available,
        /// What is wanted is not yet what runs.
        Progressing,
        /// A person should look.
        Degraded,
        /// The primary can take mail.
        PrimaryReachable,
        /// No mail is here.
        QueueEmpty,
        /// Mail is being handed over.
        Draining,
        /// Senders are offered STARTTLS with a certificate that holds.
        TlsReady,
        /// A relay that should leave cannot.
        ScaleInBlocked,
        /// For kstatus, only while true: the same as `Progressing`.
        Reconciling,
        /// For kstatus, only while true: it does not go on without a person.
        Stalled,
    }
}

words! {
    /// Reasons of conditions.
    Reason {
        /// `Ready`: some relay takes mail.
        RelaysReady,
        /// `Ready`, `Available`: no pod of a relay is ready.
        NoRelayReady,
        /// Wherever relays must tell: none answers that would have to.
        RelaysSilent,
        /// `Ready`: all relays that could are cordoned.
        AllCordoned,
        /// `Ready`, `Degraded`: a spool cannot be written.
        SpoolNotWritable,
        /// `Ready`, `Degraded`: a volume has no room.
        VolumeFull,
        /// All but `Accepted`: nothing can be told, since the resource cannot be used.
        NotAccepted,
        /// `Accepted`: all is well with it.
        Valid,
        /// `Available`: it answers.
        SmtpAnswers,
        /// `Available`: the Service for senders is not there.
        NoService,
        /// `Available`: the load balancer has no address.
        NoAddress,
        /// `Progressing`: everything runs as wanted.
        Complete,
        /// `Progressing`: `spec.paused`.
        Paused,
        /// `Progressing`: the resource is being deleted.
        Deleting,
        /// `Progressing`: objects are missing.
        ObjectsPending,
        /// `Progressing`: pods are being replaced.
        RollingOut,
        /// `Progressing`: pods have yet to come.
        RelaysStarting,
        /// `Progressing`: relays leave.
        ScalingIn,
        /// `Progressing`: relays run an older config document.
        ConfigPending,
        /// `Degraded`: nothing is wrong.
        AsWanted,
        /// `Degraded`: an object of that name is somebody else's.
        ForeignObject,
        /// `Degraded`: what the resource names is not there.
        ObjectMissing,
        /// `Degraded`: the cluster does not know a kind.
        KindUnknown,
        /// `Degraded`: the API server refused an object.
        ObjectRefused,
        /// `Degraded`: a relay refused the config document.
        ConfigRejected,
        /// `Degraded`: the primary refuses its own backup.
        PrimaryJudgesUs,
        /// `Degraded`, `ScaleInBlocked`: the account of a relay does not add up.
        AccountDifference,
        /// `Degraded`: damage was found on a volume.
        DamageFound,
        /// `Degraded`: a relay is too old for what is asked of it.
        RelayTooOld,
        /// `Degraded`: a relay does not answer.
        RelaySilent,
        /// `Degraded`: a pod is not ready.
        RelayNotReady,
        /// `Degraded`: `Progressing` for too long.
        ProgressDeadlineExceeded,
        /// `Degraded`: a relay has something else to tell.
        RelayHasProblems,
        /// `PrimaryReachable`: it answers.
        Up,
        /// `PrimaryReachable`: not yet asked often enough.
        NotYetKnown,
        /// `PrimaryReachable`: it does not answer.
        Down,
        /// `PrimaryReachable`: it answers, but is not well.
        Sick,
        /// `PrimaryReachable`, `Draining`: somebody wants nothing to be handed over.
        Held,
        /// `PrimaryReachable`, `Draining`: it refuses what no primary should refuse.
        BreakerOpen,
        /// `PrimaryReachable`: away on purpose.
        Maintenance,
        /// `PrimaryReachable`: relays do not agree.
        Mixed,
        /// `QueueEmpty`: nothing is here.
        Empty,
        /// `QueueEmpty`, `ScaleInBlocked`: mail waits.
        MailWaiting,
        /// `QueueEmpty`: all that waits is held.
        MailHeld,
        /// `QueueEmpty`, `ScaleInBlocked`: a claim without a pod may hold mail.
        ClaimUnknown,
        /// `Draining`: mail leaves.
        HandingOver,
        /// `Draining`: nothing waits.
        Idle,
        /// `Draining`: mail waits for the primary, or for its next try.
        Waiting,
        /// `TlsReady`: all is well.
        CertificateCurrent,
        /// `TlsReady`: it holds, but not for long.
        CertificateExpiring,
        /// `TlsReady`: it no longer holds.
        CertificateExpired,
        /// `TlsReady`: the Secret is not there.
        SecretMissing,
        /// `TlsReady`: a relay does not use it yet, or cannot.
        CertificateNotLoaded,
        /// `TlsReady`: `spec.tls` asks for none.
        NotWanted,
        /// `ScaleInBlocked`: no relay is to leave, or those that are may.
        NotBlocked,
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// `True`
    Yes,
    /// `False`
    No,
    /// `Unknown`
    Unknown,
}

impl Holds {
    /// As it stands in a condition.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "True",
            Self::No => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is said of one condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether it holds.
    pub holds: Holds,
    /// Fixed.
    pub reason: &'static str,
    /// For people: what is so, and the cure.
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { holds: Holds::Yes, reason: reason.word(), message: message.into() }
    }

    /// It does not.
    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { holds: Holds::No, reason: reason.word(), message: message.into() }
    }

    /// Nobody knows.
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { holds: Holds::Unknown, reason: reason.word(), message: message.into() }
    }

    /// Whether it is certain that it holds.
    pub fn is_yes(&self) -> bool {
        self.holds == Holds::Yes
    }
}

/// Writes a condition. Its last transition stays what it was as long as `before` says the same status.
pub fn written(
    kind: Kind,
    verdict: Verdict,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let Verdict { holds, reason, message } = verdict;
    let same = find(before, kind).filter(|condition| condition.status == holds.word());
    Condition {
        type_: kind.word().into(),
        status: holds.word().into(),
        reason: reason.into(),
        message: shown(&message, MESSAGE_CHARS_MAX),
        observed_generation: generation,
        last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    }
}

/// The condition of this type.
pub fn find(conditions: &[Condition], kind: Kind) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.word())
}

/// Whether the condition of this type is there and `True`.
pub fn holds(conditions: &[Condition], kind: Kind) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == Holds::Yes.word())
}
