//! The program: waits for its turn, watches, works, until it is told to stop or loses the lease.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    chance,
    context::{Context, Wakes},
    controller,
    desired::labels::MANAGER,
    health::{Health, Phase},
    leader::{Election, Leadership, Lost},
    metrics::Metrics,
    observe::Relays,
    plan::Defaults,
    view::View,
    watch::Watches,
};

/// What was begun may take so long to end. The lease is given away after that.
const STOP_MAX: Duration = Duration::from_secs(4);

/// What it works on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings that objects depend on.
    pub defaults: Defaults,
    /// The only namespace to work for; all if absent.
    pub namespace: Option<String>,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Its name.
    pub lease_name: String,
    /// Who we are: the pod's name.
    pub instance: String,
}

/// Why the program ends without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody else may act now.
    #[error("lost the lead: {0}")]
    Lost(#[from] Lost),
    /// Health and metrics cannot be told.
    #[error("serve the observe port: {0}")]
    Observe(#[source] io::Error),
    /// They contradict each other.
    #[error("set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Nothing would be done any more.
    #[error("the controller has ended by itself, which it must not; this is a defect")]
    Ended,
}

/// Runs until `stop`.
pub async fn run(
    settings: Settings,
    client: Client,
    observe: TcpListener,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let metrics = Metrics::new()?;
    let wakes = Arc::new(Wakes::default());
    let wake = |wakes: &Arc<Wakes>| {
        let wakes = wakes.clone();
        move |id: &_| wakes.wake(id)
    };
    let relays = Relays::new(backupmx_relay_api::port::OBSERVE, metrics.clone(), wake(&wakes));
    let health = Health::new(metrics.clone(), relays.clone());
    let pages = axum::serve(observe, health.clone().router()).into_future();
    let view = Arc::new(View::default());
    let watches = Watches::new(client.clone(), settings.namespace.clone(), view.clone(), relays.clone(), wake(&wakes));
    let reporter = Reporter { controller: MANAGER.into(), instance: Some(settings.instance.clone()) };
    let ctx = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        defaults: settings.defaults.clone(),
        view,
        relays,
        neighbours: crate::neighbours::Neighbours::default(),
        metrics,
        watches,
        optional: std::sync::Mutex::default(),
        memories: std::sync::Mutex::new(HashMap::new()),
    });
    tokio::select! {
        ended = pages => Err(RunError::Observe(ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))),
        ended = lead(&settings, &health, ctx, wakes, stop) => ended,
    }
}

/// Waits for the lease, and acts while it has it.
async fn lead(
    settings: &Settings,
    health: &Health,
    ctx: Arc<Context>,
    wakes: Arc<Wakes>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let identity = format!("{}-{}", settings.instance, chance::suffix());
    let election = Election::new(ctx.client.clone(), &settings.lease_namespace, &settings.lease_name, identity);
    let mut leadership = tokio::select! {
        leadership = election.win(|| health.is(Phase::StandingBy)) => leadership,
        () = stop.cancelled() => return Ok(()),
    };
    tracing::info!(namespace = settings.namespace, "leads");
    health.is(Phase::Reading);
    let ended = {
        let acting = act(settings, health, ctx, wakes, stop.clone());
        tokio::select! {
            biased; // a lead that is lost ends everything at once, whatever is under way
            lost = leadership.keep() => Err(lost.into()),
            ended = acting => ended,
        }
    };
    match ended {
        Ok(()) => release(leadership).await,
        // Whoever has the lease now is not to be disturbed by what we still have in hand.
        Err(cause) => return Err(cause),
    }
    Ok(())
}

async fn act(
    settings: &Settings,
    health: &Health,
    ctx: Arc<Context>,
    wakes: Arc<Wakes>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    ctx.watches.start();
    let read = async {
        ctx.start_known_watches().await;
        ctx.watches.wait_until_whole().await;
    };
    tokio::select! {
        () = read => {}
        () = stop.cancelled() => return Ok(()),
    }
    health.is(Phase::Acting);
    tracing::info!("acts: all that belongs to BackupMx resources is known");
    let resources = match &settings.namespace {
        Some(namespace) => Api::namespaced(ctx.client.clone(), namespace),
        None => Api::all(ctx.client.clone()),
    };
    let mut working = std::pin::pin!(controller::run(ctx, resources, wakes, stop.clone()));
    tokio::select! {
        () = &mut working => if stop.is_cancelled() { return Ok(()) } else { return Err(RunError::Ended) },
        () = stop.cancelled() => health.is(Phase::Stopping),
    }
    if timeout(STOP_MAX, working).await.is_err() {
        tracing::warn!(
            "some resources were being worked on when the time to stop was over; the next operator goes on with them"
        );
    }
    Ok(())
}

async fn release(leadership: Leadership) {
    match leadership.release().await {
        Ok(()) => tracing::info!("stopped, and gave the lease away"),
        Err(cause) => tracing::warn!(%cause, "give the lease away; the next operator waits until it has run out"),
    }
}
