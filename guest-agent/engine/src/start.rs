//! Report of an engine that cannot start: the step that failed, from the protocol's closed set. Error texts of the engine go
//! nowhere. Counters of a GPU's memory are reported first.

use anyhow::Error;
use cocoon_protocol::engine::{FromEngine, GpuCounts, MAX_FROM_ENGINE, StartFailure, StartStep};
use cocoon_protocol::frame::encode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// Name and number of `CUDA_ERROR_OUT_OF_MEMORY`. Libraries wrap this error so that only the name is left.
const OUT_OF_MEMORY: (&str, u32) = ("CUDA_ERROR_OUT_OF_MEMORY", 2);

/// Converts a start-up error. The step is the one in the error's context, or else [`StartStep::Model`]. `code` finds the
/// result of NVIDIA's driver among the error's causes.
pub fn failure(
    error: &Error,
    code: impl Fn(&(dyn std::error::Error + 'static)) -> Option<u32>,
) -> StartFailure {
    let step = error.downcast_ref().copied().unwrap_or(StartStep::Model);
    let wrapped = || {
        let words = format!("{error:?}");
        words.contains(OUT_OF_MEMORY.0).then_some(OUT_OF_MEMORY.1)
    };
    StartFailure {
        step,
        driver: error.chain().find_map(code).or_else(wrapped),
        system: None,
    }
}

/// Sends the failure, preceded by the number of GPUs and their counters. The agent thus learns of a scrub that found something
/// even if nothing is served. Write errors are ignored, because the process ends in any case.
pub async fn tell(mut socket: UnixStream, gpus: Option<(u16, GpuCounts)>, failure: StartFailure) {
    let counted =
        gpus.map(|(count, counts)| [FromEngine::Devices { count }, FromEngine::Gpu(counts)]);
    let frames = counted.into_iter().flatten();
    for frame in frames.chain([FromEngine::Unable(failure)]) {
        if let Ok(frame) = encode(&frame, MAX_FROM_ENGINE) {
            let _ = socket.write_all(&frame).await;
        }
    }
    let _ = socket.shutdown().await;
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the driver refuses")]
    struct Refused(u32);

    fn code(error: &(dyn std::error::Error + 'static)) -> Option<u32> {
        error.downcast_ref::<Refused>().map(|refused| refused.0)
    }

    #[test]
    fn the_step_is_the_one_that_was_named_and_the_result_the_drivers() {
        let said = |step, driver| StartFailure {
            step,
            driver,
            system: None,
        };
        assert_eq!(
            failure(&anyhow!("a secret"), code),
            said(StartStep::Model, None)
        );
        let deep = Err::<(), _>(Refused(304))
            .context("cannot ask for GPUs")
            .context(StartStep::Driver)
            .context("nothing may be served")
            .unwrap_err();
        assert_eq!(failure(&deep, code), said(StartStep::Driver, Some(304)));
        let wrapped = anyhow!("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")
            .context("cannot load the weights");
        assert_eq!(failure(&wrapped, code), said(StartStep::Model, Some(2)));
    }

    #[tokio::test]
    async fn it_is_the_last_frame_behind_what_was_found() {
        let (agent, engine) = UnixStream::pair().unwrap();
        let counts = GpuCounts {
            scrubbed_bytes: 9,
            residue_bytes: 2,
            ..GpuCounts::default()
        };
        let failure = StartFailure {
            step: StartStep::Scrubbed,
            driver: None,
            system: None,
        };
        tell(engine, Some((1, counts)), failure).await;
        let mut bytes = Vec::new();
        let mut agent = agent;
        tokio::io::AsyncReadExt::read_to_end(&mut agent, &mut bytes)
            .await
            .unwrap();
        let mut decoder = cocoon_protocol::frame::Decoder::new(MAX_FROM_ENGINE);
        decoder.push(&bytes);
        let mut told = || decoder.next::<FromEngine>().unwrap();
        assert!(matches!(told(), Some(FromEngine::Devices { count: 1 })));
        assert!(matches!(told(), Some(FromEngine::Gpu(told)) if told == counts));
        assert!(matches!(told(), Some(FromEngine::Unable(told)) if told == failure));
        assert!(told().is_none());
    }
}
