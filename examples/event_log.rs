//! Events in a log that everybody shares, and a state made of them:
//! `cargo run --example event_log`. Plain threads, on a cluster that loses its leader meanwhile.
//!
//! Who writes says where the log ended when it decided: where somebody was faster it reads on and
//! decides anew, so nobody sells the same seat twice. Who reads follows from where it left off.

use std::collections::BTreeSet;

use margay::client::{Client, Group};
use margay::resource::log::Appended;
use margay::resource::{Failure, Log};
use margay::server::LocalCluster;

const SEATS: u8 = 40;

/// The seats that are sold, as of a position in the log.
#[derive(Default)]
struct Seats {
    sold: BTreeSet<u8>,
    /// The next record to read.
    next: u64,
}

impl Seats {
    /// Reads on to the end of the log.
    fn catch_up(&mut self, log: &Log<Group>) -> Result<(), Failure> {
        loop {
            let page = log.read(self.next, 0).wait()?;
            for record in &page.records {
                let is_new = self.sold.insert(record.bytes[0]);
                assert!(is_new, "sold twice");
            }
            self.next = page.go_on().unwrap_or(page.next);
            if page.go_on().is_none() {
                return Ok(());
            }
        }
    }
}

/// Sells seats until there are none. Returns how many.
fn sell(client: &Client) -> Result<u32, Failure> {
    let log = client.log("seats").wait()?;
    let (mut seats, mut count) = (Seats { next: 1, ..Seats::default() }, 0);
    loop {
        seats.catch_up(&log)?;
        let Some(free) = (0..SEATS).find(|seat| !seats.sold.contains(seat)) else {
            return Ok(count);
        };
        if let Appended::Done(_) = log.append_at(seats.next, &[[free]]).wait()? {
            count += 1;
        }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = LocalCluster::start(3)?;
    let clients = [cluster.client()?, cluster.client()?, cluster.client()?];
    let mut follow = clients[0].log("seats").wait()?.follow(Some(1));
    std::thread::scope(|scope| {
        let sellers: Vec<_> =
            clients[1..].iter().map(|client| scope.spawn(|| sell(client))).collect();
        let mut told = BTreeSet::new();
        for position in 1..=u64::from(SEATS) {
            let record = follow.wait_next()?;
            assert_eq!(record.position, position, "in order, without a gap");
            told.insert(record.bytes[0]);
            if position == 10 {
                // Whoever leads hands over; nobody notices but by the time it takes.
                cluster.stop_node(0).map_err(|error| error.to_string())?;
            }
        }
        assert_eq!(told.len(), usize::from(SEATS), "every seat once");
        let mut sold = 0;
        for seller in sellers {
            sold += seller.join().expect("no panic")?;
        }
        assert_eq!(sold, u32::from(SEATS));
        println!("{sold} seats sold, none of them twice");
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    for client in clients {
        client.close()?;
    }
    Ok(())
}
