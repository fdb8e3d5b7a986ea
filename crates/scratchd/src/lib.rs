//! The broker: sockets → broker → lease decides → fs acts → reply.
//!
//! `channel` and `grpc` translate; `broker` and the verbs beside it (`grant`, `create`, `release`) carry out; `liveness`
//! and `reaper` do what follows when holders and trees end; `start` and `recover` begin.

mod attach;
mod behalf;
mod broker;
mod cgroup;
mod channel;
mod client;
mod clock;
mod config;
mod create;
mod debt;
mod delegate;
mod detach;
mod drain;
mod ended;
mod events;
mod foreign;
#[doc(hidden)]
pub mod fuzz;
mod grant;
mod grpc;
mod handles;
mod high_water;
mod holders;
mod keep;
mod keep_alive;
mod list;
mod liveness;
mod load;
mod log;
mod meter;
mod occupants;
mod options;
mod parked;
mod peer;
mod persist;
mod plan;
mod pools;
mod process;
mod quota;
mod ready;
mod reaper;
mod reason;
mod recover;
mod release;
mod rules;
mod search;
mod settings;
mod side;
mod sockets;
mod start;
mod store;
mod tamper;
mod tenants;
mod tickets;
mod translate;
mod turns;
mod undelete;
mod update;
mod verify;
mod watch;
mod why;

pub use config::{Backend, Config, ConfigError, LimitsConfig, PoolConfig, RestartConfig};
pub use log::LogFormat;
pub use options::DaemonOptions;
pub use start::{StartError, run};
