//! `make demo-kubernetes`: the story of `make demo` on a real Kubernetes of one node, with chart and example as a person would use them.
//! Ends by itself, and takes the cluster down; exit code 0 says that all of it was true.

use std::{
    fs,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{
    cluster::{Cluster, Neighbour, cluster, repository, serve_zone},
    load::{Comparison, Load, Sent},
    postfix::Postfix,
    server::{Delivered, Duties},
    wait::within,
};

const LOAD: Load = Load { messages: 200, bytes: 8192, sessions: 4, seed: 200 };
const NAMESPACE: &str = "mail";
const HOME: &str = "backupmx-system";
/// Longer than any of this may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the resource.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // In a thread of its own: a defect in it panics, which must not look like success.
    let story = thread::Builder::new().name("demo-kubernetes".to_owned()).spawn(|| Story::begin().tell());
    match story.expect("a thread can be started").join() {
        Ok(comparison) if comparison == Comparison::default() => {
            println!("\nVerdict: all {} messages arrived, byte for byte. Nothing was lost.", LOAD.messages);
            ExitCode::SUCCESS
        }
        Ok(comparison) => {
            println!("\nVerdict: FAILED.\n  {comparison:?}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("\nVerdict: FAILED, as said above.");
            ExitCode::FAILURE
        }
    }
}

struct Story {
    began: Instant,
    cluster: &'static Cluster,
    primary: Postfix,
    sender: Neighbour,
}

impl Story {
    fn begin() -> Self {
        println!("BackupMx on Kubernetes: the mail server of example.org goes away, and no mail is lost.\n");
        let began = Instant::now();
        let cluster = cluster();
        let place = cluster.neighbour();
        let primary = Postfix::prepare_at(place.smtp(), &Duties::default());
        primary.start();
        serve_zone(place.address);
        Self { began, cluster, primary, sender: cluster.neighbour() }
    }

    fn tell(self) -> Comparison {
        self.say(
            "A real node runs: kubelet, containerd, DNS, volumes. Beside it a Postfix, mx1.example.org, and a sender.",
        );
        self.run(&format!("helm install backupmx charts/backupmx --namespace {HOME} --create-namespace"));
        self.cluster.helm(&format!("install backupmx CHART --namespace {HOME} --create-namespace --wait"));
        self.run("kubectl apply -f examples/backupmx-minimal.yaml");
        self.cluster.kubectl(&format!("create namespace {NAMESPACE}"));
        let example = fs::read_to_string(repository().join("examples/backupmx-minimal.yaml")).expect("it is there");
        self.cluster.apply(NAMESPACE, &example);
        self.until("it is ready", |mx| {
            is(mx, "Ready") && is(mx, "Available") && is(mx, "PrimaryReachable") && !is(mx, "Progressing")
        });
        self.show();

        self.primary.stop();
        self.say(&format!("The primary goes away. {} messages come in.", LOAD.messages));
        let address = self.mx()["status"]["addresses"][0]
            .as_str()
            .and_then(|address| address.parse::<std::net::IpAddr>().ok())
            .expect("it has one");
        self.sender.until_greeted((address, 25).into());
        let sent = self.sender.network.enter(|| LOAD.send((address, 25).into()));
        assert_eq!(sent.accepted.len() as u64, LOAD.messages, "{:?}", sent.refused.first());
        self.until("all are kept", |mx| {
            mx["status"]["queue"]["messages"] == LOAD.messages && !is(mx, "PrimaryReachable")
        });
        self.show();

        self.primary.start();
        self.say("The primary is back. Nobody tells BackupMx; it looks every two seconds while mail waits.");
        self.until("all are handed over", |mx| is(mx, "QueueEmpty") && is(mx, "PrimaryReachable"));
        self.show();
        self.say("Comparing SHA-256 of what was sent and what arrived, less the one Received field added on the way.");
        self.verdict(&sent)
    }

    fn verdict(&self, sent: &Sent) -> Comparison {
        let compare = || LOAD.compare(sent, self.primary.mailbox().iter().map(Delivered::relayed));
        // Postfix puts into the mailbox what it has taken a moment before.
        within(PATIENCE, || Some(compare()).filter(|comparison| comparison.missing.is_empty())).unwrap_or_else(compare)
    }

    fn mx(&self) -> Value {
        self.cluster.get(NAMESPACE, "backupmx/example-org").unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let found = within(PATIENCE, || {
            let holds = holds(&self.mx());
            thread::sleep(BETWEEN_LOOKS);
            holds.then_some(())
        });
        assert!(found.is_some(), "waited {PATIENCE:?} in vain: {what}; {:#}", self.mx()["status"]);
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn run(&self, command: &str) {
        self.say(&format!("$ {command}"));
    }

    fn show(&self) {
        self.run("kubectl get backupmx");
        for line in self.cluster.kubectl(&format!("get backupmx --namespace {NAMESPACE}")).lines() {
            println!("           {line}");
        }
    }
}

fn is(mx: &Value, kind: &str) -> bool {
    let conditions = mx["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|condition| condition["type"] == kind && condition["status"] == "True"))
}
