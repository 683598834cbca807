//! libFuzzer on [`cocoon_fuzz`]'s target `report_signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("report_signed", data));
