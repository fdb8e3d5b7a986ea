//! Both flavours against a broker of few words, which answers by a script and drops connections where the script says so.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may fail loudly")]

#[cfg(feature = "tokio")]
mod aio;
mod blocking;
#[cfg(feature = "tokio")]
mod books;
mod fake;
