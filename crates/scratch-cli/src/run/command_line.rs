//! The options of `scratch run`.

use std::ffi::OsString;
use std::time::Duration;

use super::failure::Failure;
use crate::argument;

/// Run CMD under a lease of its own: its temporary files are gone when it and all that it left running have ended
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The pool to take the lease from; else the first configured one
    #[arg(long, value_name = "POOL")]
    pub(super) pool: Option<String>,
    /// End the lease after this time at the latest, as in 90s or 2h. CMD is not killed
    #[arg(long, value_name = "DURATION", value_parser = argument::duration)]
    pub(super) ttl: Option<Duration>,
    /// For people and for `scratch ls`; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = argument::label)]
    pub(super) labels: Vec<(String, String)>,
    /// Keep the directory for this time if CMD fails or is killed, or if this program is; 1h without a time
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1h",
        value_parser = argument::duration
    )]
    pub(super) keep_on_failure: Option<Duration>,
    /// The lease may be ended when the pool is too full, where that is configured; CMD is not killed
    #[arg(long)]
    pub(super) preemptible: bool,
    /// CMD finds its directory also as /tmp and /var/tmp, which nobody else does
    #[arg(long)]
    pub(super) private_tmp: bool,
    #[command(flatten)]
    later: LaterOptions,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

/// Options that have their place in the contract and are refused until they do what they say.
#[derive(Debug, clap::Args)]
struct LaterOptions {
    /// Not in this version
    #[arg(long, value_name = "BYTES")]
    size: Option<OsString>,
    /// Not in this version
    #[arg(long, value_name = "NUMBER")]
    inodes: Option<OsString>,
    /// Not in this version
    #[arg(long)]
    soft: bool,
}

impl RunArgs {
    /// Better no command than one without the limits that were asked for.
    pub(super) fn refuse_later_options(&self) -> Result<(), Failure> {
        let LaterOptions { size, inodes, soft } = &self.later;
        let given = [("--size", size.is_some()), ("--inodes", inodes.is_some()), ("--soft", *soft)];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(Failure::NotYet { option }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
        Program::try_parse_from([&["run"], arguments].concat()).map(|program| program.run)
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        for arguments in
            [&["--pool", "p", "--", "sh", "-c", "x", "--size"][..], &["--pool=p", "sh", "-c", "x", "--size"]]
        {
            let args = parse(arguments).unwrap();
            assert_eq!((args.command.len(), args.pool.as_deref()), (4, Some("p")), "{arguments:?}");
            assert!(args.refuse_later_options().is_ok());
        }
        assert!(parse(&[]).is_err());
        assert!(parse(&["--unknown", "--", "sh"]).is_err());
    }

    #[test]
    fn labels_and_times_are_checked() {
        let args = parse(&["--label", "a=b=c", "--label=x=", "--ttl", "2m", "true"]).unwrap();
        assert_eq!(args.labels, [("a".into(), "b=c".into()), ("x".into(), String::new())]);
        assert_eq!(args.ttl, Some(Duration::from_secs(120)));
        for (option, seconds) in [("--keep-on-failure", 3600), ("--keep-on-failure=90s", 90)] {
            let args = parse(&[option, "true"]).unwrap();
            assert_eq!(args.keep_on_failure, Some(Duration::from_secs(seconds)), "{option}");
        }
        for wrong in ["--label=a", "--label==b", "--ttl=0s", "--ttl=soon", "--keep-on-failure=0s"] {
            assert!(parse(&[wrong, "true"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_of_later_versions_are_refused() {
        let later = [&["--size", "1G"][..], &["--inodes=5"], &["--soft"]];
        for options in later {
            let args = parse(&[options, &["--", "true"]].concat()).unwrap();
            assert!(args.refuse_later_options().is_err(), "{options:?}");
        }
    }
}
