//! The settings in force, and how they change while the broker runs: on SIGHUP, and when the configuration file does.
//! Waits on: the file's directory, SIGHUP.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::unistd::Group;
use notify::{RecursiveMode, Watcher};
use scratch_lease::Caller;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::config::{Config, ForeignConfig, HandlesConfig, LimitsConfig, MeterConfig};
use crate::peer::{Identity, Overflow};
use crate::rules::{Place, Rule, RuleConfig};
use crate::start::StartError;

/// What may change while the broker runs. The pool may not.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) limits: LimitsConfig,
    pub(crate) grace: Duration,
    pub(crate) meter: MeterConfig,
    pub(crate) foreign: ForeignConfig,
    pub(crate) admin_group: Option<u32>,
    pub(crate) rules: Vec<Rule>,
    /// What an id stands for that has none in this user name space.
    pub(crate) overflow: Overflow,
    pub(crate) handles: HandlesConfig,
}

/// The settings in force.
#[derive(Debug)]
pub(crate) struct InForce {
    settings: RwLock<Arc<Settings>>,
    /// Grows when they change: who was looked at under others is looked at again.
    version: AtomicU64,
}

impl Settings {
    /// Of a configuration, with the admin group looked up.
    ///
    /// # Errors
    /// A group that does not exist.
    pub(crate) fn of(config: &Config) -> Result<Self, StartError> {
        let unknown = |name: &String| StartError::Group(name.clone());
        let group = match &config.admin.group {
            None => None,
            Some(name) => Some(Group::from_name(name).ok().flatten().ok_or_else(|| unknown(name))?.gid.as_raw()),
        };
        Ok(Self {
            limits: config.limits.clone(),
            grace: config.restart.grace,
            admin_group: group,
            rules: config.rule.iter().map(Rule::of).collect::<Result<_, _>>()?,
            overflow: Overflow::look(),
            handles: config.handles,
            meter: config.meter.clone(),
            foreign: config.foreign.clone(),
        })
    }

    /// The rule that a caller comes under.
    pub(crate) fn rule_of(&self, caller: Caller) -> Option<&RuleConfig> {
        let rule = self.rules.get(usize::from(caller.rule?))?;
        Some(&rule.config)
    }

    /// What a caller is held to.
    pub(crate) fn limits_of(&self, caller: Caller) -> &LimitsConfig {
        self.rule_of(caller).map_or(&self.limits, |rule| &rule.held_to)
    }

    /// The first rule that fits.
    pub(crate) fn first_fit(&self, identity: &Identity, place: Place<'_>) -> Option<u16> {
        let first = self.rules.iter().position(|rule| rule.fits(identity, place))?;
        u16::try_from(first).ok()
    }

    /// Whether any rule asks for a peer's cgroup.
    pub(crate) fn asks_for_cgroups(&self) -> bool {
        self.rules.iter().any(|rule| rule.cgroup.is_some())
    }
}

impl InForce {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings: RwLock::new(Arc::new(settings)), version: AtomicU64::new(1) }
    }

    pub(crate) fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which ones these are.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn set(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}

/// Reads the file again whenever it changes or SIGHUP comes; what can't be used changes nothing. Never returns.
pub(crate) async fn follow(broker: Arc<Broker>, file: PathBuf, mut hangup: Signal) {
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = watch(&file, changed);
    if let Err(error) = &watcher {
        tracing::warn!(%error, "the configuration file can't be watched; send SIGHUP after a change");
    }
    // It may have changed between the start's reading and the watch.
    reload(&broker, &file);
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            Some(()) = changes.recv() => {}
        }
        reload(&broker, &file);
    }
}

/// Its directory, since editors and configuration management replace the file.
fn watch(file: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let name = file.file_name().map(std::ffi::OsStr::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let about_it = |event: &notify::Event| {
            !event.kind.is_access() && event.paths.iter().any(|path| path.file_name() == name.as_deref())
        };
        if event.as_ref().map_or(true, about_it) {
            // Full: a change is waiting to be read already.
            let _ = changed.try_send(());
        }
    })?;
    watcher.watch(file.parent().unwrap_or_else(|| Path::new(".")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn reload(broker: &Broker, file: &Path) {
    let read = Config::read(file).map_err(StartError::from).and_then(|config| Ok((Settings::of(&config)?, config)));
    match read {
        Ok((settings, config)) => {
            if config.pool != broker.config.pool {
                tracing::warn!("the pools of the configuration have changed; that takes a restart, ignoring");
            }
            broker.lock().table.set_limits(config.lease_limits(), config.rule_limits());
            broker.settings.set(settings);
            tracing::info!(file = %file.display(), "configuration read again");
        }
        Err(error) => tracing::error!(%error, "the configuration was not read again, the old one stays in force"),
    }
}
