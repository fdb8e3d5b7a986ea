//! Generated types and services of scratchd's public contract; no logic.
//! The comments in `proto/scratchd/v1/*.proto` are the documentation.

/// The contract's first version.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("scratchd.v1");
}

/// How many descriptors ride along with a message.
pub mod descriptors;

/// The compiled `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Most bytes of one packet on the handle channel.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Most descriptors of one packet on the handle channel; the kernel's own limit.
pub const PACKET_DESCRIPTORS_MAX: usize = 253;

/// Most areas of one Create.
pub const BATCH_MAX: u32 = 200;
