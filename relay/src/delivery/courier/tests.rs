//! Attempts at servers that do as a script says.

use super::*;
use crate::{
    delivery::scripted::{Act, hop, hop_in_memory, says},
    mail::id::MessageId,
    spool::field::tests::accepted,
};

const HI: &str = "220 hi\r\n";
const OK: &str = "250 ok\r\n";
const GO: &str = "354 go\r\n";

/// A message of three lines for so many recipients, in one transaction.
struct Letter {
    recipients: u32,
    line_end_added: bool,
    content: Vec<u8>,
}

fn letter(recipients: u32) -> Letter {
    Letter { recipients, line_end_added: false, content: b"a\r\n.b\r\nc\r\n".to_vec() }
}

impl Letter {
    async fn attempt(&self, hop: &mut Hop) -> Attempted {
        let envelope = accepted(MessageId::new(), self.recipients as usize).envelope;
        let places: Vec<_> = (0..self.recipients).collect();
        let mut content = Some(self.content.clone());
        let job = Job {
            envelope: &envelope,
            trace: b"Received: x\r\n",
            waiting: &places,
            content_bytes: self.content.len() as u64,
            line_end_added: self.line_end_added,
            content: &mut content,
            is_committed: &AtomicBool::new(false),
        };
        attempt(hop, job).await
    }

    /// Also returns what the server heard after EHLO.
    async fn to(&self, script: Vec<Act>) -> (Attempted, Vec<String>) {
        let (mut hop, server) = hop(script).await;
        let attempted = self.attempt(&mut hop).await;
        drop(hop);
        (attempted, server.await.unwrap().split_off(1))
    }
}

fn ends(before: Vec<Act>, after: impl IntoIterator<Item = Act>) -> Vec<Act> {
    before.into_iter().chain(after).collect()
}

fn say(reply: &str) -> Act {
    Act::Say(reply.into())
}

const DOT: Act = Act::Until("\r\n.\r\n");

fn outcomes(attempted: &Attempted) -> Vec<Outcome> {
    attempted.outcomes.iter().map(|(_, outcome)| outcome.clone()).collect()
}

fn deferred(words: &str) -> Outcome {
    Outcome::Deferred(words.into())
}

fn refused(stage: Stage, words: &str) -> Outcome {
    Outcome::Refused { stage, words: words.into() }
}

#[tokio::test]
async fn only_a_no_is_taken_before_the_final_dot() {
    let early = |words: &'static str| ends(says(&[HI, OK, OK, OK, words]), [Act::Rest]);
    let large = Letter { content: b"x\r\n".repeat(1_000_000), ..letter(1) };
    let (no, _) = large.to(early("354 go\r\n552 too large\r\n")).await;
    assert_eq!(outcomes(&no), [refused(Stage::Content, "552 too large")]);
    assert_eq!(no.connection, Connection::GivenUp);
    let (yes, _) = large.to(early("354 go\r\n250 thanks\r\n")).await;
    assert!(matches!(yes.outcomes[..], [(0, Outcome::Deferred(_))]), "{yes:?}");
    assert!(matches!(yes.connection, Connection::Broken(_)));
    let (busy, _) = large.to(early("354 go\r\n421 4.3.2 closing\r\n")).await;
    assert_eq!(
        (outcomes(&busy), busy.trouble.as_deref()),
        (vec![deferred("421 4.3.2 closing")], Some("421 4.3.2 closing"))
    );
}

#[tokio::test]
async fn a_refusal_tells_what_was_refused() {
    for (replies, outcome) in [
        (&[HI, OK, "550 5.7.1 no\r\n"][..], refused(Stage::Mail, "550 5.7.1 no")),
        (&[HI, OK, OK, "550 5.1.1 no\r\n", OK], refused(Stage::Recipient, "550 5.1.1 no")),
        (&[HI, OK, OK, OK, "554 no\r\n", OK], refused(Stage::Content, "554 no")),
        (&[HI, OK, "451 4.7.1 later\r\n"], deferred("451 4.7.1 later")),
        (&[HI, OK, OK, "450 4.2.0 later\r\n", OK], deferred("450 4.2.0 later")),
        (&[HI, OK, OK, OK, "451 4.2.0 later\r\n", OK], deferred("451 4.2.0 later")),
    ] {
        let (attempted, _) = letter(1).to(says(replies)).await;
        assert_eq!((outcomes(&attempted), &attempted.connection), (vec![outcome], &Connection::Usable), "{replies:?}");
        assert!(attempted.trouble.is_none() && !attempted.timed_out);
    }
    let (dot, _) = letter(1).to(ends(says(&[HI, OK, OK, OK, GO]), [DOT, say("554 5.6.0 no\r\n")])).await;
    assert_eq!(outcomes(&dot), [refused(Stage::Content, "554 5.6.0 no")]);
    // What was refused stays refused, also if the server then goes away.
    let (gone, _) = letter(1).to(says(&[HI, OK, OK, OK, "554 no\r\n"])).await;
    assert_eq!((outcomes(&gone), gone.connection), (vec![refused(Stage::Content, "554 no")], Connection::GivenUp));
}

#[tokio::test]
async fn who_breaks_off_behind_the_final_dot_may_have_the_message_and_before_it_has_none() {
    let (after, _) = letter(1).to(ends(says(&[HI, OK, OK, OK, GO]), [Act::Until("\n.\r")])).await;
    let [(0, Outcome::MaybeDelivered(words))] = &after.outcomes[..] else { panic!("{after:?}") };
    assert_eq!(words, "maybe delivered: the server closed the connection");
    assert!(matches!(after.connection, Connection::Broken(_)) && after.trouble.is_none());
    for nonsense in ["250-a\r\n550 b\r\n", "ok\r\n"] {
        let (odd, _) = letter(1).to(ends(says(&[HI, OK, OK, OK, GO]), [DOT, say(nonsense)])).await;
        assert!(matches!(odd.outcomes[..], [(0, Outcome::MaybeDelivered(_))]), "{odd:?}");
    }
    // 421 is an answer: it has not taken it.
    let (closes, _) = letter(1).to(ends(says(&[HI, OK, OK, OK, GO]), [DOT, say("421 4.3.2 closing\r\n")])).await;
    assert_eq!(outcomes(&closes), [deferred("421 4.3.2 closing")]);
    let (before, _) = letter(1).to(says(&[HI, OK, OK, OK])).await;
    assert_eq!(outcomes(&before), [deferred("the server closed the connection")]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_and_the_time_that_it_took() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let silent = |script: Vec<Act>| async {
        let mut hop = hop_in_memory(ends(script, [Act::Rest]));
        letter(1).attempt(&mut hop).await
    };
    let mail = silent(vec![]).await;
    assert_eq!(
        (outcomes(&mail), mail.timed_out, mail.took),
        (vec![deferred("no answer within 300 s")], true, minutes(5))
    );
    let data = silent(vec![Act::Line, say(OK), Act::Line, say(OK)]).await;
    assert_eq!(
        (outcomes(&data), data.timed_out, data.took),
        (vec![deferred("no answer within 120 s")], true, minutes(2))
    );
    let dot = silent(vec![Act::Line, say(OK), Act::Line, say(OK), Act::Line, say(GO)]).await;
    assert!(matches!(dot.outcomes[..], [(0, Outcome::MaybeDelivered(_))]), "{dot:?}");
    assert_eq!((dot.timed_out, dot.took), (true, minutes(10)));
}

#[tokio::test]
async fn the_servers_own_trouble_is_told() {
    for (replies, trouble) in [
        (&[HI, OK, "450 later\r\n"][..], Some("450 later")),
        (&[HI, OK, "450 4.7.1 later\r\n"], None),
        (&[HI, OK, OK, "452 4.3.1 full\r\n", OK], Some("452 4.3.1 full")),
        (&[HI, OK, OK, "450 4.2.0 grey\r\n", OK], None),
        (&[HI, OK, OK, "450 grey\r\n", OK], None),
        (&[HI, OK, OK, OK, "421 bye\r\n"], Some("421 bye")),
    ] {
        let (attempted, _) = letter(1).to(says(replies)).await;
        assert_eq!(attempted.trouble.as_deref(), trouble, "{replies:?}");
    }
}

#[tokio::test]
async fn recipients_beyond_what_is_taken_at_once_go_in_the_next_transaction() {
    for too_many in ["452 4.5.3 many\r\n", "452 many\r\n", "552 many\r\n"] {
        let replies = [HI, OK, OK, OK, OK, too_many, "550 5.1.1 no\r\n", GO];
        let (mut hop, _server) = hop(ends(says(&replies), [DOT, say(OK)])).await;
        let attempted = letter(4).attempt(&mut hop).await;
        let delivered = || Outcome::Delivered("250 ok".into());
        let expected = [delivered(), delivered(), Outcome::Untried, refused(Stage::Recipient, "550 5.1.1 no")];
        assert_eq!(outcomes(&attempted), expected, "{too_many}");
        assert_eq!((hop.recipients_max(100), hop.recipients_max(1)), (2, 1));
    }
    // A full mailbox says so in its own words, and limits nobody else.
    let (mut hop, _server) = hop(ends(says(&[HI, OK, OK, OK, "552 5.2.2 full\r\n", GO]), [DOT, say(OK)])).await;
    assert_eq!(outcomes(&letter(2).attempt(&mut hop).await)[1], Outcome::Untried);
    assert_eq!(hop.recipients_max(100), 100);
    // If nobody was taken, the next transaction would be no better.
    let (nobody, heard) = letter(2).to(says(&[HI, OK, OK, "452 4.5.3 many\r\n", "552 many\r\n", OK])).await;
    assert_eq!(outcomes(&nobody), [deferred("452 4.5.3 many"), deferred("452 4.5.3 many")]);
    assert_eq!(heard.last().unwrap(), "RSET");
}

#[tokio::test]
async fn limits_bound_recipients_and_transactions() {
    let limits = "250-mx1\r\n250 LIMITS RCPTMAX=2 MAILMAX=1\r\n";
    let (mut hop, _server) = hop(says(&[HI, limits, "451 4.2.0 no\r\n"])).await;
    assert_eq!((hop.recipients_max(100), hop.recipients_max(1)), (2, 1));
    assert_eq!((hop.messages_max(200), hop.takes_another_mail()), (1, true));
    letter(1).attempt(&mut hop).await;
    assert!(!hop.takes_another_mail());
}

#[tokio::test]
async fn commands_go_in_one_write_where_pipelining_is_offered() {
    let ehlo = "250-mx1\r\n250-PIPELINING\r\n250 XFORWARD HELO SOURCE\r\n";
    let script = ends(
        says(&[HI, ehlo]),
        [Act::Until("DATA\r\n"), say("250 ok\r\n250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n"), DOT, say(OK)],
    );
    let (attempted, heard) = letter(2).to(script).await;
    assert_eq!(outcomes(&attempted), [Outcome::Delivered("250 ok".into()), refused(Stage::Recipient, "550 5.1.1 no")]);
    let commands: Vec<_> = heard[0].lines().map(|line| line.split([' ', ':']).next().unwrap()).collect();
    assert_eq!(commands, ["XFORWARD", "MAIL", "RCPT", "RCPT", "DATA"]);
    assert!(heard[0].contains(" SOURCE=REMOTE\r\nMAIL "), "{}", heard[0]);
    assert_eq!(heard[1], "Received: x\r\na\r\n..b\r\nc\r\n.");
}

#[tokio::test]
async fn who_refuses_xforward_gets_its_mail_without() {
    for pipelining in ["", "250-PIPELINING\r\n"] {
        let ehlo = format!("250-mx1\r\n{pipelining}250 XFORWARD NAME\r\n");
        let first = [say("550 no\r\n"), Act::Line, say(OK), Act::Line, say(OK), Act::Line, say(GO), DOT, say(OK)];
        let second = [Act::Line, say(OK), Act::Line, say(OK), Act::Line, say(GO), DOT, say(OK)];
        let script = ends(says(&[HI, &ehlo]), [Act::Line].into_iter().chain(first).chain(second));
        let (mut hop, server) = hop(script).await;
        for _ in 0..2 {
            assert_eq!(outcomes(&letter(1).attempt(&mut hop).await), [Outcome::Delivered("250 ok".into())]);
        }
        drop(hop);
        let heard = server.await.unwrap();
        assert_eq!(heard.iter().filter(|line| line.starts_with("XFORWARD")).count(), 1, "{heard:?}");
    }
}

#[tokio::test]
async fn content_that_came_without_a_last_line_end_goes_without_one_by_bdat() {
    for pipelining in ["", "250-PIPELINING\r\n"] {
        let ehlo = format!("250-mx1\r\n{pipelining}250 CHUNKING\r\n");
        let script = ends(says(&[HI, &ehlo, OK, OK]), [Act::Until("\r\nc"), say(OK)]);
        let letter = Letter { line_end_added: true, ..letter(1) };
        let (attempted, heard) = letter.to(script).await;
        assert_eq!(outcomes(&attempted), [Outcome::Delivered("250 ok".into())]);
        assert_eq!(heard[2..], ["BDAT 21 LAST\r\nReceived: x\r\na\r\n.b\r\nc"]);
    }
}

#[tokio::test]
async fn no_content_goes_by_bdat_unless_a_recipient_was_taken() {
    let ehlo = "250-mx1\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
    let letter = Letter { line_end_added: true, ..letter(1) };
    let (nobody, heard) = letter.to(says(&[HI, ehlo, OK, "550 5.1.1 no\r\n", OK])).await;
    assert_eq!(outcomes(&nobody), [refused(Stage::Recipient, "550 5.1.1 no")]);
    assert_eq!((heard[2].as_str(), nobody.connection), ("RSET", Connection::Usable));
    let script = ends(says(&[HI, ehlo, OK, OK]), [Act::Until("\r\nc"), say("554 5.6.0 no\r\n"), Act::Line, say(OK)]);
    let (content, heard) = letter.to(script).await;
    assert_eq!(outcomes(&content), [refused(Stage::Content, "554 5.6.0 no")]);
    assert_eq!((heard[3].as_str(), content.connection), ("RSET", Connection::Usable));
    // Without CHUNKING it gets the line end that DATA needs.
    let (by_data, heard) = letter.to(ends(says(&[HI, OK, OK, OK, GO]), [DOT, say(OK)])).await;
    assert_eq!(outcomes(&by_data), [Outcome::Delivered("250 ok".into())]);
    assert_eq!(heard[3], "Received: x\r\na\r\n..b\r\nc\r\n.");
}

#[tokio::test]
async fn a_connection_that_was_closed_since_the_last_message_is_stale_and_a_fresh_one_is_not() {
    let one = ends(says(&[HI, OK, OK, OK, GO]), [DOT, say(OK)]);
    for end in [vec![], vec![say("421 4.4.2 idle\r\n")]] {
        let (mut hop, _server) = hop(ends(one.clone(), end)).await;
        letter(1).attempt(&mut hop).await;
        let attempted = letter(1).attempt(&mut hop).await;
        assert_eq!((attempted.connection, attempted.outcomes.len()), (Connection::Stale, 0));
        assert_eq!(attempted.trouble, None);
    }
    let (fresh, _) = letter(1).to(says(&[HI, OK, "421 4.3.2 closing\r\n"])).await;
    assert_eq!(
        (outcomes(&fresh), fresh.trouble.as_deref()),
        (vec![deferred("421 4.3.2 closing")], Some("421 4.3.2 closing"))
    );
}

#[tokio::test]
async fn what_the_message_needs_must_be_offered() {
    let (attempted, heard) = letter(1).to(says(&[HI, "250-mx1\r\n250 SIZE 20\r\n"])).await;
    assert!(
        matches!(&attempted.outcomes[..], [(0, Outcome::Lacking(lack))] if lack.contains("20 bytes")),
        "{attempted:?}"
    );
    assert_eq!((attempted.connection, heard.len()), (Connection::Usable, 0));
}
