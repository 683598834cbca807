//! Checks what one engine process says of its GPUs: either nothing or all of it, before it is ready, and nothing
//! impossible.

use std::sync::Arc;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::engine::{Crossings, GpuCounts, MAX_TENSORS, TensorRoot, Weights};

use super::link::LinkError;

/// What the engine has reported so far.
pub(super) struct Graphics {
    /// Counts of earlier engines.
    before: GpuCounts,
    devices: u16,
    tensors: Vec<TensorRoot>,
    derived: Vec<TensorRoot>,
    measured: bool,
    counts: Option<GpuCounts>,
}

impl Graphics {
    /// Begins with a new engine. `before` is what earlier engines have counted.
    pub fn since(before: Option<GpuCounts>) -> Self {
        Self {
            before: before.unwrap_or_default(),
            devices: 0,
            tensors: Vec::new(),
            derived: Vec::new(),
            measured: false,
            counts: None,
        }
    }

    pub fn works_on(&mut self, count: u16) -> Result<(), LinkError> {
        if count == 0 || self.devices != 0 {
            return Err(LinkError::Lie("it counts its GPUs twice, or to none"));
        }
        self.devices = count;
        Ok(())
    }

    /// Adds a part of the list of tensors.
    pub fn measured(&mut self, tensors: Vec<TensorRoot>) -> Result<(), LinkError> {
        self.check_gpu()?;
        append(&mut self.tensors, tensors, self.measured)
    }

    /// Adds a part of the list of tensors that were derived from them.
    pub fn derived(&mut self, tensors: Vec<TensorRoot>) -> Result<(), LinkError> {
        self.check_gpu()?;
        append(&mut self.derived, tensors, self.measured)
    }

    /// Completes the lists.
    pub fn all_measured(
        &mut self,
        root: Hex32,
        pool_bytes: u64,
    ) -> Result<Arc<Weights>, LinkError> {
        self.check_gpu()?;
        if self.measured || self.tensors.is_empty() || pool_bytes == 0 {
            return Err(LinkError::Lie("it measures its weights twice, or none"));
        }
        self.measured = true;
        Ok(Arc::new(Weights {
            root,
            pool_bytes,
            tensors: std::mem::take(&mut self.tensors),
            derived: std::mem::take(&mut self.derived),
        }))
    }

    /// Checks the counts of this engine. Returns the counts since boot.
    pub fn counted(&mut self, counts: GpuCounts) -> Result<GpuCounts, LinkError> {
        self.check_gpu()?;
        if !counts.follow(&self.counts.unwrap_or_default())
            || counts.residue_bytes > counts.scrubbed_bytes
        {
            return Err(LinkError::Lie("its counts of the GPUs' memory cannot be"));
        }
        self.counts = Some(counts);
        Ok(self.before.plus(&counts))
    }

    /// Checks that the engine has reported everything or nothing.
    pub fn check_ready(&self) -> Result<(), LinkError> {
        if self.devices > 0 && !(self.measured && self.counts.is_some()) {
            return Err(LinkError::Lie(
                "it works on GPUs and does not say what is in their memory",
            ));
        }
        Ok(())
    }

    fn check_gpu(&self) -> Result<(), LinkError> {
        match self.devices {
            0 => Err(LinkError::Lie("it speaks of GPUs and works on none")),
            _ => Ok(()),
        }
    }
}

/// Reduces `counts` to what the host may know of them: the two leading bits of each number, and zero only for zero. A
/// compromised engine can report any counts, and could encode prompts in exact numbers. Coarse numbers take one of 128
/// values and never fall, so they reveal little over the whole life of a machine, however often they are reported.
pub(crate) fn coarse(counts: GpuCounts) -> GpuCounts {
    let number = |exact: u64| {
        let below = exact.checked_ilog2().unwrap_or(0).saturating_sub(1);
        exact >> below << below
    };
    let crossings = |exact: Crossings| Crossings {
        bytes: number(exact.bytes),
        calls: number(exact.calls),
    };
    GpuCounts {
        to_device: crossings(counts.to_device),
        to_host: crossings(counts.to_host),
        scrubbed_bytes: number(counts.scrubbed_bytes),
        residue_bytes: number(counts.residue_bytes),
    }
}

fn append(
    list: &mut Vec<TensorRoot>,
    tensors: Vec<TensorRoot>,
    complete: bool,
) -> Result<(), LinkError> {
    if complete || list.len() + tensors.len() > MAX_TENSORS {
        return Err(LinkError::Lie("it measures more tensors than a model has"));
    }
    list.extend(tensors);
    match list.is_sorted() {
        true => Ok(()),
        false => Err(LinkError::Lie("its tensors are not sorted")),
    }
}

#[cfg(test)]
mod tests {
    use cocoon_protocol::bytes::Hex;

    use super::*;

    fn tensor(root: u8) -> TensorRoot {
        TensorRoot {
            root: Hex([root; 32]),
            bytes: 1,
        }
    }

    fn counts(scrubbed_bytes: u64, residue_bytes: u64) -> GpuCounts {
        GpuCounts {
            scrubbed_bytes,
            residue_bytes,
            to_device: Crossings { bytes: 9, calls: 1 },
            ..GpuCounts::default()
        }
    }

    fn lie<T>(outcome: Result<T, LinkError>) -> String {
        outcome.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn an_engine_without_gpus_says_nothing_of_them() {
        let mut none = Graphics::since(None);
        assert!(none.check_ready().is_ok());
        let told = "the engine broke its protocol: it speaks of GPUs and works on none";
        assert_eq!(lie(none.measured(vec![])), told);
        assert_eq!(lie(none.derived(vec![])), told);
        assert_eq!(lie(none.all_measured(Hex([1; 32]), 1)), told);
        assert_eq!(lie(none.counted(counts(1, 0))), told);
        assert_eq!(
            lie(none.works_on(0)),
            "the engine broke its protocol: it counts its GPUs twice, or to none"
        );
    }

    #[test]
    fn everything_must_be_told_and_be_possible() {
        let mut gpu = Graphics::since(Some(counts(100, 3)));
        gpu.works_on(1).unwrap();
        assert_eq!(
            lie(gpu.check_ready()),
            "the engine broke its protocol: it works on GPUs and does not say what is in their memory"
        );
        gpu.measured(vec![tensor(1), tensor(1)]).unwrap();
        gpu.derived(vec![tensor(1)]).unwrap();
        gpu.measured(vec![tensor(2)]).unwrap();
        let weights = gpu.all_measured(Hex([7; 32]), 1).unwrap();
        assert_eq!((weights.tensors.len(), weights.root), (3, Hex([7; 32])));
        assert_eq!(weights.derived, [tensor(1)]);
        assert_eq!(
            lie(gpu.derived(vec![tensor(1)])),
            "the engine broke its protocol: it measures more tensors than a model has"
        );
        assert_eq!(
            lie(gpu.all_measured(Hex([7; 32]), 1)),
            "the engine broke its protocol: it measures its weights twice, or none"
        );
        let total = gpu.counted(counts(10, 0)).unwrap();
        assert_eq!((total.scrubbed_bytes, total.residue_bytes), (110, 3));
        assert_eq!(
            total.to_device,
            Crossings {
                bytes: 18,
                calls: 2
            }
        );
        assert!(gpu.check_ready().is_ok());
        let cannot = "the engine broke its protocol: its counts of the GPUs' memory cannot be";
        assert_eq!(lie(gpu.counted(counts(9, 0))), cannot);
        assert_eq!(lie(gpu.counted(counts(11, 12))), cannot);
    }

    #[test]
    fn the_host_is_told_two_bits_of_a_number() {
        let told = |exact: u64| coarse(counts(exact, exact));
        for (exact, expected) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (5, 4),
            (7, 6),
            (0b1011_1111, 0b1000_0000),
            (0b1100_0001, 0b1100_0000),
            (u64::MAX, 3 << 62),
        ] {
            let told = told(exact);
            assert_eq!(
                (told.scrubbed_bytes, told.residue_bytes),
                (expected, expected)
            );
        }
        assert_eq!(told(0).to_device, Crossings { bytes: 8, calls: 1 });
        // All numbers that can be reported.
        let bits = (0..u64::BITS).flat_map(|bit| [1 << bit, 3 << 62 >> bit, (1 << bit) - 1]);
        let values: std::collections::BTreeSet<u64> =
            bits.map(|exact| told(exact).scrubbed_bytes).collect();
        assert_eq!(values.len(), 128);
    }

    #[test]
    fn tensors_are_sorted_and_bounded() {
        let mut gpu = Graphics::since(None);
        gpu.works_on(1).unwrap();
        gpu.measured(vec![tensor(2)]).unwrap();
        assert_eq!(
            lie(gpu.measured(vec![tensor(1)])),
            "the engine broke its protocol: its tensors are not sorted"
        );
        gpu.derived(vec![tensor(2)]).unwrap();
        assert_eq!(
            lie(gpu.derived(vec![tensor(1)])),
            "the engine broke its protocol: its tensors are not sorted"
        );
        let mut gpu = Graphics::since(None);
        gpu.works_on(1).unwrap();
        let many = vec![tensor(1); MAX_TENSORS + 1];
        for told in [gpu.measured(many.clone()), gpu.derived(many)] {
            assert_eq!(
                lie(told),
                "the engine broke its protocol: it measures more tensors than a model has"
            );
        }
    }
}
