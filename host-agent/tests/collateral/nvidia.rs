//! NVIDIA's collateral for a GPU: manifests and OCSP responses from a double that has them all, up to an accepting verdict.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_host_agent::collateral::{Gathered, Want};
use cocoon_measurements::nvidia::simulated::status::{self, Status, Times};
use cocoon_measurements::nvidia::simulated::{ManifestParts, Scene};
use cocoon_measurements::nvidia::{self, GpuDemand, GpuEvidence, fetching};
use cocoon_measurements::policy::Policy;
use cocoon_protocol::gpu::{CollateralRequest, GpuNeeds};
use serde_json::json;

use super::double::{Asked, Double, Reply};
use super::keeper;

pub const NOW: u64 = 1_780_000_000;
pub const DRIVER_RIM: &str = "NV_GPU_DRIVER_GH100_550.144.03";
pub const VBIOS_RIM: &str = "NV_GPU_VBIOS_1010_0200_882_96005E0001";

pub fn scene() -> Scene {
    Scene::at(NOW).expect("a scene")
}

pub fn policy(scene: &Scene) -> Policy {
    Policy {
        development_roots: scene.nvidia.roots(),
        ..Policy::default()
    }
}

pub fn needs(scene: &Scene) -> CollateralRequest {
    CollateralRequest {
        evidence: None,
        gpus: vec![GpuNeeds {
            driver_rim: DRIVER_RIM.into(),
            vbios_rim: VBIOS_RIM.into(),
            chain: scene.chain.clone(),
        }],
    }
}

/// Returns a manifest in the JSON object of NVIDIA's RIM service.
pub fn filed(manifest: &str) -> Reply {
    let rim = STANDARD.encode(manifest);
    let answer = json!({ "id": "x", "rim": rim, "rim_format": "TCG_RIM", "request_id": "y" });
    Reply::body(answer.to_string())
}

/// Returns the response to an OCSP request, or `None` if the request names none of the scene's certificates.
pub fn responded(scene: &Scene, asked: &Asked, status: Status, times: Times) -> Option<Vec<u8>> {
    let pairs = scene.nvidia.revocable(&scene.gpu);
    let (subject, issuer) = pairs.into_iter().find(|(subject, issuer)| {
        let request = fetching::request(&subject.certificate, &issuer.certificate);
        request.expect("a request") == asked.body
    })?;
    Some(status::response(subject, issuer, status, times).expect("a response"))
}

pub fn times() -> Times {
    Times {
        this_update: NOW - 3600,
        next_update: Some(NOW + 86_400),
    }
}

/// Starts a double that has everything for the scene.
pub fn everything() -> Double {
    let scene = scene();
    Double::start(move |asked| {
        let (method, path) = asked.line.split_once(' ').expect("a request line");
        match (method, path.rsplit('/').next().expect("a path")) {
            ("GET", DRIVER_RIM) => filed(&scene.rims[0]),
            ("GET", VBIOS_RIM) => filed(&scene.rims[1]),
            ("GET", "ids") => Reply::body(
                json!({ "ids": [VBIOS_RIM, "NV_NIC_FIRMWARE_CX7_1", DRIVER_RIM] }).to_string(),
            ),
            ("POST", "ocsp") => match responded(&scene, asked, Status::Good, times()) {
                Some(response) => Reply::body(response),
                None => Reply::Status(400),
            },
            _ => Reply::Status(404),
        }
    })
}

#[test]
fn a_gpus_collateral_is_gathered_and_clients_accept_it() {
    let (double, scene) = (everything(), scene());
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let gathered = keeper.gather(&needs(&scene), NOW).unwrap();
    assert_eq!(gathered.missing, []);
    assert_eq!(gathered.collateral, None);
    let gpu = gathered.gpu.unwrap();
    assert_eq!(gpu.check(), Ok(()));
    assert_eq!(gpu.rims, scene.rims);
    // Three for the GPU's certificates, and three for those of the manifests, which both manifests share.
    assert_eq!(gpu.ocsp.len(), 6);
    let asked = double.take();
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(lines.len(), 8, "{lines:?}");
    assert!(lines.contains(&format!("GET /v1/rim/{DRIVER_RIM}").as_str()));
    assert!(lines.contains(&format!("GET /v1/rim/{VBIOS_RIM}").as_str()));
    for post in asked.iter().filter(|asked| asked.line == "POST /ocsp") {
        let head = post.head.to_lowercase();
        assert!(
            head.contains("content-type: application/ocsp-request"),
            "{head}"
        );
    }
    // The collateral leads to an accepting verdict.
    let report = scene.report();
    let evidence = GpuEvidence {
        report: &report,
        chain: scene.chain.as_bytes(),
        driver: None,
    };
    let rims: Vec<&[u8]> = gpu.rims.iter().map(|rim| rim.as_bytes()).collect();
    let ocsp: Vec<&[u8]> = gpu.ocsp.iter().map(|response| &response.0[..]).collect();
    let collateral = nvidia::GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    let demand = GpuDemand {
        nonce: Scene::NONCE,
        count: Some(1),
        driver_state: false,
    };
    let verdict = nvidia::appraise(&[evidence], &collateral, &demand, &policy(&scene), NOW);
    assert!(!verdict.is_rejected(), "{:#?}", verdict.checks);
}

#[test]
fn what_is_kept_is_not_asked_for_again_until_it_is_time() {
    let (double, scene) = (everything(), scene());
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let first = keeper.gather(&needs(&scene), NOW).unwrap();
    assert_eq!(double.take().len(), 8);
    // Responses are renewed after twelve hours or half of their remaining validity, here a day: both are twelve hours.
    assert_eq!(first.next, NOW + 43_200);
    let again = keeper.gather(&needs(&scene), first.next - 1).unwrap();
    assert_eq!((double.lines(), again), (vec![], first.clone()));
    let renewed = keeper.gather(&needs(&scene), first.next).unwrap();
    let lines = double.lines();
    assert_eq!(lines, vec!["POST /ocsp"; 6]);
    assert_eq!(renewed.gpu, first.gpu);
}

/// While the service is gone, what is kept stays in use until it expires, and requests become less frequent.
#[test]
fn what_cannot_be_renewed_serves_until_it_ends() {
    let (double, scene) = (everything(), scene());
    let (folder, first) = keeper(&double, policy(&scene));
    let good = first.gather(&needs(&scene), NOW).unwrap();
    let gone = Double::start(|_| Reply::Status(503));
    let keeper = super::keeper_in(folder.path(), &gone, policy(&scene));
    let later = keeper.gather(&needs(&scene), NOW + 50_000).unwrap();
    assert_eq!((&later.gpu, &later.missing), (&good.gpu, &vec![]));
    assert_eq!(later.next, NOW + 50_030, "the first pause");
    assert_eq!(gone.take().len(), 6);
    let waiting = keeper.gather(&needs(&scene), NOW + 50_029).unwrap();
    assert_eq!((gone.take().len(), &waiting.gpu), (0, &good.gpu));
    // The responses expire after a day; manifests do not expire.
    let ended = keeper.gather(&needs(&scene), NOW + 86_401).unwrap();
    let gpu = ended.gpu.unwrap();
    assert_eq!(
        (gpu.rims.len(), gpu.ocsp.len(), ended.missing.len()),
        (2, 0, 6)
    );
    for (title, why) in &ended.missing {
        assert!(title.starts_with("NVIDIA, revocation of "), "{title}");
        assert_eq!(*why, format!("{}/ocsp: HTTP status 503", gone.url()));
    }
}

/// A response without `nextUpdate` is kept for as long as clients accept it.
#[test]
fn a_response_without_an_end_is_kept_for_a_week() {
    let made = times().this_update;
    let double = Double::start(move |asked| {
        let open = Times {
            this_update: made,
            next_update: None,
        };
        let response = responded(&scene(), asked, Status::Good, open);
        response.map_or(Reply::Status(404), Reply::body)
    });
    let (folder, first) = keeper(&double, policy(&scene()));
    let good = first.gather(&needs(&scene()), NOW).unwrap();
    let responses = |gathered: &Gathered| gathered.gpu.as_ref().map_or(0, |gpu| gpu.ocsp.len());
    assert_eq!(responses(&good), 3);
    let gone = Double::start(|_| Reply::Status(503));
    let keeper = super::keeper_in(folder.path(), &gone, policy(&scene()));
    let end = made + 7 * 86_400;
    let kept = keeper.gather(&needs(&scene()), end).unwrap();
    assert_eq!(responses(&kept), 3);
    let asked = |lines: Vec<String>| lines.iter().filter(|line| *line == "POST /ocsp").count();
    assert_eq!(asked(gone.lines()), 3, "they are renewed as all are");
    let ended = keeper.gather(&needs(&scene()), end + 1).unwrap();
    assert_eq!(responses(&ended), 0);
    // A response that is already that old on arrival is refused.
    let late = Double::start(move |asked| {
        let old = Times {
            this_update: NOW - 7 * 86_400 - 1,
            next_update: None,
        };
        let response = responded(&scene(), asked, Status::Good, old);
        response.map_or(Reply::Status(404), Reply::body)
    });
    let (_folder, keeper) = super::keeper(&late, policy(&scene()));
    let gathered = keeper.gather(&needs(&scene()), NOW).unwrap();
    let why = format!(
        "the OCSP response from NVIDIA is good from {} to {} (Unix time), and it is {NOW}: check this machine's clock, or ask again \
         later",
        NOW - 7 * 86_400 - 1,
        NOW - 1
    );
    let refused = gathered.missing.iter().filter(|(_, told)| *told == why);
    assert_eq!(refused.count(), 3, "{:?}", gathered.missing);
}

#[test]
fn a_version_without_a_manifest_is_named() {
    let scene = scene();
    let double = Double::start(|_| Reply::Status(404));
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let gathered = keeper.gather(&needs(&scene), NOW).unwrap();
    let rim = Want::Rim {
        name: VBIOS_RIM.into(),
    };
    let why = gathered
        .missing
        .iter()
        .find_map(|(title, why)| (*title == rim.title()).then_some(why.as_str()));
    assert_eq!(
        why,
        Some(&*format!(
            "NVIDIA has none: {}/v1/rim/{VBIOS_RIM} answers 404; there is nothing to compare this driver or VBIOS with: use a \
             version that NVIDIA released for confidential computing",
            double.url()
        ))
    );
    assert_eq!(gathered.gpu, None);
}

/// Verifiers judge whether a certificate is revoked, so the host passes such a response on.
#[test]
fn that_a_certificate_is_revoked_is_handed_on() {
    let scene = scene();
    let answering = self::scene();
    let double = Double::start(move |asked| {
        match responded(&answering, asked, Status::Revoked(NOW - 7200), times()) {
            Some(response) => Reply::body(response),
            None if asked.line.ends_with(DRIVER_RIM) => filed(&answering.rims[0]),
            None => filed(&answering.rims[1]),
        }
    });
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let gathered = keeper.gather(&needs(&scene), NOW).unwrap();
    assert_eq!(gathered.missing, []);
    assert_eq!(gathered.gpu.unwrap().ocsp.len(), 6);
}

/// The API key that NVIDIA may require is sent with requests for manifests, and is read from its file each time.
#[test]
fn a_key_is_sent_where_it_belongs() {
    let (double, scene) = (everything(), scene());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let services = cocoon_host_agent::collateral::Services {
        nvidia_key_file: Some(file.clone()),
        ..super::services(&double)
    };
    let store = cocoon_host_agent::collateral::Store::open(folder.path()).unwrap();
    let client = cocoon_host_agent::collateral::http::Client::default();
    let keeper =
        cocoon_host_agent::collateral::Keeper::new(store, services, client, policy(&scene));
    let want = Want::Rim {
        name: DRIVER_RIM.into(),
    };
    assert_eq!(
        keeper.fetch(&want, NOW).unwrap_err().to_string(),
        "nvidia_key_file names no file with one key in it: write it there, or leave the name out"
    );
    std::fs::write(&file, "nvapi-123\n").unwrap();
    keeper.fetch(&want, NOW).unwrap();
    let [asked] = &double.take()[..] else {
        panic!("asked more than once");
    };
    let head = asked.head.to_lowercase();
    assert!(head.contains("authorization: bearer nvapi-123"), "{head}");
}

#[test]
fn names_of_manifests_are_kept_without_those_of_other_things() {
    let double = everything();
    let (_folder, keeper) = keeper(&double, Policy::default());
    keeper.fetch(&Want::RimNames, NOW).unwrap();
    let (_, list) = keeper.store.get(&Want::RimNames).unwrap();
    assert_eq!(
        String::from_utf8(list).unwrap(),
        format!("{DRIVER_RIM}\n{VBIOS_RIM}")
    );
}

/// A manifest of another version is refused, although the service returns it under this name.
#[test]
fn a_manifest_has_to_be_of_the_version_in_its_name() {
    let scene = scene();
    let other = scene
        .nvidia
        .manifest(&ManifestParts::new("550.54.14", &Scene::OF_DRIVER))
        .unwrap();
    let double = Double::start(move |_| filed(&other));
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let want = Want::Rim {
        name: DRIVER_RIM.into(),
    };
    assert_eq!(
        keeper.fetch(&want, NOW).unwrap_err().to_string(),
        "the reference manifest from NVIDIA is not what it should be: it is of version \"550.54.14\""
    );
}
