//! The lengths of TLS records do not reveal an answer's text. Two answers with the same number of tokens have the same
//! multiset of lengths, streamed or complete, even if the agent held back parts of them.

use std::collections::BTreeSet;

use cocoon_tests::trial::Appliance;
use serde_json::{Value, json};

use crate::canaries::{attested, streamed_answer};
use crate::stranger::Connection;
use crate::wire::Wire;

const CHAT: &str = "/v1/chat/completions";

/// The text of an answer, and the sorted lengths of its records.
struct Answered {
    said: String,
    lengths: Vec<usize>,
}

/// A client, and the tapped wire that it uses.
struct Asking<'a> {
    connection: Connection,
    wire: &'a Wire,
    model: &'a str,
}

impl Asking<'_> {
    /// Requests an answer of exactly `tokens` tokens; the model never ends one earlier.
    async fn ask(&mut self, tokens: u32, fields: &Value) -> Answered {
        let mut body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": "Hi" }],
            "max_completion_tokens": tokens,
        });
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (streamed, body) = (body["stream"] == true, body.to_string());
        let mark = self.wire.mark();
        let said = match streamed {
            true => {
                let answer = streamed_answer(&mut self.connection, CHAT, &body).await;
                assert!(answer.contains("[DONE]"), "{answer}");
                let events = answer.split("data: ").filter_map(|event| {
                    let json = event.split("\n\n").next()?;
                    serde_json::from_str::<Value>(json).ok()
                });
                let content = |chunk: &Value| {
                    let choice = &chunk["choices"][0];
                    choice["delta"]["content"].as_str().map(str::to_owned)
                };
                events.filter_map(|chunk| content(&chunk)).collect()
            }
            false => {
                let (status, answer) = self.connection.ask("POST", CHAT, &body).await;
                assert_eq!(status, 200);
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let content = answer["choices"][0]["message"]["content"].as_str();
                content.unwrap().to_owned()
            }
        };
        let mut lengths = self.wire.lengths(mark);
        lengths.sort_unstable();
        Answered { said, lengths }
    }

    /// Returns answers to the same request with different texts, by using several seeds.
    async fn several(&mut self, fields: &Value) -> Vec<Answered> {
        let mut all = Vec::new();
        for seed in 1..=6 {
            let mut fields = fields.clone();
            (fields["seed"], fields["temperature"]) = (json!(seed), json!(2));
            all.push(self.ask(6, &fields).await);
        }
        all
    }

    /// Returns answers with the same number of tokens: the alphabet for `a`, and for any other letter that letter repeated.
    async fn told_and_held(&mut self, fields: &Value, letters: &[&str]) -> Vec<Answered> {
        let mut all = Vec::new();
        for letter in letters {
            let token = letter.as_bytes()[0].to_string();
            let mut fields = fields.clone();
            (fields["temperature"], fields["stream"]) = (json!(0), json!(true));
            if *letter != "a" {
                fields["logit_bias"] = json!({ token: 100 });
            }
            all.push(self.ask(110, &fields).await);
        }
        all
    }
}

/// Asserts that the answers have several texts, but the same lengths.
fn assert_alike(what: &str, answers: &[Answered]) {
    let texts: BTreeSet<&str> = answers.iter().map(|one| one.said.as_str()).collect();
    assert!(texts.len() > 1, "{what}: {texts:?}");
    for one in answers {
        assert_eq!(
            one.lengths, answers[0].lengths,
            "{what}: {:?} and {:?}",
            one.said, answers[0].said
        );
    }
}

/// Compares answers with the same number of tokens, made of single letters or long words. Without padding they differ.
pub async fn do_not_tell_tokens(vm: &Appliance) {
    let wire = Wire::tap(vm.vm.endpoint).await;
    let mut asking = Asking {
        connection: attested(&wire).await,
        wire: &wire,
        model: &vm.image.manifest.model.id,
    };
    assert_alike("streams", &asking.several(&json!({ "stream": true })).await);
    assert_alike("whole", &asking.several(&json!({})).await);
    // The stop string makes the agent hold back the alphabet's `b` for one token.
    let stop = json!({ "stop": ["bx"] });
    let answers = asking.told_and_held(&stop, &["a", "q", "b"]).await;
    assert_alike("a stop string", &answers);
    // With tools, the agent holds back a complete answer that begins like JSON.
    let function = json!({ "name": "f", "parameters": { "type": "object" } });
    let tools = json!({ "tools": [{ "type": "function", "function": function }] });
    let answers = asking.told_and_held(&tools, &["a", "q", "{"]).await;
    assert_alike("tools", &answers);

    // The check can fail: without padding the lengths differ.
    let open = json!({ "stream": true, "stream_options": { "include_obfuscation": false } });
    let open = asking.several(&open).await;
    let lengths: BTreeSet<&Vec<usize>> = open.iter().map(|one| &one.lengths).collect();
    assert!(lengths.len() > 2, "{lengths:?}");
}
