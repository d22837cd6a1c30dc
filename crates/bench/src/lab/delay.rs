//! A cable that takes time: two TUN devices, and a process that hands what comes out of one to the other, later.
//!
//! `tc netem` would do it, but not every kernel has it. One thread, one queue each way; a packet waits until it is due,
//! or is lost. Which are lost follows from how many came before.

use std::{
    collections::VecDeque,
    error::Error,
    io::{self, ErrorKind},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::nice,
};
use tun_rs::{DeviceBuilder, SyncDevice};

const MTU: u16 = 1500;
/// No packet is longer, whatever the kernel gives.
const PACKET_BYTES_MAX: usize = 1 << 16;
/// What is under way in one direction; what comes on top of it is lost.
const UNDER_WAY_BYTES_MAX: usize = 64 << 20;
/// A cable does not wait for a processor.
const NICENESS: i32 = -15;

/// One end, and what is on its way to it.
struct End {
    device: SyncDevice,
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl End {
    fn make(name: &str) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(name).mtu(MTU).enable(false).build_sync()?;
        device.set_nonblocking(true)?;
        Ok(Self { device, queue: VecDeque::new(), bytes: 0 })
    }

    fn take(&mut self, due: Instant, packet: &[u8]) {
        if self.bytes + packet.len() <= UNDER_WAY_BYTES_MAX {
            self.bytes += packet.len();
            self.queue.push_back((due, packet.into()));
        }
    }

    fn give_due(&mut self, now: Instant) {
        while let Some((_, packet)) = self.queue.pop_front_if(|(due, _)| *due <= now) {
            self.bytes -= packet.len();
            // To an end that is not up, or has no room, a packet is lost.
            let _ = self.device.send(&packet);
        }
    }
}

/// Carries packets between two devices of these names, which it makes, until standard input ends.
pub(crate) fn run(names: [&str; 2], one_way: Duration, loss: f64) -> Result<(), Box<dyn Error>> {
    let mut ends = [End::make(names[0])?, End::make(names[1])?];
    nice(NICENESS)?;
    println!("ready");
    let mut chance = blake3::Hasher::new_derive_key("firn bench loss 1").finalize_xof();
    let mut is_lost = || {
        let mut bytes = [0; 4];
        chance.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) < loss * f64::from(u32::MAX)
    };
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    while wait(&ends)? {
        for (from, to) in [(0, 1), (1, 0)] {
            loop {
                match ends[from].device.recv(&mut buffer) {
                    Ok(_) if is_lost() => {}
                    Ok(length) => ends[to].take(Instant::now() + one_way, &buffer[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ends[to].give_due(Instant::now());
        }
    }
    Ok(())
}

/// Waits until something comes or is due; false once standard input has ended.
fn wait(ends: &[End; 2]) -> io::Result<bool> {
    let first = ends.iter().filter_map(|end| end.queue.front()).map(|(due, _)| *due).min();
    let left = first.map(|due| due.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    let input = rustix::stdio::stdin();
    let mut polled = [
        PollFd::from_borrowed_fd(ends[0].device.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(ends[1].device.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(input, PollFlags::IN),
    ];
    match poll(&mut polled, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(polled[2].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}
