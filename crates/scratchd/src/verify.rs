//! Compares records, memory and disk, and names every path that is not as it should be. The pool is in use meanwhile: what
//! does not look right is looked at again, and is a finding only if it is the same each time.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use scratch_fs::{FsError, Place};
use scratch_lease::{AreaKey, BootTime, Caller, Lease, LeaseId, LeaseState, PoolId};
use scratch_proto::v1;
use v1::finding::Kind;

use crate::broker::Broker;
use crate::pools::InUse;
use crate::tamper::problem;
use crate::translate::path_bytes;

/// How often what does not look right is looked at, and how long apart: a grant or an end is under way for so long only
/// where the machine stands still.
const LOOKS: u32 = 4;
const APART: Duration = Duration::from_millis(100);

/// So many are told.
const FINDINGS_MAX: usize = 1000;

/// What does not look right: where, and what is wrong there.
type Found = BTreeMap<(PathBuf, Kind), Suspect>;

#[derive(Debug)]
struct Suspect {
    lease: Option<LeaseId>,
    tenant: Option<u32>,
    text: &'static str,
}

/// What memory knows of a lease at one moment.
#[derive(Debug, Clone, Copy)]
struct Known {
    pool: PoolId,
    tenant: u32,
    /// Neither being granted nor being ended.
    is_there: bool,
    place: Option<Place>,
}

impl Broker {
    /// Compares. Takes as long as it takes to list the pool; not for a thread that serves.
    ///
    /// # Errors
    /// When part of the pool can't be listed: then nothing can be said.
    pub(crate) fn verify(&self, caller: Caller) -> Result<v1::VerifyResponse, FsError> {
        let mut found = self.suspects(caller)?;
        for _ in 1..LOOKS {
            if found.keys().all(|(_, kind)| *kind == Kind::Pool) {
                break;
            }
            std::thread::sleep(APART);
            let again = self.suspects(caller)?;
            found.retain(|place, _| again.contains_key(place));
        }
        if caller.admin {
            for pool in self.pools.iter() {
                found.extend(self.pool_suspects(pool)?);
            }
        }
        let left_out = found.len().saturating_sub(FINDINGS_MAX) as u64;
        let findings = found.into_iter().take(FINDINGS_MAX).map(|((path, kind), suspect)| v1::Finding {
            kind: kind.into(),
            path: path_bytes(&path),
            lease: suspect.lease.map(|lease| lease.to_string()).unwrap_or_default(),
            tenant: suspect.tenant.map(|uid| v1::Tenant { uid, name: String::new() }),
            text: suspect.text.to_owned(),
        });
        Ok(v1::VerifyResponse { findings: findings.collect(), left_out })
    }

    /// One look at all that may be under way.
    fn suspects(&self, caller: Caller) -> Result<Found, FsError> {
        let mut found = Found::new();
        self.look_at_leases(&mut found)?;
        self.look_at_areas(caller, &mut found);
        if caller.admin {
            self.pools.iter().try_for_each(|pool| self.look_at_the_rest(pool, &mut found))?;
        } else {
            found.retain(|_, suspect| suspect.tenant == Some(caller.tenant.0));
        }
        Ok(found)
    }

    fn known(&self, lease: LeaseId) -> Option<Known> {
        let state = self.lock();
        state.table.lease(lease).map(|known| Known {
            pool: known.pool(),
            tenant: known.tenant().0,
            is_there: matches!(known.state(), LeaseState::Live | LeaseState::Searching | LeaseState::Kept { .. }),
            place: state.places.get(&lease).copied(),
        })
    }

    /// Every name of a lease: of a directory, of a record, in memory.
    fn look_at_leases(&self, found: &mut Found) -> Result<(), FsError> {
        for pool in self.pools.iter() {
            let known = self.lock().table.leases().filter(|lease| lease.pool() == pool.id).map(Lease::id).collect();
            let mut leases: Vec<LeaseId> = known;
            leases.extend(pool.disk.lease_directories()?);
            leases.extend(pool.disk.recorded()?);
            leases.sort_unstable();
            leases.dedup();
            leases.into_iter().try_for_each(|lease| self.look_at_lease(pool, lease, found))?;
        }
        Ok(())
    }

    /// Memory before the disk and after it: what came or went in between is under way.
    fn look_at_lease(&self, pool: &InUse, lease: LeaseId, found: &mut Found) -> Result<(), FsError> {
        let before = self.known(lease).filter(|known| known.pool == pool.id);
        let directory = pool.disk.directory(lease)?;
        let record = pool.disk.record(lease)?.map(|(_, record)| record);
        let after = self.known(lease).filter(|known| known.pool == pool.id);
        let path = pool.disk.lease_path(lease);
        let record_path = pool.disk.record_path(lease);
        let mut add = |path: PathBuf, kind, tenant: Option<u32>, text| {
            found.insert((path, kind), Suspect { lease: Some(lease), tenant, text });
        };
        match (before, after) {
            (Some(known), Some(still)) if known.is_there && still.is_there => {
                let tenant = Some(known.tenant);
                if self.is_lost(lease) {
                    add(
                        path,
                        Kind::Lost,
                        tenant,
                        "the directory of a live lease is gone or replaced; put it back, or revoke the lease",
                    );
                }
                let is_own = |record: &scratch_fs::Record| {
                    let place = Place::This { device: record.device, inode: record.inode };
                    record.id == lease.as_str() && record.uid == known.tenant && Some(place) == known.place
                };
                match record {
                    None => add(
                        record_path,
                        Kind::RecordMissing,
                        tenant,
                        "the record of a live lease is gone; attaching or a change of labels writes it anew",
                    ),
                    Some(Ok(record)) if is_own(&record) => {}
                    Some(_) => add(
                        record_path,
                        Kind::TornRecord,
                        tenant,
                        "the record of a live lease is torn or another's; attaching or a change of labels writes it anew",
                    ),
                }
            }
            (None, None) => {
                let owner = directory.map(|found| found.st_uid);
                match (directory, record) {
                    (None, None) => {}
                    (Some(_), None) => {
                        add(path, Kind::NoRecord, owner, "nobody knows whose it is; look at it, then remove it by hand")
                    }
                    (None, Some(_)) => add(
                        record_path,
                        Kind::NoDirectory,
                        None,
                        "left of a lease that is gone; the next start drops it",
                    ),
                    (Some(_), Some(Err(_))) => add(
                        record_path,
                        Kind::TornRecord,
                        owner,
                        "nobody knows whose the directory is; look at it, then remove it by hand",
                    ),
                    (Some(directory), Some(Ok(record))) if directory.st_ino != record.inode => {
                        add(
                            path,
                            Kind::OtherDirectory,
                            Some(record.uid),
                            "it was not made for its lease; take it away by hand",
                        );
                    }
                    (Some(_), Some(Ok(_))) if self.reaper.owes(lease) => {}
                    (Some(_), Some(Ok(record))) => {
                        add(
                            path,
                            Kind::NoDirectory,
                            Some(record.uid),
                            "a record and its directory without a lease; the next start sees to it",
                        );
                    }
                }
            }
            // Being granted or ended, or just come or gone.
            _ => {}
        }
        Ok(())
    }

    /// What the broker made in each lease and is not there.
    fn look_at_areas(&self, caller: Caller, found: &mut Found) {
        let leases: Vec<LeaseId> = {
            let state = self.lock();
            let seen = state.table.leases().filter(|lease| lease.areas() > 0 && caller.sees(lease.tenant()));
            seen.map(Lease::id).collect()
        };
        for lease in leases {
            let Ok(held) = self.open_lease(lease) else { continue };
            let Some(root) = self.pool_of(lease).map(|pool| pool.disk.lease_path(lease)) else { continue };
            let (tenant, names) = {
                let state = self.lock();
                let Ok(known) = state.table.in_place(lease, caller) else { continue };
                let name = |(key, _): (&AreaKey, _)| match key {
                    AreaKey::Name(name) => Some(name.to_vec()),
                    AreaKey::Number(_) => None,
                };
                (known.tenant().0, known.area_keys().filter_map(name).collect::<Vec<_>>())
            };
            for name in names.into_iter().filter(|name| scratch_fs::is_below(held.as_fd(), name) == Some(false)) {
                let path = root.join(crate::translate::path_of_bytes(&name));
                let text = "not there any more, and charged until it is released or the lease ends";
                found.insert((path, Kind::Area), Suspect { lease: Some(lease), tenant: Some(tenant), text });
            }
        }
    }

    /// What is of no lease.
    fn look_at_the_rest(&self, pool: &InUse, found: &mut Found) -> Result<(), FsError> {
        let mut add = |path, kind, lease, tenant, text| {
            found.insert((path, kind), Suspect { lease, tenant, text });
        };
        for path in pool.disk.strays()? {
            add(path, Kind::Stray, None, None, "no broker gave this name; it is never touched, take it away by hand");
        }
        for tree in pool.disk.trash().entries()? {
            if !self.reaper.knows(pool.id, tree) {
                let path = pool.disk.trash().shown().join(tree.to_string());
                let text = "no reaper knows of it; the next start frees it";
                add(path, Kind::Trash, Some(tree.lease), Some(tree.tenant), text);
            }
        }
        for name in pool.disk.gone().entries()? {
            let known = self.lock().table.lease(name.lease).map(Lease::state);
            if known != Some(LeaseState::Gone { until: BootTime(name.until) }) {
                let path = pool.disk.path().join(".scratch/gone").join(name.to_string());
                let text = "nobody can bring it back; the next start frees it";
                add(path, Kind::Trash, Some(name.lease), None, text);
            }
        }
        for (path, lease) in pool.disk.in_the_making()? {
            if lease.is_none_or(|lease| self.known(lease).is_none()) {
                add(path, Kind::Unfinished, lease, None, "no grant explains it; the next start puts it into trash");
            }
        }
        Ok(())
    }

    /// What is the pool's own, and is under way at no time.
    fn pool_suspects(&self, pool: &InUse) -> Result<Found, FsError> {
        let mut found = Found::new();
        let mut add = |path: PathBuf, text| {
            found.insert((path, Kind::Pool), Suspect { lease: None, tenant: None, text });
        };
        for misplaced in self.check_pool(pool) {
            tracing::warn!("verify: {}", problem(&misplaced));
            let text = if misplaced.is_gone {
                "gone: put it back; nothing is granted meanwhile"
            } else {
                "not what this broker holds: put that back; nothing is granted meanwhile"
            };
            add(misplaced.path, text);
        }
        let inside = pool.disk.path().join(".scratch");
        if !pool.disk.has_its_marker()? {
            add(inside.join("pool"), "the marker is gone or of another pool: the next start will refuse this one");
        }
        let generation = self.lock().table.generation();
        if pool.disk.boot()?.is_none_or(|boot| boot.generation != generation) {
            add(
                inside.join("boot"),
                "gone or not as this broker wrote it: stop the broker before the machine, or write it by hand",
            );
        }
        Ok(found)
    }
}
