//! libFuzzer on [`cocoon_fuzz`]'s target `envelope_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("envelope_read", data));
