//! Many clients of the binary cache at once.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::pages::get;
use crate::world::Firn;

/// How many are idle; fewer where the machine allows no more open files.
const IDLE: u64 = 5_000;

#[test]
fn idle_connections_keep_nobody_out() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(2 * IDLE);
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).unwrap();
    let firn = Firn::new();
    let node = firn.node(&[]);
    let ask = || {
        let begun = Instant::now();
        let answer = get(node.http(), "nix-cache-info", &format!("Host: {}\r\n", node.http()));
        assert_eq!(answer.0, 200);
        begun.elapsed()
    };
    ask();
    let mut idle = Vec::new();
    for number in 0..IDLE.min(most - 500) {
        let mut stream = TcpStream::connect(node.http()).unwrap();
        if number % 2 == 0 {
            // Where its place has been taken already that is as well.
            let _ = stream.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: ");
        }
        idle.push(stream);
    }
    let slowest = (0..10).map(|_| ask()).max().unwrap();
    // Far above what it takes where the machine has other work, far below what waiting for one to end takes.
    assert!(slowest < Duration::from_secs(2), "{slowest:?} with {} idle connections", idle.len());
    node.end();
}
