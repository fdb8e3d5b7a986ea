//! A broker that knows what there is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use scratch_proto::v1::Kind;
use scratch_proto::v1::channel_request::Op;

use crate::fake::{Act, Broker, broker, created, granted, obliging, refused};

/// What there is at a broker that keeps books.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) leases: BTreeSet<String>,
    pub(crate) areas: BTreeSet<(String, Vec<u8>)>,
    granted: u64,
    made: u64,
}

impl PartialEq for Books {
    fn eq(&self, other: &Self) -> bool {
        (&self.leases, &self.areas) == (&other.leases, &other.areas)
    }
}

impl Books {
    /// One lease, and nothing in it.
    pub(crate) fn of(lease: &str) -> Self {
        Self { leases: [lease.to_owned()].into(), ..Self::default() }
    }

    /// Obliges, and writes down what is there.
    pub(crate) fn keep(&mut self, op: &Op, place: &Path) -> Act {
        match op {
            Op::Grant(_) => {
                self.granted += 1;
                let id = format!("{:0>16}", self.granted);
                self.leases.insert(id.clone());
                Act::Answer(granted(&id, place))
            }
            Op::Create(create) if create.kind() == Kind::Anonymous => {
                created(create, (1..=create.count).map(|number| format!("#{number}").into()).collect())
            }
            Op::Create(create) => {
                let names = if create.name.is_empty() { self.names(create.count) } else { vec![create.name.clone()] };
                self.areas.extend(names.iter().map(|name| (create.lease.clone(), name.clone())));
                created(create, names)
            }
            Op::Release(release) => {
                self.areas.remove(&(release.lease.clone(), release.area.clone()));
                obliging(op, place)
            }
            Op::Revoke(revoke) => {
                let existed = self.leases.remove(&revoke.lease);
                self.areas.retain(|(lease, _)| *lease != revoke.lease);
                if existed { obliging(op, place) } else { Act::Answer(refused("LEASE_UNKNOWN")) }
            }
            _ => obliging(op, place),
        }
    }

    fn names(&mut self, count: u32) -> Vec<Vec<u8>> {
        let first = self.made;
        self.made += u64::from(count);
        (first..self.made).map(|number| format!("area{number}").into()).collect()
    }
}

/// A broker that keeps books, and what is written in them.
pub(crate) fn accountable(mut before: impl FnMut(&Op) -> Option<Act> + Send + 'static) -> (Broker, Arc<Mutex<Books>>) {
    let books = Arc::new(Mutex::new(Books::default()));
    let kept = Arc::clone(&books);
    let broker = broker(move |op, place| before(op).unwrap_or_else(|| kept.lock().unwrap().keep(op, place)));
    (broker, books)
}
