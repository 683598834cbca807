//! Evidence from the host's simulator over the control channel, on a machine that is no TEE.

use std::time::Duration;

use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::Hex64;
use cocoon_protocol::document::Evidence;

use super::{NoTee, Tee, TeeError, check_asked};
use crate::control::Control;

/// How long the host may take. For the first request it reads whole firmware files, perhaps on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A simulated TEE. Its evidence verifies only under development roots.
pub struct Simulated {
    control: Control,
    kind: Kind,
}

impl Simulated {
    /// Simulates `kind`, given the proof that this machine is no TEE.
    pub fn new(_proof: NoTee, control: Control, kind: Kind) -> Self {
        control.allow_simulated_evidence();
        Self { control, kind }
    }
}

impl Tee for Simulated {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError> {
        let evidence = self.control.simulated_evidence(data, DEADLINE)?;
        check_asked(&evidence, self.kind, data)?;
        Ok(evidence)
    }
}
