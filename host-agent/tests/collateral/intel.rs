//! Intel's collateral for a real machine's quote: a double of Intel's service answers with Intel's real documents.

use std::collections::HashMap;

use cocoon_host_agent::collateral::{Want, want};
use cocoon_host_agent::text::chain;
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::tdx::quote;
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::gpu::CollateralRequest;
use serde_json::{Value, json};

use super::double::{Double, Reply};
use super::{keeper, vector};

/// A time at which all of the documents are valid.
const NOW: u64 = 1_752_048_802;

/// Headers and body of an answer.
type Answered = (Vec<(&'static str, String)>, Vec<u8>);

struct Real {
    quote: Vec<u8>,
    documents: HashMap<String, Value>,
}

fn real() -> Option<Real> {
    let documents = vector("tdx/dcapqvl_tdx_quote_collateral.json")?;
    Some(Real {
        quote: vector("tdx/dcapqvl_tdx_quote")?,
        documents: serde_json::from_slice(&documents).unwrap(),
    })
}

impl Real {
    fn text(&self, name: &str) -> &str {
        self.documents[name].as_str().unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let text = self.text(name);
        let bytes = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
        bytes
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    fn request(&self) -> CollateralRequest {
        CollateralRequest {
            evidence: Some(Evidence::Tdx {
                quote: Blob(self.quote.clone()),
                event_log: Blob::default(),
            }),
            gpus: Vec::new(),
        }
    }

    /// Starts a service with these documents. `edit` may change the answer for the path that it is given.
    fn double(self, edit: impl Fn(&str, Reply) -> Reply + Send + 'static) -> Double {
        // Intel's service percent-encodes the issuer chains in its headers.
        let chain = |name: &str| self.text(name).replace('\n', "%0A").replace(' ', "%20");
        let signed = |inner: &str, key: &str, signature: &str| {
            format!(
                "{{\"{inner}\":{},\"signature\":\"{}\"}}",
                self.text(key),
                self.text(signature)
            )
        };
        let answers: HashMap<&str, Answered> = HashMap::from([
            (
                "/tdx/certification/v4/tcb",
                (
                    vec![("TCB-Info-Issuer-Chain", chain("tcb_info_issuer_chain"))],
                    signed("tcbInfo", "tcb_info", "tcb_info_signature").into_bytes(),
                ),
            ),
            (
                "/tdx/certification/v4/qe/identity",
                (
                    vec![(
                        "SGX-Enclave-Identity-Issuer-Chain",
                        chain("qe_identity_issuer_chain"),
                    )],
                    signed("enclaveIdentity", "qe_identity", "qe_identity_signature").into_bytes(),
                ),
            ),
            (
                "/sgx/certification/v4/pckcrl",
                (
                    vec![("SGX-PCK-CRL-Issuer-Chain", chain("pck_crl_issuer_chain"))],
                    self.bytes("pck_crl"),
                ),
            ),
            ("/root.der", (Vec::new(), self.bytes("root_ca_crl"))),
        ]);
        Double::start(move |asked| {
            let path = asked.line.trim_start_matches("GET ");
            let path = path.split('?').next().unwrap();
            let reply = answers
                .get(path)
                .map_or(Reply::Status(404), |(headers, body)| {
                    Reply::Good(headers.clone(), body.clone())
                });
            edit(path, reply)
        })
    }
}

#[test]
fn a_quotes_collateral_is_gathered_and_verifiers_accept_it() {
    let Some(real) = real() else { return };
    let (quote, request) = (real.quote.clone(), real.request());
    let double = real.double(|_, reply| reply);
    let (_folder, keeper) = keeper(&double, Default::default());
    let gathered = keeper.gather(&request, NOW).unwrap();
    assert_eq!(gathered.missing, []);
    let [Want::Intel { fmspc, ca }] = &want::of(&request).unwrap()[..] else {
        panic!("not Intel's");
    };
    assert_eq!(
        double.lines(),
        [
            format!("GET /tdx/certification/v4/tcb?fmspc={fmspc}&update=standard"),
            "GET /tdx/certification/v4/qe/identity?update=standard".to_owned(),
            format!(
                "GET /sgx/certification/v4/pckcrl?ca={}&encoding=der",
                ca.name()
            ),
            "GET /root.der".to_owned(),
        ]
    );
    let Some(Collateral::Tdx { json }) = gathered.collateral else {
        panic!("no collateral");
    };
    // The signatures hold only if the bytes are exactly those that Intel signed.
    let policy = TcbPolicy::judged_by_caller();
    quote::verify(&quote, &json.0, &TrustRoot::Vendor, &policy, NOW).unwrap();
    // Intel's documents are renewed after a day.
    assert_eq!(gathered.next, NOW + 86_400);
}

#[test]
fn documents_that_are_not_what_was_asked_for() {
    const TCB: &str = "/tdx/certification/v4/tcb";
    type Edit = fn(&str, Reply) -> Reply;
    let other_platform: Edit = |path, reply| match (path, reply) {
        (TCB, Reply::Good(headers, body)) => {
            let mut value: Value = serde_json::from_slice(&body).unwrap();
            value["tcbInfo"]["fmspc"] = json!("00A067110000");
            Reply::Good(headers, value.to_string().into_bytes())
        }
        (_, reply) => reply,
    };
    let no_chain: Edit = |path, reply| match (path, reply) {
        (TCB, Reply::Good(_, body)) => Reply::body(body),
        (_, reply) => reply,
    };
    let unknown: Edit = |path, reply| {
        if path == TCB {
            Reply::Status(404)
        } else {
            reply
        }
    };
    let no_list: Edit = |path, reply| {
        if path == "/root.der" {
            Reply::body("x")
        } else {
            reply
        }
    };
    for (edit, expected) in [
        (
            other_platform,
            "the TCB info from Intel is not what it should be: it is for platforms \"00A067110000\", and ",
        ),
        (no_chain, "URL/tdx/certification/v4/tcb?fmspc="),
        (
            unknown,
            "Intel has none: URL/tdx/certification/v4/tcb?fmspc=",
        ),
        (
            no_list,
            "the revocation list of the root from Intel is not what it should be: ",
        ),
    ] {
        let Some(real) = real() else { return };
        let request = real.request();
        let double = real.double(edit);
        let (_folder, keeper) = keeper(&double, Default::default());
        let gathered = keeper.gather(&request, NOW).unwrap();
        assert_eq!(gathered.collateral, None);
        let [(title, why)] = &gathered.missing[..] else {
            panic!("{:?}", gathered.missing);
        };
        assert!(title.starts_with("Intel, platforms "), "{title}");
        let why = why.replace(&double.url(), "URL");
        assert!(why.starts_with(expected), "{why}");
    }
}

#[test]
fn documents_that_have_ended_are_not_kept() {
    let Some(real) = real() else { return };
    let wants = want::of(&real.request()).unwrap();
    let double = real.double(|_, reply| reply);
    let (_folder, keeper) = keeper(&double, Default::default());
    let late = NOW + 90 * 86_400;
    let error = chain(&keeper.fetch(&wants[0], late).unwrap_err());
    assert!(
        error.starts_with("the TCB info from Intel is good from "),
        "{error}"
    );
    assert!(
        error.ends_with(&format!(
            " (Unix time), and it is {late}: check this machine's clock, or ask again later"
        )),
        "{error}"
    );
    assert_eq!(keeper.store.entries(), []);
}
