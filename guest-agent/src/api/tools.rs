//! Parses the tools that the model may call, and the required format of its answer.
//!
//! | field | bound |
//! |---|---|
//! | `tools` | 1 to 64, names of 1 to 64 letters, digits, `_` and `-`, each once |
//! | `description` | 8 KiB |
//! | `schema`, and `parameters` of tools that are strict or must be called | what [`super::schema`] accepts |
//! | other `parameters` | 32 KiB, a JSON object: no answer is held to them |

use cocoon_protocol::engine::{Choice, Format, Tool};
use serde_json::value::RawValue;

use super::error::Refusal;
use super::fields::{Fields, join};
use super::schema;

const MAX_TOOLS: usize = 64;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 8 * 1024;

/// What an answer may consist of.
pub(super) struct Shape {
    pub tools: Vec<Tool>,
    pub choice: Choice,
    pub parallel: bool,
    pub format: Format,
}

/// Takes `tools`, `tool_choice`, `parallel_tool_calls` and `response_format`.
pub(super) fn take(fields: &mut Fields<'_>) -> Result<Shape, Refusal> {
    let mut tools = tools(fields)?;
    let choice = choice(fields, &tools)?;
    check_parameters(&tools, choice.as_ref())?;
    let parallel = fields.take("parallel_tool_calls", "a boolean")?;
    if parallel.is_some() && tools.is_empty() {
        let message = "`parallel_tool_calls` is for requests with `tools`.";
        return Err(Refusal::field("parallel_tool_calls", message));
    }
    let format = format(fields)?;
    let Some(choice) = choice else {
        // No tool is to be called, so the model need not know of any.
        tools.clear();
        return Ok(Shape {
            tools,
            choice: Choice::Auto,
            parallel: true,
            format,
        });
    };
    if !tools.is_empty() && !matches!(format, Format::Text) {
        let message = "`response_format` other than `text` is for requests without `tools`, or with `tool_choice` `none`: an answer of that format could call none.";
        return Err(Refusal::field("response_format", message));
    }
    Ok(Shape {
        tools,
        choice,
        parallel: parallel.unwrap_or(true),
        format,
    })
}

fn tools(fields: &mut Fields<'_>) -> Result<Vec<Tool>, Refusal> {
    let Some(raw) = fields.take::<Vec<&RawValue>>("tools", "a list of tools")? else {
        return Ok(Vec::new());
    };
    if !(1..=MAX_TOOLS).contains(&raw.len()) {
        let message = format!("`tools` must have 1 to {MAX_TOOLS} tools.");
        return Err(Refusal::field("tools", message));
    }
    let mut tools: Vec<Tool> = Vec::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let place = format!("tools[{at}]");
        let mut outer = Fields::of(raw, &place)?;
        let kind: String = outer.need_in(&place, "type", "`function`")?;
        if kind != "function" {
            let param = join(&place, "type");
            let message = format!("`{param}` must be `function`.");
            return Err(Refusal::unsupported(&param, message));
        }
        let function: &RawValue = outer.need_in(&place, "function", "an object")?;
        outer.finish(&place)?;
        let place = join(&place, "function");
        let mut inner = Fields::of(function, &place)?;
        let name: String = inner.need_in(&place, "name", "a string")?;
        let param = join(&place, "name");
        check_name(&name, &param)?;
        if tools.iter().any(|tool| tool.name == name) {
            let message = format!("`{param}` is the name of another tool too.");
            return Err(Refusal::field(param, message));
        }
        let description: Option<String> = inner.take_in(&place, "description", "a string")?;
        if description
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESCRIPTION)
        {
            let param = join(&place, "description");
            let message = format!("`{param}` must be at most {MAX_DESCRIPTION} bytes.");
            return Err(Refusal::field(param, message));
        }
        let parameters: Option<&RawValue> = inner.take_in(&place, "parameters", "a JSON schema")?;
        let parameters = match parameters {
            Some(raw) => raw.get().to_owned(),
            // OpenAI's default: a function without parameters.
            None => r#"{"type":"object","properties":{}}"#.to_owned(),
        };
        let strict: Option<bool> = inner.take_in(&place, "strict", "a boolean")?;
        inner.finish(&place)?;
        tools.push(Tool {
            name,
            description,
            parameters,
            strict: strict.unwrap_or(false),
        });
    }
    Ok(tools)
}

/// Checks the parameters of the tools. Only tools that are strict or must be called become a grammar, so only their schemas
/// are limited. Of all others the model is at most told in its prompt.
fn check_parameters(tools: &[Tool], choice: Option<&Choice>) -> Result<(), Refusal> {
    for (at, tool) in tools.iter().enumerate() {
        let held = match choice {
            None => false,
            Some(Choice::Auto) => tool.strict,
            Some(Choice::Required) => true,
            Some(Choice::Named(name)) => *name == tool.name,
        };
        let checked = match held {
            true => schema::check_arguments(&tool.parameters),
            false => schema::check_size(&tool.parameters),
        };
        let place = || format!("tools[{at}].function.parameters");
        checked.map_err(|reason| refuse_schema(&place(), &reason))?;
    }
    Ok(())
}

/// Takes `tool_choice`; `None` means that no tool may be called.
fn choice(fields: &mut Fields<'_>, tools: &[Tool]) -> Result<Option<Choice>, Refusal> {
    let shape = "`none`, `auto`, `required` or a tool";
    let Some(raw) = fields.take::<&RawValue>("tool_choice", shape)? else {
        return Ok(Some(Choice::Auto));
    };
    let refuse = || Refusal::field("tool_choice", format!("`tool_choice` must be {shape}."));
    let choice = match serde_json::from_str::<String>(raw.get()).as_deref() {
        Ok("none") => return Ok(None),
        Ok("auto") => Choice::Auto,
        Ok("required") => Choice::Required,
        Ok(_) => return Err(refuse()),
        Err(_) => {
            let place = "tool_choice";
            let mut outer = Fields::of(raw, place).map_err(|_| refuse())?;
            let kind: String = outer.need_in(place, "type", "`function`")?;
            if kind != "function" {
                let message = "`tool_choice.type` must be `function`.";
                return Err(Refusal::unsupported("tool_choice.type", message));
            }
            let function: &RawValue = outer.need_in(place, "function", "an object")?;
            outer.finish(place)?;
            let place = "tool_choice.function";
            let mut inner = Fields::of(function, place)?;
            let name: String = inner.need_in(place, "name", "a string")?;
            inner.finish(place)?;
            if !tools.iter().any(|tool| tool.name == name) {
                let message = "`tool_choice.function.name` must be the name of one of `tools`.";
                return Err(Refusal::field("tool_choice.function.name", message));
            }
            Choice::Named(name)
        }
    };
    if tools.is_empty() {
        let message = "`tool_choice` is for requests with `tools`.";
        return Err(Refusal::field("tool_choice", message));
    }
    Ok(Some(choice))
}

fn format(fields: &mut Fields<'_>) -> Result<Format, Refusal> {
    let place = "response_format";
    let Some(raw) = fields.take::<&RawValue>(place, "an object")? else {
        return Ok(Format::Text);
    };
    let mut outer = Fields::of(raw, place)?;
    let kind: String = outer.need_in(place, "type", "`text`, `json_object` or `json_schema`")?;
    let format = match kind.as_str() {
        "text" => Format::Text,
        "json_object" => Format::Json,
        "json_schema" => {
            let raw: &RawValue = outer.need_in(place, "json_schema", "an object")?;
            let place = "response_format.json_schema";
            let mut inner = Fields::of(raw, place)?;
            let name: String = inner.need_in(place, "name", "a string")?;
            check_name(&name, &join(place, "name"))?;
            // The model does not see it, as in OpenAI's API: the answer is held to the schema, not asked to follow it.
            let _description: Option<&RawValue> =
                inner.take_in(place, "description", "a string")?;
            // Ignored: an answer is always held strictly to its schema.
            let _strict: Option<bool> = inner.take_in(place, "strict", "a boolean")?;
            let raw = inner.need_in(place, "schema", "a JSON schema")?;
            inner.finish(place)?;
            Format::Schema(schema(raw, "response_format.json_schema.schema")?)
        }
        _ => {
            let message = "`response_format.type` must be `text`, `json_object` or `json_schema`.";
            return Err(Refusal::unsupported("response_format.type", message));
        }
    };
    outer.finish(place)?;
    Ok(format)
}

fn schema(raw: &RawValue, place: &str) -> Result<String, Refusal> {
    let text = raw.get();
    schema::check(text).map_err(|reason| refuse_schema(place, &reason))?;
    Ok(text.to_owned())
}

fn refuse_schema(place: &str, reason: &str) -> Refusal {
    let mut refusal = Refusal::field(place, format!("`{place}` {reason}."));
    refusal.code = Some("invalid_schema");
    refusal
}

/// Refuses a name that is not a valid function name.
pub(super) fn check_name(name: &str, place: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let message =
        format!("`{place}` must be 1 to {MAX_NAME} letters, digits, underscores and hyphens.");
    Err(Refusal::field(place, message))
}
