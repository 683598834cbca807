//! Routes requests by path and method, and answers them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_protocol::binding::Freshness;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest};
use cocoon_protocol::engine::{ModelInfo, WEIGHTS_PATH};
use cocoon_protocol::pieces::{COLLATERAL_PATH, MAX_PIECES_REQUEST, PiecesRequest};
use cocoon_protocol::receipt::{Outcome, RECEIPT_HEADER};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use zeroize::{Zeroize as _, Zeroizing};

use super::chat;
use super::connection::Connection;
use super::error::Refusal;
use super::event::bucket;
use super::receipts::{Entry, Session};
use super::reply::{Reply, Whole, refuse, reply, reply_bytes, reply_json, reply_whole};
use super::stream::{Events, Shape, Telling, Tick};
use super::wire::{Envelope, Kind};
use super::{Limits, Meter, Service, whole};
use crate::engine::Told;
use crate::keys;

/// Most bytes of an attestation request: a nonce and white space.
const MAX_ATTEST_BODY: usize = 4096;

/// Answers one request.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let outcome = route(&connection, request).await;
    Ok(outcome.unwrap_or_else(|refusal| {
        connection.service.counters.failed();
        refuse(&refusal)
    }))
}

async fn route(
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let service = &connection.service;
    let (method, path) = (request.method().clone(), request.uri().path());
    // This comes before everything else, so that a prompt to an unverified machine is refused unread.
    if !connection.is_attested() && (path != ATTEST_PATH || method != Method::POST) {
        return Err(Refusal::unattested());
    }
    match (path, method) {
        (ATTEST_PATH, Method::POST) => attest(connection, request).await,
        (ATTEST_PATH, _) => Err(Refusal::method("POST")),
        (COLLATERAL_PATH, Method::POST) => collateral(connection, request).await,
        (COLLATERAL_PATH, _) => Err(Refusal::method("POST")),
        (WEIGHTS_PATH, Method::GET) => weights(service),
        (WEIGHTS_PATH, _) => Err(Refusal::method("GET")),
        ("/healthz", Method::GET) => health(service),
        ("/healthz", _) => Err(Refusal::method("GET")),
        ("/v1/models", Method::GET) => models(service),
        ("/v1/models", _) => Err(Refusal::method("GET")),
        ("/v1/chat/completions", Method::POST) => complete(connection, request, Kind::Chat).await,
        ("/v1/completions", Method::POST) => complete(connection, request, Kind::Completion).await,
        ("/v1/chat/completions" | "/v1/completions", _) => Err(Refusal::method("POST")),
        (path, method) => match path.strip_prefix("/v1/models/") {
            Some(id) if method == Method::GET => one_model(service, id),
            Some(_) => Err(Refusal::method("GET")),
            None => Err(Refusal::not_found()),
        },
    }
}

async fn attest(
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let service = &connection.service;
    if !connection.may_attest() {
        return Err(Refusal::rate_limit(
            "This connection has attested too often: open another.",
        ));
    }
    let deadline = Instant::now() + service.limits.body_time;
    let body = read(request, MAX_ATTEST_BODY, deadline).await?;
    let request: AttestRequest = serde_json::from_slice(&body).map_err(|_| {
        Refusal::field(
            "nonce",
            "The body must be {\"nonce\": 64 hexadecimal digits}.",
        )
    })?;
    let fresh = Freshness {
        nonce: request.nonce,
        exporter: connection.exporter,
    };
    let shown = service.attester.session(fresh).await?;
    service.counters.attested();
    let session = Session {
        nonce: fresh.nonce,
        evidence_digest: Hex32::sha256(&shown.document),
    };
    connection.attested(session, shown.collateral);
    Ok(reply(StatusCode::OK, Bytes::from(shown.document)))
}

/// Hands out pieces of the collateral that this connection's document names. They are not secret: every attested client
/// may have them.
async fn collateral(
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let deadline = Instant::now() + connection.service.limits.body_time;
    let body = read(request, MAX_PIECES_REQUEST, deadline).await?;
    let asked = serde_json::from_slice::<PiecesRequest>(&body).ok();
    let asked = asked.filter(|asked| asked.check().is_ok()).ok_or_else(|| {
        Refusal::field(
            "pieces",
            "The body must be {\"pieces\": [1 to 105 different digests of 64 hexadecimal digits]}.",
        )
    })?;
    let held = connection.take_collateral();
    let answer = held.and_then(|held| held.encode(&asked.pieces));
    let answer = answer.ok_or_else(Refusal::no_collateral)?;
    Ok(reply_bytes(Bytes::from(answer)))
}

fn model(service: &Service) -> Result<ModelInfo, Refusal> {
    service
        .engine
        .model()
        .ok_or_else(|| crate::engine::Unavailable::NotReady.into())
}

/// Returns the weights as they were measured in the GPUs' memory, or 404 if the engine uses no GPU.
fn weights(service: &Service) -> Result<Response<Reply>, Refusal> {
    let weights = service.engine.weights().ok_or_else(Refusal::not_found)?;
    // Serialising numbers and digests into memory cannot fail.
    let json = serde_json::to_vec(&*weights).unwrap_or_default();
    Ok(reply(StatusCode::OK, Bytes::from(json)))
}

fn health(service: &Service) -> Result<Response<Reply>, Refusal> {
    model(service)?;
    Ok(reply_json(&json!({"status": "ok"})))
}

fn describe(model: &ModelInfo) -> serde_json::Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "cocoon",
        "context_length": model.context_length,
        "quantization": model.quantization,
        // Reserved for prices.
        "pricing": null,
    })
}

fn models(service: &Service) -> Result<Response<Reply>, Refusal> {
    let model = model(service)?;
    let data = [describe(&model)];
    Ok(reply_json(&json!({ "object": "list", "data": data })))
}

fn one_model(service: &Service, id: &str) -> Result<Response<Reply>, Refusal> {
    let model = model(service)?;
    match model.id == id {
        true => Ok(reply_json(&describe(&model))),
        false => Err(Refusal::unknown_model()),
    }
}

async fn complete(
    connection: &Connection,
    request: Request<Incoming>,
    kind: Kind,
) -> Result<Response<Reply>, Refusal> {
    let service = &connection.service;
    let session = connection.session().ok_or_else(Refusal::unattested)?;
    let model = model(service)?;
    let Limits {
        body, body_time, ..
    } = service.limits;
    let (begun, half) = (Instant::now(), body_time / 2);
    let deadline = begun + body_time;
    // The room is reserved before the body is read, and given back once the request is parsed.
    let announced = request.body().size_hint().exact();
    let room = timeout_at(deadline, connection.bodies.room(announced)).await;
    let room = room.map_err(|_| Refusal::crowded())?;
    let waited = begun.elapsed();
    let read = read(request, body, deadline).await;
    // Tells the client when the wait for other bodies, not its own speed, used up most of the time.
    let body = read.map_err(
        |refusal| match refusal == Refusal::slow() && waited > half {
            true => Refusal::crowded(),
            false => refusal,
        },
    )?;
    let slots = service.engine.slots();
    let mut asked = match kind {
        Kind::Chat => chat::parse(&body, &model, slots)?,
        Kind::Completion => chat::parse_completion(&body, &model, slots)?,
    };
    let told = match asked.stream {
        true => Told::Stream,
        false => Told::Whole,
    };
    if !asked.bounded {
        for generation in &mut asked.generations {
            generation.max_tokens = service.engine.usual(generation, told);
        }
    }
    let entry = service.receipts.open(session, &body)?;
    // A prompt is no longer than the JSON that contained it, and each choice holds a copy.
    let held = body.len() * asked.generations.len();
    drop((body, room));
    let envelope = envelope(service, kind, model.id)?;
    let answers = service
        .engine
        .generate(
            asked.generations,
            told,
            (connection.source, held),
            &service.limits.patience,
        )
        .await?;
    let meter = Meter::begin(&service.counters, &answers);
    // Describes the engine that took the request, which may be a new one if the request waited.
    let entry = entry.taken(connection.number(), service.engine.section());
    if !asked.stream {
        let answered = whole::collect(answers, &envelope, &meter, asked.top_logprobs).await;
        return Ok(with_receipt(answered, &meter, entry));
    }
    let telling = Telling {
        envelope,
        shape: Shape {
            include_usage: asked.include_usage,
            obfuscate: asked.obfuscate,
            top_logprobs: asked.top_logprobs,
            bucket: bucket(asked.top_logprobs),
        },
        tick: asked.interval.map(|every| Tick {
            every,
            least_rate: service.limits.least_rate,
        }),
    };
    let events = Events::new(answers, telling, meter, entry);
    let mut response = Response::new(Reply::Events(Box::new(events)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Builds the response for a whole answer or for a failure of the engine. The receipt is in the head, because
/// everything that it covers is known.
fn with_receipt(
    answered: Result<(Whole, Outcome), Refusal>,
    meter: &Meter,
    mut entry: Entry,
) -> Response<Reply> {
    let (mut response, outcome) = match answered {
        Ok((body, outcome)) => (reply_whole(StatusCode::OK, body), outcome),
        Err(refusal) => {
            meter.failed();
            (refuse(&refusal), Outcome::Failed)
        }
    };
    if let Reply::Whole(body) = response.body() {
        entry.sent(body.bytes());
    }
    if let Some(receipt) = entry.header(outcome, meter.close()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(RECEIPT_HEADER), receipt);
    }
    response
}

fn envelope(service: &Service, kind: Kind, model: String) -> Result<Envelope, Refusal> {
    let random = keys::random::<12>().map_err(|_| {
        Refusal::unavailable("no_randomness", "The kernel gave no random identifier.")
    })?;
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let prefix = match kind {
        Kind::Chat => "chatcmpl",
        Kind::Completion => "cmpl",
    };
    let digest = service.attester.model_digest();
    Ok(Envelope {
        kind,
        id: format!("{prefix}-{}", hex::encode(*random)),
        created,
        model,
        fingerprint: format!("fp_{}", hex::encode(&digest.0[..6])),
    })
}

/// Reads a body of at most `limit` bytes until `deadline`, into memory that is wiped.
async fn read(
    request: Request<Incoming>,
    limit: usize,
    deadline: Instant,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut body = request.into_body();
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Refusal::too_large(limit));
    }
    // The announced length is allocated at once, so that no outgrown buffer keeps parts of a prompt.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(announced).unwrap_or(0)));
    let collect = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::body("The request body broke off."))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > limit {
                return Err(Refusal::too_large(limit));
            }
            if bytes.capacity() < bytes.len() + data.len() {
                let mut grown = Vec::with_capacity((bytes.len() + data.len()).next_power_of_two());
                grown.extend_from_slice(&bytes);
                bytes.zeroize();
                *bytes = grown;
            }
            bytes.extend_from_slice(&data);
        }
        Ok(())
    };
    timeout_at(deadline, collect)
        .await
        .map_err(|_| Refusal::slow())??;
    Ok(bytes)
}
