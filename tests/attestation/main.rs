//! What evidence is worth: the simulator's, judged by the code that clients judge with, and the attested TLS
//! connection that carries it.
//!
//! Every refusal is asserted by the id of the check and its exact words. Tampering signs anew with the simulator's
//! keys, because changing signed bytes tests nothing but the signature; that is tested once, for every field.
//!
//! | module | promises |
//! |---|---|
//! | `accepted` | good evidence is accepted for what it is, and never for more |
//! | `roots` | development roots count where they are named, and nowhere else |
//! | `manifests` | manifests that do not count |
//! | `bindings` | replayed, relayed and edited documents |
//! | `batches` | evidence that sessions share, and places in it that are not theirs |
//! | `launches` | another image, command line, machine or configuration |
//! | `event_logs` | logs that lie |
//! | `tampered_tdx`, `tampered_snp` | each field of the reports, signed anew |
//! | `statements`, `tdx_module` | each field of what Intel states, signed anew |
//! | `quoting` | what PCK certificate and quoting enclave say, changed and signed anew |
//! | `version_5` | quotes of version 5, and what TDX 1.5 adds to them |
//! | `snp_formats` | SEV-SNP reports of every version, generation and kind of key |
//! | `appraised` | the same without a manifest, as `cocoon appraise` judges files |
//! | `flipped` | signed bytes changed without signing anew |
//! | `collateral` | endorsements that are late, early, stale, stripped, the other vendor's |
//! | `endorsers` | each piece of them, from another platform or authority |
//! | `chips` | what the certificate of a chip says, changed and certified anew |
//! | `times` | each certificate, list and statement too early, too late and in its time |
//! | `boot_times` | until which second the verdict on a boot document holds |
//! | `settings` | each field of policy and manifest, changed |
//! | `gpus`, `gpu_wire` | GPUs: good ones, every bad form, exchanged ones, judged and over real TLS |
//! | `collector` | a GPU from its driver, through the process that holds it, to the agent's gate |
//! | `explained` | what was started instead, named exactly where the image's files are at hand |
//! | `malformed`, `properties` | rubbish in every place, and any at all |
//! | `certificates`, `connections` | SPEC.md §4 over real TLS: CERT, TLS and ATTEST |
//! | `kept` | another image and late endorsements over real TLS: no prompt leaves |

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
