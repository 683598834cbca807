//! The serving phase: runs the API, reports metrics to the host, and watches the control channel and the GPUs.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::control::GuestMessage;
use cocoon_protocol::gpu::GpuMetrics;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::api::{self, Counters, Service};
use crate::control::{Control, ControlError};
use crate::engine::{self, Engine};
use crate::gpu::{Gate, GateError, gate};
use crate::tls::AttestedListener;

/// Shortest interval between two reports of the counters. Shorter intervals would reveal single requests.
pub const METRICS: Duration = Duration::from_secs(10);
/// How long the engine and the driver may each take to stop. If one of them hangs, the machine ends after this time.
const CLOSING: Duration = Duration::from_secs(5);

/// Why serving ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The host broke the control protocol.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The GPUs no longer verify. The causes may quote text from the GPUs, so they are not reported.
    #[error("the GPUs are not proven any more: {0}")]
    Gpus(GateError),
}

/// Serves until the host requests a drain and the last answer is sent. Reports counters to the host at the interval `every`,
/// which is [`METRICS`] in the appliance, from start to end, including the drain.
///
/// # Errors
/// [`ServingError`] when the host breaks the control protocol, or when the GPUs no longer verify. In the second case,
/// running requests are cancelled, every connection is closed and the engine is stopped before this returns.
pub async fn run(
    listener: AttestedListener,
    service: Service,
    control: &Control,
    every: Duration,
) -> Result<(), ServingError> {
    let mut fault = control.fault();
    let (engine, counters) = (service.engine.clone(), Arc::clone(&service.counters));
    let gpus = service.attester.gpus().cloned();
    let error = tokio::select! {
        () = api::serve(listener, service, control.drain()) => None,
        fault = fault.wait_for(Option::is_some) => match fault.ok().and_then(|fault| fault.clone()) {
            Some(fault) => return Err(fault.into()),
            None => return Err(ControlError::Closed.into()),
        },
        error = unproven(gpus.as_ref(), &engine) => Some(error),
        never = report(&engine, &counters, gpus.as_ref(), control, every) => match never {},
    };
    // The service and its connections are dropped by now. Prompts must not stay on a GPU that another VM gets next, and an
    // engine that stops in order clears the GPU's memory.
    let _ = timeout(CLOSING, engine.end()).await;
    let Some(error) = error else {
        return Ok(());
    };
    if let Some(gate) = gpus {
        let closing = tokio::task::spawn_blocking(move || gate.close());
        let _ = timeout(CLOSING, closing).await;
    }
    Err(ServingError::Gpus(error))
}

/// Returns when the GPUs no longer verify or an engine uses other GPUs. Never returns without GPUs.
async fn unproven(gpus: Option<&Arc<Gate>>, engine: &Engine) -> GateError {
    let Some(gate) = gpus else {
        return std::future::pending().await;
    };
    let mut state = engine.state();
    let engines = async {
        loop {
            let (ready, devices) = {
                let state = state.borrow_and_update();
                (state.ready.is_some(), state.devices)
            };
            if ready && let Err(error) = gate.check_engine(devices) {
                return error;
            }
            if state.changed().await.is_err() {
                // The supervisor is gone: no further engine starts.
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        error = gate.watch(gate::AGAIN) => error,
        error = engines => error,
    }
}

/// Reports counters, engine restarts and GPU metrics to the host. Reports are dropped when the host does not read.
async fn report(
    engine: &Engine,
    counters: &Counters,
    gpus: Option<&Arc<Gate>>,
    control: &Control,
    every: Duration,
) -> std::convert::Infallible {
    let mut state = engine.state();
    let mut asking: Option<JoinHandle<Vec<GpuMetrics>>> = None;
    let mut deaths = state.borrow_and_update().deaths;
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                // Sent even if unchanged: during a drain the host takes a silent guest for dead, and a long answer changes
                // no counter before it ends. A host that does not read misses the reports; only its own operator suffers.
                let mut metrics = counters.metrics(&state.borrow());
                // The engine reports these numbers itself, so the host gets them rounded; receipts are exact.
                metrics.gpu = metrics.gpu.map(engine::coarse);
                let _ = control.send(GuestMessage::Metrics(metrics));
                // Only one query runs at a time, because a driver may take longer than one interval.
                if asking.is_none() && let Some(gate) = gpus.map(Arc::clone) {
                    asking = Some(tokio::task::spawn_blocking(move || gate.metrics()));
                }
            }
            gpus = answered(&mut asking) => {
                asking = None;
                if !gpus.is_empty() {
                    let _ = control.send(GuestMessage::GpuMetrics { gpus });
                }
            }
            Ok(()) = state.changed() => {
                let now = state.borrow_and_update().deaths;
                if now != deaths {
                    deaths = now;
                    let _ = control.send(GuestMessage::EngineRestarted { count: deaths });
                }
            }
        }
    }
}

/// Waits for the running query and returns its answer. Never returns if no query is running.
async fn answered(asking: &mut Option<JoinHandle<Vec<GpuMetrics>>>) -> Vec<GpuMetrics> {
    match asking {
        // In the appliance a panic ends the machine, so the task never fails here.
        Some(asking) => asking.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
