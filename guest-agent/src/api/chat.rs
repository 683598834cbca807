//! Parses chat and completion requests into generations for the engine.

use std::time::Duration;

use cocoon_protocol::engine::{Choice, Format, Generation, ModelInfo, Prompt, Sampling};
use serde_json::value::RawValue;

use super::error::Refusal;
use super::fields::Fields;
use super::options::{self, INTERVAL, Options};
use super::{tools, turns};

/// Most alternatives of each token in chat requests (`top_logprobs`).
const MAX_TOP: u32 = 20;
/// Most alternatives of each token in completion requests (`logprobs`).
const MAX_TOP_COMPLETION: u32 = 5;

/// A valid request, ready for the engine.
pub struct Asked {
    /// Generations for the engine, one for each choice.
    pub generations: Vec<Generation>,
    /// Whether the client limits the number of tokens. If not, `max_tokens` is the whole context.
    pub bounded: bool,
    /// Whether to answer with server-sent events.
    pub stream: bool,
    /// Whether to end the stream with the usage.
    pub include_usage: bool,
    /// Whether to pad events to size buckets.
    pub obfuscate: bool,
    /// Interval at which to send one event each, whether or not there is text to send.
    pub interval: Option<Duration>,
    /// Number of alternatives of each token to report with the log probabilities; `None` for no log probabilities.
    pub top_logprobs: Option<u8>,
}

/// Parses the body of a chat request for the served `model`. `slots` is the number of answers that this machine
/// generates at once.
pub fn parse(body: &[u8], model: &ModelInfo, slots: usize) -> Result<Asked, Refusal> {
    let mut fields = Fields::parse(body, "")?;
    check_model(&mut fields, model)?;
    let turns = turns::take(&mut fields)?;
    let shape = tools::take(&mut fields)?;
    let options = options::take(&mut fields, model, slots, true)?;
    options::take_harmless(&mut fields)?;
    let logprobs = fields.take("logprobs", "a boolean")?.unwrap_or(false);
    let top: Option<u32> = fields.take("top_logprobs", "an integer of 0 to 20")?;
    let top_logprobs = match (logprobs, top) {
        (false, None) => None,
        (false, Some(_)) => {
            let message = "`top_logprobs` is for requests with `logprobs` true.";
            return Err(Refusal::field("top_logprobs", message));
        }
        (true, top) => Some(top_count("top_logprobs", top.unwrap_or(0), MAX_TOP)?),
    };
    fields.finish("")?;
    let generation = |sampling: &Sampling| Generation {
        prompt: Prompt::Conversation(turns.clone()),
        tools: shape.tools.clone(),
        choice: shape.choice.clone(),
        parallel: shape.parallel,
        format: shape.format.clone(),
        max_tokens: options.max_tokens,
        room: model.context_length,
        sampling: sampling.clone(),
        stop: options.stop.to_vec(),
        top_logprobs,
    };
    let generations = options.samplings.iter().map(generation).collect();
    asked(generations, &options, top_logprobs)
}

/// Parses the body of a completion request, whose prompt is a text to be continued.
pub fn parse_completion(body: &[u8], model: &ModelInfo, slots: usize) -> Result<Asked, Refusal> {
    let mut fields = Fields::parse(body, "")?;
    check_model(&mut fields, model)?;
    let prompt = prompt(&mut fields)?;
    let options = options::take(&mut fields, model, slots, false)?;
    for (name, only) in [("echo", "false"), ("best_of", "1")] {
        let given: Option<&RawValue> = fields.take(name, only)?;
        if given.is_some_and(|raw| raw.get() != only) {
            let message = format!("`{name}` must be {only}: anything else is not supported.");
            return Err(Refusal::unsupported(name, message));
        }
    }
    let top: Option<u32> = fields.take("logprobs", "an integer of 0 to 5")?;
    let top_logprobs = top
        .map(|top| top_count("logprobs", top, MAX_TOP_COMPLETION))
        .transpose()?;
    fields.finish("")?;
    let generation = |sampling: &Sampling| Generation {
        prompt: Prompt::Text(prompt.to_string()),
        tools: Vec::new(),
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens: options.max_tokens,
        room: model.context_length,
        sampling: sampling.clone(),
        stop: options.stop.to_vec(),
        top_logprobs,
    };
    let generations = options.samplings.iter().map(generation).collect();
    asked(generations, &options, top_logprobs)
}

fn asked(
    generations: Vec<Generation>,
    options: &Options,
    top_logprobs: Option<u8>,
) -> Result<Asked, Refusal> {
    if options.interval.is_some() && top_logprobs.is_some() {
        let message = format!("`{INTERVAL}` is for requests without `logprobs`.");
        return Err(Refusal::field(INTERVAL, message));
    }
    Ok(Asked {
        generations,
        bounded: options.bounded,
        stream: options.stream,
        include_usage: options.include_usage,
        obfuscate: options.obfuscate,
        interval: options.interval,
        top_logprobs,
    })
}

fn check_model(fields: &mut Fields<'_>, model: &ModelInfo) -> Result<(), Refusal> {
    let name: String = fields.need("model", "a string")?;
    match name == model.id {
        true => Ok(()),
        false => Err(Refusal::unknown_model()),
    }
}

fn prompt(fields: &mut Fields<'_>) -> Result<zeroize::Zeroizing<String>, Refusal> {
    let shape = "a string, or a list of one, of at least one byte";
    let raw: &RawValue = fields.need("prompt", shape)?;
    let one = serde_json::from_str::<String>(raw.get());
    let one = one.or_else(|_| serde_json::from_str::<[String; 1]>(raw.get()).map(|[one]| one));
    match one.map(zeroize::Zeroizing::new) {
        Ok(prompt) if !prompt.is_empty() => Ok(prompt),
        _ => Err(Refusal::field(
            "prompt",
            format!("`prompt` must be {shape}."),
        )),
    }
}

fn top_count(name: &str, top: u32, most: u32) -> Result<u8, Refusal> {
    match u8::try_from(top) {
        Ok(count) if top <= most => Ok(count),
        _ => Err(Refusal::field(
            name,
            format!("`{name}` must be 0 to {most}."),
        )),
    }
}

#[cfg(test)]
mod tests;
