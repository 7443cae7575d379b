//! The table of docs/smtp.md, walked with harm at each step between relay and primary: what a sender hears is what holds. Nothing is lost, and
//! nothing comes twice but where the table says that it may.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use backupmx_relay_api::status::{Account, PrimaryState};
use support::{
    Client, Primary, Relay,
    certificate::Certificate,
    proxy::{Fault, Harm, Proxy, Side, Step},
    trace_field,
};

/// For what comes by itself within seconds, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Cases at a time: most of the time each of them waits.
const AT_ONCE: usize = 8;
const CONTENT: &str = "Subject: x\r\n\r\nbody\r\n.\r\nMAIL FROM:<>\r\n";
/// No probe goes by the harm, and a silent primary is given up soon.
const CONFIG: &str = "primary: {probe: {interval: 1h, intervalWhileQueued: 500ms, renewForClientAfter: 1h}}\n\
                      passThrough: {stall: 1s, finalDot: 2s}\n";

/// What a sender hears, and how often the primary has the message in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// 250, from the primary: it has it once.
    Passes,
    /// 250, from us: it gets it once.
    Kept,
    /// 250, from us: it gets it once or twice, for it may have had it when the connection broke.
    MaybeTwice,
    /// 4xx: nobody has it.
    TryAgain,
    /// 5xx: nobody has it.
    Refused,
}

/// One message under one harm.
#[derive(Clone, Debug)]
struct Case {
    harm: Harm,
    fate: Fate,
    recipients: u64,
    by_bdat: bool,
    in_tls: bool,
}

/// What each harm does to a message, by docs/smtp.md.
fn harms() -> Vec<(Harm, Fate)> {
    use Side::{AfterCommand, AfterReply, BeforeCommand, BeforeReply};
    let mut harms = Vec::new();
    let breaks = [Fault::Cut, Fault::Reset];
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data, Step::Dot] {
        let sides: &[Side] = if step == Step::Greeting {
            &[BeforeReply, AfterReply]
        } else {
            &[BeforeCommand, AfterCommand, BeforeReply, AfterReply]
        };
        for &side in sides {
            let fate = match (step, side) {
                (Step::Dot, AfterReply) => Fate::Passes,
                (Step::Dot, AfterCommand | BeforeReply) => Fate::MaybeTwice,
                // Whether the dot got through is known to nobody but the proxy.
                (Step::Dot, BeforeCommand) => Fate::MaybeTwice,
                _ => Fate::Kept,
            };
            harms.extend(breaks.iter().map(|fault| (Harm::at(step, side, fault.clone()), fate)));
            harms.push((Harm::at(step, side, Fault::Hold), fate));
            let delay = Harm::at(step, side, Fault::Delay(Duration::from_millis(300)));
            harms.push((delay, Fate::Passes));
        }
        harms.push((Harm::at(step, BeforeReply, Fault::Fragment), Fate::Passes));
        harms.push((
            Harm::at(step, BeforeReply, Fault::Truncate),
            if step == Step::Dot { Fate::MaybeTwice } else { Fate::Kept },
        ));
    }
    for (step, side) in [(Step::Ehlo, BeforeCommand), (Step::Mail, BeforeCommand), (Step::Rcpt, BeforeCommand)] {
        harms.push((Harm::at(step, side, Fault::Fragment), Fate::Passes));
        harms.push((Harm::at(step, side, Fault::Truncate), Fate::Kept));
    }
    for (step, words, fate) in [
        (Step::Greeting, "421 4.3.2 closing", Fate::Kept),
        (Step::Greeting, "554 5.7.1 you are listed", Fate::TryAgain),
        (Step::Mail, "421 4.3.2 closing", Fate::Kept),
        (Step::Mail, "452 4.3.1 full", Fate::Kept),
        (Step::Mail, "450 4.7.1 later", Fate::TryAgain),
        (Step::Mail, "550 5.1.8 no such sender", Fate::Refused),
        (Step::Rcpt, "421 4.3.2 closing", Fate::Kept),
        (Step::Rcpt, "451 4.3.0 out of memory", Fate::Kept),
        (Step::Data, "421 4.3.2 closing", Fate::Kept),
        (Step::Data, "451 4.3.0 out of memory", Fate::Kept),
        (Step::Data, "450 4.7.1 later", Fate::TryAgain),
        (Step::Data, "554 5.5.0 no", Fate::Refused),
    ] {
        let side = if step == Step::Greeting { BeforeReply } else { BeforeCommand };
        harms.push((Harm::at(step, side, Fault::Replace(words.into())), fate));
    }
    // An answer too many: no later one may be taken for what it is not.
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data, Step::Dot] {
        let fate = match step {
            Step::Dot => Fate::Passes,
            // If it comes after our dot, it stands where the answer to that should.
            Step::Data => Fate::MaybeTwice,
            _ => Fate::Kept,
        };
        harms.push((Harm::at(step, BeforeReply, Fault::Duplicate), fate));
    }
    for fault in breaks.into_iter().chain([Fault::Hold]) {
        harms.push((Harm::within_content(fault).after_bytes(20), Fate::MaybeTwice));
    }
    harms
}

/// The same for TLS, which is an opportunity and no more by default: without it mail passes in clear.
fn harms_of_tls() -> Vec<(Harm, Fate)> {
    let mut harms = Vec::new();
    for step in [Step::StartTls, Step::Handshake] {
        for side in [Side::BeforeCommand, Side::AfterCommand, Side::BeforeReply, Side::AfterReply] {
            let faults = [Fault::Cut, Fault::Reset, Fault::Hold, Fault::Delay(Duration::from_millis(300))];
            harms.extend(faults.map(|fault| (Harm::at(step, side, fault), Fate::Passes)));
        }
    }
    harms
}

#[test]
fn whatever_breaks_where_nothing_is_lost_and_what_was_said_holds() {
    let mut cases: Vec<Case> = Vec::new();
    for (harm, fate) in harms() {
        for (recipients, by_bdat) in [(1, false), (3, false), (1, true), (3, true)] {
            cases.push(Case { harm: harm.clone().times(1), fate, recipients, by_bdat, in_tls: false });
        }
    }
    cases.extend(harms_of_tls().into_iter().map(|(harm, fate)| Case {
        harm: harm.times(1),
        fate,
        recipients: 1,
        by_bdat: false,
        in_tls: true,
    }));
    println!("{} cases", cases.len());
    let (next, doubles, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match case.run() {
                        Ok(copies) => drop(doubles.fetch_add(usize::from(copies > 1), Ordering::Relaxed)),
                        Err(why) => wrong.lock().expect("nobody panics with it").push(format!("{case:?}: {why}")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panicked");
    println!("{} messages came twice, all where the table says so", doubles.into_inner());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

impl Case {
    /// Returns how often the primary has the message in the end.
    fn run(&self) -> Result<usize, String> {
        let primary = Primary::start();
        if self.in_tls {
            primary.offer_tls(&Certificate::of(&["127.0.0.1"]));
        }
        let proxy = Proxy::before(primary.address());
        let relay = Relay::passing(proxy.address()).config(CONFIG).start();
        relay.until(LIMIT, "the primary is known to be up", |status| status.primary.state == PrimaryState::Up);
        let struck = proxy.harm(self.harm.clone());
        let heard = self.send(&relay);
        if struck.count() == 0 {
            return Err("the harm was never done".into());
        }
        proxy.release();
        let is_right = match self.fate {
            Fate::Passes => heard.starts_with("250 2.0.0 Passed on as"),
            Fate::Kept | Fate::MaybeTwice => heard.starts_with("250 2.0.0 Kept as"),
            Fate::TryAgain => heard.starts_with('4'),
            Fate::Refused => heard.starts_with('5'),
        };
        if !is_right {
            return Err(format!("its sender heard {heard}"));
        }
        self.compare(&primary, &relay)
    }

    /// The reply to the content, or the first one that was no yes.
    fn send(&self, relay: &Relay) -> String {
        let mut client = Client::hello(relay.smtp()).expect("the relay takes sessions");
        let mut say = |line: &str| client.say(line).expect("the session lives").to_string();
        let mut heard = vec![say("MAIL FROM:<ann@client.example>")];
        for number in 0..self.recipients {
            heard.push(say(&format!("RCPT TO:<m{number}@example.org>")));
        }
        if let Some(no) = heard.into_iter().find(|reply| !reply.starts_with('2')) {
            return no;
        }
        if self.by_bdat {
            let (head, tail) = CONTENT.split_at(10);
            let mut part = |part: &str, last: &str| {
                client.raw(format!("BDAT {}{last}\r\n{part}", part.len()).as_bytes()).expect("the session lives");
                client.reply().expect("the session lives").to_string()
            };
            let first = part(head, "");
            return if first.starts_with('2') { part(tail, " LAST") } else { first };
        }
        let go_on = say("DATA");
        if go_on.starts_with("354") { say(&(CONTENT.replace("\r\n.", "\r\n..") + ".")) } else { go_on }
    }

    fn compare(&self, primary: &Primary, relay: &Relay) -> Result<usize, String> {
        let holds = matches!(self.fate, Fate::Passes | Fate::Kept | Fate::MaybeTwice);
        if holds {
            primary.wait_for(1, LIMIT);
        }
        let account = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0).account;
        let expected = match self.fate {
            Fate::Passes => Account { accepted: self.recipients, passed: self.recipients, ..Account::default() },
            Fate::Kept | Fate::MaybeTwice => {
                Account { accepted: self.recipients, delivered: self.recipients, ..Account::default() }
            }
            Fate::TryAgain | Fate::Refused => Account::default(),
        };
        if account != expected {
            return Err(format!("the account says {account:?}"));
        }
        let mails = primary.mails();
        let whole = |mail: &&std::sync::Arc<support::primary::Mail>| {
            mail.recipients.len() as u64 == self.recipients && trace_field::split(&mail.content).1 == CONTENT.as_bytes()
        };
        let copies = mails.iter().filter(whole).count();
        let copies_max = match self.fate {
            Fate::Passes | Fate::Kept => 1,
            Fate::MaybeTwice => 2,
            Fate::TryAgain | Fate::Refused => 0,
        };
        if copies != mails.len() || copies > copies_max || (holds && copies == 0) {
            return Err(format!("the primary has it {copies} times, and {} others", mails.len() - copies));
        }
        Ok(copies)
    }
}

#[test]
fn a_sender_that_breaks_off_at_any_step_leaves_nothing_half_done() {
    for step in [Step::Mail, Step::Rcpt, Step::Data, Step::Dot, Step::Bdat] {
        for side in [Side::BeforeCommand, Side::AfterCommand, Side::BeforeReply, Side::AfterReply] {
            for fault in [Fault::Cut, Fault::Reset] {
                let primary = Primary::start();
                let relay = Relay::passing(primary.address()).start();
                relay.until(LIMIT, "it is up", |status| status.primary.state == PrimaryState::Up);
                let proxy = Proxy::before(relay.smtp());
                let struck = proxy.harm(Harm::at(step, side, fault.clone()));
                let heard = break_off(&proxy, step == Step::Bdat);
                assert_eq!(struck.count(), 1, "{step:?} {side:?} {fault:?}");
                // What the primary has, it has whole; what its sender heard, holds.
                let account = relay.until(LIMIT, "nothing is under way", |status| status.sessions == 0).account;
                let mails = primary.mails();
                let is_whole = mails.iter().all(|mail| trace_field::split(&mail.content).1 == CONTENT.as_bytes());
                assert!(is_whole && mails.len() <= 1, "{step:?} {side:?} {fault:?}");
                assert_eq!(account.passed, mails.len() as u64, "{step:?} {side:?} {fault:?}");
                assert_eq!((account.difference(), account.queued), (0, 0));
                assert!(!heard || mails.len() == 1, "{step:?} {side:?} {fault:?}");
            }
        }
    }
}

/// Says a message through a proxy that breaks off somewhere. Whether it heard that it is taken.
fn break_off(proxy: &Proxy, by_bdat: bool) -> bool {
    let say = || -> io::Result<bool> {
        let mut client = Client::hello(proxy.address())?;
        client.say("MAIL FROM:<ann@client.example>")?;
        client.say("RCPT TO:<m0@example.org>")?;
        if by_bdat {
            client.raw(format!("BDAT {} LAST\r\n{CONTENT}", CONTENT.len()).as_bytes())?;
            return Ok(client.reply()?.code == 250);
        }
        client.say("DATA")?;
        Ok(client.say(&(CONTENT.replace("\r\n.", "\r\n..") + "."))?.code == 250)
    };
    say().unwrap_or(false)
}
