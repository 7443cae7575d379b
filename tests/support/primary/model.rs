//! A primary in numbers: what it can bear, how it answers under load, whom it puts off, how it fails. All of it can be
//! changed while it runs.
//!
//! | part | what clients meet |
//! |---|---|
//! | [`Model::latency`] | each command is answered after this time |
//! | [`Model::capacity`] | the final dot is answered when the message has had its turn |
//! | [`Model::slow_start`] | after a return the capacity is a fraction, and grows |
//! | [`Model::greylist`] | 450 4.7.1 to RCPT for who is not known long enough |
//! | [`Model::relapse`] | after some messages it fails, and recovers after a time |
//! | [`Model::storm`] | 5xx to everything of a kind |

use std::{
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{
    lock,
    script::{Act, Stage},
};

mod failure;
mod greylist;
mod station;

use failure::Relapse;
pub use failure::{Failing, Storm};
use greylist::Greylist;
pub use station::Capacity;
use station::{SlowStart, Station};

/// The numbers; none at first, so that everything is taken at once.
#[derive(Default)]
pub struct Model {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    latency: Duration,
    station: Option<Station>,
    slow_start: Option<SlowStart>,
    returned: Option<Instant>,
    greylist: Option<Greylist>,
    relapse: Option<Relapse>,
    storm: Option<Storm>,
}

/// Where a conversation is.
pub(super) struct Moment<'a> {
    pub(super) stage: Stage,
    pub(super) now: Instant,
    pub(super) client: IpAddr,
    pub(super) sender: &'a str,
    /// At RCPT.
    pub(super) recipient: &'a str,
}

impl Moment<'_> {
    fn is_about_postmaster(&self) -> bool {
        self.recipient.split('@').next().is_some_and(|local| local.eq_ignore_ascii_case("postmaster"))
    }
}

impl Model {
    /// Answers each command after this time.
    pub fn latency(&self, latency: Duration) {
        lock(&self.state).latency = latency;
    }

    /// Takes messages at this rate.
    pub fn capacity(&self, capacity: Capacity) {
        lock(&self.state).station = Some(Station::new(capacity));
    }

    /// Has this fraction of its capacity at a return, and all of it after `over`.
    pub fn slow_start(&self, fraction: f64, over: Duration) {
        lock(&self.state).slow_start = Some(SlowStart { fraction, over });
    }

    /// Puts off each client, sender and recipient that come together for the first time, until `delay` has passed.
    pub fn greylist(&self, delay: Duration) {
        lock(&self.state).greylist = Some(Greylist::new(delay));
    }

    /// Fails in this way once `messages` more have been kept, for this long, and then never again.
    pub fn relapse(&self, how: Failing, messages: u64, lasts: Duration) {
        lock(&self.state).relapse = Some(Relapse::after(how, messages, lasts));
    }

    /// When the relapse began, if it has.
    pub fn relapsed(&self) -> Option<Instant> {
        lock(&self.state).relapse.as_ref()?.began()
    }

    /// Refuses for good, in this way.
    pub fn storm(&self, storm: Storm) {
        lock(&self.state).storm = Some(storm);
    }

    /// The storm is over.
    pub fn calm(&self) {
        lock(&self.state).storm = None;
    }

    pub(super) fn returned(&self, now: Instant) {
        lock(&self.state).returned = Some(now);
    }

    pub(super) fn pause(&self) -> Duration {
        lock(&self.state).latency
    }

    /// What happens in place of the usual, if anything.
    pub(super) fn act_at(&self, moment: &Moment) -> Option<Act> {
        let mut state = lock(&self.state);
        let relapse = state.relapse.as_ref().and_then(|relapse| relapse.act_at(moment));
        let storm = || state.storm.and_then(|storm| storm.reply_to(moment)).map(|line| Act::Answer(line.to_owned()));
        if let Some(act) = relapse.or_else(storm) {
            return Some(act);
        }
        let is_put_off = moment.stage == Stage::Rcpt && state.greylist.as_mut()?.puts_off(moment);
        is_put_off.then(|| Act::Answer("450 4.7.1 greylisted, try again".to_owned()))
    }

    /// When a message whose final dot came now has had its turn.
    pub(super) fn served(&self, now: Instant) -> Instant {
        let mut state = lock(&self.state);
        let strength = match (&state.slow_start, state.returned) {
            (Some(slow_start), Some(returned)) => slow_start.strength(now - returned),
            _ => 1.0,
        };
        state.station.as_mut().map_or(now, |station| station.serve(now, strength))
    }

    pub(super) fn kept(&self, now: Instant) {
        if let Some(relapse) = &mut lock(&self.state).relapse {
            relapse.kept(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Envelope, Primary, eventually, load::Load};

    #[test]
    fn a_primary_takes_as_much_as_it_can_bear_and_no_more() {
        const CAPACITY: Capacity = Capacity { servers: 4, service: Duration::from_millis(20), congestion: 0.0 };
        assert_eq!(CAPACITY.messages_per_second(), 200.0);
        let primary = Primary::start();
        primary.model().capacity(CAPACITY);
        let load = Load { messages: 300, bytes: 500, sessions: 12, seed: 1 };
        assert_eq!(load.send(primary.address()).accepted.len(), 300);
        let rate = primary.steady_rate();
        assert!((160.0..=202.0).contains(&rate), "{rate} messages a second");
    }

    #[test]
    fn a_command_is_answered_after_the_latency() {
        let primary = Primary::start();
        primary.model().latency(Duration::from_millis(30));
        let begun = Instant::now();
        Client::hello(primary.address()).unwrap().say("NOOP").unwrap();
        // The greeting is no answer to a command.
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_primary_is_weak_after_a_return() {
        let mut primary = Primary::away();
        primary.model().capacity(Capacity { servers: 1, service: Duration::from_millis(10), congestion: 0.0 });
        primary.model().slow_start(0.1, Duration::from_secs(3600));
        primary.return_now();
        let begun = Instant::now();
        Client::hello(primary.address()).unwrap().send(&Envelope::to("bob"), b"").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(95), "{:?}", begun.elapsed());
    }

    #[test]
    fn who_is_greylisted_is_taken_once_the_delay_has_passed() {
        const DELAY: Duration = Duration::from_millis(300);
        let primary = Primary::start();
        primary.model().greylist(DELAY);
        let begun = Instant::now();
        let mut client = Client::hello(primary.address()).unwrap();
        let mut send = |name: &str| {
            let reply = client.send(&Envelope::to(name), b"").unwrap();
            client.say("RSET").unwrap();
            reply
        };
        assert!(send("bob").is("450 4.7.1"));
        assert!(send("carol").is("450 4.7.1"));
        eventually(Duration::from_secs(30), "bob is known", || send("bob").code == 250);
        assert!(begun.elapsed() >= DELAY);
        assert_eq!(send("postmaster").code, 250);
    }

    #[test]
    fn a_primary_relapses_in_its_way_and_recovers() {
        const LASTS: Duration = Duration::from_millis(300);
        for (how, expected) in
            [(Failing::TurnsAway, Some("421 4.3.2")), (Failing::PutsOff, Some("451 4.3.0")), (Failing::Cuts, None)]
        {
            let primary = Primary::start();
            primary.model().relapse(how, 2, LASTS);
            let mut client = Client::hello(primary.address()).unwrap();
            for _ in 0..2 {
                assert_eq!(client.send(&Envelope::to("bob"), b"").unwrap().code, 250, "{how:?}");
            }
            let reply = client.say("MAIL FROM:<a@b>");
            assert!(expected.map_or(reply.is_err(), |start| reply.is_ok_and(|reply| reply.is(start))), "{how:?}");
            assert_eq!(Client::hello(primary.address()).is_ok(), how == Failing::PutsOff, "{how:?}");
            let is_well = || {
                let mail = Client::hello(primary.address()).and_then(|mut client| client.say("MAIL FROM:<a@b>"));
                mail.is_ok_and(|reply| reply.code == 250)
            };
            eventually(Duration::from_secs(30), "it recovers", is_well);
            assert!(primary.model().relapsed().unwrap().elapsed() >= LASTS);
        }
    }

    #[test]
    fn a_storm_refuses_what_it_says_and_nothing_else() {
        // Greeting, EHLO, MAIL, RCPT of postmaster, RCPT of bob, content. Without MAIL or RCPT the rest is out of order.
        for (storm, digits) in [
            (Storm::Greeting, "555555"),
            (Storm::Hello, "252222"),
            (Storm::Mail, "225555"),
            (Storm::Recipients, "222555"),
            (Storm::RecipientsButPostmaster, "222252"),
            (Storm::Content, "222225"),
        ] {
            let primary = Primary::start();
            primary.model().storm(storm);
            assert_eq!(first_digits(&primary), digits, "{storm:?}");
            primary.model().calm();
            assert_eq!(first_digits(&primary), "222222", "{storm:?}");
        }
    }

    fn first_digits(primary: &Primary) -> String {
        let mut client = Client::connect(primary.address()).unwrap();
        let mut replies = vec![client.reply().unwrap()];
        for line in ["EHLO a", "MAIL FROM:<>", "RCPT TO:<postmaster@example.org>", "RCPT TO:<bob@example.org>"] {
            replies.push(client.say(line).unwrap());
        }
        let data = client.say("DATA").unwrap();
        replies.push(if data.code == 354 { client.say(".").unwrap() } else { data });
        replies.iter().map(|reply| reply.to_string().remove(0)).collect()
    }
}
