//! Types of OpenAI's chat completions API: the request that this project's client sends, and types that guest and client
//! share.
//!
//! The types of a request refuse unknown fields by name, because an answer that silently ignores a parameter is wrong.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Author of the instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Zeroize for Role {
    fn zeroize(&mut self) {
        *self = Role::User;
    }
}

/// One message of a conversation. Its text is wiped on drop and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Author of the message.
    pub role: Role,
    /// Text of the message.
    pub content: String,
}

/// Body of `POST /v1/chat/completions`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// Identifier of the model, from `/v1/models`. Every appliance serves one model.
    pub model: String,
    /// Messages of the conversation, oldest first.
    pub messages: Vec<Message>,
    /// Whether the answer comes as server-sent events.
    #[serde(default)]
    pub stream: bool,
    /// Options of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[zeroize(skip)]
    pub stream_options: Option<StreamOptions>,
    /// Most tokens to generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// Older name of `max_completion_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Probability mass of nucleus sampling, above 0 up to 1; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Seed. The same request with the same seed on the same machine gives the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Strings that end the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Meaningless bytes that hide the length of the request on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<String>,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether the last chunk reports the usage.
    #[serde(default)]
    pub include_usage: bool,
    /// Whether every event is padded to a size bucket, so that record lengths reveal nothing about the text. On if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_obfuscation: Option<bool>,
}

/// One stop string or up to four.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(untagged)]
pub enum Stop {
    /// A single stop string.
    One(String),
    /// Several stop strings.
    Many(Vec<String>),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The answer is complete or reached a stop string.
    Stop,
    /// The answer reached `max_completion_tokens` or the end of the context.
    Length,
    /// The model calls tools.
    ToolCalls,
}

/// Token counts of a request and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Sum of both.
    pub total_tokens: u32,
}

/// OpenAI's error object, the body of every response that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// Description of an error in OpenAI's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Text for people: what went wrong, where, and what to do. Never repeats a prompt.
    pub message: String,
    /// Class of the error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Field of the request that is at fault.
    pub param: Option<String>,
    /// Code for programs, such as `context_length_exceeded`.
    pub code: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let request =
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"logit_bias":{}}"#;
        let error = serde_json::from_str::<ChatRequest>(request)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with("unknown field `logit_bias`, expected one of `model`, `messages`"),
            "{error}"
        );
    }

    #[test]
    fn a_stop_is_one_string_or_several() {
        let stop = |json| serde_json::from_str::<Stop>(json);
        assert!(matches!(stop("\"a\"").unwrap(), Stop::One(ref text) if text == "a"));
        assert!(
            matches!(stop("[\"a\",\"b\"]").unwrap(), Stop::Many(ref texts) if texts.len() == 2)
        );
        assert!(stop("7").is_err());
    }

    #[test]
    fn errors_have_openais_shape() {
        let body = ErrorBody {
            error: ApiError {
                message: "too long".into(),
                kind: "invalid_request_error".into(),
                param: None,
                code: Some("context_length_exceeded".into()),
            },
        };
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":"context_length_exceeded"}}"#
        );
    }
}
