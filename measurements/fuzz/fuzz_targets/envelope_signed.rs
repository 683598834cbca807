//! libFuzzer on [`cocoon_fuzz`]'s target `envelope_signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("envelope_signed", data));
