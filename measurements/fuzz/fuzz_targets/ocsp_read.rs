//! libFuzzer on [`cocoon_fuzz`]'s target `ocsp_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("ocsp_read", data));
