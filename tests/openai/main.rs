//! The guest agent in this process over a simulated TEE, with the real engine as another process. The tests run
//! OpenAI's own clients for Python and Node through the local endpoint of `cocoon connect`. They also show what the
//! engine does after a client has disconnected, and when a prompt is repeated.
//!
//! The clients are installed into the cache from their registries, from lock files with hashes. Where a client or the
//! engine cannot be obtained, the test prints `SKIPPED` with the reason; with `COCOON_NO_SKIP=1` in the environment, as
//! in continuous integration, it fails. `COCOON_TEST_ENGINE` names an engine that is already built.

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
            // Each check prints a line, so a missing one would be noticed.
            assert_eq!(said.checks, client.checks(), "{}", said.output);
        }
    }
}
