use kube::core::{Status, response::StatusDetails};
use serde_json::{from_value, json};

use super::*;

fn live(owner: Option<&str>, applied: Option<Print>) -> Live {
    let meta = from_value(json!({"uid": "o", "labels": {"backupmx.io/name": "a"}})).unwrap();
    Live { owner: owner.map(Into::into), stamp: 5, applied, ..Live::from_meta(&meta) }
}

fn stands(live: &Live) -> String {
    match seen(live, "mine", 7, Kind::ConfigMap, "a-relay") {
        Standing::AsApplied => "as applied".into(),
        Standing::Absent => "absent".into(),
        Standing::Ours { uid } => format!("ours {uid}"),
        Standing::InTheWay(Finding::Foreign { owner, .. }) => format!("of {}", owner.unwrap_or_default()),
        Standing::InTheWay(other) => format!("{other:?}"),
    }
}

#[test]
fn an_object_is_touched_only_if_it_is_ours_and_it_or_what_is_wanted_has_changed() {
    let same = Some(Print { desired: 7, stamp: 5 });
    assert_eq!(stands(&live(Some("mine"), same)), "as applied");
    assert_eq!(stands(&live(Some("mine"), None)), "ours o");
    assert_eq!(stands(&live(Some("mine"), Some(Print { desired: 6, stamp: 5 }))), "ours o", "another is wanted");
    assert_eq!(stands(&live(Some("mine"), Some(Print { desired: 7, stamp: 4 }))), "ours o", "it was changed");
    assert_eq!(stands(&live(None, same)), "as applied", "we made it");
    assert_eq!(
        stands(&live(None, Some(Print { desired: 7, stamp: 4 }))),
        "ours o",
        "we made it; the annotation is put back"
    );
    assert_eq!(stands(&live(None, None)), "of ", "our labels alone are no proof");
    assert_eq!(stands(&live(Some("another"), same)), "of another");
    assert_eq!(
        stands(&Live { leaving: true, ..live(Some("mine"), None) }),
        "as applied",
        "the watch tells when it is gone"
    );
}

#[test]
fn what_stays_wrong_until_somebody_acts_is_a_finding_and_the_rest_is_tried_again() {
    let error = |code, name: &str| {
        let details = Some(StatusDetails { name: name.into(), ..from_value(json!({})).unwrap() });
        kube::Error::Api(Box::new(Status { code, message: "no\n".into(), details, ..Status::default() }))
    };
    let refused = Finding::Refused { kind: "ConfigMap", name: "a".into(), words: r"no\n".into() };
    for (code, finding) in
        [(403, Some(&refused)), (422, Some(&refused)), (409, None), (429, None), (500, None), (503, None)]
    {
        assert_eq!(verdict(Kind::ConfigMap, "a", &error(code, "a")).as_ref(), finding, "{code}");
    }
    let unknown = Finding::UnknownKind { kind: "PodMonitor" };
    assert_eq!(verdict(Kind::PodMonitor, "a", &error(404, "")), Some(unknown));
    assert_eq!(verdict(Kind::ConfigMap, "a", &kube::Error::Service("connection refused".into())), None);
}

#[test]
fn a_token_that_is_there_is_kept_whatever_else_the_secret_has() {
    let shape: Secret = from_value(json!({"data": {"token": ""}})).unwrap();
    let token = |data| token_in(&shape, from_value(json!({"data": data})).unwrap());
    assert_eq!(token(json!({"token": "YWJj", "other": "eA=="})).as_deref(), Some("abc"));
    assert_eq!(token(json!({"token": ""})), None);
    assert_eq!(token(json!({"other": "eA=="})), None);
}

#[test]
fn an_error_reads_as_a_path_and_says_nothing_twice() {
    let cause = kube::Error::Service("tcp connect error: refused".into());
    let error = Error::Apply { kind: "Service", name: "a-smtp".into(), source: cause };
    assert_eq!(chain(&error), "apply Service a-smtp: ServiceError: tcp connect error: refused");
}
