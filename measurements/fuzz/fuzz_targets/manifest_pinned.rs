//! libFuzzer on [`cocoon_fuzz`]'s target `manifest_pinned`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("manifest_pinned", data));
