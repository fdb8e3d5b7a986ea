//! Single areas: in-process and through the broker, against the `tempfile` crate.

use std::fs::File;
use std::path::Path;

use scratch_client::{AreaOptions, CreateMode, GrantOptions, Lease};

use crate::Site;
use crate::measure::{Row, side_by_side};

const BLOCKS: usize = 500;

fn lease(site: &Site, create: CreateMode) -> Lease {
    site.client(create).grant(&GrantOptions::default()).expect("the broker grants")
}

fn named(site: &Site, create: CreateMode) -> (f64, f64, usize) {
    let (lease, options) = (lease(site, create), AreaOptions::default());
    side_by_side(
        BLOCKS,
        |watch| watch.time(|| drop(lease.file(&options).expect("a file is made"))),
        |watch| watch.time(|| drop(tempfile::NamedTempFile::new_in(&site.beside).expect("a file is made"))),
    )
}

fn anonymous(site: &Site, create: CreateMode) -> (f64, f64, usize) {
    let lease = lease(site, create);
    side_by_side(
        BLOCKS,
        |watch| watch.time(|| drop(lease.anonymous().expect("a file is made"))),
        |watch| watch.time(|| drop(tempfile::tempfile_in(&site.beside).expect("a file is made"))),
    )
}

fn directory(site: &Site, blocks: usize, fill: fn(&Path)) -> (f64, f64, usize) {
    let (lease, options) = (lease(site, CreateMode::Auto), AreaOptions::default());
    side_by_side(
        blocks,
        |watch| {
            let made = watch.time(|| lease.directory(&options).expect("a directory is made"));
            fill(made.path().expect("it has a path"));
            watch.time(|| drop(made));
        },
        |watch| {
            let made = watch.time(|| tempfile::TempDir::new_in(&site.beside).expect("a directory is made"));
            fill(made.path());
            watch.time(|| drop(made));
        },
    )
}

fn row(
    site: &Site,
    case: &'static str,
    peer: &'static str,
    goal: f64,
    (ours, theirs, samples): (f64, f64, usize),
) -> Row {
    Row { case, peer: Some(peer), file_system: site.file_system, unit: "us", ours, theirs: Some(theirs), goal, samples }
}

pub(crate) fn file_direct(site: &Site) -> Row {
    row(site, "file-direct", "tempfile::NamedTempFile", 1.05, named(site, CreateMode::Auto))
}

pub(crate) fn anonymous_direct(site: &Site) -> Row {
    row(site, "anonymous-direct", "tempfile::tempfile", 1.05, anonymous(site, CreateMode::Auto))
}

pub(crate) fn dir_empty(site: &Site) -> Row {
    row(site, "dir-empty", "tempfile::TempDir", 0.3, directory(site, BLOCKS, |_| {}))
}

pub(crate) fn dir_100(site: &Site) -> Row {
    let fill = |path: &Path| {
        for number in 0..100 {
            File::create_new(path.join(number.to_string())).expect("a new directory is empty");
        }
    };
    row(site, "dir-100", "tempfile::TempDir", 0.1, directory(site, 30, fill))
}

pub(crate) fn anonymous_broker(site: &Site) -> Row {
    row(site, "anonymous-broker", "tempfile::tempfile", 2.0, anonymous(site, CreateMode::Broker))
}

pub(crate) fn named_broker(site: &Site) -> Row {
    row(site, "named-broker", "tempfile::NamedTempFile", 2.5, named(site, CreateMode::Broker))
}

pub(crate) fn anonymous_stock(site: &Site) -> Row {
    const STOCK: u32 = 200;
    let lease = lease(site, CreateMode::Broker);
    let mut stock: Vec<File> = Vec::new();
    let (ours, theirs, samples) = side_by_side(
        BLOCKS,
        |watch| {
            watch.time(|| {
                if stock.is_empty() {
                    stock = lease.anonymous_files(STOCK).expect("a stock is made");
                }
                drop(stock.pop());
            });
        },
        |watch| watch.time(|| drop(tempfile::tempfile_in(&site.beside).expect("a file is made"))),
    );
    row(site, "anonymous-stock", "tempfile::tempfile", 0.7, (ours, theirs, samples))
}
