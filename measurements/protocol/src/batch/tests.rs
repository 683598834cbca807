//! Tests of the tree against published values, and of every position in batches of every size.

use super::*;
use crate::binding::{Claims, Freshness, Tee, boot, session};
use proptest::prelude::*;

fn claims() -> Claims {
    Claims {
        tee: Tee::Tdx,
        leaf_spki_sha256: Hex([1; 32]),
        meter_key: Hex([2; 32]),
        manifest_id: Hex([3; 32]),
        model_digest: Hex([4; 32]),
        config_digest: Hex([5; 48]),
        gpu_section_digest: Hex([6; 32]),
    }
}

fn binding_of(nonce: u8, exporter: u8) -> [u8; BINDING_LEN] {
    let fresh = Freshness {
        nonce: Hex([nonce; 32]),
        exporter: Hex([exporter; 32]),
    };
    session(&claims(), &fresh)
}

/// Session bindings of `count` different sessions.
fn waiting(count: u8) -> Vec<[u8; BINDING_LEN]> {
    (0..count)
        .map(|i| binding_of(7 + 2 * i, 8 + 2 * i))
        .collect()
}

/// The example of SPEC.md §2.1, whose values come from an independent implementation.
#[test]
fn cocoon_batch_1() {
    let bindings = waiting(3);
    let shared = share(&bindings).unwrap();
    assert_eq!(
        shared.report_data.to_string(),
        "1b015fbf725945474ed514f1d97424b799761a32ade674e6283e807012cf87e0\
         2e68ec4ffe0f73ae9fc62d7c1a53563be919dc84ca76fa757b7e152568e51803"
    );
    let leaves = [
        "ff847ad5ad10f064d4ffc33724dcd499fe0f8df77164f274ad9531353dd093bb",
        "6ffd87fd1634c937f66a4a606c5145143d14843602789cb94fb29b7297596b1f",
        "584f56040571d32fe9fc9a71cd2d8cfc1ac8a65923ef7b5183b9d4c4bcab81bb",
    ];
    let left = "bd13b49a5b1ccd1f3cf0cb5342a63fc929e73ad2c335301c6ac2a53b100513ea";
    let paths = [
        vec![leaves[1], leaves[2]],
        vec![leaves[0], leaves[2]],
        vec![left],
    ];
    for ((index, path), place) in (0..).zip(paths).zip(shared.places) {
        let place = place.unwrap();
        let found: Vec<String> = place.path.iter().map(Hex32::to_string).collect();
        assert_eq!((place.leaves, place.index), (3, index));
        assert_eq!(found, path);
    }
}

/// Compares with the roots that Certificate Transparency implementations publish for RFC 6962 trees.
#[test]
fn the_tree_is_that_of_certificate_transparency() {
    let data = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let leaves: Vec<Hex32> = data
        .iter()
        .map(|text| leaf(&hex::decode(text).unwrap()))
        .collect();
    for (count, expected) in (1..).zip(roots) {
        assert_eq!(root(&leaves[..count]).to_string(), expected);
    }
}

/// A single session is bound as if batches did not exist, and a batch has at most `MAX_LEAVES` sessions.
#[test]
fn cocoon_batch_2() {
    let bindings = waiting(33);
    let alone = share(&bindings[..1]).unwrap();
    assert_eq!(alone.report_data, binding::report_data(&bindings[0]));
    assert_eq!(alone.places, [None]);
    assert!(share(&[]).is_none());
    assert!(share(&bindings).is_none());
    let full = share(&bindings[..MAX_LEAVES]).unwrap();
    let paths = full.places.iter().flatten().map(|place| place.path.len());
    assert!(paths.eq([5; MAX_LEAVES]));
}

/// Hashes of leaves, of nodes and of whole batches cannot be confused with each other or with a single binding.
#[test]
fn no_hash_has_two_meanings() {
    let bindings = waiting(4);
    let shared = share(&bindings).unwrap();
    let (left, right) = (
        root(&[leaf(&bindings[0]), leaf(&bindings[1])]),
        leaf(&bindings[2]),
    );
    // A leaf and a node over the same 64 bytes differ because their prefix bytes differ.
    let mut as_leaf = [0; 64];
    as_leaf[..32].copy_from_slice(&left.0);
    as_leaf[32..].copy_from_slice(&right.0);
    assert_ne!(leaf(&as_leaf), node(&left, &right));
    // The number of leaves is hashed too: with another number the same root gives other report data.
    let top = root(&bindings.iter().map(|one| leaf(one)).collect::<Vec<_>>());
    assert_eq!(digest(&commitment(4, &top)), shared.report_data);
    assert_ne!(digest(&commitment(2, &top)), shared.report_data);
    for binding in bindings.iter().chain([&boot(&claims())]) {
        assert_ne!(binding::report_data(binding), shared.report_data);
    }
}

proptest! {
    /// The path of each position leads to the root. No other position and no altered path does.
    #[test]
    fn every_place_is_its_bindings_alone(count in 2..=32_u8, at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), bit in 0..256_usize) {
        let bindings = waiting(count);
        let shared = share(&bindings).unwrap();
        let at = at.index(bindings.len());
        let place = shared.places[at].clone().unwrap();
        prop_assert_eq!(place.report_data(&bindings[at]), Ok(shared.report_data));
        let other = other.index(bindings.len());
        if other != at {
            prop_assert_ne!(place.report_data(&bindings[other]), Ok(shared.report_data));
            let moved = Batch { index: u16::try_from(other).unwrap(), ..place.clone() };
            prop_assert_ne!(moved.report_data(&bindings[at]), Ok(shared.report_data));
        }
        for leaves in (0..=40).filter(|leaves| *leaves != place.leaves) {
            let grown = Batch { leaves, ..place.clone() };
            prop_assert_ne!(grown.report_data(&bindings[at]), Ok(shared.report_data));
        }
        for step in 0..place.path.len() {
            let mut bent = place.clone();
            bent.path[step].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(bent.report_data(&bindings[at]), Ok(shared.report_data));
        }
    }
}

/// The GPUs are asked once per batch. Each session derives the same nonce from its own binding, even though its GPU digest has
/// been filled in since.
#[test]
fn cocoon_batch_6() {
    let bare = |number: u8| {
        let claims = Claims {
            gpu_section_digest: Hex32::ZERO,
            ..claims()
        };
        let fresh = Freshness {
            nonce: Hex([7 + 2 * number; 32]),
            exporter: Hex([8 + 2 * number; 32]),
        };
        session(&claims, &fresh)
    };
    let asked = share(&[bare(0), bare(1), bare(2)]).unwrap();
    // The example of SPEC.md §2.2, whose value comes from an independent implementation.
    assert_eq!(
        asked.gpu_nonce.to_string(),
        "e68a6ddb5366836c49287063998a2e5a1de706f76540238ed138d05eddcaae40"
    );
    for (binding, place) in waiting(3).iter().zip(&asked.places) {
        let place = place.as_ref().unwrap();
        assert_eq!(place.gpu_nonce(binding), Ok(asked.gpu_nonce));
        // Another binding gives another nonce, and so does the binding outside the batch.
        assert_ne!(place.gpu_nonce(&binding_of(99, 99)), Ok(asked.gpu_nonce));
        assert_ne!(binding::gpu_nonce(binding), asked.gpu_nonce);
    }
    let alone = share(&[bare(0)]).unwrap();
    assert_eq!(alone.gpu_nonce, binding::gpu_nonce(&binding_of(7, 8)));
}
