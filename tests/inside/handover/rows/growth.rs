//! The row of many hand-overs. Enters: fifty of them. Leaves: what the last process has, which is what the first ones had. Must not
//! touch: how long they take.

use std::fs;

use super::{Line, ROLLED_BACK, Road, echo, speak};
use crate::support::site::Backend;

/// What may not grow.
#[derive(Debug)]
struct Cost {
    descriptors: usize,
    resident_kib: usize,
    /// Bytes of all records.
    state: usize,
}

async fn cost(line: &mut Line) -> Cost {
    let load = line.give_in_vain().await;
    let state = load.parcels.iter().map(|parcel| parcel.record.len()).sum();
    drop(load);
    line.process.says(ROLLED_BACK).await;
    // The client's end of the tunnel is the only one again.
    let pid = line.process.pid();
    line.site.counts("underpass_connections_active", 1.0).await;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    Cost { descriptors, resident_kib, state }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_in_a_row_cost_nothing() {
    let mut backend = Backend::start().await;
    let plain = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at);
    let mut line = Line::start(Road::TakeOver, &plain).await;
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let session = (line.site.open("/").await, backend.accept().await);
        if number < 3 { idle.push(session) } else { busy.push(session) }
    }
    let mut page = line.site.websocket("/", &[]).await;
    let mut tunnel = backend.accept().await;
    let (mut first, mut number) = (None, 0);
    for over in 1..=50 {
        line.next().await;
        for _ in 0..3 {
            number += 1;
            for (opened, socket) in &mut busy {
                speak(&line.site, &opened.url, &mut socket.ws, number).await;
            }
            echo(&mut page, &mut tunnel.ws, &number.to_string()).await;
        }
        if over == 5 {
            first = Some(cost(&mut line).await);
        }
    }
    let (first, last) = (first.expect("it was asked"), cost(&mut line).await);
    println!("{first:?}, then {last:?}");
    assert!(last.descriptors <= first.descriptors + 2, "{first:?}, then {last:?}");
    assert!(last.state <= first.state + 1024, "{first:?}, then {last:?}");
    assert!(last.resident_kib <= 2 * first.resident_kib, "{first:?}, then {last:?}");
    for (opened, socket) in &mut idle {
        speak(&line.site, &opened.url, &mut socket.ws, 1).await;
    }
    assert!(backend.try_accept().is_none(), "one socket for each");
}
