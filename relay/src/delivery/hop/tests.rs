//! Connections to servers that do as a script says: what each TLS mode takes, and what a server may do at the door.

use std::{fs, net::Ipv4Addr, path::Path};

use backupmx_relay_api::config::PrimaryTls;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;

use super::*;
use crate::delivery::{
    resolve,
    scripted::{Act, PATIENCE, caller, says, serve, server_config},
};

const NAME: &str = "mx1.example.org";
const EHLO: &str = "250-mx1\r\n250-PIPELINING\r\n250 STARTTLS\r\n";
const IN_TLS: &str = "250-mx1\r\n250 SIZE 1000\r\n";

/// An authority, and servers with certificates of all kinds.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn server(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        server_config(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }

    fn write(&self, path: &Path) {
        fs::write(path, self.certificate.pem()).unwrap();
    }
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn expired(name: &str) -> CertificateParams {
    let mut params = named(name);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params
}

fn self_signed() -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    server_config(&named(NAME).self_signed(&key).unwrap(), &key)
}

fn encrypts(config: Arc<ServerConfig>) -> Vec<Act> {
    let ready = says(&["220 hi\r\n", EHLO, "220 go\r\n"]);
    let after = vec![Act::Tls(config), Act::Line, Act::Say(IN_TLS.into()), Act::Rest];
    [ready, after].concat()
}

fn verifies(ca_file: &Path, server_name: Option<&str>) -> Caller {
    let tls = PrimaryTls {
        mode: TlsMode::Verify,
        server_name: server_name.map(ToOwned::to_owned),
        ca_file: Some(ca_file.display().to_string()),
        ..PrimaryTls::default()
    };
    Caller::new("mx2.example.org".into(), Arc::new(Encryption::new(&tls).unwrap()), Vec::new())
}

async fn opened(caller: &Caller, script: Vec<Act>) -> Result<Hop, OpenError> {
    let (host, _served) = serve(vec![script]).await;
    caller.open(&host, PATIENCE, false).await
}

#[tokio::test]
async fn only_verify_looks_at_certificates_and_it_takes_none_but_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other, file) = (Authority::new("one"), Authority::new("other"), folder.path().join("ca.pem"));
    ours.write(&file);
    for (kind, config, fault) in [
        ("good", ours.server(&named(NAME)), None),
        ("expired", ours.server(&expired(NAME)), Some("expired")),
        ("self-signed", self_signed(), Some("UnknownIssuer")),
        ("for another name", ours.server(&named("mx9.example.org")), Some("not valid for name")),
        ("of an authority that is not trusted", other.server(&named(NAME)), Some("UnknownIssuer")),
    ] {
        for mode in [TlsMode::Opportunistic, TlsMode::Encrypt] {
            let hop = opened(&caller(mode), encrypts(config.clone())).await.unwrap();
            assert!(
                hop.tls.as_deref().is_some_and(|tls| tls.starts_with("TLS 1.3, TLS_AES_")),
                "{kind}: {:?}",
                hop.tls
            );
            assert_eq!(
                (hop.lapse, hop.extensions.size, hop.extensions.pipelining),
                (None, Some(1000), false),
                "{kind}"
            );
        }
        match (opened(&verifies(&file, Some(NAME)), encrypts(config)).await, fault) {
            (Ok(hop), None) => assert!(hop.tls.is_some()),
            (Err(cause @ OpenError::Refused { step: Step::StartTls, .. }), Some(fault)) => {
                assert!(cause.to_string().contains(fault), "{kind}: {cause}");
                assert!(!cause.is_permanent() && !cause.turns_away() && !cause.is_unreachable());
            }
            (other, _) => panic!("{kind}: {:?}", other.err()),
        }
    }
    let hop = opened(&caller(TlsMode::None), says(&["220 hi\r\n", EHLO])).await.unwrap();
    assert_eq!((hop.tls, hop.lapse), (None, None));
}

#[tokio::test]
async fn a_certificate_that_is_named_itself_is_good_in_its_time_and_for_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    for (mut params, is_good) in [(named(NAME), true), (expired(NAME), false), (named("mx9.example.org"), false)] {
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            params.is_ca = is_ca;
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            fs::write(&file, certificate.pem()).unwrap();
            let config = server_config(&certificate, &key);
            assert_eq!(opened(&verifies(&file, Some(NAME)), encrypts(config)).await.is_ok(), is_good, "{params:?}");
        }
    }
}

#[tokio::test]
async fn an_address_can_stand_in_a_certificate_too() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, file) = (Authority::new("one"), folder.path().join("ca.pem"));
    ours.write(&file);
    let config = ours.server(&named("127.0.0.1"));
    assert!(opened(&verifies(&file, None), encrypts(config.clone())).await.is_ok());
    assert!(opened(&verifies(&file, Some("127.0.0.2")), encrypts(config)).await.is_err());
}

#[tokio::test]
async fn new_authorities_are_taken_when_their_file_changes_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new, file) = (Authority::new("one"), Authority::new("other"), folder.path().join("ca.pem"));
    old.write(&file);
    let caller = verifies(&file, Some(NAME));
    assert!(opened(&caller, encrypts(new.server(&named(NAME)))).await.is_err());
    fs::write(&file, "junk").unwrap();
    assert!(opened(&caller, encrypts(old.server(&named(NAME)))).await.is_ok());
    assert!(caller.problem().is_some_and(|problem| problem.contains("ca.pem")), "{:?}", caller.problem());
    new.write(&file);
    assert!(opened(&caller, encrypts(new.server(&named(NAME)))).await.is_ok());
    assert!(opened(&caller, encrypts(old.server(&named(NAME)))).await.is_err());
    assert_eq!(caller.problem(), None);
}

#[test]
fn what_cannot_be_verified_with_is_told_at_once_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let refused = |server_name: &str| {
        let (ca_file, server_name) = (Some(file.display().to_string()), Some(server_name.to_owned()));
        let tls = PrimaryTls { mode: TlsMode::Verify, server_name, ca_file, ..PrimaryTls::default() };
        Encryption::new(&tls).err().unwrap().to_string()
    };
    assert!(refused(NAME).contains("ca.pem") && refused(NAME).contains("may read"), "{}", refused(NAME));
    fs::write(&file, "junk").unwrap();
    assert!(refused(NAME).contains("ca.pem") && refused(NAME).contains("PEM"), "{}", refused(NAME));
    Authority::new("one").write(&file);
    assert!(refused("mx 1").contains("serverName"), "{}", refused("mx 1"));
    assert!(Encryption::new(&PrimaryTls { mode: TlsMode::Verify, ..PrimaryTls::default() }).is_ok());
}

#[tokio::test]
async fn what_came_in_clear_behind_starttls_is_forgotten() {
    let before = says(&["220 hi\r\n", EHLO, "220 go\r\n250-mx1\r\n250 XFORWARD NAME ADDR\r\n"]);
    let after = vec![Act::Tls(self_signed()), Act::Line, Act::Say(IN_TLS.into()), Act::Rest];
    let mut hop = opened(&caller(TlsMode::Encrypt), [before, after].concat()).await.unwrap();
    assert_eq!((hop.extensions.size, &hop.extensions.xforward[..]), (Some(1000), &[][..]));
    assert!(!hop.wire.has_spoken_unasked());
}

#[tokio::test]
async fn an_opportunity_that_fails_is_told_and_mail_goes_in_clear_on_a_new_connection() {
    let no_handshake = [says(&["220 hi\r\n", EHLO, "220 go\r\n", "500 what?\r\n"]), vec![Act::Rest]].concat();
    let closes = says(&["220 hi\r\n", EHLO, "220 go\r\n"]);
    let refuses = says(&["220 hi\r\n", EHLO, "454 4.7.0 no key\r\n"]);
    let breaks_behind = [says(&["220 hi\r\n", EHLO, "220 go\r\n"]), vec![Act::Tls(self_signed())]].concat();
    let gone = says(&["220 hi\r\n", "250 mx1\r\n"]);
    for (first, words) in [
        (no_handshake, "TLS handshake"),
        (closes, "TLS handshake"),
        (refuses, "454 4.7.0 no key"),
        (breaks_behind, "EHLO"),
        (gone, "no longer offers STARTTLS"),
    ] {
        let (host, served) = serve(vec![first, says(&["220 hi\r\n", EHLO])]).await;
        let hop = caller(TlsMode::Opportunistic).open(&host, PATIENCE, true).await.unwrap();
        assert!(hop.lapse.as_ref().is_some_and(|lapse| lapse.contains(words)), "{words}: {:?}", hop.lapse);
        assert!(hop.tls.is_none() && hop.extensions.pipelining);
        drop(hop);
        assert_eq!(served.await.unwrap()[1], ["EHLO mx2.example.org"], "{words}");
    }
}

#[tokio::test]
async fn without_an_opportunity_nothing_is_told_unless_it_was_there_before() {
    let hop = opened(&caller(TlsMode::Opportunistic), says(&["220 hi\r\n", "250 mx1\r\n"])).await.unwrap();
    assert_eq!((hop.tls, hop.lapse), (None, None));
}

#[tokio::test]
async fn who_asks_for_tls_never_goes_on_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    Authority::new("one").write(&file);
    for caller in [caller(TlsMode::Encrypt), verifies(&file, Some(NAME))] {
        for (script, words) in [
            (says(&["220 hi\r\n", "250 mx1\r\n", "221 bye\r\n"]), "offers no STARTTLS"),
            (says(&["220 hi\r\n", "500 what?\r\n", "250 mx1\r\n", "221 bye\r\n"]), "offers no STARTTLS"),
            (says(&["220 hi\r\n", EHLO, "454 4.7.0 no key\r\n"]), "454 4.7.0"),
            (says(&["220 hi\r\n", EHLO, "554 5.7.0 no\r\n"]), "554 5.7.0"),
            (says(&["220 hi\r\n", EHLO, "220 go\r\n"]), "TLS handshake"),
        ] {
            let cause = opened(&caller, script).await.err().unwrap();
            assert!(matches!(cause, OpenError::Refused { step: Step::StartTls, .. }), "{cause}");
            assert!(cause.to_string().contains(words), "{cause}");
            assert!(!cause.is_permanent() && !cause.turns_away());
        }
    }
}

#[tokio::test]
async fn a_server_may_refuse_for_good_or_for_now_or_say_nonsense() {
    let caller = caller(TlsMode::Opportunistic);
    for (replies, is_permanent, turns_away) in [
        (&["554 no\r\n"][..], true, false),
        (&["421 busy\r\n"], false, true),
        (&["450 later\r\n"], false, true),
        (&["250 hi\r\n"], false, false),
        (&["SSH-2.0\r\n"], false, false),
        (&["220 hi\r\n", "550 no\r\n", "550 no\r\n"], true, false),
        (&["220 hi\r\n", "421 busy\r\n"], false, true),
        (&["220 hi\r\n", "502 what?\r\n", "421 busy\r\n"], false, true),
        (&["220 hi\r\n", "250-a\r\n550 b\r\n"], false, false),
        (&["220 hi\r\n"], false, false),
    ] {
        let cause = opened(&caller, says(replies)).await.err().unwrap();
        assert_eq!((cause.is_permanent(), cause.turns_away()), (is_permanent, turns_away), "{replies:?}: {cause}");
        assert!(!cause.is_unreachable());
    }
    let flood = "250-x\r\n".repeat(2_000_000);
    let long = "250 ".to_owned() + &"x".repeat(10_000_000);
    for endless in [flood, long] {
        let script = vec![Act::Say("220 hi\r\n".into()), Act::Line, Act::Say(endless)];
        let cause = opened(&caller, script).await.err().unwrap();
        assert!(cause.to_string().contains("no SMTP reply"), "{cause}");
    }
}

#[tokio::test]
async fn a_next_hop_that_is_this_relay_is_told() {
    let (host, _served) = serve(vec![vec![], vec![]]).await;
    let own = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, host.port))];
    let encryption = Encryption::new(&PrimaryTls::default()).unwrap();
    let caller = Caller::new("mx2.example.org".into(), Arc::new(encryption), own);
    let cause = caller.open(&host, PATIENCE, false).await.err().unwrap();
    assert!(matches!(cause, OpenError::Ourselves { .. }) && cause.is_unreachable(), "{cause}");
    assert!(matches!(caller.touch(&host, PATIENCE).await, Err(OpenError::Ourselves { .. })));
}

#[test]
fn a_listener_is_ours_by_address_and_port() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    for (own, ours, theirs, expected) in [
        (&["0.0.0.0:25"][..], "192.0.2.1:40000", "192.0.2.1:25", true),
        (&["[::]:25"], "192.0.2.1:40000", "192.0.2.1:25", true),
        (&["[::]:25"], "[::1]:40000", "[::1]:25", true),
        (&["0.0.0.0:25"], "[::1]:40000", "[::1]:25", false),
        (&["192.0.2.1:25"], "192.0.2.1:40000", "192.0.2.1:25", true),
        (&["[::ffff:192.0.2.1]:25"], "192.0.2.1:40000", "192.0.2.1:25", true),
        // A sidecar: the same machine, another port or another address of it.
        (&["0.0.0.0:2525"], "127.0.0.1:40000", "127.0.0.1:25", false),
        (&["192.0.2.1:25"], "127.0.0.1:40000", "127.0.0.1:25", false),
        (&["127.0.0.2:25"], "127.0.0.1:40000", "127.0.0.2:25", true),
        // [::] leaves IPv4 to those who are named for it.
        (&["[::]:25", "192.0.2.1:25"], "127.0.0.1:40000", "127.0.0.1:25", false),
        (&["0.0.0.0:25"], "192.0.2.1:40000", "192.0.2.9:25", false),
        (&[], "192.0.2.1:40000", "192.0.2.1:25", false),
    ] {
        let all: Vec<_> = own.iter().map(|text| at(text)).collect();
        let found = all.iter().any(|listener| is_own(*listener, &all, at(ours), at(theirs)));
        assert_eq!(found, expected, "{own:?} {theirs}");
    }
}

#[tokio::test]
async fn a_name_of_which_one_address_is_dead_leads_to_the_other() {
    let (host, _served) = serve(vec![says(&["220 hi\r\n", "250 mx1\r\n"])]).await;
    let zone = |_: &str, kind: hickory_resolver::proto::rr::RecordType| {
        let is_v4 = kind == hickory_resolver::proto::rr::RecordType::A;
        let dead_and_alive = vec![Ipv4Addr::new(127, 0, 0, 99).into(), Ipv4Addr::LOCALHOST.into()];
        Some((hickory_resolver::proto::op::ResponseCode::NoError, if is_v4 { dead_and_alive } else { vec![] }))
    };
    let caller = Caller { resolver: resolve::tests::asking(zone).await, ..caller(TlsMode::None) };
    let hop = caller.open(&Host { host: "mx1.example".into(), ..host }, PATIENCE, false).await.unwrap();
    assert_eq!(hop.address, IpAddr::from(Ipv4Addr::LOCALHOST));
    let caller = Caller { resolver: resolve::tests::asking(|_, _| None).await, ..caller };
    let cause = caller
        .open(&Host { host: "mx1.example".into(), port: 25, xclient: false }, PATIENCE, false)
        .await
        .err()
        .unwrap();
    assert!(matches!(cause, OpenError::Unreachable { .. }), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_keep_us() {
    let (mine, mut theirs) = tokio::io::duplex(64);
    tokio::spawn(async move {
        loop {
            use tokio::io::AsyncWriteExt;
            theirs.write_all(b"2").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let begun = tokio::time::Instant::now();
    let silent = Wire::new(mine).answer(Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(silent, TalkError::Silent(_)), "{silent}");
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
}
