//! The local endpoint with a real VM.

use cocoon_client::{Endpoint, EndpointOptions, Token};
use cocoon_tests::trial::Appliance;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const TOKEN: &str = "a-token-that-a-person-chose";

/// Sends a request as an application does, and returns the whole response.
async fn ask(address: &str, headers: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

pub async fn guarded_and_passed_through(vm: &Appliance) {
    let options = EndpointOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Token::new(TOKEN).unwrap(),
    };
    let upstreams = vm.upstreams().unwrap();
    let endpoint = Endpoint::bind(upstreams, options).await.unwrap();
    let url = endpoint.base_url();
    let address = url
        .strip_prefix("http://")
        .and_then(|url| url.strip_suffix("/v1"))
        .unwrap()
        .to_owned();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(endpoint.serve(async { drop(stopped.await) }));

    let host = format!("host: {address}\r\n");
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    for (headers, status, code) in [
        (host.clone(), "401", "invalid_api_key"),
        (
            format!("{host}authorization: Bearer another-token-that-is-wrong\r\n"),
            "401",
            "invalid_api_key",
        ),
        (
            format!("host: evil.example\r\n{bearer}"),
            "403",
            "host_not_allowed",
        ),
        (
            format!("{host}{bearer}origin: https://evil.example\r\n"),
            "403",
            "origin_not_allowed",
        ),
    ] {
        let response = ask(&address, &headers, "GET", "/v1/models", "").await;
        let first = response.lines().next().unwrap_or_default();
        assert!(first.contains(status), "{headers}: {response}");
        assert!(response.contains(code), "{headers}: {response}");
    }

    let good = format!("{host}{bearer}content-type: application/json\r\n");
    let response = ask(&address, &good, "GET", "/v1/models", "").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("x-cocoon-verdict: simulated"));
    assert!(response.contains(&vm.image.manifest.model.id));

    let body = json!({
        "model": vm.image.manifest.model.id,
        "messages": [{ "role": "user", "content": "Hi" }],
        "max_tokens": 3,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let path = "/v1/chat/completions";
    let response = ask(&address, &good, "POST", path, &body.to_string()).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("content-type: text/event-stream"));
    for letter in ["\"a\"", "\"b\"", "\"c\""] {
        assert!(response.contains(&format!("\"content\":{letter}")));
    }
    assert!(response.contains("\"completion_tokens\":3"), "{response}");
    assert!(response.contains("data: [DONE]"), "{response}");

    let mut unknown = body.clone();
    unknown["temprature"] = json!(1);
    let response = ask(&address, &good, "POST", path, &unknown.to_string()).await;
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    assert!(response.contains("\"param\":\"temprature\""), "{response}");

    stop.send(()).unwrap();
    serving.await.unwrap();
}
