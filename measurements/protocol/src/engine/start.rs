//! Reasons from a closed set why an engine cannot start. This is all that an operator learns, because nobody can look into a
//! guest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an engine ended before it was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartFailure {
    /// Step that failed.
    pub step: StartStep,
    /// `CUresult` of NVIDIA's driver, if the driver refused something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<u32>,
    /// Error number of the operating system (`errno`), if the system refused something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<i32>,
}

/// Steps of an engine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartStep {
    /// The engine is put into its jail. The launcher reports this failure in the engine's place.
    Jail,
    /// NVIDIA's driver opens the GPU.
    Driver,
    /// The engine finds exactly one GPU.
    OneGpu,
    /// The GPU accepts the kernels of this release.
    Kernels,
    /// GPU memory is tracked, and a test scrub erases it.
    Watched,
    /// NVIDIA's arithmetic libraries start.
    Libraries,
    /// The model is loaded.
    Model,
    /// The weights are measured in GPU memory.
    Measured,
    /// GPU memory is scrubbed before the first request.
    Scrubbed,
}

/// Advice for a GPU failure that may be transient.
macro_rules! again {
    () => {
        "; start the VM again, and if it fails again, reset the GPU (`cocoon-host gpu prepare ADDRESS`) or report it"
    };
}

impl fmt::Display for StartStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Jail => {
                "its jail cannot be made: this image does not fit this machine or its own kernel; report it"
            }
            Self::Driver => concat!("NVIDIA's driver does not open the GPU", again!()),
            Self::OneGpu => "it works on one GPU, and there are several or none: give the VM one",
            Self::Kernels => {
                "the GPU does not take the kernels of this release, which are for an H100 or H200; give the VM one of these"
            }
            Self::Watched => {
                "the GPU's memory is not watched or not erased as it must be: this image does not fit its libraries or this GPU; take another release of the image, or report it"
            }
            Self::Libraries => {
                concat!("NVIDIA's libraries of arithmetic do not start on the GPU", again!())
            }
            Self::Model => {
                "it cannot load the model: its files are damaged (check its digest), this release does not serve this kind of model here, or the GPU has no memory for an answer beside it; take another or a smaller model, or a GPU with more memory"
            }
            Self::Measured => concat!("it cannot measure the weights in the GPU's memory", again!()),
            Self::Scrubbed => concat!("it cannot scrub the GPU's memory, or something was left in it", again!()),
        })
    }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step.fmt(formatter)?;
        if let Some(code) = self.driver {
            write!(formatter, " (CUresult {code}: {})", meaning(code))?;
        }
        match self.system {
            Some(number) => write!(formatter, " (error {number} of the system)"),
            None => Ok(()),
        }
    }
}

/// Returns advice for a result of the driver (`cuda.h`), or refers to that file.
fn meaning(code: u32) -> &'static str {
    match code {
        2 => "out of memory; take a smaller model, or a GPU with more memory",
        100 => "no GPU; look whether the driver has bound it",
        209 | 222 => "machine code for another GPU or a later driver; take an image for this one",
        304 => {
            "the operating system refused something, which is likely the engine's jail: report it"
        }
        802 => {
            "the GPU is not let to work; look at its ready state, and at the fabric manager of its machine"
        }
        _ => "cuda.h names it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_to_do_and_nothing_in_the_engines_own_words() {
        let failure = |step, driver| StartFailure {
            step,
            driver,
            system: None,
        };
        assert_eq!(
            failure(StartStep::Driver, Some(304)).to_string(),
            "NVIDIA's driver does not open the GPU; start the VM again, and if it fails again, reset the GPU (`cocoon-host \
             gpu prepare ADDRESS`) or report it (CUresult 304: the operating system refused something, which is likely the engine's \
             jail: report it)"
        );
        assert_eq!(
            failure(StartStep::Model, Some(2)).to_string(),
            "it cannot load the model: its files are damaged (check its digest), this release does not serve this kind of model \
             here, or the GPU has no memory for an answer beside it; take another or a smaller model, or a GPU with more memory \
             (CUresult 2: out of memory; take a smaller model, or a GPU with more memory)"
        );
        for (step, words) in [
            (
                StartStep::Libraries,
                "NVIDIA's libraries of arithmetic do not start on the GPU",
            ),
            (
                StartStep::Measured,
                "it cannot measure the weights in the GPU's memory",
            ),
            (
                StartStep::Scrubbed,
                "it cannot scrub the GPU's memory, or something was left in it",
            ),
        ] {
            let next = "start the VM again, and if it fails again, reset the GPU (`cocoon-host gpu prepare ADDRESS`) or report it";
            assert_eq!(failure(step, None).to_string(), format!("{words}; {next}"));
        }
        assert_eq!(
            failure(StartStep::OneGpu, None).to_string(),
            "it works on one GPU, and there are several or none: give the VM one"
        );
        let jail = StartFailure {
            system: Some(30),
            ..failure(StartStep::Jail, None)
        };
        assert_eq!(
            jail.to_string(),
            "its jail cannot be made: this image does not fit this machine or its own kernel; report it (error 30 of the system)"
        );
        let json = serde_json::to_string(&failure(StartStep::OneGpu, None)).unwrap();
        assert_eq!(json, r#"{"step":"one-gpu"}"#);
        for words in [
            r#"{"step":"the prompt was: secret"}"#,
            r#"{"step":"driver","driver":"secret"}"#,
            r#"{"step":"driver","why":"secret"}"#,
        ] {
            assert!(
                serde_json::from_str::<StartFailure>(words).is_err(),
                "{words}"
            );
        }
    }
}
