//! The command line: what the operator works on, and where it is looked at.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns BackupMx resources into relays on Kubernetes, and says in their status how they fare.
///
/// It makes and mends the objects of each BackupMx, asks its relays how they are, and writes what it learns into .status. It never
/// sees mail. While it is away relays go on as they were.
#[derive(Parser, Debug)]
#[command(name = "backupmx-operator", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where and how to run.
    #[command(flatten)]
    pub flags: Flags,
}

const AFTER_HELP: &str = "\
Examples:
  backupmx-operator crd | kubectl apply --server-side -f -
      Makes the cluster know the kind BackupMx.
  backupmx-operator --relay-image registry.example/backupmx-relay:0.1.0
      Works for all namespaces, in a pod or, with a kubeconfig, on any machine that can reach the pods.
  backupmx-operator --relay-image registry.example/backupmx-relay:0.1.0 --namespace mail
      Works for one namespace; needs no rights in any other.

Then look:
  kubectl get backupmx --all-namespaces         primary, queue, relays
  kubectl describe backupmx NAME                conditions with their reasons, events
  curl http://OPERATOR:9126/metrics             for Prometheus; /healthz and /readyz for the kubelet

Exit codes:
  0  stopped as asked
  1  failed while running, or lost its lease; started anew, it waits for its turn
  2  wrong usage or configuration, or no cluster is configured";

/// What to do instead of running.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Print the CustomResourceDefinition as YAML, and stop.
    Crd,
}

/// Every flag is an environment variable too.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Image of the relay, for resources that name none.
    #[arg(long, env = "BACKUPMX_RELAY_IMAGE", value_name = "IMAGE", hide_env_values = true)]
    pub relay_image: Option<String>,
    /// Namespace to work for [default: all].
    #[arg(long, env = "BACKUPMX_NAMESPACE", value_name = "NAMESPACE", hide_env_values = true)]
    pub namespace: Option<String>,
    /// Namespace of the lease, and of the operator itself [default: the pod's, or the kubeconfig's].
    #[arg(long, env = "BACKUPMX_LEASE_NAMESPACE", value_name = "NAMESPACE", hide_env_values = true)]
    pub lease_namespace: Option<String>,
    /// Name of the lease. Of all operators with the same one, one acts and the others wait.
    #[arg(
        long,
        env = "BACKUPMX_LEASE_NAME",
        value_name = "NAME",
        default_value = "backupmx-operator",
        hide_env_values = true
    )]
    pub lease_name: String,
    /// Address for /metrics, /healthz and /readyz. No secrets, but not for the world.
    #[arg(long, env = "BACKUPMX_OBSERVE", value_name = "ADDRESS", default_value = "[::]:9126", hide_env_values = true)]
    pub observe: SocketAddr,
    /// How log lines look; they go to standard error.
    #[arg(long, env = "BACKUPMX_LOG_FORMAT", value_name = "FORMAT", default_value = "text", hide_env_values = true)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug (also each reconcile).
    #[arg(long, env = "BACKUPMX_LOG_LEVEL", value_name = "LEVEL", default_value = "info", hide_env_values = true)]
    pub log_level: tracing_subscriber::filter::LevelFilter,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
