//! How far something is that takes its time: one line on standard error, written anew each second. Only on a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::pin::pin;
use std::time::Duration;

/// How often there is something new to see.
const PERIOD: Duration = Duration::from_secs(1);
/// Goes to the line's start and clears it.
const ERASE: &str = "\r\x1b[K";

/// Waits for `done`. While it takes, what `look` answers is shown.
pub(crate) async fn show_while<T>(done: impl Future<Output = T>, mut look: impl AsyncFnMut() -> Option<String>) -> T {
    if !stderr().is_terminal() {
        return done.await;
    }
    let mut done = pin!(done);
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            biased;
            result = &mut done => {
                write(ERASE);
                return result;
            }
            _ = period.tick() => {
                if let Some(line) = look().await {
                    write(&format!("{ERASE}{line}"));
                }
            }
        }
    }
}

fn write(text: &str) {
    let mut terminal = stderr();
    // Ignoring: where the terminal is gone there is nobody to tell.
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}
