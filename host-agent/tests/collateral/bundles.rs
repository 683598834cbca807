//! A bundle carries the requests of a machine without access to one that fetches the items, and the answers back.

use cocoon_host_agent::collateral::Want;
use cocoon_host_agent::collateral::bundle::{Bundle, Imported};
use cocoon_host_agent::collateral::keeper::FetchError;
use cocoon_host_agent::text::chain;
use serde_json::{Value, json};

use super::double::{Double, Reply};
use super::keeper;
use super::nvidia::{NOW, everything, needs, policy, scene};

#[test]
fn what_one_machine_lacks_another_fetches_for_it() {
    let scene = scene();
    // Without a network every request fails, and the failures are remembered.
    let nowhere = Double::start(|_| Reply::Status(503));
    let (_folder, alone) = keeper(&nowhere, policy(&scene));
    assert_eq!(alone.gather(&needs(&scene), NOW).unwrap().gpu, None);
    let asked = Bundle::parse(&Bundle::of(&alone).to_json()).unwrap();
    assert_eq!((asked.filled(), asked.wants().count()), (0, 5));

    let everything = everything();
    let (_folder, connected) = keeper(&everything, policy(&scene));
    for want in asked.wants() {
        connected.fetch(want, NOW + 10).unwrap();
    }
    // Gathering also fetches the responses for the manifests' own certificates.
    connected.gather(&needs(&scene), NOW + 10).unwrap();
    let brought = Bundle::parse(&Bundle::of(&connected).to_json()).unwrap();
    assert_eq!(brought.filled(), 8);

    let kept = |outcomes: Vec<(Want, Result<Imported, FetchError>)>| -> Vec<Imported> {
        let outcomes = outcomes.into_iter();
        outcomes.map(|(_, outcome)| outcome.unwrap()).collect()
    };
    assert_eq!(
        kept(brought.clone().import(&alone, NOW + 20)),
        [Imported::Kept; 8]
    );
    assert_eq!(kept(brought.import(&alone, NOW + 20)), [Imported::Older; 8]);
    nowhere.take();
    let gathered = alone.gather(&needs(&scene), NOW + 20).unwrap();
    assert_eq!((nowhere.take(), gathered.missing), (vec![], vec![]));
    let gpu = gathered.gpu.unwrap();
    assert_eq!((gpu.rims, gpu.ocsp.len()), (scene.rims, 6));
}

/// The contents of a bundle pass the same checks as answers from a vendor.
#[test]
fn what_was_changed_on_the_way_is_refused() {
    let scene = scene();
    let everything = everything();
    let (_folder, connected) = keeper(&everything, policy(&scene));
    connected.gather(&needs(&scene), NOW).unwrap();
    let mut file: Value = serde_json::from_slice(&Bundle::of(&connected).to_json()).unwrap();
    let items = file["items"].as_array_mut().unwrap();
    let (rim, other) = (items[0]["bytes"].clone(), items[1]["bytes"].clone());
    (items[0]["bytes"], items[1]["bytes"]) = (other, rim);
    let (_folder, fresh) = keeper(&everything, policy(&scene));
    let bundle = Bundle::parse(file.to_string().as_bytes()).unwrap();
    let refused: Vec<String> = bundle
        .import(&fresh, NOW)
        .into_iter()
        .filter_map(|(_, outcome)| Some(chain(&outcome.err()?)))
        .collect();
    assert_eq!(
        refused,
        ["96.00.5E.00.01", "550.144.03"].map(|version| format!(
            "the reference manifest from NVIDIA is not what it should be: it is of version {version:?}"
        ))
    );
    assert_eq!(fresh.store.entries().len(), 6);
}

#[test]
fn a_file_that_is_no_bundle_is_refused() {
    let refused = |value: Value| {
        Bundle::parse(value.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(json!({ "version": 2, "items": [] })),
        "this bundle has version 2, this release reads version 1: export it again with the same release"
    );
    let item = json!({ "want": { "kind": "rim", "name": "../../x" } });
    assert_eq!(
        refused(json!({ "version": 1, "items": [item] })),
        "this is no bundle of collateral: NVIDIA, manifest ../../x cannot be asked for"
    );
    let names = json!({ "want": { "kind": "rim-names" } });
    assert_eq!(
        refused(json!({ "version": 1, "items": vec![names; 4097] })),
        "this bundle has 4097 items, at most 4096 are read"
    );
    assert!(
        refused(json!([])).starts_with("this is no bundle of collateral: "),
        "another shape"
    );
}
