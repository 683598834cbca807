//! libFuzzer on [`cocoon_fuzz`]'s target `ocsp_signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("ocsp_signed", data));
