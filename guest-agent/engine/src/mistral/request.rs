//! Conversion of the agent's requests into the library's.

use std::sync::Arc;

use cocoon_protocol::engine::{
    EngineFailure, Generation, Prompt, Speaker, Tool, Turn, json_object, json_string,
};
use mistralrs::{RequestBuilder, RequestLike as _, TextMessageRole};
use mistralrs_core::{
    ChatTemplate, Constraint, CustomLogitsProcessor, Function, NormalRequest, RequestMessage,
    Response, SamplingParams, Tool as LibraryTool, ToolChoice, ToolType,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::turns::{plain, said};

/// Capabilities of a model's chat template.
#[derive(Clone, Copy)]
pub(super) struct Template {
    tools: bool,
}

impl Template {
    pub(super) fn of(template: Option<&ChatTemplate>) -> Self {
        Self {
            tools: writes(template, "tools"),
        }
    }
}

/// Returns whether a model's chat template contains `word`.
pub(super) fn writes(template: Option<&ChatTemplate>, word: &str) -> bool {
    let value = template.and_then(|template| template.chat_template.as_ref());
    let has = |text: &str| text.contains(word);
    value.is_some_and(|value| {
        value.0.as_ref().either(
            |text| has(text),
            |list| list.iter().any(|map| map.values().any(|text| has(text))),
        )
    })
}

/// Returns the library's request. It has no stop strings, grammar or calls, because they are handled here.
pub(super) fn normal(
    request: &Generation,
    template: &Template,
    responses: mpsc::Sender<Response>,
    processor: Arc<dyn CustomLogitsProcessor>,
) -> Result<NormalRequest, EngineFailure> {
    let native = template.tools && !request.tools.is_empty();
    let messages = match &request.prompt {
        Prompt::Text(text) => RequestMessage::Completion {
            text: text.clone(),
            echo_prompt: false,
            best_of: None,
        },
        Prompt::Conversation(turns) if template.tools => with_tools(turns),
        Prompt::Conversation(turns) => {
            let mut builder = RequestBuilder::new();
            for turn in plain(turns, &request.tools, &request.choice) {
                builder = builder.add_message(role(turn.speaker), &*turn.text);
            }
            builder.take_messages()
        }
    };
    let sampling = SamplingParams {
        // Zero selects the greedy choice. The library would replace `None` by 1.0.
        temperature: Some(0.0),
        max_len: usize::try_from(request.max_tokens).ok(),
        ..SamplingParams::neutral()
    };
    let tools = match native {
        true => Some(
            request
                .tools
                .iter()
                .map(tool)
                .collect::<Option<Vec<_>>>()
                .ok_or(EngineFailure::Grammar)?,
        ),
        false => None,
    };
    // With this choice the library shows the tools to the template and does not look for calls. Its own search aborts all
    // running requests if the answer of one is not what it expects.
    let choice = native.then_some(ToolChoice::None);
    let mut normal = NormalRequest::new_simple(messages, sampling, responses, 0, tools, choice);
    normal.is_streaming = true;
    normal.constraint = Constraint::None;
    normal.logits_processors = Some(vec![processor]);
    Ok(normal)
}

/// Returns the texts that the template makes a prompt of, one for each turn.
pub(super) fn texts(request: &Generation, template: &Template) -> Vec<Zeroizing<String>> {
    match &request.prompt {
        Prompt::Text(text) => vec![Zeroizing::new(text.clone())],
        Prompt::Conversation(turns) if template.tools => {
            let told = request.tools.iter().flat_map(|tool| {
                let description = json_string(tool.description.as_deref().unwrap_or_default());
                let [name, parameters] = [&tool.name, &tool.parameters].map(String::clone);
                [
                    Zeroizing::new(name),
                    description,
                    Zeroizing::new(parameters),
                ]
            });
            turns.iter().map(said).chain(told).collect()
        }
        Prompt::Conversation(turns) => plain(turns, &request.tools, &request.choice)
            .into_iter()
            .map(|turn| turn.text)
            .collect(),
    }
}

/// Returns the messages for a template that supports tools. Calls stay in the turns that made them.
fn with_tools(turns: &[Turn]) -> RequestMessage {
    let mut builder = RequestBuilder::new();
    for turn in turns {
        builder = match (turn.speaker, &turn.call_id) {
            (Speaker::Tool, Some(id)) => builder.add_tool_message(&turn.content, id),
            // Calls become text in the form of the model families whose templates support tools. No template reads the
            // library's own form of calls.
            (speaker, _) => builder.add_message(role(speaker), &*said(turn)),
        };
    }
    builder.take_messages()
}

fn role(speaker: Speaker) -> TextMessageRole {
    match speaker {
        Speaker::System => TextMessageRole::System,
        Speaker::User => TextMessageRole::User,
        Speaker::Assistant => TextMessageRole::Assistant,
        Speaker::Tool => TextMessageRole::Tool,
    }
}

fn tool(tool: &Tool) -> Option<LibraryTool> {
    let parameters = json_object(&tool.parameters)?.into_iter().collect();
    Some(LibraryTool {
        tp: ToolType::Function,
        function: Function {
            description: tool.description.clone(),
            name: tool.name.clone(),
            parameters: Some(parameters),
        },
    })
}
