//! Any text is taken or refused as an SRS configuration, without harm.
#![no_main]
use forwarder::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Config::from_srs_conf(text);
});
