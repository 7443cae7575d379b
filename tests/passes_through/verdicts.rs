//! What the primary says is what senders hear.

use std::thread;

use support::{
    Client, Envelope, Primary, Relay,
    certificate::Certificate,
    eventually,
    load::{Comparison, Load},
    postfix::Postfix,
    primary::{Act, Rule, Stage},
    trace_field,
};

use crate::scene::{CONTENT, LIMIT, Scene, delivered, passed};

#[test]
fn what_the_primary_takes_is_never_kept_and_arrives_unchanged() {
    let scene = Scene::new();
    let mut client = scene.client();
    for (name, content) in [("bob", CONTENT), ("empty", b""), ("eight", "Subject: Grüße\r\n\r\nß\r\n".as_bytes())] {
        let reply = client.send(&Envelope::to(name), content).expect("the session lives");
        assert!(reply.is("250 2.0.0 Passed on as "), "{reply}");
        assert_eq!(scene.relay.status().queue.messages, 0);
        let mails = scene.primary.mails();
        let mail = mails.last().expect("it is there before the reply");
        assert_eq!(mail.recipients, [format!("{name}@example.org")]);
        assert_eq!(trace_field::split(&mail.content).1, content);
    }
    assert_eq!(scene.settled(), passed(3));
    assert_eq!(scene.metric("backupmx_messages_passed_total"), 3.0);
    assert_eq!(scene.metric("backupmx_messages_accepted_total"), 0.0);
    assert_eq!(scene.metric("backupmx_pass_through_verdicts_total{class=\"2xx\",step=\"content\"}"), 3.0);
    // One connection for all of them, and another one for the probe.
    assert!(scene.primary.connections() <= 3, "{}", scene.primary.connections());
    assert_eq!(scene.primary.violations(), [""; 0]);
}

#[test]
fn the_account_of_what_passed_survives_a_restart() {
    let mut scene = Scene::new();
    scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    scene.relay.terminate();
    scene.relay.start_again();
    assert_eq!(scene.settled(), passed(1));
}

#[test]
fn recipients_hear_the_primarys_own_words_and_the_others_get_the_message() {
    let scene = Scene::new();
    scene.primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 <unknown> is nobody here").about("unknown"));
    scene.primary.misbehave(Rule::answer(Stage::Rcpt, "450 4.7.1 greylisted, come back").about("grey"));
    scene.primary.misbehave(Rule::answer(Stage::Rcpt, "550 no such user").about("old"));
    let mut client = scene.client();
    let mut says = |line: &str| client.say(line).expect("the session lives").to_string();
    says("MAIL FROM:<ann@client.example>");
    for (name, expected) in [
        ("bob", "250 2.1.5 Recipient OK"),
        ("unknown", "550 5.1.1 <unknown> is nobody here"),
        ("grey", "450 4.7.1 greylisted, come back"),
        ("old", "550 5.0.0 no such user"),
        ("carol", "250 2.1.5 Recipient OK"),
    ] {
        assert_eq!(says(&format!("RCPT TO:<{name}@example.org>")), expected);
    }
    assert!(says("DATA").starts_with("354"));
    assert!(says("Subject: x\r\n\r\nbody\r\n.").starts_with("250 2.0.0 Passed on as"));
    assert_eq!(scene.primary.mails()[0].recipients, ["bob@example.org", "carol@example.org"]);
    assert_eq!(scene.settled(), passed(2));
    assert_eq!(scene.metric("backupmx_pass_through_verdicts_total{class=\"5xx\",step=\"recipient\"}"), 2.0);
}

#[test]
fn content_and_senders_are_judged_by_the_primary() {
    let scene = Scene::new();
    for (stage, words, heard) in [
        (Stage::Dot, "554 5.7.1 this is spam", "554 5.7.1 this is spam"),
        (Stage::Dot, "450 4.2.0 later", "450 4.2.0 later"),
        (Stage::Data, "554 5.5.0 no content from you", "554 5.5.0 no content from you"),
        (Stage::Mail, "550 5.1.8 no such sender", "550 5.1.8 no such sender"),
        (Stage::Mail, "450 4.7.1 slow down", "450 4.7.1 slow down"),
    ] {
        scene.primary.behave();
        scene.primary.misbehave(Rule::answer(stage, words).times(1));
        let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert_eq!(reply.to_string(), heard, "{stage:?}");
    }
    assert_eq!((scene.settled(), scene.primary.count()), (passed(0), 0));
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
}

#[test]
fn a_primary_in_trouble_loses_no_mail_and_refuses_none() {
    for (stage, act) in [
        (Stage::Mail, Act::Answer("451 4.3.0 out of memory".into())),
        (Stage::Rcpt, Act::Answer("452 4.3.1 full".into())),
        (Stage::Rcpt, Act::Answer("421 4.3.2 closing".into())),
        (Stage::Rcpt, Act::Close),
        (Stage::Data, Act::Answer("451 4.3.0 later".into())),
        (Stage::Content, Act::Close),
        (Stage::Dot, Act::Answer("452 4.3.1 full".into())),
        (Stage::Dot, Act::Close),
    ] {
        let scene = Scene::new();
        scene.primary.misbehave(Rule::act(stage, act.clone()).times(1));
        let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert!(reply.is("250 2.0.0 Kept as "), "{stage:?} {act:?}: {reply}");
        let mails = scene.primary.wait_for(1, LIMIT);
        assert_eq!(trace_field::split(&mails[0].content).1, CONTENT);
        assert_eq!((scene.settled(), mails.len()), (delivered(1), 1), "{stage:?} {act:?}");
    }
}

#[test]
fn while_the_primary_is_away_mail_is_kept_and_passes_again_when_it_is_back() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut send = |name: &str| client.send(&Envelope::to(name), CONTENT).expect("the session lives").to_string();
    assert!(send("one").starts_with("250 2.0.0 Passed on"));
    scene.primary.go_away();
    assert!(send("two").starts_with("250 2.0.0 Kept as"));
    scene.primary.return_now();
    scene.primary.wait_for(2, LIMIT);
    scene.until_up();
    assert!(send("three").starts_with("250 2.0.0 Passed on"));
    let account = scene.settled();
    assert_eq!((account.accepted, account.passed, account.delivered), (3, 2, 1));
}

#[test]
fn parts_by_bdat_large_content_and_pipelining_pass_as_they_are() {
    let scene = Scene::new();
    scene.primary.offer(&["PIPELINING", "SIZE 104857600", "8BITMIME", "CHUNKING"]);
    let line = "0123456789abcdef".repeat(4) + "\r\n";
    let large = format!("Subject: x\r\n\r\n.{}", line.repeat(40_000)).into_bytes();
    let mut client = scene.client();
    let reply = client.send(&Envelope::to("large"), &large).expect("the session lives");
    assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
    assert_eq!(trace_field::split(&scene.primary.mails()[0].content).1, large);

    let mut parts = |name: &str, parts: &[&str]| {
        client.say("MAIL FROM:<>").expect("the session lives");
        client.say(&format!("RCPT TO:<{name}@example.org>")).expect("the session lives");
        let last = parts.len() - 1;
        let said = parts.iter().enumerate().map(|(number, part)| {
            let ends = if number == last { " LAST" } else { "" };
            client.raw(format!("BDAT {}{ends}\r\n{part}", part.len()).as_bytes()).expect("the session lives");
            client.reply().expect("the session lives").to_string()
        });
        said.last().expect("there is one")
    };
    assert!(parts("parts", &["Subject: x\r\n\r\n.\r\n", "", ".b\r\n"]).starts_with("250 2.0.0 Passed on"));
    // DATA could not carry a content without a last line end: it goes by BDAT.
    assert!(parts("open", &["Subject: x\r\n\r\n", "no end"]).starts_with("250 2.0.0 Passed on"));
    let mails = scene.primary.mails();
    assert_eq!(trace_field::split(&mails[1].content).1, b"Subject: x\r\n\r\n.\r\n.b\r\n");
    assert_eq!(trace_field::split(&mails[2].content).1, b"Subject: x\r\n\r\nno end");
    assert_eq!((scene.settled(), scene.primary.violations()), (passed(3), vec![]));
}

#[test]
fn what_is_not_fit_for_us_never_gets_its_end_at_the_primary() {
    let scene = Scene::new();
    for (content, code) in [("a\nb\r\n", 550), ("a\r\n\r\n.\n\r\n", 550)] {
        let mut client = scene.client();
        client.say("MAIL FROM:<>").expect("the session lives");
        client.say("RCPT TO:<bob@example.org>").expect("the session lives");
        assert_eq!(client.say("DATA").expect("the session lives").code, 354);
        client.raw(format!("{content}.\r\n").as_bytes()).expect("the session lives");
        assert_eq!(client.reply().expect("the session lives").code, code);
    }
    // A sender that goes in the middle.
    let mut client = scene.client();
    for line in ["MAIL FROM:<>", "RCPT TO:<bob@example.org>", "DATA"] {
        client.say(line).expect("the session lives");
    }
    client.raw(b"Subject: half\r\n").expect("the session lives");
    client.vanish().expect("it can");
    // And one that changes its mind.
    let said = scene.says(&["MAIL FROM:<>", "RCPT TO:<bob@example.org>", "RSET", "MAIL FROM:<>", "QUIT"]);
    assert!(said[2].starts_with("250"), "{said:?}");
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
    assert_eq!((scene.settled(), scene.primary.count()), (passed(1), 1));
}

#[test]
fn ten_thousand_messages_to_unknown_recipients_leave_nothing_behind() {
    const SESSIONS: usize = 10;
    const EACH: usize = 1000;
    let postfix = Postfix::prepare_with(&["virtual_mailbox_maps = inline:{ {known@example.org = all/} }"]);
    postfix.start();
    let relay = Relay::passing(postfix.address()).start();
    relay.until(LIMIT, "it is up", |status| status.primary.state == backupmx_relay_api::status::PrimaryState::Up);
    thread::scope(|scope| {
        for session in 0..SESSIONS {
            let smtp = relay.smtp();
            scope.spawn(move || {
                let mut client = Client::hello(smtp).expect("it takes sessions");
                for number in 0..EACH {
                    // Who guesses on and on is sent away, so this one comes again before that.
                    if number % 40 == 0 {
                        client = Client::hello(smtp).expect("it takes sessions");
                    }
                    client.say("RSET").expect("the session lives");
                    let to = format!("nobody-{session}-{number}");
                    let reply = client.send(&Envelope::to(&to), CONTENT).expect("the session lives");
                    assert!(reply.is("550 5.1.1"), "{reply}");
                }
            });
        }
    });
    let status = relay.status();
    assert_eq!((status.account, status.queue.messages), (passed(0), 0));
    let reply = Client::hello(relay.smtp()).expect("it takes sessions").send(&Envelope::to("known"), CONTENT);
    assert!(reply.as_ref().is_ok_and(|reply| reply.is("250 2.0.0 Passed on")), "{reply:?}");
    eventually(LIMIT, "it is delivered", || postfix.delivered().len() == 1);
    assert!(postfix.log().contains("status=sent") && !postfix.log().contains("status=bounced"));
}

#[test]
fn many_senders_at_once_pass_each_message_exactly_once() {
    let scene = Scene::new();
    let load = Load { messages: 2000, bytes: 4096, sessions: 30, seed: 9 };
    let sent = load.send(scene.relay.smtp());
    assert_eq!((sent.accepted.len(), sent.refused.len(), sent.unanswered), (2000, 0, 0));
    let mails = scene.primary.mails();
    let arrived = mails.iter().map(|mail| (mail.recipients[0].as_str(), trace_field::split(&mail.content).1));
    assert_eq!(load.compare(&sent, arrived), Comparison::default());
    assert_eq!(scene.settled(), passed(2000));
    assert!(scene.primary.connections_open_max() <= 20, "{}", scene.primary.connections_open_max());
}

#[test]
fn while_a_person_holds_the_drain_mail_is_kept_as_if_the_primary_were_away() {
    let scene = Scene::new();
    assert_eq!(scene.relay.orders().ask("POST", "/api/v1/drain/hold", r#"{"reason": "restore"}"#).code, 200);
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Kept as"), "{reply}");
    assert_eq!((scene.primary.count(), scene.relay.account().queued), (0, 1));
    assert_eq!(scene.relay.orders().ask("POST", "/api/v1/drain/resume", "").code, 200);
    assert_eq!(scene.settled(), delivered(1));
}

#[test]
fn tls_on_either_side_changes_nothing_and_the_primary_gets_its_mail_in_it() {
    let (ours, theirs) = (Certificate::of(&["mx2.example.org"]), Certificate::of(&["127.0.0.1"]));
    let primary = Primary::start();
    primary.offer_tls(&theirs);
    let flags = ours.flags();
    let scene = Scene::with(primary, |setup| setup.flags(&flags.each_ref().map(String::as_str)));
    for in_tls in [true, false] {
        let mut client = scene.client();
        if in_tls {
            assert_eq!(client.say("STARTTLS").expect("the session lives").code, 220);
            client.start_tls("mx2.example.org", ours.trust()).expect("the handshake goes well");
            client.say("EHLO client.example").expect("the session lives");
        }
        let reply = client.send(&Envelope::to("bob"), CONTENT).expect("the session lives");
        assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
    }
    let mails = scene.primary.mails();
    assert!(mails.len() == 2 && mails.iter().all(|mail| mail.encrypted));
    assert!(String::from_utf8_lossy(&mails[0].content).contains("with ESMTPS"));
}

#[test]
fn parameters_pass_and_what_the_primary_no_longer_offers_is_put_off() {
    const OFFERED: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN"];
    let primary = Primary::start();
    primary.offer(OFFERED);
    let scene = Scene::with(primary, |setup| setup);
    let said = [
        "MAIL FROM:<änn@client.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x1",
        "RCPT TO:<böb@example.org> NOTIFY=FAILURE",
        "DATA",
        "Subject: x\r\n\r\nß\r\n.",
    ];
    let replies = scene.says(&said);
    assert!(replies[3].starts_with("250 2.0.0 Passed on"), "{replies:?}");
    let mail = &scene.primary.mails()[0];
    assert_eq!((mail.sender.as_str(), mail.recipients[0].as_str()), ("änn@client.example", "böb@example.org"));
    assert_eq!(mail.parameters, "BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x1");
    assert_eq!(mail.recipient_parameters, ["NOTIFY=FAILURE"]);
    // The session was offered it; the next connection to the primary is not.
    let mut client = scene.client();
    scene.primary.offer(&["PIPELINING", "8BITMIME"]);
    scene.primary.misbehave(Rule::close(Stage::Mail).after_messages(1).times(1));
    client.say(said[0]).expect("the session lives");
    let reply = client.say(said[1]).expect("the session lives");
    assert!(reply.is("451 4.6.7"), "{reply}");
}

#[test]
fn a_sender_that_ignores_what_it_hears_gets_nothing_through_and_the_next_one_is_not_the_worse_for_it() {
    let scene = Scene::new();
    scene.primary.misbehave(Rule::answer(Stage::Rcpt, "550 5.1.1 nobody here").about("nobody"));
    let mut client = scene.client();
    client
        .raw(b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.org>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n")
        .expect("it is heard");
    let mut codes = Vec::new();
    while let Ok(reply) = client.reply() {
        codes.push(reply.code);
    }
    assert_eq!((codes[..3].to_vec(), codes.last()), (vec![250, 550, 554], Some(&221)), "{codes:?}");
    let reply = scene.client().send(&Envelope::to("bob"), CONTENT).expect("the session lives");
    assert!(reply.is("250 2.0.0 Passed on"), "{reply}");
    assert_eq!((scene.settled(), scene.primary.count()), (passed(1), 1));
}
