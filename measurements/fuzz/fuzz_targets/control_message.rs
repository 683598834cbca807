//! libFuzzer on [`cocoon_fuzz`]'s target `control_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("control_message", data));
