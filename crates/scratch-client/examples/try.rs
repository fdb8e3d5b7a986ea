//! Temporary.
use scratch_client::*;
use std::time::Instant;
fn main() {
    let client = Client::connect_or_start(&ConnectOptions::default()).unwrap();
    let lease = client.grant(&GrantOptions::default()).unwrap();
    let o = AreaOptions::default();
    let dir = lease.path().unwrap();
    for _ in 0..5 {
        let t = Instant::now(); for _ in 0..20000 { lease.file(&o).unwrap(); } let ours = t.elapsed();
        let t = Instant::now(); for _ in 0..20000 { tempfile::NamedTempFile::new_in(dir).unwrap(); } let theirs = t.elapsed();
        println!("file {:?} vs {:?}", ours / 20000, theirs / 20000);
        let t = Instant::now(); for _ in 0..20000 { lease.anonymous().unwrap(); } let ours = t.elapsed();
        let t = Instant::now(); for _ in 0..20000 { tempfile::tempfile_in(dir).unwrap(); } let theirs = t.elapsed();
        println!("anonymous {:?} vs {:?}", ours / 20000, theirs / 20000);
    }
}
