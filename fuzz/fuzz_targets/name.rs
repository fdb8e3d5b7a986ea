//! Names: whatever is let through is one component that stays where it is made.
#![no_main]

use std::ffi::CString;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use scratch_fs::{NAME_BYTES_MAX, NamePattern, check_name, split_area_path};
use scratch_lease::LeaseId;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
    chars: u8,
    name: &'a [u8],
    path: &'a [u8],
    id: &'a [u8],
}

fn is_component(name: &[u8]) -> bool {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    fits && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

fuzz_target!(|input: Input<'_>| {
    if let Ok(pattern) = NamePattern::new(input.prefix, input.suffix, usize::from(input.chars)) {
        let name = pattern.draw().expect("the kernel has random numbers");
        let name = name.to_bytes();
        assert!(is_component(name) && name.len() == pattern.length());
        assert!(name.starts_with(input.prefix) && name.ends_with(input.suffix));
    }
    assert_eq!(
        check_name(input.name).ok().as_deref().map(|name| name.to_bytes()),
        is_component(input.name).then_some(input.name)
    );
    if let Ok((parent, name)) = split_area_path(input.path) {
        let whole = [parent.clone().map(CString::into_bytes), Some(name.into_bytes())];
        let whole: Vec<Vec<u8>> = whole.into_iter().flatten().collect();
        assert_eq!(whole.join(&b'/'), input.path);
        assert!(input.path.split(|byte| *byte == b'/').all(is_component));
    }
    if let Ok(id) = LeaseId::from_bytes(input.id) {
        assert_eq!(id.as_str().as_bytes(), input.id);
    }
});
