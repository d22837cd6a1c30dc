//! The harness itself: hosts reach each other, can be cut off, leave nothing behind, and have a working Nix.

use std::{path::Path, time::Duration};

use crate::{
    host::Host,
    lan::Lan,
    nix::{Nix, NixConf},
    process::{Process, eventually},
};

const SOON: Duration = Duration::from_secs(20);

/// Serves a directory of a host over HTTP and waits until it answers.
fn serve(host: &Host, directory: &Path) -> (Process, String) {
    let arguments = ["-m", "http.server", "8000", "--directory", directory.to_str().unwrap()];
    let server = host.start("python3", &arguments);
    let url = format!("http://{}:8000", host.address());
    eventually("the web server answers", SOON, || host.get(&url));
    (server, url)
}

#[test]
fn hosts_reach_each_other_until_the_plug_is_pulled() {
    let lan = Lan::new();
    let (alice, bob) = (lan.host("alice"), lan.host("bob"));
    let directory = alice.path("home");
    std::fs::write(directory.join("greeting"), "hello").unwrap();
    let (_server, url) = serve(&alice, &directory);
    let greeting = format!("{url}/greeting");

    let answer = bob.get(&greeting).expect("they share a LAN");
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"hello".as_slice()));

    lan.unplug(&alice);
    assert!(bob.get_with(&greeting, &["--max-time", "1"]).is_none(), "the plug is pulled");
    lan.plug(&alice);
    eventually("the plug is back in", SOON, || bob.get_with(&greeting, &["--max-time", "1"]));
}

#[test]
fn multicast_reaches_the_neighbours() {
    const LISTEN: &str = "import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack('4sl', socket.inet_aton('224.0.0.251'), 0))
print('listening', flush=True)
print(s.recv(100).decode(), flush=True)";
    const SEND: &str = "import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'anybody there?', ('224.0.0.251', 5353))";
    let lan = Lan::new();
    let (alice, bob) = (lan.host("alice"), lan.host("bob"));
    let listener = bob.start("python3", &["-c", LISTEN]);
    assert_eq!(listener.line(SOON), "listening");
    alice.succeed("python3", &["-c", SEND]);
    assert_eq!(listener.line(SOON), "anybody there?");
}

#[test]
fn processes_end_with_their_host() {
    let lan = Lan::new();
    let alice = lan.host("alice");
    let process = alice.start("sh", &["-c", "sleep 1000 & echo $!; wait"]);
    let grandchild = process.line(SOON);
    assert!(Path::new("/proc").join(process.id().to_string()).exists());
    drop(alice);
    eventually("the grandchild is gone", SOON, || {
        // A zombie that nobody has reaped yet has no command line.
        let command = std::fs::read(Path::new("/proc").join(&grandchild).join("cmdline"));
        command.map_or(true, |command| command.is_empty()).then_some(())
    });
}

#[test]
fn nix_copies_a_signed_closure_from_host_to_host() {
    let lan = Lan::new();
    let (publisher, consumer) = (lan.host("publisher"), lan.host("consumer"));
    let (from, to) = (Nix::new(&publisher), Nix::new(&consumer));
    let app = from.build_app();
    let key = from.generate_key("cache-1");
    from.sign(&key, &app);
    let cache = publisher.path("cache");
    publisher
        .succeed("nix", &["copy", "--to", &format!("file://{}?compression=none", cache.display()), &app]);
    let (_server, url) = serve(&publisher, &cache);

    let refusal = consumer.fail("nix", &["copy", "--from", &url, &app]);
    assert!(refusal.contains("lacks a valid signature"), "{refusal}");
    to.assert_lacks(&app);

    to.configure(&NixConf { substituters: &[&url], trusted_public_keys: &[&key.public] });
    consumer.succeed("nix-store", &["--realise", &app]);
    to.assert_has_closure_of(&from, &app);
    let said = consumer.succeed(format!("{app}/bin/app"), &[] as &[&str]);
    assert!(said.starts_with("file 7\n1\n") && said.ends_with(&app), "{said}");
}
