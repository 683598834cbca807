//! The part of OpenAI's chat API that the appliance speaks, as types shared by guest and client.
//!
//! Fields that are not here are refused by name: a parameter silently ignored is a wrong answer.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Zeroize for Role {
    fn zeroize(&mut self) {
        *self = Role::User;
    }
}

/// One turn of a conversation. Its text is wiped on drop and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Body of `POST /v1/chat/completions`.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// Identifier from `/v1/models`; every appliance serves one model.
    pub model: String,
    /// The conversation, oldest first.
    pub messages: Vec<Message>,
    /// Whether to answer as server-sent events.
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
    /// 0 to 2; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Over 0 to 1; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Repeats an answer with the same request on the same machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Strings that end the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Bytes of no meaning that hide the request's length on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<String>,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send a last chunk with the usage.
    #[serde(default)]
    pub include_usage: bool,
    /// Pad every event to a size bucket, so that record lengths say nothing about the text; on
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_obfuscation: Option<bool>,
}

/// One stop string or up to four.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End of the answer, or a stop string.
    Stop,
    /// `max_completion_tokens`, or the end of the context.
    Length,
    /// The model calls tools.
    ToolCalls,
}

/// Tokens of one exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the conversation.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Their sum.
    pub total_tokens: u32,
}

/// OpenAI's error object: the body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// What went wrong, in OpenAI's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For people: what, where, and what to do. Never repeats a prompt.
    pub message: String,
    /// Class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Field of the request at fault.
    pub param: Option<String>,
    /// For programs, such as `context_length_exceeded`.
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
