//! Parses the conversation of a chat request.
//!
//! | field | bound |
//! |---|---|
//! | `messages` | 1 to 1024 |
//! | `content` of parts | 1 to 64 parts, all of type `text` |
//! | `tool_calls` | 1 to 64, arguments a JSON object |
//! | `id`, `tool_call_id` | 1 to 128 bytes |

use std::collections::BTreeSet;

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::engine::{Call, Speaker, Turn, is_json_object};
use serde_json::value::RawValue;

use super::error::Refusal;
use super::fields::{Fields, LONGEST, Parse, join};
use super::tools::check_name;

const MAX_MESSAGES: usize = LONGEST;
const MAX_PARTS: usize = 64;
const MAX_CALLS: usize = 64;
const MAX_ID: usize = 128;

/// Takes the messages, each as one turn.
pub(super) fn take(fields: &mut Fields<'_>) -> Result<Vec<Turn>, Refusal> {
    let raw: Vec<&RawValue> = fields.need("messages", "a list of messages")?;
    if raw.is_empty() || raw.len() > MAX_MESSAGES {
        return Err(Refusal::field(
            "messages",
            format!("`messages` must have 1 to {MAX_MESSAGES} messages."),
        ));
    }
    // Digests of the identifiers, because copies of these would have to be wiped.
    let mut called = BTreeSet::new();
    let mut turns = Vec::with_capacity(raw.len());
    for (at, raw) in raw.into_iter().enumerate() {
        let turn = turn(raw, &format!("messages[{at}]"), &called)?;
        called.extend(turn.calls.iter().map(|call| digest(&call.id)));
        turns.push(turn);
    }
    Ok(turns)
}

fn digest(id: &str) -> Hex32 {
    Hex32::sha256(id.as_bytes())
}

fn turn(raw: &RawValue, place: &str, called: &BTreeSet<Hex32>) -> Result<Turn, Refusal> {
    let mut fields = Fields::of(raw, place)?;
    let roles = "`system`, `developer`, `user`, `assistant` or `tool`";
    let role: String = fields.need_in(place, "role", roles)?;
    let speaker = match role.as_str() {
        // OpenAI renamed `system` to `developer` with its reasoning models; chat templates know the older name.
        "system" | "developer" => Speaker::System,
        "user" => Speaker::User,
        "assistant" => Speaker::Assistant,
        "tool" => Speaker::Tool,
        _ => {
            let param = join(place, "role");
            let message = format!("`{param}` must be {roles}.");
            return Err(Refusal::field(param, message));
        }
    };
    let mut turn = Turn {
        speaker,
        content: String::new(),
        calls: Vec::new(),
        call_id: None,
    };
    if speaker == Speaker::Assistant {
        turn.calls = calls(&mut fields, place)?;
        empty_list(&mut fields, place, "annotations")?;
    }
    if speaker == Speaker::Tool {
        let id: String = fields.need_in(place, "tool_call_id", "a string")?;
        if !called.contains(&digest(&id)) {
            let param = join(place, "tool_call_id");
            let message = format!("`{param}` must be the `id` of a call in a message before.");
            return Err(Refusal::field(param, message));
        }
        turn.call_id = Some(id);
    }
    turn.content = match fields.take_in(place, "content", "a string or a list of text parts")? {
        Some(raw) => content(raw, &join(place, "content"))?,
        None if !turn.calls.is_empty() => String::new(),
        None => {
            let param = join(place, "content");
            let message = format!("`{param}` is required: a string or a list of text parts.");
            return Err(Refusal::field(param, message));
        }
    };
    fields.finish(place)?;
    Ok(turn)
}

fn content(raw: &RawValue, place: &str) -> Result<String, Refusal> {
    if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
        return Ok(text);
    }
    let parts = <Vec<&RawValue> as Parse>::parse(raw).ok_or_else(|| {
        let message = format!("`{place}` must be a string or a list of text parts.");
        Refusal::field(place, message)
    })?;
    if !(1..=MAX_PARTS).contains(&parts.len()) {
        let message = format!("`{place}` must have 1 to {MAX_PARTS} parts.");
        return Err(Refusal::field(place, message));
    }
    // Allocated once, so that a long text is not copied as it grows.
    let mut text = String::with_capacity(raw.get().len());
    for (at, raw) in parts.into_iter().enumerate() {
        let place = format!("{place}[{at}]");
        let mut fields = Fields::of(raw, &place)?;
        let kind: String = fields.need_in(&place, "type", "`text`")?;
        if kind != "text" {
            let param = join(&place, "type");
            let message = format!("`{param}` must be `text`: the model reads nothing else.");
            return Err(Refusal::unsupported(&param, message));
        }
        let part: String = fields.need_in(&place, "text", "a string")?;
        text.push_str(&zeroize::Zeroizing::new(part));
        fields.finish(&place)?;
    }
    Ok(text)
}

fn calls(fields: &mut Fields<'_>, place: &str) -> Result<Vec<Call>, Refusal> {
    let Some(raw) = fields.take_in::<Vec<&RawValue>>(place, "tool_calls", "a list of calls")?
    else {
        return Ok(Vec::new());
    };
    let place = join(place, "tool_calls");
    if !(1..=MAX_CALLS).contains(&raw.len()) {
        let message = format!("`{place}` must have 1 to {MAX_CALLS} calls.");
        return Err(Refusal::field(place, message));
    }
    let call = |(at, raw): (usize, &RawValue)| {
        let place = format!("{place}[{at}]");
        let mut fields = Fields::of(raw, &place)?;
        let id: String = fields.need_in(&place, "id", "a string")?;
        if !(1..=MAX_ID).contains(&id.len()) {
            let param = join(&place, "id");
            let message = format!("`{param}` must be 1 to {MAX_ID} bytes.");
            return Err(Refusal::field(param, message));
        }
        let kind: String = fields.need_in(&place, "type", "`function`")?;
        if kind != "function" {
            let param = join(&place, "type");
            return Err(Refusal::unsupported(
                &param,
                format!("`{param}` must be `function`."),
            ));
        }
        let raw: &RawValue = fields.need_in(&place, "function", "an object")?;
        fields.finish(&place)?;
        let place = join(&place, "function");
        let mut fields = Fields::of(raw, &place)?;
        let name: String = fields.need_in(&place, "name", "a string")?;
        check_name(&name, &join(&place, "name"))?;
        let shape = "a JSON object in a string";
        let arguments: String = fields.need_in(&place, "arguments", shape)?;
        if !is_json_object(&arguments) {
            let param = join(&place, "arguments");
            let message = format!("`{param}` must be {shape}.");
            return Err(Refusal::field(param, message));
        }
        fields.finish(&place)?;
        Ok(Call {
            id,
            name,
            arguments,
        })
    };
    raw.into_iter().enumerate().map(call).collect()
}

/// Takes a list that must be empty: clients send it back with messages of this API, and it carries no information.
fn empty_list(fields: &mut Fields<'_>, place: &str, name: &'static str) -> Result<(), Refusal> {
    let list: Option<Vec<&RawValue>> = fields.take_in(place, name, "an empty list")?;
    match list {
        Some(list) if !list.is_empty() => {
            let param = join(place, name);
            let message = format!("`{param}` must be an empty list.");
            Err(Refusal::unsupported(&param, message))
        }
        _ => Ok(()),
    }
}
