//! Situations for the tests: a `BackupMx` with two relays that are well, and how a test makes it otherwise.

use std::sync::Arc;

use backupmx_relay_api::{SCHEMA, status::*};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{derive, publish::Written};
use crate::{
    apply::{Applied, Claim, Pod, Rollout},
    crd::{BackupMx, BackupMxStatus},
    finalize::pod_name,
    observe::{Observed, Report},
    plan::{Defaults, Plan, resolve},
};

pub const NAME: &str = "example";
pub const DIGEST: &str = "0123456789abcdef0123456789abcdef";

#[derive(Clone)]
pub struct Situation {
    pub mx: BackupMx,
    pub plan: Plan,
    pub applied: Applied,
    pub observed: Observed,
    pub now: Timestamp,
}

pub fn noon() -> Timestamp {
    "2026-11-27T12:00:00Z".parse().unwrap()
}

/// Two relays that run, know the newest settings and have nothing to do.
pub fn well() -> Situation {
    let mx = resource(2);
    let ordinals = 0..2;
    Situation {
        mx,
        plan: plan(2),
        applied: Applied {
            config_digest: DIGEST.into(),
            rollout: Some(Rollout { replicas: 2, seen: true, updated: 2 }),
            pods: ordinals.clone().map(pod).collect(),
            claims: ordinals.clone().map(claim).collect(),
            has_service: true,
            addresses: vec!["203.0.113.7".into()],
            ..Applied::default()
        },
        observed: Observed { relays: ordinals.map(report).collect() },
        now: noon(),
    }
}

pub fn resource(replicas: i32) -> BackupMx {
    let mx = json!({
        "apiVersion": "backupmx.io/v1alpha1", "kind": "BackupMx",
        "metadata": { "name": NAME, "namespace": "mail", "uid": "1", "generation": 3 },
        "spec": {
            "domains": ["example.org"], "hostname": "mx2.example.org", "replicas": replicas,
            "primary": { "hosts": [{ "host": "mx1.example.org" }] },
        },
    });
    serde_json::from_value(mx).unwrap()
}

pub fn plan(replicas: i32) -> Plan {
    let defaults = Defaults { relay_image: "relay".into(), operator_namespace: "backupmx".into() };
    resolve(&resource(replicas), &defaults).unwrap()
}

/// The primary refuses its own backup with these words.
pub fn judges(words: &'static str) -> impl Fn(&mut Status) + Copy {
    move |answer| answer.primary.judges = Some(Judges { since: noon().to_string(), reason: words.into() })
}

pub fn pod(ordinal: i32) -> Pod {
    Pod { name: pod_name(NAME, ordinal), uid: format!("uid-{ordinal}"), ready: true, ..Pod::default() }
}

pub fn claim(ordinal: i32) -> Claim {
    let pod = pod_name(NAME, ordinal);
    Claim { name: format!("data-{pod}"), pod, bound: true, ..Claim::default() }
}

pub fn report(ordinal: i32) -> Report {
    Report { pod: pod_name(NAME, ordinal), answer: Some(Arc::new(answer())), answers: 1, ..Report::default() }
}

pub fn answer() -> Status {
    Status {
        version: "0.1.0".into(),
        schema: SCHEMA,
        hostname: "mx2.example.org".into(),
        config_generation: 3,
        revision: 7,
        started_at: "2026-11-27T08:00:00Z".into(),
        primary: Primary {
            state: PrimaryState::Up,
            since: "2026-11-27T08:00:01.5Z".into(),
            last_probe: Some("2026-11-27T11:59:50Z".into()),
            reason: "mx1.example.org:25 answers".into(),
            host: None,
            egress_address: None,
            judges: None,
        },
        queue: Queue { messages: 0, bytes: 0, oldest: None, held: 0 },
        drain: Drain {
            state: DrainState::Idle,
            messages_per_second: 0.0,
            connections: 0,
            connections_allowed: 1,
            estimated_empty: None,
            hold: None,
            breaker: None,
        },
        spool: Spool { bytes: 0, free_bytes: 20 << 30, writable: true, quarantined: 0 },
        account: Account::default(),
        sessions: 0,
        config: Config { digest: Some(DIGEST.into()), ..Config::default() },
        clients: Clients::default(),
        cordoned: false,
        outages: Vec::new(),
        tls: Vec::new(),
        capabilities: Capabilities { size: 0, eight_bit_mime: true, smtputf8: true, dsn: true, seen_at: None },
        problems: Vec::new(),
    }
}

impl Situation {
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What this relay says is otherwise.
    pub fn says(self, relay: usize, change: impl Fn(&mut Status)) -> Self {
        self.with(|it| change(Arc::make_mut(it.observed.relays[relay].answer.as_mut().unwrap())))
    }

    /// What all say is otherwise.
    pub fn all_say(self, change: impl Fn(&mut Status) + Copy) -> Self {
        let relays = self.observed.relays.len();
        (0..relays).fold(self, |it, relay| it.says(relay, change))
    }

    /// Silent for so long.
    pub fn silent(self, relay: usize, seconds: i64) -> Self {
        self.with(|it| {
            let report = &mut it.observed.relays[relay];
            report.silence = Some("connect: timed out".into());
            report.silent_since = Some(it.now - SignedDuration::from_secs(seconds));
        })
    }

    /// The resource is changed by a patch of its own JSON.
    pub fn spec(self, key: &str, value: serde_json::Value) -> Self {
        self.with(|it| {
            let mut mx = serde_json::to_value(&it.mx).unwrap();
            mx["spec"][key] = value;
            it.mx = serde_json::from_value(mx).unwrap();
        })
    }

    pub fn deleted(self, policy: &str) -> Self {
        let mut it = self.spec("deletionPolicy", json!(policy));
        it.mx.metadata.deletion_timestamp = Some(it.now.into());
        it
    }

    pub fn later(self, seconds: i64) -> Self {
        self.with(|it| it.now += SignedDuration::from_secs(seconds))
    }

    pub fn status(&self) -> BackupMxStatus {
        derive(&self.mx, &self.plan, &self.applied, &self.observed, self.now)
    }

    /// The same after its status was written.
    pub fn published(self) -> Self {
        self.with(|it| it.mx.status = Some(it.status()))
    }

    pub fn written(&self) -> Written {
        Written::new(self.now, &self.status())
    }
}
