//! The extensions of a chip's certificate, each changed and certified again: a key for another TCB, another chip or
//! another kind does not verify the report.

use cocoon_simulator::snp::Tcb;
use cocoon_simulator::snp::identity::vcek_extensions;
use cocoon_simulator::snp::report::CHIP_ID;
use cocoon_simulator::x509;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::collateral::snp_with;
use crate::machine::{ROOTS, accepted, refused};

const AMD: &str = "1.3.6.1.4.1.3704.1";
const APART: &str = "the SNP report and its certificate do not belong together";

type Edit = fn(&mut Vec<Extension>);

fn oid(arc: &str) -> ObjectIdentifier {
    format!("{AMD}.{arc}").parse().unwrap()
}

fn find<'a>(extensions: &'a mut [Extension], arc: &str) -> &'a mut Extension {
    let oid = oid(arc);
    let mut found = extensions.iter_mut().filter(|one| one.extn_id == oid);
    found.next().unwrap()
}

fn say(extensions: &mut [Extension], arc: &str, content: &[u8]) {
    let said = x509::raw_extension(oid(arc), false, content.to_vec());
    *find(extensions, arc) = said.unwrap();
}

fn without(extensions: &mut Vec<Extension>, arc: &str) {
    let oid = oid(arc);
    extensions.retain(|one| one.extn_id != oid);
}

fn twice(extensions: &mut Vec<Extension>, arc: &str) {
    let again = find(extensions, arc).clone();
    extensions.push(again);
}

/// Returns the verdict on good evidence whose chip certificate has the extensions as changed by `edit`.
fn certified(edit: Edit) -> cocoon_measurements::verdict::Verdict {
    let mut extensions = vcek_extensions(ROOTS.amd.generation, &Tcb::CURRENT, &CHIP_ID).unwrap();
    edit(&mut extensions);
    let certificate = ROOTS.amd.certify_vcek_saying(extensions).unwrap();
    snp_with(|certificates, _| certificates[0] = certificate.into())
}

#[test]
fn each_extension_that_is_compared() {
    let other = |part: &str, reported: u8, certified: u8| {
        format!(
            "the {part} of the report is at {reported}, its certificate is for {certified}: fetch the certificate for the \
             reported TCB"
        )
    };
    let unread = |part: &str| format!("the VCEK or VLEK has no readable extension for the {part}");
    let edits: [(&str, Edit, String); 13] = [
        (
            "boot loader",
            |e| say(e, "3.1", &[2, 1, 3]),
            other("boot loader", 4, 3),
        ),
        ("TEE", |e| say(e, "3.2", &[2, 1, 1]), other("TEE", 0, 1)),
        (
            "SNP firmware",
            |e| say(e, "3.3", &[2, 1, 28]),
            other("SNP firmware", 27, 28),
        ),
        (
            "microcode",
            |e| say(e, "3.8", &[2, 2, 0, 0xdd]),
            other("microcode", 222, 221),
        ),
        (
            "no boot loader",
            |e| without(e, "3.1"),
            unread("boot loader"),
        ),
        ("no TEE", |e| without(e, "3.2"), unread("TEE")),
        (
            "no SNP firmware",
            |e| without(e, "3.3"),
            unread("SNP firmware"),
        ),
        ("no microcode", |e| without(e, "3.8"), unread("microcode")),
        ("no chip id", |e| without(e, "4"), unread("chip id")),
        // 260 and -34, whose last bytes equal those of 4 and 222.
        (
            "boot loader too long",
            |e| say(e, "3.1", &[2, 2, 1, 4]),
            unread("boot loader"),
        ),
        (
            "microcode negative",
            |e| say(e, "3.8", &[2, 1, 0xde]),
            unread("microcode"),
        ),
        (
            "another chip",
            |e| say(e, "4", &[0xc1; 64]),
            "the VCEK is not the one of the processor that made the report".into(),
        ),
        (
            "a provider's name makes a VLEK of it",
            |e| {
                let named = x509::raw_extension(oid("5"), false, x509::ia5("provider").unwrap());
                e.push(named.unwrap());
            },
            "the report was signed with a Vcek, the certificate is of the other kind".into(),
        ),
    ];
    for (name, edit, reason) in edits {
        println!("{name}");
        refused(
            &certified(edit),
            &[("evidence.signature", &format!("{APART}: {reason}"))],
        );
    }
}

/// A reader that takes the other one of the two would read another certificate.
#[test]
fn an_extension_that_stands_twice() {
    let edits: [(&str, Edit); 8] = [
        ("3.1", |e| twice(e, "3.1")),
        ("3.2", |e| twice(e, "3.2")),
        ("3.3", |e| twice(e, "3.3")),
        ("3.8", |e| twice(e, "3.8")),
        ("4", |e| twice(e, "4")),
        ("a patch level that is not judged: 3.7", |e| twice(e, "3.7")),
        ("other values: 4", |e| {
            let other = x509::raw_extension(oid("4"), false, vec![0xc1; 64]);
            e.push(other.unwrap());
        }),
        // Neither one nor none: it passed for a chip's.
        ("a provider's name: 5", |e| {
            let named = x509::raw_extension(oid("5"), false, x509::ia5("provider").unwrap());
            e.push(named.unwrap());
            twice(e, "5");
        }),
    ];
    for (name, edit) in edits {
        println!("{name}");
        let oid = oid(name.rsplit(": ").next().unwrap());
        let reason = format!(
            "the SNP report's certificates do not hold: the VCEK or VLEK has the extension {oid} twice"
        );
        refused(&certified(edit), &[("evidence.signature", &reason)]);
    }
}

/// The structure version, the stepping's name and the reserved TCB components do not affect the verdict. A change of
/// that must also change this test.
#[test]
fn extensions_that_are_not_judged() {
    let edits: [Edit; 5] = [
        |_| (),
        |e| say(e, "1", &[2, 1, 1]),
        |e| say(e, "2", &x509::ia5("Milan-B1").unwrap()),
        |e| say(e, "3.4", &[2, 1, 9]),
        |e| without(e, "3.5"),
    ];
    for edit in edits {
        accepted(&certified(edit));
    }
}
