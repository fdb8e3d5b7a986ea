//! What one tenant notices of another one that takes all it can get.

use rustix::process::{Signal, kill_process_group};
use scratch_client::{CreateMode, GrantOptions};
use scratch_tests::{Dialogue, as_user, is_root, program};

use crate::Site;
use crate::measure::{Row, Watch, quantile};

const FLOODER: u32 = 4321;
const BLOCKS: usize = 100;
const BLOCK: usize = 50;

/// Creates beside a flood, and in its pauses: nothing, where there is one tenant only.
pub(crate) fn neighbour(site: &Site) -> Vec<Row> {
    if !is_root() {
        return Vec::new();
    }
    let lease = site.client(CreateMode::Broker).grant(&GrantOptions::default()).expect("the broker grants");
    let mut command = as_user(FLOODER, &program("flooding-client"));
    command.arg(site.broker.handle_socket()).arg(site.broker.grpc_socket());
    let mut flood = Dialogue::start(command);
    // From the second round on all limits are reached.
    (0..2).for_each(|_| _ = flood.line());
    let says = |signal| kill_process_group(flood.process(), signal).expect("our own child can be signalled");
    let (mut beside, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        for (signal, times) in [(Signal::CONT, &mut beside), (Signal::STOP, &mut idle)] {
            says(signal);
            for _ in 0..BLOCK {
                let mut watch = Watch::default();
                watch.time(|| drop(lease.anonymous().expect("a file is made")));
                times.push(watch.microseconds());
            }
        }
    }
    vec![Row {
        case: "neighbour-p99",
        peer: Some("the same without the flood"),
        file_system: site.file_system,
        unit: "us",
        ours: quantile(&mut beside, 0.99),
        theirs: Some(quantile(&mut idle, 0.99)),
        goal: 3.0,
        samples: BLOCKS * BLOCK,
    }]
}
