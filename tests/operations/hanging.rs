//! A guest that hangs in each phase, and a simulator that hangs: QEMU or the simulator is stopped (SIGSTOP). The VM's
//! owner reports what was in progress, ends the VM, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use cocoon_host_agent::channel::Patience;
use cocoon_host_agent::machine::Failure;
use cocoon_host_agent::{Progress, UpError};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::control::Phase;
use cocoon_tests::processes;
use cocoon_tests::trial::{Model, Trial};

use super::DEADLINE;

/// Short, but longer than a working guest is ever silent here. The guest itself waits 60 seconds for its evidence.
const PATIENCE: Patience = Patience {
    start: Duration::from_secs(300),
    boot: Duration::from_secs(45),
    serve: Duration::from_secs(40),
    drain: Duration::from_secs(15),
};

async fn trial(name: &str, model: Model) -> Trial {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let mut trial = Trial::new(demo, name, Tee::Tdx, model).await.unwrap();
    trial.options.vcpus = 1;
    trial.options.patience = PATIENCE;
    trial
}

fn stop(pid: u32) {
    assert!(processes::signal(pid, "STOP"));
}

fn silent(error: &UpError) -> (&'static str, u64) {
    match error {
        UpError::Failed {
            failure: Failure::Silent { state, seconds },
            ..
        } => (state, *seconds),
        other => panic!("it ended otherwise: {other}"),
    }
}

/// Stops QEMU, or the simulator, once an event satisfies `when`. Returns the state and the seconds that the owner reports.
async fn stopped(
    name: &str,
    model: Model,
    simulator: bool,
    when: impl Fn(&Progress) -> Option<()>,
) -> (&'static str, u64) {
    let trial = trial(name, model).await;
    let (seen, folder) = (trial.seen.clone(), trial.folder());
    let booting = tokio::spawn(trial.refused());
    let qemu = seen.until(DEADLINE, |progress| match progress {
        Progress::Started(pid) => Some(*pid),
        _ => None,
    });
    let qemu = qemu.await.unwrap();
    seen.until(DEADLINE, when).await.unwrap();
    let running = processes::naming(&folder);
    assert_eq!(running.len(), 2, "{running:?}");
    let other = running.iter().find(|pid| **pid != qemu);
    stop(if simulator { *other.unwrap() } else { qemu });
    let error = booting.await.unwrap().unwrap();
    assert_eq!(processes::naming(&folder), [0; 0]);
    silent(&error)
}

fn phase(wanted: Phase) -> impl Fn(&Progress) -> Option<()> {
    move |progress| match progress {
        Progress::Phase { phase, .. } => (*phase == wanted).then_some(()),
        _ => None,
    }
}

/// Two VMs at a time, as the harness allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stands_still_while_it_boots_is_named() {
    let greeted = |progress: &Progress| match progress {
        Progress::Note(text) => text.starts_with("the guest's agent runs").then_some(()),
        _ => None,
    };
    let (hello, model) = tokio::join!(
        stopped("at-hello", Model::Alphabet, false, greeted),
        // The default model, because its volume takes longer.
        stopped("in-model", Model::Real, false, phase(Phase::Model)),
    );
    assert_eq!(hello, ("being configured", 45));
    assert_eq!(model, ("in phase model", 45));
    let (evidence, engine) = tokio::join!(
        // The simulator has measured the guest, but does not answer its request for evidence.
        stopped("no-evidence", Model::Alphabet, true, phase(Phase::Model)),
        stopped("in-engine", Model::Real, false, phase(Phase::Engine)),
    );
    assert_eq!(evidence, ("in phase evidence", 45));
    assert_eq!(engine, ("in phase engine", 45));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_stands_still_while_it_serves_or_finishes_is_named() {
    let (serving, draining) = tokio::join!(
        async {
            let mut vm = trial("in-serving", Model::Alphabet)
                .await
                .up()
                .await
                .unwrap();
            stop(vm.vm.qemu_pid);
            let error = vm.vm.wait().await.unwrap_err();
            assert_eq!(processes::naming(&vm.folder), [0; 0]);
            silent(&error)
        },
        async {
            let vm = trial("in-draining", Model::Alphabet)
                .await
                .up()
                .await
                .unwrap();
            stop(vm.vm.qemu_pid);
            let error = vm.vm.shutdown().await.unwrap_err();
            assert_eq!(processes::naming(&vm.folder), [0; 0]);
            silent(&error)
        },
    );
    assert_eq!(serving, ("serving", 40));
    assert_eq!(draining, ("draining", 15));
}
