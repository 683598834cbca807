//! The public view of an appliance, and conditions on it.

use super::super::api::{UpdateView, View};
use super::super::unit::Unit;
use super::Setting;
use crate::config::TeeMode;
use crate::lifecycle::State;
use crate::update::store::Kept;

pub(super) fn view(
    setting: &Setting,
    kept: &Kept,
    main: &Unit,
    other: Option<&Unit>,
    other_runs: u64,
) -> View {
    let appliance = &setting.appliance;
    View {
        name: appliance.name.clone(),
        image: appliance.image.clone(),
        listen: appliance.listen,
        tee: match appliance.tee {
            TeeMode::Real(tee) => tee.to_string(),
            TeeMode::Simulated(tee) => format!("simulated-{tee}"),
        },
        memory_mib: appliance.memory_mib,
        vcpus: appliance.vcpus,
        autostart: appliance.autostart,
        outdated: main.is_outdated(),
        folder: main.folder(),
        deployment: kept.current.clone(),
        previous: kept.previous.clone(),
        runs: main.life.run.saturating_add(other_runs),
        life: main.life.clone(),
        report: main.report.clone(),
        update: kept.update.clone().map(|update| UpdateView {
            update,
            life: other.map(|other| other.life.clone()),
            report: other.and_then(|other| other.report.clone()),
        }),
    }
}

/// Whether a process of either VM may be alive.
pub(super) fn has_process(view: &View) -> bool {
    let other = view.update.as_ref().and_then(|update| update.life.as_ref());
    view.life.has_process() || other.is_some_and(crate::lifecycle::Lifecycle::has_process)
}

/// Whether an appliance that was started has reached a lasting state, or has been refused several times in a row.
pub(in super::super) fn settled(view: &View) -> bool {
    let life = &view.life;
    match life.state {
        State::Serving | State::Created => true,
        State::Preparing {
            restart_at: Some(_),
        } => life.is_held_up(),
        _ => life.state.is_terminal(),
    }
}

/// Whether nothing of the appliance runs, and nothing will start by itself.
pub(in super::super) fn down(view: &View) -> bool {
    let state = &view.life.state;
    !has_process(view) && (state.is_terminal() || *state == State::Created)
}

/// Whether no update is under way.
pub(in super::super) fn updated(view: &View) -> bool {
    let update = view.update.as_ref();
    update.is_none_or(|update| update.update.is_over())
}
