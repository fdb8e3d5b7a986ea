//! Temporary.
use scratch_client::*;
use std::time::Instant;
fn main() {
    for create in [CreateMode::Auto, CreateMode::Broker] {
        let client =
            Client::connect_or_start(&ConnectOptions { create: Some(create), ..ConnectOptions::default() }).unwrap();
        client.ping().unwrap();
        let t = Instant::now();
        for _ in 0..10000 {
            client.ping().unwrap();
        }
        println!("{create:?} ping {:?}", t.elapsed() / 10000);
        let lease = client.grant(&GrantOptions::default()).unwrap();
        let o = AreaOptions::default();
        let f = lease.file(&o).unwrap();
        let p = f.path().unwrap().to_owned();
        assert!(p.is_file());
        f.close().unwrap();
        assert!(!p.exists());
        let d = lease.directory(&o).unwrap();
        let p = d.path().unwrap().to_owned();
        std::fs::write(p.join("x"), "y").unwrap();
        d.close().unwrap();
        assert!(!p.exists());
        let named = AreaOptions { name: Some("exact".into()), mode: Some(0o640), suffix: ".s".into(), ..o.clone() };
        let f = lease.file(&named).unwrap();
        println!(
            "{:?} {:o}",
            f.path(),
            std::os::unix::fs::PermissionsExt::mode(&f.file.metadata().unwrap().permissions())
        );
        println!("again: {}", lease.file(&named).unwrap_err());
        println!("bad: {}", lease.file(&AreaOptions { prefix: "a/b".into(), ..o.clone() }).unwrap_err());
        lease.memory().unwrap();
        lease.anonymous().unwrap();
        println!("stock {}", lease.anonymous_files(450).unwrap().len());
        let many = lease.files(&AreaOptions { prefix: "p-".into(), suffix: ".txt".into(), ..o.clone() }, 300).unwrap();
        println!("{} {:?}", many.len(), many[299].path());
        drop(many);
        let t = Instant::now();
        for _ in 0..5000 {
            lease.file(&o).unwrap().close().unwrap();
        }
        println!("file {:?}", t.elapsed() / 5000);
        let t = Instant::now();
        for _ in 0..5000 {
            lease.anonymous().unwrap();
        }
        println!("anonymous {:?}", t.elapsed() / 5000);
        let t = Instant::now();
        for _ in 0..5000 {
            lease.directory(&o).unwrap().close().unwrap();
        }
        println!("directory {:?}", t.elapsed() / 5000);
        let ttl = client
            .grant(&GrantOptions {
                holders: vec![Holder::Ttl(std::time::Duration::from_secs(30)), Holder::Connection],
                ..GrantOptions::default()
            })
            .unwrap();
        println!("{:?} note {:?} gen {}", ttl.keep_alive(), ttl.note(), ttl.generation());
        let path = lease.path().unwrap().to_owned();
        drop(lease);
        assert!(!path.exists());
        let own = client.file(&o).unwrap();
        println!("own {:?}", own.path());
        println!("left {:?}", std::fs::read_dir(own.path().unwrap().parent().unwrap()).unwrap().count());
        println!("{:?}", client.revoke("aaaaaaaaaaaaaaaa").unwrap_err());
        ttl.leave();
    }
}
