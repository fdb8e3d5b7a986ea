//! The broker: sockets → broker → lease decides → fs acts → reply.
//!
//! `channel` and `grpc` translate; `broker` and the verbs beside it (`grant`, `create`, `release`) carry out; `liveness`
//! and `reaper` do what follows when holders and trees end; `start` and `recover` begin.

mod attach;
mod broker;
mod channel;
mod client;
mod clock;
mod config;
mod create;
mod debt;
mod detach;
mod drain;
mod ended;
mod grant;
mod grpc;
mod holders;
mod keep_alive;
mod list;
mod liveness;
mod load;
mod log;
mod occupants;
mod options;
mod peer;
mod persist;
mod plan;
mod process;
mod ready;
mod reaper;
mod reason;
mod recover;
mod release;
mod search;
mod settings;
mod side;
mod sockets;
mod start;
mod tamper;
mod tickets;
mod translate;
mod update;
mod verify;
mod watch;

pub use config::{Backend, Config, ConfigError, LimitsConfig, PoolConfig, RestartConfig};
pub use log::LogFormat;
pub use options::DaemonOptions;
pub use start::{StartError, run};
