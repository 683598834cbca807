//! Tests that running answers never take more memory than there is, whatever is asked, and that usual answers fit side
//! by side.

use cocoon_protocol::engine::{Call, Choice, Format, Sampling};
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// The default model on a CPU, as its engine reports it.
fn model() -> ModelInfo {
    ModelInfo {
        id: "smollm2-135m-instruct-q4_1".into(),
        context_length: 8192,
        quantization: "Q4_1".into(),
        vocabulary: 49_152,
        costs: Costs {
            token: 92_160,
            step: 512,
            prompt: 36_864,
            pair: 6,
            pool: None,
        },
    }
}

fn generation(content: usize, max_tokens: u32) -> Generation {
    let turn = Turn {
        speaker: Speaker::User,
        content: "x".repeat(content),
        calls: vec![],
        call_id: None,
    };
    Generation {
        prompt: Prompt::Conversation(vec![turn]),
        tools: vec![],
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens,
        room: 0,
        sampling: Sampling::default(),
        stop: vec![],
        top_logprobs: None,
    }
}

#[test]
fn the_context_is_as_long_as_there_is_memory() {
    let context = |memory| Demand::new(&model(), memory, 4).context();
    assert_eq!(context(u64::MAX), 8192);
    assert_eq!(context(2048 * MIB), 8192);
    assert_eq!(context(320 * MIB), 2048);
    assert_eq!(context(0), 512, "the least");
}

/// A model on a GPU, with a pool for `tokens` tokens.
fn graphics(tokens: u64) -> ModelInfo {
    ModelInfo {
        costs: Costs {
            token: 128 << 10,
            step: 32,
            pool: Some(tokens * (128 << 10)),
            ..Costs::default()
        },
        ..model()
    }
}

#[test]
fn on_a_gpu_its_pool_is_the_memory() {
    let engine = |demand: &Demand, asked: &mut [Generation]| {
        let taken = demand.of(asked, Told::Stream);
        taken.map(|taken| taken.engine)
    };
    // What the agent holds of an answer is in the VM's memory only.
    let demand = Demand::new(&graphics(1 << 20), 1 << 40, 4);
    assert_eq!(demand.context(), 8192);
    let mut asked = [generation(200, 8000)];
    let each = (280 + 8000_u64).next_multiple_of(32).min(8192) * (128 << 10);
    assert_eq!(engine(&demand, &mut asked), Some(each));
    let mut many = vec![generation(200, 8000); 129];
    assert_eq!(engine(&demand, &mut many), None);
    assert_eq!(engine(&demand, &mut many[..128]), Some(each));
    // The context is no longer than the pool, and blocks are taken whole.
    let small = Demand::new(&graphics(1000), 1 << 40, 4);
    assert_eq!(small.context(), 992);
    assert_eq!(
        engine(&small, &mut [generation(5000, 1)]),
        Some(992 * (128 << 10))
    );
    assert_eq!(
        engine(&small, &mut [generation(1, 1), generation(1, 1)]),
        Some(96 * (128 << 10))
    );
    // There is room for as many usual answers as there are slots.
    let larger = Demand::new(&graphics(4000), 2 * MIB, 4);
    let mut usual = generation(100, 0);
    usual.max_tokens = larger.usual(&usual, Told::Whole);
    assert_eq!(usual.max_tokens, 992 - 180);
    assert!(larger.of(&mut vec![usual; 4], Told::Whole).is_some());
}

#[test]
fn four_usual_answers_run_at_once_on_the_smallest_machine() {
    let demand = Demand::new(&model(), 320 * MIB, 4);
    let mut asked = generation(200, 0);
    asked.max_tokens = demand.usual(&asked, Told::Whole);
    assert!(asked.max_tokens >= LEAST_ANSWER);
    let each = demand.of(std::slice::from_mut(&mut asked), Told::Whole);
    let each = each.unwrap();
    assert!(4 * (each.engine + each.unread) <= 320 * MIB, "{each:?}");
    // With enough memory, an answer may fill the context.
    let large = Demand::new(&model(), 1 << 40, 4);
    assert_eq!(large.usual(&asked, Told::Whole), 8192);
    // The prompt may fill the context, which is more than its share of memory.
    let small = Demand::new(&model(), 320 * MIB, 4);
    assert_eq!(small.usual(&generation(5000, 0), Told::Whole), LEAST_ANSWER);
    assert_eq!(large.usual(&generation(9000, 0), Told::Whole), 8192);
}

#[test]
fn several_answers_that_never_fit_are_refused_and_one_never_is() {
    let demand = Demand::new(&model(), 320 * MIB, 4);
    let mut one = [generation(5000, 8192)];
    let taken = Taken {
        engine: demand.costs.of(2048, 2048),
        unread: 2048 * 2 * PIECE,
    };
    assert_eq!(demand.of(&mut one, Told::Whole), Some(taken));
    assert_eq!(one[0].room, 2048);
    let mut four = vec![generation(5000, 8192); 4];
    assert_eq!(demand.of(&mut four, Told::Whole), None);
    let small = Demand::new(&model(), 1, 4);
    let taken = Taken {
        engine: 1,
        unread: 0,
    };
    let mut one = [generation(5000, 8192)];
    assert_eq!(small.of(&mut one, Told::Stream), Some(taken));
    assert_eq!(one[0].room, LEAST_CONTEXT);
}

/// This holds on GPUs too, where the engine takes nothing of the VM's memory.
#[test]
fn what_is_told_counts_until_it_is_read() {
    let graphics = graphics(1 << 20);
    // Twice 128 bytes for each token.
    assert_eq!(Demand::new(&graphics, 2 * MIB, 4).context(), 8192);
    assert_eq!(Demand::new(&graphics, MIB, 4).context(), 4096);
    let demand = Demand::new(&graphics, 64 * MIB, 4);
    let mut likely = generation(100, 1000);
    likely.top_logprobs = Some(20);
    let unread = |asked: &Generation, told| {
        let taken = demand.of(&mut [asked.clone()], told);
        taken.unwrap().unread
    };
    let plain = generation(100, 1000);
    assert_eq!(unread(&plain, Told::Stream), 1000 * PIECE);
    assert_eq!(unread(&plain, Told::Whole), 2 * 1000 * PIECE);
    let each = 1000 * (PIECE + 21 * LOGPROB);
    assert_eq!(unread(&likely, Told::Stream), each);
    assert_eq!(unread(&likely, Told::Whole), 2 * each);
    // Each takes 5.4 MiB.
    let mut eight = vec![likely.clone(); 8];
    assert!(demand.of(&mut eight, Told::Whole).is_some());
    likely.max_tokens = 2000;
    let mut eight = vec![likely.clone(); 8];
    assert_eq!(demand.of(&mut eight, Told::Whole), None);
    // A single answer ends where memory does, and a client that sets no limit gets the share of one slot.
    let mut one = [likely.clone()];
    one[0].max_tokens = 8192 * 4;
    let small = Demand::new(&graphics, 8 * MIB, 4);
    let taken = small.of(&mut one, Told::Whole).unwrap();
    assert!(taken.unread <= 8 * MIB && one[0].room < 8192);
    let usual = small.usual(&likely, Told::Whole);
    assert!(u64::from(usual) * 4 * 2 * each / 1000 <= 8 * MIB, "{usual}");
}

#[test]
fn calls_and_tools_count() {
    let mut asked = generation(100, 1);
    let plain = most_tokens(&asked);
    assert_eq!(plain, 64 + 100 + 16);
    asked.tools = vec![Tool {
        name: "f".into(),
        description: Some("a \"b\"".into()),
        parameters: "{}".into(),
        strict: false,
    }];
    assert_eq!(most_tokens(&asked), plain + 512 + 1 + 5 + 10 + 2 + 64);
    let Prompt::Conversation(turns) = &mut asked.prompt else {
        panic!("another prompt")
    };
    // In words: `<tool_call>` and its surroundings, and `<tool_response>`.
    turns[0].calls = vec![Call {
        id: "call_1".into(),
        name: "f".into(),
        arguments: "{}".into(),
    }];
    turns.push(Turn {
        speaker: Speaker::Tool,
        content: "7".into(),
        calls: vec![],
        call_id: Some("call_1".into()),
    });
    assert_eq!(most_tokens(&asked), plain + 594 + (1 + 2 + 64) + (1 + 64));
    // Templates write `<` as `\u003c`, and so on, in descriptions and parameters.
    let before = most_tokens(&asked);
    asked.tools[0].description = Some("a <b> & 'c'".into());
    asked.tools[0].parameters = r#"{"a":"<'\\"}"#.into();
    let description = (11 + 5 * 5) - (5 + 10);
    let parameters = (12 + 2 * 5) - 2;
    assert_eq!(most_tokens(&asked), before + description + parameters);
}

proptest! {
    #[test]
    fn what_is_reckoned_never_exceeds_what_there_is(
        content in 0..20_000_usize, max_tokens in 1..9000_u32, memory in 0..(4_u64 << 30), slots in 1..64_usize, n in 1..8_usize
    ) {
        let demand = Demand::new(&model(), memory, slots);
        let mut asked = vec![generation(content, max_tokens); n];
        if let Some(each) = demand.of(&mut asked, Told::Whole) {
            prop_assert!((each.engine + each.unread) * n as u64 <= memory);
        }
        for one in &asked {
            prop_assert!(one.room <= demand.context());
            // The room covers everything that was asked for, unless the context ends before.
            let all = (u64::from(most_tokens(one)) + u64::from(max_tokens)).min(demand.context().into());
            prop_assert_eq!(u64::from(one.room), all);
        }
        let usual = demand.usual(&asked[0], Told::Whole);
        prop_assert!((1..=demand.context()).contains(&usual));
    }
}
