//! While serving: the API, the counters, and an ear for the host.

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

/// Counters leave the guest no more often: shorter spans would tell single requests apart.
pub const METRICS: Duration = Duration::from_secs(10);
/// How long engine and driver each may take to stop. Should one hang, the machine ends all the same, a moment later.
const CLOSING: Duration = Duration::from_secs(5);

/// Why nobody is served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The host's fault.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The GPUs are not proven any more. Its causes may quote what they say, and are not told any more.
    #[error("the GPUs are not proven any more: {0}")]
    Gpus(GateError),
}

/// Serves until the host asks for an end and the last answer is sent (`Ok`), until it breaks the control
/// protocol, or until the GPUs are not proven any more: then running requests are broken off, every connection is
/// closed and the engine ends before this returns. Counters are told `every` so often, [`METRICS`] in the appliance,
/// from the first moment to the last: during a drain too.
///
/// # Errors
/// [`ServingError`].
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
    // The service is dropped by now, and its connections with it. Nobody's words stay on a GPU that is somebody else's, and an
    // engine whose work is done leaves it clean.
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

/// Returns when the GPUs are not proven any more, or an engine works on others; without GPUs never.
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
                // There are no more engines.
                return std::future::pending().await;
            }
        }
    };
    tokio::select! {
        error = gate.watch(gate::AGAIN) => error,
        error = engines => error,
    }
}

/// Tells the host counters, restarts, and how GPUs are used. All are dropped when it does not read.
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
                // Unchanged ones too: the host takes a guest that says nothing during a drain for dead, and a
                // long answer changes no counter before its end. A host that does not listen is its own loss.
                let mut metrics = counters.metrics(&state.borrow());
                // Its own words: the host gets the gist, receipts are exact.
                metrics.gpu = metrics.gpu.map(engine::coarse);
                let _ = control.send(GuestMessage::Metrics(metrics));
                // One question at a time: a driver may take longer than a tick.
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

/// The answer; never where nothing is asked.
async fn answered(asking: &mut Option<JoinHandle<Vec<GpuMetrics>>>) -> Vec<GpuMetrics> {
    match asking {
        // No panic reaches this line in the appliance: it ends the machine.
        Some(asking) => asking.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
