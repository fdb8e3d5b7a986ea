//! What the fuzz targets in fuzz/ reach of this crate's inside. Nobody's API.

use crate::marker::Marker;

/// Reads a marker.
///
/// # Panics
/// When it is another one after it was written.
pub fn marker(text: &str) {
    if let Ok(marker) = Marker::parse(text) {
        assert_eq!(Marker::parse(&marker.to_text()).ok(), Some(marker));
    }
}
