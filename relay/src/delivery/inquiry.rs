//! What the primary is asked before one of its refusals is believed: whether it takes anything at all. No mail is sent.

use std::time::Duration;

use super::{
    answer::{Answer, Odd},
    hop::Hop,
    wire::TalkError,
};

/// What came out of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inquiry {
    /// It takes a null sender and postmaster: its refusals are verdicts on mail.
    Well,
    /// 5xx to `MAIL FROM:<>`.
    RefusesMail(String),
    /// 5xx to postmaster, who must not be refused (RFC 5321 section 4.5.1).
    RefusesPostmaster(String),
    /// It said neither yes nor no, or the connection broke. The connection is of no more use.
    Unclear(String),
}

/// Asks, between two messages. `postmaster`: `postmaster@` and the domain in question. `asks_mail`: it was MAIL that was
/// refused, or everything is in question; else a refused null sender tells nothing. `limit`: for each reply.
pub async fn inquire(hop: &mut Hop, postmaster: &str, asks_mail: bool, limit: Duration) -> Inquiry {
    hop.is_used = true;
    ask(hop, postmaster, asks_mail, limit).await.unwrap_or_else(|cause| Inquiry::Unclear(cause.to_string()))
}

async fn ask(hop: &mut Hop, postmaster: &str, asks_mail: bool, limit: Duration) -> Result<Inquiry, TalkError> {
    let wire = &mut hop.wire;
    if wire.has_spoken_unasked() {
        return Err(Odd.into());
    }
    taken(wire.ask(b"RSET\r\n", limit).await?)?;
    hop.mails += 1;
    let mut mail = wire.ask(b"MAIL FROM:<>\r\n", limit).await?;
    if mail.is_permanent() && !asks_mail {
        // Some take no null sender, against RFC 5321 section 4.5.5. That is not what is in question.
        hop.mails += 1;
        mail = wire.ask(format!("MAIL FROM:<{postmaster}>\r\n").as_bytes(), limit).await?;
    }
    if !mail.is_positive() {
        taken(wire.ask(b"RSET\r\n", limit).await?)?;
        return if mail.is_permanent() { Ok(Inquiry::RefusesMail(mail.words())) } else { Err(TalkError::Said(mail)) };
    }
    let rcpt = wire.ask(format!("RCPT TO:<{postmaster}>\r\n").as_bytes(), limit).await?;
    taken(wire.ask(b"RSET\r\n", limit).await?)?;
    match rcpt {
        rcpt if rcpt.is_positive() => Ok(Inquiry::Well),
        rcpt if rcpt.is_permanent() => Ok(Inquiry::RefusesPostmaster(rcpt.words())),
        rcpt => Err(TalkError::Said(rcpt)),
    }
}

fn taken(answer: Answer) -> Result<(), TalkError> {
    if answer.is_positive() { Ok(()) } else { Err(TalkError::Said(answer)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::scripted::{hop, says};

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn what_the_primary_refuses_tells_whether_it_is_whole() {
        const OK: &str = "250 ok\r\n";
        const NO: &str = "550 5.7.1 no\r\n";
        let no = || "550 5.7.1 no".to_owned();
        let cases: [(&[&str], bool, Inquiry); 9] = [
            (&[OK, OK, OK, OK], true, Inquiry::Well),
            (&[OK, NO, OK], true, Inquiry::RefusesMail(no())),
            (&[OK, NO, OK, OK, OK], false, Inquiry::Well),
            (&[OK, NO, NO, OK], false, Inquiry::RefusesMail(no())),
            (&[OK, OK, NO, OK], false, Inquiry::RefusesPostmaster(no())),
            (&[OK, OK, "450 later\r\n", OK], false, Inquiry::Unclear("450 later".into())),
            (&[OK, "451 4.3.0 later\r\n", OK], true, Inquiry::Unclear("451 4.3.0 later".into())),
            (&["421 4.3.2 closing\r\n"], true, Inquiry::Unclear("421 4.3.2 closing".into())),
            (&[OK, OK], true, Inquiry::Unclear("the server closed the connection".into())),
        ];
        for (replies, asks_mail, expected) in cases {
            let (mut hop, server) = hop(says(&[&["220 hi\r\n", "250 mx1\r\n"], replies].concat())).await;
            assert_eq!(inquire(&mut hop, "postmaster@example.org", asks_mail, LIMIT).await, expected);
            drop(hop);
            let heard = server.await.unwrap();
            let may_be = |command: &String| {
                ["RSET", "MAIL FROM:<>", "MAIL FROM:<postmaster@example.org>", "RCPT TO:<postmaster@example.org>"]
                    .contains(&command.as_str())
            };
            assert!(heard[1..].iter().all(may_be), "{heard:?}");
        }
    }
}
