//! While serving: the API, the counters, and an ear for the host.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::control::GuestMessage;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::{self, Counters, Service};
use crate::control::{Control, ControlError};
use crate::engine::Engine;
use crate::tls::AttestedListener;

/// Counters leave the guest no more often: shorter spans would tell single requests apart.
pub const METRICS: Duration = Duration::from_secs(10);

/// Serves until the host asks for an end and the last answer is sent (`Ok`), or until it breaks the control
/// protocol. Counters are told `every` so often, [`METRICS`] in the appliance, from the first moment to the
/// last: during a drain too.
///
/// # Errors
/// The host's fault.
pub async fn run(
    listener: AttestedListener,
    service: Service,
    control: &Control,
    every: Duration,
) -> Result<(), ControlError> {
    let mut fault = control.fault();
    let (engine, counters) = (service.engine.clone(), Arc::clone(&service.counters));
    tokio::select! {
        () = api::serve(listener, service, control.drain()) => Ok(()),
        fault = fault.wait_for(Option::is_some) => match fault.ok().and_then(|fault| fault.clone()) {
            Some(fault) => Err(fault),
            None => Err(ControlError::Closed),
        },
        never = report(&engine, &counters, control, every) => match never {},
    }
}

/// Tells the host counters and restarts. Both are dropped when it does not read.
async fn report(
    engine: &Engine,
    counters: &Counters,
    control: &Control,
    every: Duration,
) -> std::convert::Infallible {
    let mut state = engine.state();
    let mut deaths = state.borrow_and_update().deaths;
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                // Unchanged ones too: the host takes a guest that says nothing during a drain for dead, and a
                // long answer changes no counter before its end. A host that does not listen is its own loss.
                let _ = control.send(GuestMessage::Metrics(counters.metrics(deaths.into())));
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
