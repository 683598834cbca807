//! libFuzzer on [`cocoon_fuzz`]'s target `certificates_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("certificates_read", data));
