//! AMD's Key Distribution Service (AMD 57230): a chip's certificate (VCEK) at its patch levels, the ASK and ARK certificates,
//! and their revocation list.

use cocoon_measurements::der;
use cocoon_measurements::snp::report::certificates_from_pem;
use cocoon_protocol::bytes::{Blob, Hex, Hex64};
use cocoon_protocol::document::Collateral;
use x509_cert::Certificate;
use x509_cert::der::oid::ObjectIdentifier;

use super::http::{Client, HttpError};
use super::want::Product;
use super::{CollateralError, Dates, Services, intel, wrong};

const AMD: &str = "AMD";
const VCEK: &str = "the chip's certificate";
const CHAIN: &str = "the chain of authorities";
const CRL: &str = "the revocation list";
const ALL: &str = "the collateral";
const LIMIT: usize = 256 << 10;

/// OID of the extension that holds the chip's identifier (AMD 57230, table "VCEK Certificate Fields").
const HARDWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// Requests all three documents. If the report names no generation, tries Milan, then Genoa: their older reports lack it.
pub(super) fn fetch(
    client: &Client,
    services: &Services,
    product: Option<Product>,
    chip: &Hex64,
    tcb: &Hex<8>,
) -> Result<Vec<u8>, CollateralError> {
    let Some(product) = product else {
        let tried = fetch(client, services, Some(Product::Milan), chip, tcb);
        return match tried {
            Err(CollateralError::None { .. }) => {
                fetch(client, services, Some(Product::Genoa), chip, tcb)
            }
            other => other,
        };
    };
    let base = format!(
        "{}/vcek/v1/{}",
        services.amd.trim_end_matches('/'),
        product.name()
    );
    let get = |url: String, advice| {
        let answer = client.get(&url, LIMIT, None);
        answer
            .map(|answer| answer.body)
            .map_err(|error| match error {
                HttpError::Status { url, status: 404 } => CollateralError::None {
                    vendor: AMD,
                    url,
                    advice,
                },
                other => other.into(),
            })
    };
    let unknown = "AMD knows no such chip at these patch levels: a firmware newer than its certificate, or a chip of another generation";
    let vcek = get(format!("{base}/{}", path(product, chip, tcb)), unknown)?;
    let chain = get(
        format!("{base}/cert_chain"),
        "check the address of the service",
    )?;
    let crl = get(format!("{base}/crl"), "check the address of the service")?;
    let above = certificates_from_pem(&chain)
        .map_err(|error| wrong(CHAIN, AMD)(crate::text::chain(&error)))?;
    let certificates = std::iter::once(vcek).chain(above).map(Blob).collect();
    let collateral = Collateral::SevSnp {
        certificates,
        crl: Some(Blob(crl)),
    };
    serde_json::to_vec(&collateral).map_err(|error| wrong(ALL, AMD)(error.to_string()))
}

/// The service's path for a chip at its patch levels.
fn path(product: Product, chip: &Hex64, tcb: &Hex<8>) -> String {
    let [b0, b1, b2, b3, _, _, b6, b7] = tcb.0;
    let chip = chip.to_string();
    match product {
        Product::Milan | Product::Genoa => {
            format!("{chip}?blSPL={b0}&teeSPL={b1}&snpSPL={b6}&ucodeSPL={b7}")
        }
        // Turin has chip identifiers of eight bytes and another layout of the patch levels.
        Product::Turin => {
            let chip = &chip[..16];
            format!("{chip}?fmcSPL={b0}&blSPL={b1}&teeSPL={b2}&snpSPL={b3}&ucodeSPL={b7}")
        }
    }
}

/// Checks that `bytes` are collateral of this chip, valid at `now`.
pub(super) fn check(bytes: &[u8], chip: &Hex64, now: u64) -> Result<Dates, CollateralError> {
    let parsed = serde_json::from_slice::<Collateral>(bytes);
    let (certificates, list) = match parsed {
        Ok(Collateral::SevSnp {
            certificates,
            crl: Some(crl),
        }) => (certificates, crl),
        Ok(_) => return Err(wrong(ALL, AMD)("it is of another kind".to_owned())),
        Err(error) => return Err(wrong(ALL, AMD)(error.to_string())),
    };
    let mut all = vec![intel::crl(&list.0, CRL, AMD)?.hold(CRL, AMD, now)?];
    let [vek, above @ ..] = &certificates[..] else {
        return Err(wrong(VCEK, AMD)("there is none".to_owned()));
    };
    let vek = certificate(vek, VCEK)?;
    if !names(&vek, chip) {
        let why = "it is another chip's, or names none";
        return Err(wrong(VCEK, AMD)(why.to_owned()));
    }
    all.push(dates(&vek).hold(VCEK, AMD, now)?);
    if above.len() != 2 {
        let why = format!("it has {} certificates, 2 are expected", above.len());
        return Err(wrong(CHAIN, AMD)(why));
    }
    for der in above {
        all.push(dates(&certificate(der, CHAIN)?).hold(CHAIN, AMD, now)?);
    }
    Ok(Dates {
        made: all.first().map_or(0, |dates| dates.made),
        due: all.iter().map(|dates| dates.due).min().unwrap_or(0),
    })
}

fn certificate(der: &Blob, what: &'static str) -> Result<Certificate, CollateralError> {
    der::decode(&der.0).map_err(|error| wrong(what, AMD)(error.to_string()))
}

/// Whether the certificate is of this chip. Turin's certificates hold the first eight bytes of the identifier.
fn names(vek: &Certificate, chip: &Hex64) -> bool {
    let extensions = vek.tbs_certificate.extensions.as_deref();
    let id = extensions
        .unwrap_or_default()
        .iter()
        .find(|extension| extension.extn_id == HARDWARE_ID)
        .map(|extension| extension.extn_value.as_bytes());
    id.is_some_and(|id| [8, 64].contains(&id.len()) && chip.0.starts_with(id))
}

fn dates(certificate: &Certificate) -> Dates {
    let validity = &certificate.tbs_certificate.validity;
    Dates {
        made: validity.not_before.to_unix_duration().as_secs(),
        due: validity.not_after.to_unix_duration().as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_is_asked_for_as_the_service_documents_it() {
        let mut chip = [0xab; 64];
        chip[0] = 0x01;
        let (chip, tcb) = (Hex(chip), Hex([3, 1, 2, 9, 0, 0, 23, 209]));
        let number = chip.to_string();
        for product in [Product::Milan, Product::Genoa] {
            assert_eq!(
                path(product, &chip, &tcb),
                format!("{number}?blSPL=3&teeSPL=1&snpSPL=23&ucodeSPL=209")
            );
        }
        assert_eq!(
            path(Product::Turin, &chip, &tcb),
            "01ababababababab?fmcSPL=3&blSPL=1&teeSPL=2&snpSPL=9&ucodeSPL=209"
        );
    }
}
