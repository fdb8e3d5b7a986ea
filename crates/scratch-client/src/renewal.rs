//! When a lease's ttl is renewed again, and what ends that. No I/O, no clock.

use std::time::Duration;

use crate::ClientError;

/// However short a ttl is.
const AFTER_MIN: Duration = Duration::from_millis(100);
/// However long it is: a broker that was away hears soon of who still needs the lease.
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// The course of renewing one lease.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// What was granted last.
    ttl: Duration,
}

impl Course {
    /// When it is renewed again: after a third of the ttl, or sooner where that failed. Never, where there is nothing to renew any
    /// more. Only the broker can say so: in one that was restarted a ttl starts anew.
    pub(crate) fn next(&mut self, renewed: &Result<Duration, ClientError>) -> Option<Duration> {
        match renewed {
            Ok(ttl) => {
                self.ttl = *ttl;
                Some((*ttl / 3).max(AFTER_MIN))
            }
            Err(error) if is_final(error) => None,
            Err(_) => Some((self.ttl / 3).clamp(AFTER_MIN, AGAIN_MAX)),
        }
    }
}

/// Whether trying again can't help.
fn is_final(error: &ClientError) -> bool {
    match error {
        // Too much of something, a deadline, a file system's trouble, a broker that stops.
        ClientError::Refused { code, .. } => !matches!(code, 4 | 8 | 13 | 14),
        ClientError::NoBroker { .. }
        | ClientError::NoProgram
        | ClientError::Start { .. }
        | ClientError::Io { .. }
        | ClientError::Closed { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rustix::io::Errno;

    use super::*;

    fn refused(code: u32) -> ClientError {
        ClientError::Refused { code, reason: String::new(), message: String::new(), metadata: HashMap::new() }
    }

    #[test]
    fn a_renewal_is_due_after_a_third_and_sooner_after_a_failure() {
        let mut course = Course::default();
        let lost = || Err(ClientError::io("receive from", "the broker", Errno::CONNRESET));
        assert_eq!(course.next(&lost()), Some(AFTER_MIN), "nothing was granted yet");
        assert_eq!(course.next(&Ok(Duration::from_secs(60))), Some(Duration::from_secs(20)));
        assert_eq!(course.next(&lost()), Some(AGAIN_MAX));
        assert_eq!(course.next(&Ok(Duration::from_millis(30))), Some(AFTER_MIN));
        assert_eq!(course.next(&Err(refused(8))), Some(AFTER_MIN), "LIMIT_RATE passes");
    }

    #[test]
    fn it_ends_where_the_lease_has_ended() {
        let mut course = Course::default();
        assert_eq!(course.next(&Err(refused(5))), None, "LEASE_UNKNOWN");
        assert_eq!(course.next(&Err(refused(9))), None, "LEASE_ENDING, NO_TTL");
        assert_eq!(course.next(&Err(ClientError::ChannelClosed)), None);
    }
}
