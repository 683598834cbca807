//! Variants of the image. The manifest names the variant, and the measured command line tells the guest what follows from it.

use clap::ValueEnum;

/// A kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Variant {
    /// Inference on the processor
    #[default]
    Cpu,
    /// Inference on the processor, with one simulated GPU that has to prove itself; for trials on simulated machines only
    CudaSimulated,
    /// Inference on NVIDIA GPUs in confidential-computing mode; TDX only
    Cuda,
}

impl Variant {
    /// All variants.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::CudaSimulated, Self::Cuda];

    /// Returns the name in the manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CudaSimulated => "cuda-simulated",
            Self::Cuda => "cuda",
        }
    }

    /// Returns the variant with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// Returns which GPUs the guest must verify before it serves, in the form of the command line.
    #[must_use]
    pub const fn gpus(self) -> Option<&'static str> {
        match self {
            Self::Cpu => None,
            Self::CudaSimulated => Some("simulated:1"),
            Self::Cuda => Some("nvidia"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_names() {
        for variant in Variant::ALL {
            assert_eq!(Variant::named(variant.name()), Some(variant));
            let value = variant.to_possible_value();
            assert_eq!(value.unwrap().get_name(), variant.name());
        }
        assert_eq!(Variant::named("gpu"), None);
    }
}
