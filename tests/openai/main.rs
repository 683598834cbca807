//! The guest agent in this process over a simulated TEE, the real engine in another: OpenAI's own clients, for Python
//! and for Node, through the local endpoint of `cocoon connect`; what the engine does once a client has gone, and when a
//! prompt comes again.
//!
//! The clients are fetched from their registries under lock files, by hash, into the cache. Where a client or the engine
//! cannot be had, the test prints `SKIPPED` with the reason; with `COCOON_NO_SKIP=1` in the environment, as in
//! continuous integration, it fails. `COCOON_TEST_ENGINE` names an engine that is built already.

#[expect(dead_code, reason = "evaluation and performance use more of it")]
mod appliance;
mod clients;
#[path = "../attestation/image.rs"]
mod image;
mod leaving;
#[path = "../attestation/machine.rs"]
#[expect(dead_code, reason = "the tests of evidence use more of it")]
mod machine;
mod repeated;
#[path = "../src/skip.rs"]
mod skip;

use appliance::{Appliance, MODEL};
use clients::Client;

const TOKEN: &str = "a-token-that-a-person-chose";

#[tokio::test(flavor = "multi_thread")]
async fn the_official_clients_get_what_they_expect() {
    let Some(appliance) = clients::had("the engine", Appliance::alphabet().await) else {
        return;
    };
    let url = appliance::endpoint(&appliance, TOKEN).await.unwrap();
    for client in [Client::Python, Client::Node] {
        let installed = tokio::task::spawn_blocking(move || client.install());
        if let Some(installed) = clients::had(client.name(), installed.await.unwrap()) {
            let said = installed.run(&url, TOKEN, MODEL).await;
            assert!(said.success, "{}:\n{}", client.name(), said.output);
            // Every check says so, and none is left out.
            assert_eq!(said.checks, client.checks(), "{}", said.output);
        }
    }
}
