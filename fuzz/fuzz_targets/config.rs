//! A configuration file: refused with its place, or taken with limits that make sense.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use scratchd::Config;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, Path::new("/etc/scratchd.toml")) {
        Ok(config) => {
            assert!(!config.pool.is_empty());
            let _ = config.lease_limits();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
