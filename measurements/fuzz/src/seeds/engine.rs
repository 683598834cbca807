//! Seeds of the socket between agent and engine: every message of both sides, made from its type, so that none can fall
//! behind the schema.

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{
    Alternative, Call, Choice, Costs, Crossings, EngineFailure, Format, FromEngine, Generation,
    GpuCounts, Key, ModelInfo, Prompt, Sampling, Seed, Speaker, StartFailure, StartStep,
    TensorRoot, Text, ToEngine, TokenLogprob, Tool, Turn,
};
use cocoon_protocol::openai::FinishReason;

use super::json::streams;
use crate::platform::made;

/// Returns each message alone and as a stream of frames, whose first byte is the length of the pieces it comes in.
pub fn engine_frames() -> Vec<Vec<u8>> {
    let from = from_engine();
    let from = from.iter().map(serde_json::to_vec).map(made);
    let to = to_engine();
    let to = to.iter().map(serde_json::to_vec).map(made);
    let texts: Vec<Vec<u8>> = from.chain(to).collect();
    [streams(&texts, 5), texts].concat()
}

fn from_engine() -> Vec<FromEngine> {
    let tensors = || {
        vec![TensorRoot {
            root: Hex([1; 32]),
            bytes: 1,
        }]
    };
    let crossings = Crossings { bytes: 1, calls: 1 };
    let alternative = |bytes: &[u8]| Alternative {
        bytes: bytes.to_vec(),
        logprob: -0.5,
    };
    let costs = Costs {
        token: 92_160,
        step: 512,
        prompt: 32_768,
        pair: 6,
        pool: Some(1 << 30),
    };
    vec![
        FromEngine::Devices { count: 1 },
        FromEngine::Tensors { tensors: tensors() },
        FromEngine::Derived { tensors: tensors() },
        FromEngine::Measured {
            root: Hex([1; 32]),
            pool_bytes: 1,
        },
        FromEngine::Gpu(GpuCounts {
            to_device: crossings,
            to_host: crossings,
            scrubbed_bytes: 2,
            residue_bytes: 1,
        }),
        FromEngine::Unable(StartFailure {
            step: StartStep::Driver,
            driver: Some(100),
            system: Some(2),
        }),
        FromEngine::Ready(ModelInfo {
            id: "model".into(),
            context_length: 8192,
            quantization: "Q4_1".into(),
            vocabulary: 49_152,
            costs,
        }),
        FromEngine::Started {
            id: 1,
            prompt_tokens: 1,
        },
        FromEngine::Delta {
            id: 1,
            text: Text("a".into()),
            tokens: 1,
            logprobs: vec![TokenLogprob {
                chosen: alternative(b"a"),
                top: vec![alternative(b"a"), alternative(&[0xe2, 0x82])],
            }],
        },
        FromEngine::Call {
            id: 1,
            index: 0,
            name: Some(Text("f".into())),
            arguments: Text("{}".into()),
        },
        FromEngine::Done {
            id: 1,
            finish_reason: FinishReason::Stop,
            prompt_tokens: 1,
            completion_tokens: 2,
        },
        FromEngine::Failed {
            id: 1,
            reason: EngineFailure::ContextLength,
        },
        FromEngine::Gone { id: 1 },
    ]
}

fn to_engine() -> [ToEngine; 4] {
    let turn = |speaker, content: &str| Turn {
        speaker,
        content: content.into(),
        calls: vec![],
        call_id: None,
    };
    let mut asked = turn(Speaker::Assistant, "");
    asked.calls = vec![Call {
        id: "call_1".into(),
        name: "f".into(),
        arguments: r#"{"a":1}"#.into(),
    }];
    let mut answered = turn(Speaker::Tool, "2");
    answered.call_id = Some("call_1".into());
    let turns = vec![
        turn(Speaker::System, "a"),
        turn(Speaker::User, "b"),
        asked,
        answered,
    ];
    let mut called = generation(Prompt::Conversation(turns));
    called.tools = vec![Tool {
        name: "f".into(),
        description: Some("b".into()),
        parameters: r#"{"type":"object"}"#.into(),
        strict: true,
    }];
    called.choice = Choice::Named("f".into());
    let mut shaped = generation(Prompt::Text("a".into()));
    shaped.format = Format::Schema(r#"{"type":"object"}"#.into());
    shaped.sampling.seed = Seed::Drawn(Key([7; 32]));
    shaped.top_logprobs = None;
    let mut plain = generation(Prompt::Text(String::new()));
    plain.choice = Choice::Required;
    plain.format = Format::Json;
    [
        ToEngine::Generate {
            id: 1,
            request: called,
        },
        ToEngine::Generate {
            id: 2,
            request: shaped,
        },
        ToEngine::Generate {
            id: 3,
            request: plain,
        },
        ToEngine::Cancel { id: 1 },
    ]
}

fn generation(prompt: Prompt) -> Generation {
    let mut sampling = Sampling::default();
    (sampling.temperature, sampling.seed) = (0.5, Seed::Given(1));
    sampling.bias = vec![(7, -100.0)];
    Generation {
        prompt,
        tools: vec![],
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens: 5,
        room: 9,
        sampling,
        stop: vec!["b".into()],
        top_logprobs: Some(2),
    }
}
