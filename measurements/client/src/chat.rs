//! Conversations: builds requests and passes on answers piece by piece as they arrive.

use cocoon_measurements::verdict::Class;
use cocoon_protocol::openai::{
    ChatRequest, ErrorBody, FinishReason, Message, Role, StreamOptions, Usage,
};
use http::StatusCode;
use http_body_util::BodyExt;
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::address::Address;
use crate::attested::AttestedConnection;
use crate::error::printable;
use crate::padding::padded;
use crate::receipts::{AnswerError, ReceiptFault, Receipted};
use crate::sse::Events;
use crate::table::summary;
use crate::upstreams::Upstreams;
use crate::wiped::push;

mod error;

pub use error::ChatError;

/// Longest error body that is read, in bytes.
const MAX_ERROR_LEN: usize = 64 * 1024;
/// Longest answer that is accepted, in bytes.
const MAX_ANSWER_LEN: usize = 1024 * 1024;

/// OpenAI's error code for a conversation that exceeds the model's context.
pub(crate) const EXCEEDED: &str = "context_length_exceeded";

/// A conversation with an appliance. Its texts are wiped on drop.
pub struct Conversation {
    upstreams: Upstreams,
    options: ChatOptions,
    messages: Vec<Message>,
    /// The appliance that was last shown to people.
    shown: Option<Appliance>,
}

/// Options of the requests of a conversation.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Identifier of the model, as in the manifest.
    pub model: String,
    /// Largest number of tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2.
    pub temperature: Option<f32>,
    /// Seed of the sampling, which makes an answer repeatable.
    pub seed: Option<i64>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Reason why the answer ended; `None` if the appliance sent none.
    pub finish: Option<FinishReason>,
    /// Number of tokens, if the appliance sent it.
    pub usage: Option<Usage>,
    /// The appliance that answered, which may differ from one answer to the next.
    pub appliance: Option<Appliance>,
}

/// A verified appliance that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appliance {
    /// Address of the appliance.
    pub address: Address,
    /// Class of the verdict on the connection that was used.
    pub class: Class,
    /// The verdict in one line.
    pub summary: String,
}

impl Appliance {
    /// Describes the appliance at the other end of a connection.
    pub fn of(connection: &AttestedConnection) -> Self {
        let verdict = connection.verdict();
        Self {
            address: connection.address().clone(),
            class: verdict.class,
            summary: summary(verdict, false),
        }
    }
}

impl Conversation {
    /// Makes an empty conversation, or one that begins with `system` as its instructions.
    pub fn new(upstreams: Upstreams, options: ChatOptions, system: Option<&str>) -> Self {
        let messages = system
            .map(|text| message(Role::System, text))
            .into_iter()
            .collect();
        Self {
            upstreams,
            options,
            messages,
            shown: None,
        }
    }

    /// Sets the appliance that people have been told is answering.
    pub fn with_shown(self, appliance: Appliance) -> Self {
        Self {
            shown: Some(appliance),
            ..self
        }
    }

    /// Returns whether people must be told that the answering appliance or its class has changed.
    /// Returns true once per change.
    pub(crate) fn changes_to(&mut self, appliance: &Appliance) -> bool {
        let before = self.shown.replace(appliance.clone());
        before.is_some_and(|before| {
            before.address != appliance.address || before.class != appliance.class
        })
    }

    /// Asks a question, calls `piece` with every part of the answer as it arrives, and remembers
    /// question and answer for the next question.
    ///
    /// After an error, or if the future is dropped, the question is forgotten. After
    /// [`ChatError::Full`] only [`clear`](Self::clear) makes room for other questions.
    pub async fn ask(
        &mut self,
        prompt: &str,
        piece: impl FnMut(&str),
    ) -> Result<Ending, ChatError> {
        let question = message(Role::User, prompt);
        let mut messages = self.messages.clone();
        messages.push(question.clone());
        let request = self.options.request(messages);
        let sent = send(&self.upstreams, &request, piece).await;
        let (answer, ending) =
            sent.map_err(|error| match error.is_too_long() && self.goes_on() {
                true => ChatError::Full(Box::new(error)),
                false => error,
            })?;
        self.messages.push(question);
        self.messages.push(message(Role::Assistant, &answer));
        Ok(ending)
    }

    /// Begins a new conversation: forgets and wipes all messages except the instructions.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
    }

    fn goes_on(&self) -> bool {
        self.messages
            .iter()
            .any(|message| message.role != Role::System)
    }
}

impl From<AnswerError> for ChatError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Broken(source) => Self::Broken(source),
            AnswerError::Receipt(ReceiptFault::CutShort) => Self::CutShort,
            AnswerError::Receipt(fault) => Self::Receipt(fault),
        }
    }
}

impl ChatOptions {
    pub(crate) fn request(&self, messages: Vec<Message>) -> ChatRequest {
        ChatRequest {
            model: self.model.clone(),
            messages,
            stream: true,
            stream_options: Some(StreamOptions {
                include_usage: true,
                include_obfuscation: None,
            }),
            max_completion_tokens: self.max_tokens,
            max_tokens: None,
            temperature: self.temperature,
            top_p: None,
            seed: self.seed,
            stop: None,
            padding: None,
        }
    }
}

fn message(role: Role, text: &str) -> Message {
    Message {
        role,
        content: text.to_owned(),
    }
}

/// Sends a request for a stream, calls `piece` with every part of the answer as it arrives, and
/// returns the whole answer.
pub(crate) async fn send(
    upstreams: &Upstreams,
    request: &ChatRequest,
    mut piece: impl FnMut(&str),
) -> Result<(Zeroizing<String>, Ending), ChatError> {
    let body = padded(request)?;
    let response = upstreams.generate("/v1/chat/completions", body).await?;
    let status = response.status();
    let mut body = response.into_body();
    let appliance = body.answer().connection().map(Appliance::of);
    if status != StatusCode::OK {
        return Err(refused(status, &mut body).await);
    }
    let mut events = Events::default();
    let mut reader = Reader {
        answer: Zeroizing::default(),
        ending: Ending {
            finish: None,
            usage: None,
            appliance,
        },
        done: false,
    };
    let mut failure = None;
    while let Some(frame) = body.frame().await {
        let frame = match (frame, failure.take()) {
            (Ok(frame), before) => {
                failure = before;
                frame
            }
            (Err(_), Some(before)) => return Err(before),
            (Err(error), None) => return Err(error.into()),
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let mut outcome = Ok(());
        events.push(&data, |event| {
            if outcome.is_ok() && failure.is_none() {
                outcome = reader.take(event, &mut piece);
            }
        })?;
        match outcome {
            // The receipt for the tokens served until then follows the error, so reading goes on.
            Err(error @ ChatError::Refused { .. }) => failure = Some(error),
            outcome => outcome?,
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let signed = body.receipt().map(|receipt| receipt.signed.receipt.tokens);
    if let (Some(signed), Some(told)) = (signed, reader.ending.usage) {
        let signed = signed.prompt.saturating_add(signed.completion);
        let told = told.total_tokens.into();
        if signed != told {
            return Err(ChatError::Receipt(ReceiptFault::Usage { told, signed }));
        }
    }
    if !reader.done {
        return Err(ChatError::CutShort);
    }
    Ok((reader.answer, reader.ending))
}

async fn refused(status: StatusCode, body: &mut Receipted) -> ChatError {
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_ERROR_LEN {
            break;
        }
        bytes.extend_from_slice(&data);
    }
    let (message, code) = match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => (
            printable(&body.error.message, 500),
            body.error.code.map(|code| printable(&code, 100)),
        ),
        Err(_) => (
            "no error message that this program understands".to_owned(),
            None,
        ),
    };
    ChatError::Refused {
        status: status.as_u16(),
        message,
        code,
    }
}

/// One event of a stream. Fields that are not used here (identifiers, obfuscation) are ignored.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<StreamError>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<FinishReason>,
}

#[derive(Default, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct StreamError {
    message: String,
    #[serde(default)]
    code: Option<String>,
}

struct Reader {
    answer: Zeroizing<String>,
    ending: Ending,
    done: bool,
}

impl Reader {
    fn take(&mut self, event: &[u8], piece: &mut impl FnMut(&str)) -> Result<(), ChatError> {
        if event == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(event).map_err(|_| ChatError::Malformed)?;
        if let Some(error) = chunk.error {
            return Err(ChatError::Refused {
                status: 200,
                message: printable(&error.message, 500),
                code: error.code.map(|code| printable(&code, 100)),
            });
        }
        for choice in chunk.choices {
            if let Some(text) = choice
                .delta
                .content
                .as_deref()
                .filter(|text| !text.is_empty())
            {
                self.remember(text)?;
                piece(text);
            }
            self.ending.finish = choice.finish_reason.or(self.ending.finish);
        }
        self.ending.usage = chunk.usage.or(self.ending.usage);
        Ok(())
    }

    fn remember(&mut self, text: &str) -> Result<(), ChatError> {
        let length = self.answer.len() + text.len();
        if length > MAX_ANSWER_LEN {
            return Err(ChatError::TooLong);
        }
        push(&mut self.answer, text);
        Ok(())
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}
