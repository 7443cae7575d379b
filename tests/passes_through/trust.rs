//! docs/trust.md, line by line: a server that judges all clients judges its backup, too, and what the page says ends that, without opening the
//! server to anybody else's mail. The settings are read from there.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, time::Duration};

use backupmx_relay_api::status::PrimaryState;
use support::{
    Client, DOMAIN, Envelope, Relay, eventually,
    exim::Exim,
    opensmtpd::OpenSmtpd,
    postfix::{Greylist, Postfix},
    server::{Duties, Server},
};

use crate::scene::{CONTENT, LIMIT, tells};

/// The relay's address, there and here.
const OF_THE_PAGE: &str = "192.0.2.7";
const OF_THE_TEST: &str = "127.0.0.1";
/// So many messages one after the other find the limits for a connection.
const MANY: usize = 120;
/// Whom Exim and OpenSMTPD know.
const DUTIES: Duties = Duties { users: &["bob"], certificate: None };
/// Whom Postfix knows.
const KNOWN: &str = "virtual_mailbox_maps = inline:{ {bob@example.org = all/} }";

/// The lines of the page behind this one, up to the next of the kind.
fn part(title: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trust.md");
    let text = fs::read_to_string(file).expect("docs/trust.md is there");
    let title = format!("# {title}");
    let kind = title.split_inclusive(':').next().expect("there is a first one");
    let lines = text.lines().skip_while(|line| *line != title).skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with("```") && !line.starts_with(kind)).collect();
    assert!(!lines.is_empty(), "docs/trust.md has nothing behind {title}");
    lines.join("\n").replace(OF_THE_PAGE, OF_THE_TEST) + "\n"
}

/// A primary that runs, and a relay that knows it to be up.
struct Pair {
    server: Server,
    relay: Relay,
}

impl Pair {
    fn of(mut server: Server) -> Self {
        server.start();
        let relay = Relay::passing(server.address()).start();
        relay.until(LIMIT, "the primary is up", |status| status.primary.state == PrimaryState::Up);
        Self { server, relay }
    }

    /// What the sender of a message to this recipient hears.
    fn send(&self, to: &str) -> String {
        let mut client = Client::hello(self.relay.smtp()).expect("the relay takes sessions");
        client.send(&Envelope::to(to), CONTENT).expect("the session lives").to_string()
    }

    /// Its sender is told to come again, and the relay says why.
    #[track_caller]
    fn is_judged(&self, words: &str) {
        let reply = self.send("bob");
        assert!(reply.starts_with("451 4.7.1"), "{reply}");
        let status = self.relay.status();
        let reason = status.primary.judges.as_ref().map(|judges| judges.reason.as_str());
        assert!(reason.is_some_and(|reason| reason.contains(words)), "{reason:?}");
        assert!(tells(&status, "PrimaryJudgesUs") && tells(&status, "docs/trust.md"), "{:?}", status.problems);
        assert!(self.relay.metric("backupmx_pass_through_judged_total") >= 1.0);
    }

    /// Mail passes, also much of it at a time; unknown recipients and foreign domains are refused as ever.
    #[track_caller]
    fn is_trusted(&self, to_unknown: &str) {
        for number in 1..=MANY {
            let reply = self.send("bob");
            assert!(reply.starts_with("250 2.0.0 Passed on"), "message {number}: {reply}");
        }
        let reply = self.send("nobody");
        assert!(reply.starts_with(to_unknown), "{reply}");
        is_no_open_relay(self.server.address());
        let status = self.relay.status();
        assert_eq!((status.primary.judges, status.problems, status.queue.held), (None, vec![], 0));
        assert_eq!((status.account.accepted, status.account.passed), (MANY as u64, MANY as u64));
        eventually(LIMIT, "all is in the mailbox", || self.server.delivered().len() == MANY);
    }
}

/// The relay itself refuses foreign domains; here somebody at its address speaks to the primary.
#[track_caller]
fn is_no_open_relay(primary: SocketAddr) {
    let mut client = Client::hello(primary).expect("it trusts this address");
    client.say("MAIL FROM:<bob@example.org>").expect("the session lives");
    for to in ["ann@elsewhere.example", "ann%elsewhere.example@example.org", "@example.org:ann@elsewhere.example"] {
        let reply = client.say(&format!("RCPT TO:<{to}>")).expect("the session lives");
        assert!((500..600).contains(&reply.code), "{to}: {reply}");
    }
}

/// A Postfix, with the lists of the page and what stands in each behind a comma.
fn postfix_lists(with_page: bool, behind: impl Fn(&str) -> String) -> Vec<String> {
    let lines = part("postfix: main.cf");
    let lists = lines.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let line = |line: &str| {
        let (name, value) = line.split_once(" = ").expect("a line of main.cf sets something");
        let rest = behind(name);
        match (with_page, rest.is_empty()) {
            (true, true) => Some(line.to_owned()),
            (true, false) => Some(format!("{line}, {rest}")),
            (false, true) => None,
            (false, false) => Some(format!("{name} = {}, {rest}", value.replace("$backup_mx", "permit_mynetworks"))),
        }
    };
    lists.filter_map(line).collect()
}

fn postfix(lines: &[String], more: &[&str]) -> Server {
    let lines = lines.iter().map(String::as_str).chain([KNOWN]).chain(more.iter().copied());
    Server::Postfix(Postfix::prepare_with(&lines.collect::<Vec<_>>()))
}

const UNKNOWN_TO_POSTFIX: &str = "550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown";

#[test]
fn postfix_that_refuses_all_clients_takes_mail_from_the_one_that_the_page_exempts() {
    let greylist = Greylist::start(Duration::from_secs(3600));
    let greylisting = format!("check_policy_service inet:{}", greylist.address());
    let hostile = |name: &str| match name {
        "smtpd_client_restrictions" => "check_client_access cidr:{ { 127.0.0.0/8 reject } }".to_owned(),
        "smtpd_helo_restrictions" => "check_helo_access regexp:{ { /./ reject } }".to_owned(),
        "smtpd_sender_restrictions" => "reject".to_owned(),
        "smtpd_recipient_restrictions" => format!("{greylisting}, reject"),
        _ => String::new(),
    };
    let limits = ["smtpd_client_message_rate_limit = 1", "smtpd_client_connection_rate_limit = 1"];

    // Each of the lists hurts by itself.
    for list in ["smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions"] {
        let alone = |name: &str| if name == list { hostile(name) } else { String::new() };
        Pair::of(postfix(&postfix_lists(false, alone), &[])).is_judged("554 5.7.1");
    }
    let alone = |name: &str| if name == "smtpd_recipient_restrictions" { hostile(name) } else { String::new() };
    let reply = Pair::of(postfix(&postfix_lists(false, alone), &[])).send("bob");
    assert!(reply.starts_with("450 4.7.1") && reply.contains("greylisted"), "{reply}");
    // Limits for one client: two messages a minute.
    let limited = Pair::of(postfix(&[], &["smtpd_client_message_rate_limit = 1"]));
    assert!(limited.send("bob").starts_with("250 2.0.0 Passed on"));
    let reply = limited.send("bob");
    assert!(reply.starts_with("450 4.7.1"), "{reply}");

    let asked = greylist.asked();
    Pair::of(postfix(&postfix_lists(true, hostile), &limits)).is_trusted(UNKNOWN_TO_POSTFIX);
    assert_eq!(greylist.asked(), asked, "it was asked about the relay");
}

#[test]
fn postscreen_lets_the_relay_by() {
    let page = part("postfix: main.cf, with postscreen");
    let page = page.lines().next().expect("there is a line");
    let listed = "inline:{ 127.0.0.1=reject }";
    let hostile =
        ["postscreen_denylist_action = enforce", "postscreen_bare_newline_enable = yes", "postscreen_greet_wait = 1s"];
    let behind_postscreen = |list: &str| {
        let lines: Vec<_> = hostile.into_iter().chain([KNOWN, list]).collect();
        Pair::of(Server::Postfix(Postfix::prepare_behind_postscreen(&lines)))
    };
    // What it says to whom it lists is no verdict on the recipient.
    let reply = behind_postscreen(&format!("postscreen_access_list = {listed}")).send("bob");
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    // And to whom it does not know yet, like trouble.
    let reply = behind_postscreen("postscreen_access_list =").send("bob");
    assert!(reply.starts_with("250 2.0.0 Kept as"), "{reply}");
    behind_postscreen(&format!("{page}, {listed}")).is_trusted(UNKNOWN_TO_POSTFIX);
}

#[test]
fn with_xclient_postfix_judges_the_client_and_trusts_the_drain() {
    let hostile = |name: &str| match name {
        "smtpd_client_restrictions" => {
            "check_client_access cidr:{ { 127.0.0.0/8 reject } { 203.0.113.66 reject } }".to_owned()
        }
        _ => String::new(),
    };
    let mut lines = postfix_lists(true, hostile);
    lines.extend(part("postfix: main.cf, with XCLIENT").lines().map(str::to_owned));
    let mut server = postfix(&lines, &[]);
    server.start();
    let hosts = format!("[{{host: {OF_THE_TEST}, port: {}, xclient: true}}]", server.address().port());
    let flags = ["--domain", DOMAIN, "--hostname", support::HOSTNAME, "--listen-proxy", "127.0.0.1:0"];
    let config = format!("primary: {{hosts: {hosts}}}\nproxyProtocol: {{trusted: [127.0.0.1]}}\n");
    let relay = Relay::bare().flags(&flags).config(&config).start();
    let until = |state| relay.until(LIMIT, "the primary's state", |status| status.primary.state == state);
    until(PrimaryState::Up);
    let send = |from: &str, to: &str| {
        let mut client = Client::connect(relay.smtp_proxy()).expect("it takes sessions");
        client.raw(format!("PROXY TCP4 {from} 192.0.2.1 4711 25\r\n").as_bytes()).expect("it is heard");
        client.reply().expect("it greets");
        client.say("EHLO client.example").expect("the session lives");
        client.send(&Envelope::to(to), CONTENT).expect("the session lives").to_string()
    };
    let reply = send("203.0.113.9", "bob");
    assert!(reply.starts_with("250 2.0.0 Passed on"), "{reply}");
    let reply = send("203.0.113.66", "bob");
    assert!(reply.starts_with("554 5.7.1") && reply.contains("203.0.113.66"), "{reply}");
    let reply = send("203.0.113.9", "nobody");
    assert!(reply.starts_with(UNKNOWN_TO_POSTFIX), "{reply}");

    // What was kept comes from the relay's own address, from whomever it is.
    server.stop();
    relay.until(LIMIT, "it is away", |status| status.primary.state != PrimaryState::Up);
    let reply = send("203.0.113.66", "bob");
    assert!(reply.starts_with("250 2.0.0 Kept as"), "{reply}");
    server.start();
    eventually(LIMIT, "it is delivered", || server.delivered().len() == 2);
    let Server::Postfix(postfix) = &server else { unreachable!() };
    assert!(postfix.log().contains("orig_client=unknown[203.0.113.66]"), "{}", postfix.log());
    let status = relay.until(LIMIT, "nothing waits", |status| status.queue.messages == 0);
    assert_eq!((status.primary.judges, status.account.passed, status.account.delivered), (None, 1, 1));
    is_no_open_relay(server.address());
}

/// The lists of Exim's standard configuration.
const EXIM_LISTS: &str =
    "domainlist local_domains = example.org\ndomainlist relay_to_domains =\nacl_smtp_rcpt = check_rcpt\n";

fn exim(main: &str, rcpt: &str, more: &str) -> Pair {
    let main = format!("{EXIM_LISTS}{main}");
    Pair::of(Server::Exim(Exim::prepare_with(&DUTIES, &main, &format!("check_rcpt:\n{rcpt}\n{more}"))))
}

#[test]
fn exim_that_refuses_all_clients_takes_mail_from_the_one_that_the_page_exempts() {
    let deny = "  deny message = 5.7.1 your host is listed\n";
    exim("", deny, "").is_judged("550 5.7.1 your host is listed");
    // Without a code nobody can tell.
    assert_eq!(exim("", "  deny message = your host is listed\n", "").send("bob"), "550 5.0.0 your host is listed");
    let reply = exim("", "  defer message = greylisted\n", "").send("bob");
    assert!(reply.starts_with("451 4.0.0 greylisted"), "{reply}");

    let condition = part("exim: a condition for statements of other ACLs that go by the client");
    let (mut main, mut acls) = (part("exim: main") + &part("exim: main, where you have these"), String::new());
    for step in ["connect", "helo", "mail", "data"] {
        writeln!(main, "acl_smtp_{step} = at_{step}").expect("text has room");
        writeln!(acls, "at_{step}:\n  deny message = 5.7.1 not at {step}\n{condition}  accept").expect("text has room");
    }
    let rcpt = part("exim: the first statement of the ACL for acl_smtp_rcpt");
    let trusted = exim(&main, &(rcpt + deny), &acls);
    for number in 1..=60 {
        let reply = trusted.send("nobody");
        assert!(reply.starts_with("550 5.0.0 Unrouteable address"), "guess {number}: {reply}");
    }
    trusted.is_trusted("550 5.0.0 Unrouteable address");
}

const CHAIN: &str = "incoming";

fn opensmtpd(lines: &str, filter: &str) -> Pair {
    Pair::of(Server::OpenSmtpd(OpenSmtpd::prepare_with(&DUTIES, lines, Some(filter))))
}

#[test]
fn opensmtpd_whose_filter_refuses_all_clients_takes_mail_from_the_one_that_the_page_exempts() {
    let hostile = |phase: &str, words: &str| {
        format!(
            "table everybody {{ \"0.0.0.0/0\" }}\nfilter yours phase {phase} match src <everybody> reject \"{words}\"\n"
        )
    };
    let listed = "554 5.7.1 you are listed";
    opensmtpd(&hostile("rcpt-to", listed), "yours").is_judged(listed);
    let greylisted = "450 4.7.1 greylisted";
    assert_eq!(opensmtpd(&hostile("rcpt-to", greylisted), "yours").send("bob"), greylisted);

    let page = part("opensmtpd: smtpd.conf, before the listeners");
    let (before, chain) = page.split_once("# In place of").expect("the chain is the last line");
    let chain = chain.lines().nth(1).expect("it follows the comment");
    for phase in ["connect", "ehlo", "mail-from", "data"] {
        let pair = opensmtpd(&format!("{before}{}{chain}\n", hostile(phase, listed)), CHAIN);
        let reply = pair.send("bob");
        assert!(reply.starts_with("250 2.0.0 Passed on"), "{phase}: {reply}");
    }
    let trusted = opensmtpd(&format!("{before}{}{chain}\n", hostile("rcpt-to", listed)), CHAIN);
    for number in 1..=60 {
        let reply = trusted.send("nobody");
        assert!(reply.starts_with("550 5.0.0 Invalid recipient"), "guess {number}: {reply}");
    }
    trusted.is_trusted("550 5.0.0 Invalid recipient");
}

#[test]
fn the_101st_message_goes_over_a_new_connection_where_opensmtpd_takes_a_hundred() {
    let pair = Pair::of(Server::OpenSmtpd(OpenSmtpd::prepare(&DUTIES)));
    let replies: Vec<_> = (0..MANY).map(|_| pair.send("bob")).collect();
    let refused = replies.iter().position(|reply| !reply.starts_with("250 2.0.0 Passed on"));
    assert_eq!(refused, None, "{replies:?}");
}
