//! Grants on behalf of another tenant, as a scheduler's prolog asks for them before the tenant has a process.

use std::ffi::CString;
use std::sync::Arc;

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::io::Errno;
use scratch_fs::FsError;
use scratch_lease::{Caller, TenantId};
use scratch_proto::v1;

use crate::broker::Broker;
use crate::holders::Asking;
use crate::peer::Identity;
use crate::reason::RequestError;
use crate::rules::Place;

impl Broker {
    /// Who a grant is for: where it names a user, that one with what it is and may by itself. Asks the user data base, which
    /// may take its time.
    ///
    /// # Errors
    /// NOT_PERMITTED, TENANT_UNKNOWN.
    pub(crate) fn on_behalf(&self, mut asking: Asking, request: &v1::GrantRequest) -> Result<Asking, RequestError> {
        let Some(uid) = request.tenant else { return Ok(asking) };
        let by = asking.caller;
        if !by.admin || by.confined_to.is_some() {
            return Err(RequestError::NotPermitted("a lease on behalf of another tenant", "root and the admin group"));
        }
        if uid == 0 && by.tenant.0 != 0 {
            return Err(RequestError::NotPermitted("a lease on behalf of root", "root"));
        }
        let settings = self.settings.get();
        let identity = identity_of(uid)?;
        let rule = settings.first_fit(&identity, Place::Nowhere);
        let caller = Caller { rule, ..Caller::of(TenantId(uid)) };
        if settings.rule_of(caller).is_some_and(|rule| rule.deny) && uid != 0 {
            return Err(RequestError::NotPermitted("a lease", "users whom no rule of the configuration denies"));
        }
        asking.caller = caller;
        asking.identity = Arc::new(identity);
        asking.may_hold = true;
        asking.on_behalf_by = Some(by.tenant);
        Ok(asking)
    }
}

/// As a process of this user would have it after a login.
fn identity_of(uid: u32) -> Result<Identity, RequestError> {
    let failed =
        |errno: nix::Error| FsError::new("look up user", uid.to_string(), Errno::from_raw_os_error(errno as i32));
    let user = User::from_uid(Uid::from_raw(uid)).map_err(failed)?.ok_or(RequestError::TenantUnknown(uid))?;
    let name = CString::new(user.name).map_err(|_| RequestError::TenantUnknown(uid))?;
    let gid: Gid = user.gid;
    let groups = getgrouplist(&name, gid).map_err(failed)?;
    Ok(Identity { uid, gid: gid.as_raw(), groups: groups.into_iter().map(Gid::as_raw).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_up_with_their_groups() {
        let root = identity_of(0).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        assert!(matches!(identity_of(4_294_000_001), Err(RequestError::TenantUnknown(4_294_000_001))));
    }
}
