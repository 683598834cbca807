//! A real VM with clients of every kind: those that verify it and talk, those that do not verify it,
//! and those that must refuse it.
//!
//! Booting takes most of the time, so one VM serves all steps, in this order.
//!
//! | module | what its tests show |
//! |---|---|
//! | `refused` | clients with other expectations send no prompt |
//! | `asked` | models, answers, streams, usage, and errors that name the field |
//! | `endpoint` | the local endpoint rejects unauthorised requests, and passes streams through |
//! | `connected` | OpenAI's own client through the program `cocoon connect` |

use std::path::Path;

use cocoon_protocol::binding::Tee;
use cocoon_tests::trial::{Model, Trial};

mod asked;
#[path = "../openai/clients.rs"]
#[expect(dead_code, reason = "the tests of OpenAI's clients use more of it")]
mod clients;
mod connected;
mod endpoint;
mod refused;
#[path = "../src/skip.rs"]
mod skip;
#[path = "../attestation/stranger.rs"]
#[expect(dead_code, reason = "the tests of connections use more of it")]
mod stranger;

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_serves_those_who_verify_it() {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let trial = Trial::new(demo, "serving", Tee::Tdx, Model::Alphabet).await;
    let vm = trial.unwrap().up().await.unwrap();

    // First, because the counter of requests must be zero afterwards.
    refused::other_manifest(&vm).await;
    refused::other_signer(&vm);
    refused::no_development_root(&vm).await;
    refused::nobody_asked(&vm).await;

    asked::verdict(&vm).await;
    asked::models(&vm).await;
    asked::whole_answers(&vm).await;
    asked::streams(&vm).await;
    asked::a_conversation(&vm).await;
    asked::fail_over(&vm).await;
    asked::unverified(&vm).await;
    asked::errors(&vm).await;
    asked::held_answers(&vm).await;

    endpoint::guarded_and_passed_through(&vm).await;
    connected::the_official_client_gets_what_it_expects(&vm).await;

    vm.vm.shutdown().await.unwrap();
}
