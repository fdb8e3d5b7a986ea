//! The log: tracing to standard error, for people or as JSON, a line an event.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `SCRATCHD_LOG` filters as tracing's EnvFilter does ("debug", "scratchd=trace"); the default is "info".
pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SCRATCHD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // It would tell of a line that can't be written (a full disk, a pipe whose reader is gone) there as well, and panic.
    let lines = lines.log_internal_errors(false);
    // An error: something else in this process logs already, which is as good.
    let _ = match format {
        LogFormat::Human => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
