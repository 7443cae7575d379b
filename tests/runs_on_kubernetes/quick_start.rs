//! The quick start of the README, to the word: chart, ten lines of YAML, an outage, and what one then sees. And the end: what is left
//! when the chart is uninstalled.

use std::{fs, process::Command, time::Instant};

use serde_json::Value;
use support::{
    cluster::{cluster, repository, serve_zone, until},
    postfix::Postfix,
    program, tools,
    wait::eventually,
};
use tempfile::TempDir;

use crate::scene::{HOME, LIMIT, alone, balancer, condition, primary};

const NAMESPACE: &str = "mail";
const EXAMPLE: &str = "example-org";
/// Of a relay at rest.
const MEMORY_BYTES_MAX: u64 = 20_000_000;
const RELAYS: usize = 2;
/// Of the first column, now and in an older definition.
const CURRENT: &str = "First domain that mail is taken for";
const OLDER: &str = "The first domain";

#[test]
fn a_chart_and_ten_lines_make_a_backup_mx_whose_mail_outlives_the_chart() {
    let _alone = alone();
    let cluster = cluster();
    let place = cluster.neighbour();
    let primary = primary(&place);
    primary.start();
    serve_zone(place.address);

    let _uninstalled = Uninstalled;
    cluster.create_namespace(HOME, "restricted");
    let begun = Instant::now();
    let older = older_chart();
    // In this cluster the tests may have made the definition before, by kubectl.
    install(&older.path().to_string_lossy());
    println!("helm install --wait took {:.1?}", begun.elapsed());
    cluster.create_namespace(NAMESPACE, "restricted");
    let example = fs::read_to_string(repository().join("examples/backupmx-minimal.yaml")).expect("it is there");
    cluster.apply(NAMESPACE, &example);
    until_status("it is ready", |mx| {
        condition(mx, "Ready")["status"] == "True" && condition(mx, "Available")["status"] == "True"
    });
    println!("helm install to Ready took {:.1?}", begun.elapsed());
    until_status("the primary is known to be up", |mx| condition(mx, "PrimaryReachable")["status"] == "True");
    until_status("both relays run", |mx| condition(mx, "Progressing")["status"] == "False");
    assert_eq!(mx()["status"]["relaysReady"], "2/2");
    for pod in pods() {
        is_restricted(&pod);
        let bytes = memory_bytes(&pod);
        println!("{} takes {:.1} MB when idle", pod["metadata"]["name"], bytes as f64 / 1e6);
        assert!(bytes < MEMORY_BYTES_MAX, "{bytes}");
    }

    an_outage_is_seen_and_survived(&primary);
    the_definition_comes_with_the_chart();
    the_mail_outlives_the_chart(&primary);
    cluster.kubectl(&format!("delete --namespace {NAMESPACE} backupmx {EXAMPLE} --timeout=120s"));
    let claims = cluster.get(NAMESPACE, "pvc").unwrap_or_default();
    assert!(claims["items"].as_array().is_none_or(Vec::is_empty), "an empty volume goes with its resource: {claims:#}");
    cluster.helm(&format!("uninstall backupmx --namespace {HOME} --wait"));
    cluster.kubectl(&format!("delete namespace {NAMESPACE} {HOME} --wait=false"));
}

/// Mail comes in while the primary is away; columns, conditions and Events say so, and then that all is delivered.
fn an_outage_is_seen_and_survived(primary: &Postfix) {
    primary.stop();
    let (sender, smtp) = (cluster().neighbour(), balancer(&mx()));
    let swaks =
        sender.network.enter(|| tools::swaks(smtp, &["--from", "ann@client.example", "--to", "bob@example.org"]));
    assert_eq!(swaks.code, Some(0), "{swaks}");
    // What comes before a relay has found out is not counted to the outage.
    until_status("the outage is known", |mx| {
        mx["status"]["primary"]["state"] == "Down" && mx["status"]["outages"][0]["from"].is_string()
    });
    let many = ["-m", "24", "-s", "16", "-l", "8192", "-f", "ann@client.example", "-t", "bob@example.org"];
    let source = sender.network.enter(|| tools::smtp_source(smtp, &many));
    assert_eq!(source.code, Some(0), "{source}");
    until_status("it keeps the mail", |mx| {
        mx["status"]["queue"]["messages"] == 25 && mx["status"]["primary"]["state"] == "Down"
    });
    let columns = columns();
    println!("{}", columns.join(" | "));
    assert_eq!(
        [0, 1, 2, 3, 5, 6].map(|column| &*columns[column]),
        [EXAMPLE, "example.org", "Down", "25", "2/2", "True"]
    );
    assert!(columns[4].ends_with('s') || columns[4].ends_with('m'), "the age of the oldest: {columns:?}");
    assert_eq!(condition(&mx(), "Ready")["status"], "True", "a dead primary is what it is for");

    primary.start();
    until_status("all is delivered", |mx| {
        mx["status"]["queue"]["messages"] == 0
            && condition(mx, "QueueEmpty")["status"] == "True"
            && condition(mx, "PrimaryReachable")["status"] == "True"
    });
    eventually(LIMIT, "all is in the mailbox", || primary.delivered().len() == 25);
    let mailbox = primary.mailbox();
    // The sender's own address, not one of the node's.
    let from_sender = format!("[{}]", sender.address);
    let is_told = |content: &[u8]| String::from_utf8_lossy(content).contains(&from_sender);
    assert!(
        mailbox.iter().all(|mail| is_told(&mail.content)),
        "each Received field names the sender's address, {from_sender}"
    );
    // A drain this short may be over before it is seen to have begun.
    for reason in ["PrimaryDown", "FirstMailQueued", "PrimaryUp", "DrainFinished"] {
        let is_it =
            |events: &Value| events["items"].as_array().into_iter().flatten().any(|event| event["reason"] == reason);
        until(LIMIT, &format!("an Event {reason}"), || cluster().get(NAMESPACE, "events.events.k8s.io"), is_it);
    }
}

/// `helm uninstall` takes the operator and leaves the rest at work; a new installation takes it up again.
fn the_mail_outlives_the_chart(primary: &Postfix) {
    let cluster = cluster();
    primary.stop();
    let (sender, smtp) = (cluster.neighbour(), balancer(&mx()));
    let send = || {
        let swaks =
            sender.network.enter(|| tools::swaks(smtp, &["--from", "ann@client.example", "--to", "bob@example.org"]));
        assert_eq!(swaks.code, Some(0), "{swaks}");
    };
    send();
    let before: Vec<_> = pods().iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    cluster.helm(&format!("uninstall backupmx --namespace {HOME} --wait"));
    assert!(cluster.get("default", "crd/backupmxes.backupmx.io").is_some(), "the kind stays known");
    send();
    let after: Vec<_> = pods().iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    assert_eq!(after, before, "no relay was touched");
    primary.start();
    eventually(LIMIT, "the relays hand over without an operator", || primary.delivered().len() == 27);
    install("CHART");
    until_status("the status has caught up", |mx| {
        mx["status"]["queue"]["messages"] == 0 && condition(mx, "Ready")["status"] == "True"
    });
    let after: Vec<_> = pods().iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    assert_eq!(after, before, "and none by the new one");
}

/// An operator for all namespaces must not outlive a test that fails: it would look after those of the others.
struct Uninstalled;

impl Drop for Uninstalled {
    fn drop(&mut self) {
        cluster().try_kubectl(&format!("delete deployment --namespace {HOME} --all --wait=false"));
    }
}

fn install(chart: &str) {
    cluster().helm(&format!("install backupmx {chart} --namespace {HOME} --create-namespace --force-conflicts --wait"));
}

/// What `helm upgrade` brings, though Helm itself leaves definitions alone.
fn the_definition_comes_with_the_chart() {
    let domain = || {
        cluster().kubectl("get crd backupmxes.backupmx.io --output jsonpath={.spec.versions[0].additionalPrinterColumns[0].description}")
    };
    assert_eq!(domain(), OLDER);
    cluster().helm(&format!("upgrade backupmx CHART --namespace {HOME} --wait"));
    assert_eq!(domain(), CURRENT);
}

/// This chart with a definition that says something else in one place.
fn older_chart() -> TempDir {
    let folder = TempDir::with_prefix("backupmx-chart-").expect("a temporary folder can be made");
    let from = repository().join("charts/backupmx/.");
    let copied = program::run(Command::new("cp").arg("-r").arg(from).arg(folder.path()), LIMIT);
    assert_eq!(copied.code, Some(0), "{copied}");
    let file = folder.path().join("files/crd.yaml");
    let text = fs::read_to_string(&file).expect("the chart has it");
    assert!(text.contains(CURRENT), "the definition says it otherwise: adapt this test");
    fs::write(&file, text.replace(CURRENT, OLDER)).expect("our folder is ours");
    folder
}

fn mx() -> Value {
    cluster().get(NAMESPACE, &format!("backupmx/{EXAMPLE}")).unwrap_or_default()
}

#[track_caller]
fn until_status(what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(LIMIT, what, || Some(mx()), holds)
}

fn pods() -> Vec<Value> {
    let list = cluster().get(NAMESPACE, "pods --selector=backupmx.io/name=example-org").unwrap_or_default();
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(pods.len(), RELAYS);
    pods
}

/// The line of `kubectl get backupmx`, as people see it.
fn columns() -> Vec<String> {
    let line = cluster().kubectl(&format!("get backupmx --namespace {NAMESPACE} --no-headers"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// What it must not be able to do, as it runs.
fn is_restricted(pod: &Value) {
    let spec = &pod["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    let mounted: Vec<_> = spec["containers"][0]["volumeMounts"].as_array().into_iter().flatten().collect();
    assert!(
        mounted.iter().all(|mount| !mount["mountPath"].as_str().unwrap_or_default().contains("serviceaccount")),
        "{mounted:?}"
    );
    let container = &spec["containers"][0]["securityContext"];
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    let (pid, status) = process(pod);
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    for capabilities in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(capabilities).trim_start_matches('0'), "", "{capabilities} of {pid}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "it filters");
    assert!(field("Uid:").split_whitespace().all(|id| id == "65532"), "{}", field("Uid:"));
}

fn memory_bytes(pod: &Value) -> u64 {
    let (_, status) = process(pod);
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    1024 * kib.expect("Linux tells it")
}

/// The process of a relay, as the node counts, and what Linux says of it.
fn process(pod: &Value) -> (String, String) {
    let pid = crate::pods::pid_of(pod);
    let status = cluster().in_node(&["cat", &format!("/proc/{pid}/status")]).stdout;
    (pid, status)
}
