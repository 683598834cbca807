//! Reference manifests: signatures, certificates, versions and the comparison of measurements.

use super::{Case, DRIVER, NOW, NVIDIA, OF_DRIVER, OF_VBIOS, VBIOS};
use crate::nvidia::simulated::{
    Identity, Key, ManifestParts, Role, Template,
    manifest::{Resource, signed},
    status::responder,
};

/// Returns the good case with `driver` as the driver's manifest.
fn with(driver: String) -> Case {
    let mut case = Case::good();
    case.rims[0] = driver;
    case
}

/// Returns the good case with the driver's manifest changed before it is signed.
pub(super) fn changed(edit: impl FnOnce(&mut ManifestParts)) -> Case {
    let mut parts = ManifestParts::new(DRIVER, &OF_DRIVER);
    edit(&mut parts);
    with(NVIDIA.manifest(&parts).unwrap())
}

/// Returns the good case with the driver's manifest changed after it was signed.
pub(super) fn edited(edit: impl FnOnce(&str) -> String) -> Case {
    let good = Case::good().rims[0].clone();
    let after = edit(&good);
    assert_ne!(after, good, "nothing was changed");
    with(after)
}

/// Returns the cause of the failed row `id`.
#[track_caller]
pub(super) fn cause(case: &Case, id: &str) -> String {
    let failed = case.failures();
    let row = failed.iter().find(|row| row.id == id);
    let row = row.unwrap_or_else(|| panic!("no {id} in {failed:#?}"));
    row.cause.clone().unwrap()
}

#[test]
fn cocoon_gpu_8() {
    let digest = "the reference manifest's signature is refused: the manifest's digest is not the one in its signature: it was changed after it was signed";
    let wrong = "the reference manifest's signature is refused: the signature on the manifest does not hold";
    for (from, to) in [
        ("active=\"True\"", "active=\"False\""),
        ("GH100\" tagId", "GH200\" tagId"),
        ("    <ns0:Entity", "   <ns0:Entity"),
    ] {
        assert_eq!(
            cause(&edited(|text| text.replacen(from, to, 1)), "gpu.rim.driver"),
            digest
        );
    }
    // The signature does not cover the notation: the order of attributes, and the short form of empty elements.
    let other = edited(|text| {
        text.replacen(
            "corpus=\"false\" name=\"GH100\"",
            "name='GH100'   corpus = \"false\"",
            1,
        )
        .replacen("></ns0:Entity>", " />", 1)
    });
    assert_eq!(other.failures(), []);

    let [root, values, above, signer] = &NVIDIA.manifests;
    let content = ManifestParts::new(DRIVER, &OF_DRIVER).canonical();
    let ders = |chain: [&Identity; 4]| chain.map(|identity| identity.certificate.clone());
    let sign = |key: &Key, chain: [&Identity; 4]| {
        let ders = ders(chain);
        with(signed(&content, key, &ders.each_ref().map(Vec::as_slice)))
    };
    assert_eq!(
        sign(&signer.key, [signer, above, values, root]).failures(),
        []
    );
    // The certificate of an OCSP responder may not sign manifests.
    let delegate = responder(above).unwrap();
    assert_eq!(
        cause(
            &sign(&delegate.key, [&delegate, above, values, root]),
            "gpu.rim.driver"
        ),
        "the certificate of the reference manifest's signer is not a certificate for this chain: it is for another purpose"
    );
    let stranger = Key::from_seed("stranger").unwrap();
    assert_eq!(
        cause(
            &sign(&stranger, [signer, above, values, root]),
            "gpu.rim.driver"
        ),
        wrong
    );
    // A stranger's certificate in front of NVIDIA's chain.
    let own = Template::new("CN=Own", Role::Signer)
        .self_signed(stranger.clone())
        .unwrap();
    let found = cause(
        &sign(&stranger, [&own, above, values, root]),
        "gpu.rim.driver",
    );
    assert_eq!(
        found,
        "the certificate of the reference manifest's signer names another issuer (CN=Own)"
    );
    let late = Template::new("CN=Late", Role::Signer)
        .valid((NOW - 2, NOW - 1))
        .issued(stranger.clone(), above)
        .unwrap();
    let found = cause(
        &sign(&stranger, [&late, above, values, root]),
        "gpu.rim.driver",
    );
    assert_eq!(
        found,
        format!(
            "the certificate of the reference manifest's signer was valid until {} (Unix time), and it is {NOW}: fetch a newer one",
            NOW - 1
        )
    );
    // The root for devices does not vouch for manifests.
    let [devices, ..] = &NVIDIA.devices;
    let found = cause(
        &sign(&signer.key, [signer, above, values, devices]),
        "gpu.rim.driver",
    );
    assert!(
        found.ends_with("names another issuer (O=NVIDIA,CN=Simulated CoRIM signing Root CA)"),
        "{found}"
    );
}

#[test]
fn cocoon_gpu_9() {
    for (place, version, id) in [
        (0, "550.144.04", "gpu.rim.driver"),
        (1, "96.00.5E.00.02", "gpu.rim.vbios"),
    ] {
        let mut case = Case::good();
        let active: &[u8] = if place == 0 { &OF_DRIVER } else { &OF_VBIOS };
        case.rims[place] = NVIDIA
            .manifest(&ManifestParts::new(version, active))
            .unwrap();
        let failed = case.failures();
        let row = failed.iter().find(|row| row.id == id).unwrap();
        let names = [
            "550.144.03 (NV_GPU_DRIVER_GH100_550.144.03)",
            "96.00.5E.00.01 (NV_GPU_VBIOS_1010_0200_882_96005E0001)",
        ];
        assert_eq!(row.expected.as_deref(), Some(names[place]));
        assert!(row.found.as_deref().unwrap().contains(version), "{row:#?}");
        assert!(
            row.cause
                .as_deref()
                .unwrap()
                .starts_with("no reference manifest of this version was presented")
        );
        assert_eq!(failed.last().unwrap().id, "gpu.measurements");
    }
    let mut none = Case::good();
    none.rims.clear();
    let failed = none.failures();
    assert_eq!(failed[0].found.as_deref(), Some("no manifest"));
    let lower = ManifestParts::new(&VBIOS.to_lowercase(), &OF_VBIOS);
    let mut case = Case::good();
    case.rims[1] = NVIDIA.manifest(&lower).unwrap();
    assert_eq!(case.failures(), [], "upper and lower case are one version");
    let case = changed(|parts| "GH200".clone_into(&mut parts.product));
    assert_eq!(
        cause(&case, "gpu.rim.driver"),
        "the manifest is for another chip"
    );
}

/// Of several manifests of one version, one that does not count leaves the others valid, and a report may agree with any
/// that counts.
#[test]
fn a_broken_manifest_hides_no_good_one() {
    let good = Case::good().rims[0].clone();
    let forged =
        edited(|text| text.replacen("active=\"True\"", "active=\"False\"", 1)).rims[0].clone();
    let digest = "the reference manifest's signature is refused: the manifest's digest is not the one in its signature: it was changed after it was signed";
    for place in 0..2 {
        let mut case = Case::good();
        case.rims.insert(place, forged.clone());
        assert_eq!(case.failures(), []);
        let checks = case.judge().checks;
        let causes = checks.iter().filter(|row| row.id == "gpu.rim.driver");
        let causes: Vec<_> = causes.filter_map(|row| row.cause.clone()).collect();
        let noted = format!("not used, because another manifest of this version counts: {digest}");
        assert_eq!(causes, [noted]);
    }
    // Two that do not count: both causes are shown.
    let other = changed(|parts| "GH200".clone_into(&mut parts.product)).rims[0].clone();
    let mut case = with(forged);
    case.rims.push(other.clone());
    let failed = case.failures();
    let causes = failed.iter().map(|row| row.cause.clone().unwrap());
    let causes: Vec<String> = causes.take(2).collect();
    assert_eq!(causes, [digest, "the manifest is for another chip"]);
    // Two that count, for boards with different measurements.
    let board = changed(|parts| parts.resources[1].digests = vec!["ab".repeat(48)]).rims[0].clone();
    for place in 0..2 {
        let mut case = Case::good();
        case.rims.insert(place, board.clone());
        assert_eq!(case.failures(), []);
    }
    let mut case = with(board.clone());
    case.rims.push(board);
    let row = &case.failures()[0];
    assert_eq!(row.title, "measurement 1 (driver, Measurement_1)");
    // A manifest that does not count has no influence on whether there is a lapse.
    let mut case = with(other);
    case.rims.push(good);
    case.ocsp.remove(0);
    assert!(case.judge().lapsed);
    // Without a manifest that counts, no measurement is compared, which is no lapse.
    case.rims.truncate(1);
    assert!(!case.judge().lapsed);
}

#[test]
fn cocoon_gpu_10() {
    // One measurement of each manifest is changed.
    for (block, name) in [
        (2, "measurement 1 (driver, Measurement_1)"),
        (41, "measurement 40 (VBIOS, Measurement_40)"),
    ] {
        let case = Case::reporting(|parts| parts.measurements[block - 1].3[0] ^= 1);
        let failed = case.failures();
        let ids: Vec<&str> = failed.iter().map(|row| row.id).collect();
        assert_eq!(ids, ["gpu.measurement", "gpu.measurements"]);
        assert_eq!(failed[0].title, name);
        assert_eq!(
            failed[0].expected,
            Some(hex::encode([u8::try_from(block).unwrap(); 48]))
        );
        assert_eq!(failed[1].found.as_deref(), Some("1 of 7 differ"));
    }
    // A measurement that no manifest expects is changed.
    assert_eq!(
        Case::reporting(|parts| parts.measurements[20].3[0] ^= 1).failures(),
        []
    );
    let case = Case::reporting(|parts| drop(parts.measurements.remove(1)));
    assert_eq!(
        case.failures()[0].found.as_deref(),
        Some("no such measurement")
    );
    let case = Case::reporting(|parts| parts.measurements[1].3.truncate(47));
    assert_eq!(case.failures()[0].id, "gpu.measurement");
    // The expected value is the second alternative.
    let alternative =
        |parts: &mut ManifestParts| parts.resources[1].digests.insert(0, "ab".repeat(48));
    assert_eq!(changed(alternative).failures(), []);
    // NVDEC0 is compared only where it is in use.
    let decoder = |state: u8| {
        Case::reporting(|parts| {
            parts.field(11)[0] = state;
            parts.measurements[35].3[0] ^= 1;
        })
    };
    assert_eq!(decoder(0x55).failures(), []);
    assert_eq!(
        decoder(0xaa).failures()[0].title,
        "measurement 35 (driver, Measurement_35)"
    );
    let silent = Case::reporting(|parts| {
        parts.opaque.retain(|(id, _)| *id != 11);
        parts.measurements[35].3[0] ^= 1;
    });
    assert_eq!(
        silent.failures()[0].id,
        "gpu.measurement",
        "not said is not off"
    );
    // Both manifests claim one measurement.
    let case = changed(|parts| {
        let digest = hex::encode([3; 48]);
        parts.resources[2] = Resource {
            active: "True".to_owned(),
            digests: vec![digest],
            ..parts.resources[2].clone()
        };
    });
    let row = case.failure();
    assert_eq!(
        (row.id, row.found.as_deref()),
        ("gpu.overlap", Some("measurement 2 in both"))
    );
}
