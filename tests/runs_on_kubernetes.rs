//! A cluster, `helm install`, ten lines of YAML: a backup MX that works, through all that happens to pods. On a real node with the
//! images and the chart of this repository; primaries and senders are machines beside it.

#[path = "runs_on_kubernetes/changes.rs"]
mod changes;
#[path = "runs_on_kubernetes/chart.rs"]
mod chart;
#[path = "runs_on_kubernetes/endings.rs"]
mod endings;
#[path = "runs_on_kubernetes/examples.rs"]
mod examples;
#[path = "runs_on_kubernetes/kinds.rs"]
mod kinds;
#[path = "runs_on_kubernetes/pods.rs"]
mod pods;
#[path = "runs_on_kubernetes/quick_start.rs"]
mod quick_start;
#[path = "runs_on_kubernetes/scene.rs"]
mod scene;
#[path = "runs_on_kubernetes/sidecar.rs"]
mod sidecar;
#[path = "runs_on_kubernetes/trouble.rs"]
mod trouble;
