//! Evidence is mapped to the right items of collateral.

use super::*;

fn report(version: u8, family: u8, model: u8) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = version;
    report[0x188] = family;
    report[0x189] = model;
    report[0x180..0x188].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
    report[0x1a0..0x1e0].fill(0xab);
    report
}

fn request(evidence: Option<Evidence>) -> CollateralRequest {
    CollateralRequest {
        evidence,
        gpus: Vec::new(),
    }
}

fn snp(report: Vec<u8>) -> Result<Vec<Want>, WantError> {
    of(&request(Some(Evidence::SevSnp {
        report: Blob(report),
        certificates: Vec::new(),
    })))
}

#[test]
fn an_snp_report_names_chip_levels_and_generation() {
    for (family, model, expected) in [
        (0x19, 0x01, Some(Product::Milan)),
        (0x19, 0x11, Some(Product::Genoa)),
        (0x19, 0xa0, Some(Product::Genoa)),
        (0x1a, 0x02, Some(Product::Turin)),
        (0x17, 0x31, None),
    ] {
        let wants = snp(report(3, family, model)).unwrap();
        let [Want::Amd { product, chip, tcb }] = &wants[..] else {
            panic!("{wants:?}");
        };
        assert_eq!(*product, expected);
        assert_eq!((chip.0, tcb.0), ([0xab; 64], [4, 0, 0, 0, 0, 0, 24, 219]));
    }
    // A report of version 2 does not name the generation.
    assert!(matches!(
        snp(report(2, 0x19, 0x01)).unwrap()[..],
        [Want::Amd { product: None, .. }]
    ));
}

#[test]
fn a_report_that_nobody_can_be_asked_about_says_why() {
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut report = report(3, 0x19, 0x01);
        edit(&mut report);
        snp(report).unwrap_err()
    };
    assert_eq!(
        edited(|report| report.truncate(1183)),
        WantError::Report(1183)
    );
    assert_eq!(
        edited(|report| report[0x1a0..0x1e0].fill(0)),
        WantError::Masked
    );
    assert_eq!(edited(|report| report[0x48] = 1 << 2), WantError::Vlek);
    let quote = Evidence::Tdx {
        quote: Blob(vec![4, 0, 2, 0]),
        event_log: Blob::default(),
    };
    let error = of(&request(Some(quote))).unwrap_err().to_string();
    assert!(
        error.starts_with("the guest's quote names no platform that Intel could be asked about: "),
        "{error}"
    );
}

#[test]
fn wants_have_one_name_each_and_survive_their_file() {
    let wants = [
        Want::Intel {
            fmspc: Hex([0x50, 0x80, 0x6f, 0, 0, 0]),
            ca: PckCa::Platform,
        },
        Want::Amd {
            product: Some(Product::Turin),
            chip: Hex([1; 64]),
            tcb: Hex([2; 8]),
        },
        Want::Rim {
            name: "NV_GPU_DRIVER_GH100_550.144.03".into(),
        },
        Want::RimNames,
    ];
    let titles: Vec<String> = wants.iter().map(Want::title).collect();
    assert_eq!(
        titles,
        [
            "Intel, platforms 50806f000000 (platform)",
            "AMD, chip 010101010101… Turin, TCB 0202020202020202",
            "NVIDIA, manifest NV_GPU_DRIVER_GH100_550.144.03",
            "NVIDIA, names of manifests",
        ]
    );
    let keys: std::collections::BTreeSet<Hex32> = wants.iter().map(Want::key).collect();
    assert_eq!(keys.len(), wants.len());
    for want in wants {
        let json = serde_json::to_string(&want).unwrap();
        assert_eq!(serde_json::from_str::<Want>(&json).unwrap(), want);
        assert!(want.is_wellformed());
    }
    let path = Want::Rim {
        name: "NV_/../../x".into(),
    };
    assert!(!path.is_wellformed());
}

#[test]
fn a_version_is_looked_for_among_the_names() {
    let list = "NV_GPU_DRIVER_GH100_550.144.03\nNV_GPU_VBIOS_1010_0200_882_96005E0001\nNV_GPU_VBIOS_1010_0205_864_96005E0001";
    let found = names_of(list, Some("550.144.03"), Some("96.00.5e.00.01"));
    let (driver, vbios) = (&found[0], &found[1]);
    assert_eq!(
        (driver.0.as_str(), driver.1.len()),
        ("driver 550.144.03", 1)
    );
    assert_eq!(
        (vbios.0.as_str(), vbios.1.len()),
        ("VBIOS 96.00.5e.00.01", 2)
    );
    let none = names_of(list, Some("550.144.0"), Some("6.00.5E.00.01"));
    assert!(none.iter().all(|(_, names)| names.is_empty()), "{none:?}");
}
