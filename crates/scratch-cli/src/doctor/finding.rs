//! What a check has found.

use crate::exit;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// Good to know.
    Note,
    /// It works, and may not for long.
    Warn,
    /// It does not work; with the exit code that says so.
    Fail(u8),
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

impl Verdict {
    /// As the result has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail(_) => "fail",
        }
    }
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, text)
    }

    pub(super) fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, text)
    }

    pub(super) fn warn(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, text)
    }

    /// Of the broker.
    pub(super) fn broker_fails(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail(exit::UNAVAILABLE), text)
    }

    /// Somebody else's where the broker should be.
    pub(super) fn foreign(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail(exit::NOT_PERMITTED), text)
    }

    /// Of the machine.
    pub(super) fn fails(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail(exit::SOFTWARE), text)
    }

    pub(super) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn new(check: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Self { check, verdict, text: text.into(), remedy: None }
    }
}

/// That of the worst failure: whom not to trust comes first, then whether there is a broker.
pub(super) fn exit_code(findings: &[Finding]) -> Option<u8> {
    let codes: Vec<u8> = findings
        .iter()
        .filter_map(|finding| match finding.verdict {
            Verdict::Fail(code) => Some(code),
            Verdict::Ok | Verdict::Note | Verdict::Warn => None,
        })
        .collect();
    [exit::NOT_PERMITTED, exit::UNAVAILABLE]
        .into_iter()
        .find(|code| codes.contains(code))
        .or_else(|| codes.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_failure_gives_the_exit_code() {
        let (fine, machine) = (Finding::ok("a", ""), Finding::fails("b", ""));
        let (broker, foreign) = (Finding::broker_fails("c", ""), Finding::foreign("d", ""));
        assert_eq!(exit_code(&[fine.clone(), Finding::note("e", ""), Finding::warn("f", "")]), None);
        assert_eq!(exit_code(&[fine, machine.clone()]), Some(70));
        assert_eq!(exit_code(&[machine.clone(), broker.clone()]), Some(69));
        assert_eq!(exit_code(&[machine, broker, foreign]), Some(77));
    }
}
