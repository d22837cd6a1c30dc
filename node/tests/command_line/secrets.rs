//! Secret keys that are given where something else belongs: in no error, and so in no journal, are they repeated.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::world::{Firn, error, text};

#[test]
fn a_secret_key_that_is_given_by_mistake_is_not_repeated() {
    let firn = Firn::new();
    assert!(firn.run(&["key", "generate", "cache-1", "--out", "k.sec"], &[]).status.success());
    let secret = fs::read_to_string(firn.path("k.sec")).unwrap();
    let base64 = secret.split_once(':').unwrap().1;
    fs::write(firn.path("file"), "").unwrap();
    let words = |words: &[&str]| words.iter().map(|word| word.replace("KEY", &secret)).collect::<Vec<_>>();
    let mut commands: Vec<Vec<String>> = vec![
        words(&["node", "--check", "KEY"]),
        words(&["node", "--check", "--trust=KEY"]),
        words(&["node", "--check", "--trust", "k:AAAA KEY,KEY"]),
        words(&["node", "--check", "--trsut", "KEY"]),
        words(&["node", "--check", "--trsut=KEY"]),
        words(&["KEY"]),
        words(&["add", "file", "--sign-key", "KEY"]),
        words(&["add", "file", "--sign-key", "/nowhere/KEY"]),
        words(&["add", "file", "KEY"]),
        words(&["add", "KEY"]),
        words(&["add", "file", "--name", "KEY"]),
        words(&["get", "KEY"]),
        words(&["pin", "add", "KEY"]),
        words(&["verify", "KEY"]),
        words(&["key", "public", "KEY"]),
        words(&["key", "generate", "KEY", "--out", "new.sec"]),
        words(&["status", "--config", "KEY"]),
        words(&["status", "--data-dir", "KEY"]),
    ];
    let flags = "--trust --peer --bootstrap --relay --network --dial --http --http-host --role --mdns --adopt --adopt-jobs \
                 --upload-max --compress --miss-dht-ms --data-dir --config";
    // The second half of a key alone is as much of a secret.
    for (flag, given) in flags.split(' ').flat_map(|flag| [(flag, secret.as_str()), (flag, base64)]) {
        commands.push(["node", "--check", flag, given].map(str::to_owned).to_vec());
    }
    let mut printed = Vec::new();
    for arguments in &commands {
        for json in [&[][..], &["--json"]] {
            let arguments: Vec<&str> =
                arguments.iter().map(String::as_str).chain(json.iter().copied()).collect();
            let output = firn.run(&arguments, &[("RUST_LOG", "trace")]);
            assert!(!output.status.success(), "{arguments:?}");
            printed.push((arguments.join(" "), output));
        }
    }
    for variable in ["FIRN_TRUST", "FIRN_PEER", "FIRN_ROLE", "FIRN_MDNS", "FIRN_CONFIG", "FIRN_MISS_DHT_MS"] {
        for arguments in [&["status"][..], &["node", "--check"], &["node"]] {
            let output = firn.run(arguments, &[(variable, &secret), ("RUST_LOG", "trace")]);
            assert!(!output.status.success(), "{variable}");
            printed.push((variable.into(), output));
        }
    }
    for line in [
        "trust = ['KEY']",
        "trust = 'KEY'",
        "trust = [KEY]",
        "trust = KEY",
        "'KEY' = 1",
        "role = 'KEY'",
        "KEY",
        "mdns = 'KEY'",
    ] {
        fs::write(firn.path("firn.toml"), format!("\n{}\n", line.replace("KEY", &secret))).unwrap();
        let output = firn.run(&["node", "--check", "--config", "firn.toml"], &[]);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(text(&output.stderr).contains("firn.toml"), "{line}: {}", text(&output.stderr));
        printed.push((line.into(), output));
    }
    for (what, output) in printed {
        for out in [&output.stdout, &output.stderr] {
            assert!(!text(out).contains(&base64[..20]), "{}", what.replace(base64, "SECRET"));
        }
    }
}

#[test]
fn what_is_no_public_key_is_not_repeated_and_its_place_is_named() {
    let firn = Firn::new();
    firn.run(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    let secret = fs::read_to_string(firn.path("k.sec")).unwrap();
    let public = text(&firn.run(&["key", "public", "k.sec"], &[]).stdout).trim().to_owned();
    // Of a secret key that was not copied whole the most is still there.
    let cut = &secret[..secret.len() - 20];
    for (given, told) in [(secret.as_str(), "secret key"), (cut, "item 2")] {
        let output = firn.run(&["node", "--check", "--trust", &public, "--trust", given], &[]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("trust") && error.contains("item 2") && error.contains(told), "{error}");
        assert!(!error.contains(&secret[6..26]), "{error}");
    }
    // A public key where the secret one belongs.
    fs::write(firn.path("k.pub"), &public).unwrap();
    let (code, json) = firn.json(&["add", "k.pub", "--sign-key", "k.pub"], &[]);
    assert_eq!((code, error(&json).contains("k.pub is no secret key")), (2, true), "{json}");
}

#[test]
fn a_signing_key_that_others_can_read_is_warned_of() {
    let firn = Firn::new();
    firn.run(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    fs::write(firn.path("file"), "").unwrap();
    for (mode, is_warned) in [(0o600, false), (0o400, false), (0o640, true), (0o644, true)] {
        fs::set_permissions(firn.path("k.sec"), fs::Permissions::from_mode(mode)).unwrap();
        for arguments in [&["add", "file", "--sign-key", "k.sec"][..], &["key", "public", "k.sec"]] {
            for json in [&[][..], &["--json"]] {
                let output = firn.run(&[arguments, json].concat(), &[]);
                assert!(output.status.success());
                assert_eq!(
                    text(&output.stderr).contains("chmod 0600 k.sec"),
                    is_warned,
                    "{mode:o} {arguments:?}"
                );
            }
        }
    }
}
