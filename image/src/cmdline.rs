//! Fragment: the kernel's command line. It is measured, so the image configures the kernel there.

use cocoon_protocol::bytes::Hex32;
use thiserror::Error;

/// Largest command line, in bytes. Linux on x86 ignores everything after `COMMAND_LINE_SIZE` (2048 bytes), and the firmware
/// adds `initrd=initrd `.
pub const MAX_LEN: usize = 2048 - 32;

/// Tokens of every variant except those in [`WITHOUT`], each with its reason.
pub const TOKENS: &[(&str, &str)] = &[
    (
        "console=ttyS0",
        "the agent's boot phases and the one line of a failed boot; QEMU's serial port works everywhere",
    ),
    (
        "quiet",
        "the console is the host's to read: the kernel's own messages stay off it",
    ),
    (
        "loglevel=3",
        "of the kernel's messages only those before a halt reach the console, never one about a process",
    ),
    (
        "panic=-1",
        "a panicked guest restarts at once, which QEMU turns into its end: nothing lingers in memory",
    ),
    (
        "oops=panic",
        "after a kernel fault nothing the guest promised can be relied on",
    ),
    (
        "module.sig_enforce=1",
        "only modules signed by the kernel's maker load, whatever else happens before the lock",
    ),
    (
        "lockdown=confidentiality",
        "not even PID 1 can read or change kernel memory, so no exploit of it can either",
    ),
    (
        "random.trust_cpu=on",
        "RDRAND is the only source that the host does not control",
    ),
    (
        "random.trust_bootloader=off",
        "a seed from the firmware could be the host's",
    ),
    (
        "init_on_alloc=1",
        "memory never shows a former owner's data",
    ),
    (
        "init_on_free=1",
        "prompts and answers do not outlive the memory that held them",
    ),
    (
        "slab_nomerge",
        "kernel objects of different kinds do not share slabs, which makes heap faults harder to use",
    ),
    (
        "vsyscall=none",
        "nothing in the image needs the fixed executable page",
    ),
    (
        "debugfs=off",
        "nothing in the image needs it, and it shows kernel internals",
    ),
    (
        "ipv6.disable=1",
        "one IPv4 address over the control channel; no router advertisement configures the guest",
    ),
];

/// Name of the token for the model volume, and its reason.
pub const MODEL_TOKEN: (&str, &str) = (
    "cocoon.model",
    "the model's identifier, dm-verity root, salt and size, so that the weights are measured",
);

/// Name of the token for the GPUs, in variants that have some, and its reason.
pub const GPU_TOKEN: (&str, &str) = (
    "cocoon.gpu",
    "whose GPUs the guest verifies before it serves, so that no host makes real ones of simulated ones",
);

/// Name of the token for the runtime volume, in variants that have one, and its reason.
pub const RUNTIME_TOKEN: (&str, &str) = (
    "cocoon.runtime",
    "dm-verity root, salt and size of the volume with the programs that use the GPUs, so that they are measured",
);

/// Additional tokens of a variant with real GPUs, each with its reason.
pub const GPU_TOKENS: &[(&str, &str)] = &[(
    "swiotlb=524288",
    "1 GiB of memory that the host may see, through which everything encrypted crosses to a GPU; others need a few MiB. The \
     kernel takes it in one piece below 4 GiB, where QEMU's machine has 2 GiB in all, and halves what it cannot have",
)];

/// Tokens that a variant with real GPUs lacks: the token, the name of what is missing in the manifest, and the reason.
pub const WITHOUT: &[(&str, &str, &str)] = &[
    (
        "module.sig_enforce=1",
        "signatures of kernel modules",
        "NVIDIA's modules are compiled with the image and signed by nobody whose key the kernel holds: only what the \
         measured initrd holds is there to be loaded, and after it nothing is",
    ),
    (
        "lockdown=confidentiality",
        "kernel lockdown from the start",
        "it would refuse modules without a signature: the guest raises it after the last of them, before it talks to the \
         host",
    ),
];

/// Why a command line cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// The model's identifier has characters that could be read as another token, or an invalid length.
    #[error(
        "{id:?} cannot be a model's identifier: use 1 to 64 of the characters a-z, 0-9, '.', '_' and '-' (--model-id)"
    )]
    ModelId {
        /// The identifier, at most 80 characters of it.
        id: String,
    },
    /// The command line has this many bytes, and Linux would truncate it.
    #[error("the command line has {0} bytes, more than the {MAX_LEN} that the kernel surely keeps")]
    TooLong(usize),
}

/// The model volume, as the command line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelToken<'a> {
    /// Identifier of the model in the API.
    pub id: &'a str,
    /// dm-verity root hash.
    pub root: Hex32,
    /// dm-verity salt.
    pub salt: Hex32,
    /// Number of data blocks of 4096 bytes.
    pub data_blocks: u64,
}

/// The runtime volume, as the command line describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeToken {
    /// dm-verity root hash.
    pub root: Hex32,
    /// dm-verity salt.
    pub salt: Hex32,
    /// Number of data blocks of 4096 bytes.
    pub data_blocks: u64,
}

/// Returns the whole command line, as QEMU gets it with `-append`. `gpus` describes the variant's GPUs, if it has some;
/// `runtime` describes the runtime volume, if the GPUs are real.
///
/// # Errors
/// [`CmdlineError`] when the model's identifier is not valid or the line is too long.
pub fn build(
    model: &ModelToken<'_>,
    gpus: Option<&str>,
    runtime: Option<&RuntimeToken>,
) -> Result<String, CmdlineError> {
    check_model_id(model.id)?;
    let without =
        |token: &str| runtime.is_some() && WITHOUT.iter().any(|(word, ..)| *word == token);
    let more = GPU_TOKENS.iter().filter(|_| runtime.is_some());
    let mut line: Vec<String> = TOKENS
        .iter()
        .filter(|(token, _)| !without(token))
        .chain(more)
        .map(|(token, _)| (*token).to_owned())
        .collect();
    let ModelToken {
        id,
        root,
        salt,
        data_blocks,
    } = model;
    line.extend(gpus.map(|gpus| format!("{}={gpus}", GPU_TOKEN.0)));
    line.extend(runtime.map(|runtime| {
        let RuntimeToken {
            root,
            salt,
            data_blocks,
        } = runtime;
        format!("{}={root}:{salt}:{data_blocks}", RUNTIME_TOKEN.0)
    }));
    line.push(format!(
        "{}={id}:{root}:{salt}:{data_blocks}",
        MODEL_TOKEN.0
    ));
    let line = line.join(" ");
    if line.len() > MAX_LEN {
        return Err(CmdlineError::TooLong(line.len()));
    }
    Ok(line)
}

/// Checks that `id` is a valid model identifier.
///
/// # Errors
/// [`CmdlineError::ModelId`] when it is not.
pub fn check_model_id(id: &str) -> Result<(), CmdlineError> {
    let fits =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if id.is_empty() || id.len() > 64 || !id.chars().all(fits) {
        return Err(CmdlineError::ModelId {
            id: id.chars().take(80).collect(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str) -> ModelToken<'_> {
        ModelToken {
            id,
            root: Hex32::ZERO,
            salt: Hex32::sha256(b"salt"),
            data_blocks: 12,
        }
    }

    #[test]
    fn every_token_has_a_reason() {
        let named = [&MODEL_TOKEN, &GPU_TOKEN, &RUNTIME_TOKEN];
        for (token, reason) in TOKENS.iter().chain(GPU_TOKENS).chain(named) {
            assert!(reason.trim().len() > 10, "{token} has no reason");
            assert!(
                !token.contains(char::is_whitespace),
                "{token} is more than one token"
            );
        }
    }

    #[test]
    fn ends_with_the_model() {
        let line = build(&model("tiny-1.q4_1"), None, None).unwrap();
        let salt = Hex32::sha256(b"salt");
        assert!(
            line.ends_with(&format!(
                " cocoon.model=tiny-1.q4_1:{}:{salt}:12",
                Hex32::ZERO
            )),
            "{line}"
        );
        assert!(line.starts_with("console=ttyS0 quiet "), "{line}");
        assert!(!line.contains(GPU_TOKEN.0), "{line}");
        let line = build(&model("tiny-1.q4_1"), Some("simulated:1"), None).unwrap();
        assert!(
            line.contains(" cocoon.gpu=simulated:1 cocoon.model="),
            "{line}"
        );
    }

    #[test]
    fn real_gpus_cost_exactly_what_the_manifest_says() {
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        let runtime = RuntimeToken {
            root: Hex32::sha256(b"root"),
            salt: Hex32::ZERO,
            data_blocks: 7,
        };
        let plain = words(&build(&model("m"), None, None).unwrap());
        let with = words(&build(&model("m"), Some("nvidia"), Some(&runtime)).unwrap());
        let lost: Vec<&String> = plain.iter().filter(|word| !with.contains(word)).collect();
        let named: Vec<&str> = WITHOUT.iter().map(|(token, ..)| *token).collect();
        assert_eq!(lost, named);
        let gained: Vec<&String> = with.iter().filter(|word| !plain.contains(word)).collect();
        let volume = format!("cocoon.runtime={}:{}:7", runtime.root, runtime.salt);
        assert_eq!(gained, ["swiotlb=524288", "cocoon.gpu=nvidia", &volume]);
        for (token, name, reason) in WITHOUT {
            assert!(TOKENS.iter().any(|(word, _)| word == token), "{token}");
            assert!(name.len() > 8 && reason.len() > 20, "{token}");
        }
    }

    #[test]
    fn an_identifier_cannot_smuggle_a_token() {
        for id in ["", "a b", "a:b", "A", "a\n", "ü"] {
            assert_eq!(
                build(&model(id), None, None),
                Err(CmdlineError::ModelId { id: id.to_owned() })
            );
        }
    }
}
