//! libFuzzer on [`cocoon_fuzz`]'s target `firmware_snp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("firmware_snp", data));
