//! Many resources: soon made, little memory to watch them, and nothing written while nothing happens.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use support::{runtime::wait, wait::eventually};

use crate::scene::{Scene, condition, merged, spec};

/// Those that are there must not grow with the resources by more than this says (issue: 80 MB with 1,000 resources and 2,000 relays).
const MEMORY_BYTES_MAX: u64 = 80_000_000;
/// As long as all may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

#[test]
fn many_resources_are_made_and_then_cost_next_to_nothing() {
    // `make soak` sets it, and builds for release.
    let is_soak = env::var_os("SOAK").is_some();
    let (resources, quiet) = if is_soak { (1000, Duration::from_secs(60)) } else { (50, Duration::from_secs(10)) };
    let scene = Scene::empty();
    let begun = Instant::now();
    for number in 0..resources {
        let domain = format!("example-{number}.org");
        scene.create(
            &format!("mx-{number}"),
            merged(spec(), json!({ "domains": [domain], "hostname": format!("mx2.{domain}") })),
        );
    }
    println!("{resources} resources were created after {:.1?}", begun.elapsed());
    let count = |kind: &str| {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=backupmx-operator");
        wait(scene.objects(kind).list_metadata(&ours)).expect("they can be listed").items.len()
    };
    // Two Services each; the StatefulSet is the last of a resource's objects.
    eventually(LIMIT, "all objects are made", || {
        thread::sleep(Duration::from_secs(2));
        count("StatefulSet") == resources && count("Service") == 2 * resources
    });
    println!("all objects are made after {:.1?}", begun.elapsed());
    let ready = || {
        let all = wait(scene.resources().list(&Default::default())).expect("they can be listed");
        let is_ready = |object: &&kube::api::DynamicObject| {
            let mx = serde_json::to_value(object).expect("an object is JSON");
            // The addresses come from the played load balancer, which looks seldom at so many: each is one more status to write.
            let has_address = mx["status"]["addresses"][0].is_string();
            let runs = condition(&mx, "Progressing")["status"] == "False";
            condition(&mx, "Ready")["status"] == "True" && runs && has_address
        };
        all.items.iter().filter(is_ready).count()
    };
    eventually(LIMIT, "all are ready", || {
        thread::sleep(Duration::from_secs(3)); // a list of a thousand is work for a busy server
        ready() == resources
    });
    println!("all are ready after {:.1?}", begun.elapsed());
    scene.until_quiet();

    let (mark, cpu, asked) = (scene.namespace.mark(), cpu_seconds(scene.operator().pid()), Instant::now());
    thread::sleep(quiet);
    let share = (cpu_seconds(scene.operator().pid()) - cpu) / asked.elapsed().as_secs_f64();
    let writes = scene.written_since(mark);
    let memory_bytes = memory_bytes(scene.operator().pid());
    println!("in {quiet:?} of quiet: {:.1} % of a core, {:.1} MB resident", 100.0 * share, memory_bytes as f64 / 1e6,);
    assert_eq!(writes, []);
    assert!(memory_bytes <= MEMORY_BYTES_MAX, "{memory_bytes} bytes");
    let names = wait(scene.resources().list(&Default::default())).expect("they can be listed");
    assert_eq!(names.items.iter().map(ResourceExt::name_any).count(), resources);
}

/// What the process has used of all cores.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0 // USER_HZ, the same on all of Linux
}

fn memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    1024 * kib.expect("Linux tells it")
}
