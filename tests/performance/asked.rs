//! Sends chat requests over attested connections, and times the answers as they arrive.

use std::time::Duration;

use anyhow::Context as _;
use cocoon_client::{AttestedConnection, Verifier};
use cocoon_protocol::openai::{ChatRequest, Message, Role, StreamOptions};
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::appliance::Appliance;
use crate::streams::{QUESTION, Timing, Together};

/// Opens a verified connection.
pub async fn connect(
    verifier: &Verifier,
    appliance: &Appliance,
) -> anyhow::Result<AttestedConnection> {
    Ok(verifier.connect(&appliance.address).await?)
}

/// Sends the question on the first `count` connections at once.
pub async fn ask(
    mut clients: Vec<AttestedConnection>,
    model: &str,
    tokens: u32,
    count: usize,
) -> anyhow::Result<(Together, Vec<AttestedConnection>)> {
    let mut running = JoinSet::new();
    let began = Instant::now();
    for mut client in clients
        .drain(..count.min(clients.len()))
        .collect::<Vec<_>>()
    {
        let request = request(model, tokens);
        running.spawn(async move {
            let timing = answer(&mut client, &request, began).await?;
            anyhow::Ok((timing, client))
        });
    }
    let mut answers = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (timing, client) = ended??;
        answers.push(timing);
        clients.push(client);
    }
    Ok((Together { answers }, clients))
}

async fn answer(
    client: &mut AttestedConnection,
    request: &ChatRequest,
    began: Instant,
) -> anyhow::Result<Timing> {
    let response = client.chat(request).await?;
    anyhow::ensure!(
        response.status().is_success(),
        "refused: {}",
        response.status()
    );
    let mut body = response.into_body();
    let (mut timing, mut rest) = (Timing::default(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let now = began.elapsed();
        rest.extend_from_slice(&data);
        while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = rest.drain(..end + 2).collect();
            if let Some(json) = event.strip_prefix(b"data: ") {
                heard(json, now, &mut timing)?;
            }
        }
    }
    Ok(timing)
}

fn heard(json: &[u8], now: Duration, timing: &mut Timing) -> anyhow::Result<()> {
    if json.starts_with(b"[DONE]") {
        return Ok(());
    }
    let event: serde_json::Value = serde_json::from_slice(json).context("not an event")?;
    let text = event["choices"][0]["delta"]["content"].as_str();
    if text.is_some_and(|text| !text.is_empty()) {
        if timing.first.is_zero() {
            timing.first = now;
        }
        timing.last = now;
    }
    let usage = |name: &str| {
        let number = event["usage"][name].as_u64();
        number.and_then(|number| u32::try_from(number).ok())
    };
    timing.tokens = usage("completion_tokens").unwrap_or(timing.tokens);
    timing.prompt = usage("prompt_tokens").unwrap_or(timing.prompt);
    Ok(())
}

/// Returns the question as a streaming request with greedy sampling and token usage at the end.
pub fn request(model: &str, tokens: u32) -> ChatRequest {
    ChatRequest {
        model: model.to_owned(),
        messages: vec![Message {
            role: Role::User,
            content: QUESTION.to_owned(),
        }],
        stream: true,
        stream_options: Some(StreamOptions {
            include_usage: true,
            include_obfuscation: None,
        }),
        max_completion_tokens: Some(tokens),
        max_tokens: None,
        temperature: Some(0.0),
        top_p: None,
        seed: None,
        stop: None,
        padding: None,
    }
}
