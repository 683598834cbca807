//! libFuzzer on [`cocoon_fuzz`]'s target `gpu_report_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("gpu_report_read", data));
