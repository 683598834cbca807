//! Appraisal tests: the simulator's evidence is judged by the code that clients use, and the attested TLS connection
//! that carries it is tested with the real client and guest agent.
//!
//! Every refusal is asserted by the check's id and its exact text. Tampering tests sign the changed bytes again with the
//! simulator's keys, because otherwise they would test nothing but the signature; `flipped` tests that once, for every field.
//!
//! | module | what its tests show |
//! |---|---|
//! | `accepted` | good evidence passes every check, and the verdict claims no more than its root supports |
//! | `roots` | development roots are trusted only where a policy names them |
//! | `manifests` | manifests that are refused |
//! | `bindings` | documents that are replayed, relayed or edited are refused |
//! | `batches` | evidence shared by several sessions, and batch positions that belong to other sessions |
//! | `launches` | another image, command line, machine or configuration is refused |
//! | `event_logs` | event logs that do not match the registers are refused |
//! | `tampered_tdx`, `tampered_snp` | each field of the reports, changed and signed again |
//! | `statements`, `tdx_module` | each field of Intel's signed statements, changed and signed again |
//! | `quoting` | PCK certificate and quoting enclave, changed and signed again |
//! | `version_5` | quotes of version 5, and the fields that TDX 1.5 adds |
//! | `snp_formats` | SEV-SNP reports of every version, processor generation and kind of key |
//! | `appraised` | evidence without a manifest, as `cocoon appraise` judges files |
//! | `flipped` | signed bytes changed without signing again |
//! | `collateral` | endorsements that are expired, not yet valid, stale, stripped, or another vendor's |
//! | `endorsers` | each piece of collateral from another platform or authority |
//! | `chips` | each extension of a chip's certificate, changed and certified again |
//! | `times` | the validity period of each certificate, revocation list and statement |
//! | `boot_times` | until which second the verdict on a boot document holds |
//! | `settings` | each field of policy and manifest, changed |
//! | `gpus`, `gpu_wire` | GPU evidence: good, malformed and exchanged, judged directly and over real TLS |
//! | `collector` | a GPU from its driver, through the collector process, to the agent's gate |
//! | `explained` | refusals that name exactly what was launched instead, where the image's files are available |
//! | `malformed`, `properties` | malformed data in every place, chosen and random |
//! | `certificates`, `connections` | SPEC.md §4 over real TLS: CERT, TLS and ATTEST |
//! | `kept` | another image and untimely endorsements over real TLS: no prompt is sent |

mod accepted;
mod appraised;
mod batches;
mod bindings;
mod boot_times;
mod certificates;
mod chips;
mod collateral;
mod collector;
mod connections;
mod endorsers;
mod event_logs;
mod explained;
mod flipped;
mod gpu_machine;
mod gpu_wire;
mod gpus;
mod guest;
mod hello;
mod image;
mod kept;
mod launches;
mod machine;
mod malformed;
mod manifests;
mod platform;
mod properties;
mod quoting;
mod rogue;
mod roots;
mod settings;
mod snp_chips;
mod snp_formats;
mod statements;
mod stranger;
mod tampered_snp;
mod tampered_tdx;
mod tdx_module;
mod times;
mod version_5;
