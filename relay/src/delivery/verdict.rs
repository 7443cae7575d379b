//! What the primary's answer to mail that passes through means, and whom it judges. No I/O. docs/smtp.md has it as a table.

use super::answer::Answer;

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, before any content.
    Data,
    /// All of the content.
    Content,
}

/// What follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The primary goes along.
    Taken,
    /// It judges the mail: its sender hears its words.
    OnMail,
    /// It judges us, who brought the mail: that is never the sender's fault.
    OnUs,
    /// It judges the sender, or us: whether it refuses the null sender, too, tells.
    InDoubt,
    /// It cannot at present, or says what is no answer: the mail is ours.
    Fails,
}

/// X.7.23 and X.7.26 (RFC 7372 section 3): SPF, and SPF and DKIM together, which say nothing about mail that comes by way of a backup.
const JUDGES_THE_WAY: [(u16, u16); 2] = [(7, 23), (7, 26)];

/// `as_client`: the primary was told by XCLIENT whose mail it is, so it judges that client and not us.
pub fn of(answer: &Answer, step: Step, as_client: bool) -> Verdict {
    let is_taken = if step == Step::Data { answer.code == 354 } else { answer.is_positive() };
    let policy = answer.enhanced().filter(|(subject, _)| *subject == 7);
    // It has had enough of this client, not of us.
    let is_for_client = as_client && answer.closes() && policy.is_some();
    let policy = policy.filter(|_| !as_client);
    match step {
        _ if is_taken => Verdict::Taken,
        _ if is_for_client => Verdict::OnMail,
        // It has lost its place in the conversation, or something between us has: that is nobody's mail's fault.
        _ if matches!(answer.code, 500 | 502..=504) => Verdict::Fails,
        _ if answer.is_trouble(step == Step::Mail) => Verdict::Fails,
        _ if answer.is_temporary() => Verdict::OnMail,
        _ if !answer.is_permanent() => Verdict::Fails,
        Step::Mail if as_client => Verdict::OnMail,
        Step::Mail => Verdict::InDoubt,
        Step::Recipient if policy.is_some() => Verdict::OnUs,
        // "System not accepting network messages" is said to a client (postscreen), whoever its recipient is.
        Step::Recipient if answer.enhanced() == Some((3, 2)) && !as_client => Verdict::OnUs,
        Step::Recipient => Verdict::OnMail,
        Step::Data | Step::Content if policy.is_some_and(|code| JUDGES_THE_WAY.contains(&code)) => Verdict::OnUs,
        Step::Data | Step::Content => Verdict::OnMail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_means_what_the_table_says() {
        use Verdict::{Fails, InDoubt, OnMail, OnUs, Taken};
        // At MAIL, RCPT, DATA and the content; then the same to a client that XCLIENT has named.
        for (words, plain, named) in [
            ("250 2.0.0 ok", [Taken, Taken, Fails, Taken], [Taken, Taken, Fails, Taken]),
            ("354 go on", [Fails, Fails, Taken, Fails], [Fails, Fails, Taken, Fails]),
            ("421 4.3.2 closing", [Fails; 4], [Fails; 4]),
            ("421 4.7.0 too many connections from 192.0.2.1", [Fails; 4], [OnMail; 4]),
            ("452 4.3.1 full", [Fails; 4], [Fails; 4]),
            ("503 5.5.1 bad sequence", [Fails; 4], [Fails; 4]),
            ("450 later", [Fails, OnMail, OnMail, OnMail], [Fails, OnMail, OnMail, OnMail]),
            ("450 4.7.1 greylisted", [OnMail; 4], [OnMail; 4]),
            ("452 4.5.3 too many", [OnMail; 4], [OnMail; 4]),
            ("550 no", [InDoubt, OnMail, OnMail, OnMail], [OnMail; 4]),
            ("550 5.1.1 unknown", [InDoubt, OnMail, OnMail, OnMail], [OnMail; 4]),
            ("550 5.3.2 not available", [InDoubt, OnUs, OnMail, OnMail], [OnMail; 4]),
            ("554 5.7.1 blocked", [InDoubt, OnUs, OnMail, OnMail], [OnMail; 4]),
            ("550 5.7.23 SPF", [InDoubt, OnUs, OnUs, OnUs], [OnMail; 4]),
            ("550 5.7.26 DMARC", [InDoubt, OnUs, OnUs, OnUs], [OnMail; 4]),
            ("552 5.3.4 too large", [InDoubt, OnMail, OnMail, OnMail], [OnMail; 4]),
        ] {
            let (code, line) = words.split_once(' ').unwrap();
            let answer = Answer { code: code.parse().unwrap(), lines: vec![line.to_owned()] };
            let steps = [Step::Mail, Step::Recipient, Step::Data, Step::Content];
            assert_eq!(steps.map(|step| of(&answer, step, false)), plain, "{words}");
            assert_eq!(steps.map(|step| of(&answer, step, true)), named, "{words}, with XCLIENT");
        }
    }
}
