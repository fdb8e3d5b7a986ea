//! The rules of the configuration: whom each is for, and what it gives. The first one that fits a peer is the one it has;
//! who has none has what `[limits]` and `[admin]` say.

use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use serde::Deserialize;

use crate::config::{Config, LimitsConfig};
use crate::peer::Identity;
use crate::start::StartError;

/// One rule, as it is written. All that it names of user, group and cgroup must fit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// A user's name, or its number.
    pub user: Option<String>,
    /// A group's: the peer's own or one of its supplementary ones.
    pub group: Option<String>,
    /// A cgroup's path from the root of the hierarchy; those below it too.
    pub cgroup: Option<PathBuf>,
    /// The pools it may use, the default one first. Empty: all.
    pub pools: Vec<String>,
    /// It is refused.
    pub deny: bool,
    /// It is an admin.
    pub admin: bool,
    /// It may have a lease held by nothing but a word.
    pub hold: bool,
    /// Keys of `[limits]`; those that are not here are as there.
    limits: toml::Table,
    /// All of them.
    #[serde(skip)]
    pub held_to: LimitsConfig,
}

/// One rule with its names looked up.
#[derive(Debug)]
pub(crate) struct Rule {
    uid: Option<u32>,
    gid: Option<u32>,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) config: RuleConfig,
}

/// Where a peer is, as far as rules ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In this cgroup.
    Cgroup(&'a Path),
    /// In one that can't be told.
    Unknown,
    /// In none: there is no process to ask for.
    Nowhere,
}

impl RuleConfig {
    /// Fills in what the rule doesn't say from `limits`, the section.
    ///
    /// # Errors
    /// An unknown key or a value of the wrong kind.
    pub(crate) fn complete(&mut self, limits: Option<&toml::Value>) -> Result<(), toml::de::Error> {
        let mut all = limits.and_then(toml::Value::as_table).cloned().unwrap_or_default();
        all.extend(self.limits.clone());
        self.held_to = LimitsConfig::deserialize(all)?;
        Ok(())
    }

    /// What makes no sense about it.
    pub(crate) fn nonsense(&self, config: &Config) -> Option<String> {
        if self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_absolute()) {
            return Some("a rule's cgroup is a path from the root, like \"/system.slice/ci.service\"".to_owned());
        }
        if self.deny && (self.admin || self.hold || !self.pools.is_empty() || !self.limits.is_empty()) {
            return Some("a rule that denies gives nothing; take its other keys out".to_owned());
        }
        let unknown = self.pools.iter().find(|name| !config.pool.iter().any(|pool| pool.name == **name));
        unknown.map(|name| format!("a rule names the pool {name:?}, and there is none; add it or take the name out"))
    }
}

impl Rule {
    /// Looks its names up.
    ///
    /// # Errors
    /// A user or group that does not exist.
    pub(crate) fn of(config: &RuleConfig) -> Result<Self, StartError> {
        let number = |name: &String| name.parse::<u32>().ok();
        let user = |name: &String| {
            let known = || User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
            number(name).or_else(known).ok_or_else(|| StartError::RuleUser(name.clone()))
        };
        let group = |name: &String| {
            let known = || Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
            number(name).or_else(known).ok_or_else(|| StartError::RuleGroup(name.clone()))
        };
        Ok(Self {
            uid: config.user.as_ref().map(user).transpose()?,
            gid: config.group.as_ref().map(group).transpose()?,
            cgroup: config.cgroup.clone(),
            config: config.clone(),
        })
    }

    /// Whether it is for this peer. One that names nobody is for all. A cgroup that is not known fits no rule but one that
    /// denies.
    pub(crate) fn fits(&self, identity: &Identity, place: Place<'_>) -> bool {
        let fits = |top: &PathBuf| match place {
            Place::Cgroup(cgroup) => cgroup.starts_with(top),
            Place::Unknown => self.config.deny,
            Place::Nowhere => false,
        };
        self.uid.is_none_or(|uid| uid == identity.uid)
            && self.gid.is_none_or(|gid| identity.is_in(gid))
            && self.cgroup.as_ref().is_none_or(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "[[pool]]\nname = \"p\"\nroot = \"/p\"\n[limits]\nleases = 7\nareas = 9\n";

    fn config(rules: &str) -> Result<Config, String> {
        Config::parse(&format!("{POOL}{rules}"), Path::new("test.toml")).map_err(|error| error.to_string())
    }

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn limits_that_a_rule_does_not_name_are_those_of_all() {
        let config = config("[[rule]]\nuser = \"1\"\nlimits = { areas = 3 }\n[[rule]]\ngroup = \"2\"\n").unwrap();
        let limits = |rule: usize| (config.rule[rule].held_to.leases, config.rule[rule].held_to.areas);
        assert_eq!((limits(0), limits(1)), ((7, 3), (7, 9)));
    }

    #[test]
    fn all_that_a_rule_names_must_fit() {
        let config = config("[[rule]]\nuser = \"5\"\ngroup = \"6\"\ncgroup = \"/ci.slice\"\n").unwrap();
        let rule = Rule::of(&config.rule[0]).unwrap();
        let at = |path| Place::Cgroup(Path::new(path));
        let inside = at("/ci.slice/job-1.scope");
        assert!(rule.fits(&peer(5, 6, &[]), inside) && rule.fits(&peer(5, 1, &[2, 6]), at("/ci.slice")));
        assert!(!rule.fits(&peer(4, 6, &[]), inside) && !rule.fits(&peer(5, 7, &[8]), inside));
        assert!(!rule.fits(&peer(5, 6, &[]), at("/ci.slicer")));
        assert!(!rule.fits(&peer(5, 6, &[]), Place::Unknown));
    }

    #[test]
    fn what_is_not_known_is_denied_and_given_nothing() {
        let config = config("[[rule]]\ncgroup = \"/\"\ndeny = true\n[[rule]]\ndeny = true\n").unwrap();
        let [below, all] = [0, 1].map(|rule| Rule::of(&config.rule[rule]).unwrap());
        assert!(below.fits(&peer(5, 6, &[]), Place::Unknown) && !below.fits(&peer(5, 6, &[]), Place::Nowhere));
        assert!(all.fits(&peer(5, 6, &[]), Place::Unknown) && all.fits(&peer(0, 0, &[]), Place::Nowhere));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rule, expected) in [
            ("user = \"1\"\ncolour = 1", "colour"),
            ("user = \"1\"\nlimits = { leased = 1 }", "leased"),
            ("user = \"1\"\nlimits = { ttl_min = \"2s\", ttl_max = \"1s\" }", "ttl_min"),
            ("user = \"1\"\npools = [\"q\"]", "\"q\""),
            ("user = \"1\"\ndeny = true\nadmin = true", "denies"),
            ("cgroup = \"ci.slice\"", "from the root"),
        ] {
            let error = config(&format!("[[rule]]\n{rule}\n")).unwrap_err();
            assert!(error.contains(expected), "{rule}: {error}");
        }
        let config = config("[[rule]]\nuser = \"no such user\"\n").unwrap();
        assert!(matches!(Rule::of(&config.rule[0]), Err(StartError::RuleUser(_))));
    }
}
