use std::{net::IpAddr, path::Path, time::Duration};

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

const KEY: &str = "cache-1:dt2+8nOVhhfN1DG1zYVEVjBEC+pwLTRH6hTXMIO7vDY=";
const NODE: &str = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const PEER: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

/// A home directory of its own, and whatever flags.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn environment(&self) -> Environment {
        Environment {
            home: Some(self.0.path().join("home")),
            machine_config: self.0.path().join("etc/config.toml"),
            ..Environment::default()
        }
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let file = self.0.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    fn load(&self, flags: &[&str]) -> Result<Config, ConfigError> {
        let cli = Cli::try_parse_from([&["firn", "node"], flags].concat()).unwrap();
        let Command::Node(node) = cli.command else { panic!("not the node command") };
        Config::load(&cli.global, node.settings, &self.environment())
    }
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_port_is_one_of_both_families_where_there_are_both() {
    let place = Place::new();
    let environment = Environment { has_ipv6: true, ..place.environment() };
    for (flags, want) in [
        (&[] as &[&str], &["0.0.0.0:7334", "[::]:7334"][..]),
        (&["--iroh", "0"], &["0.0.0.0:0", "[::]:0"]),
        (&["--iroh", "0.0.0.0:9"], &["0.0.0.0:9"]),
        (&["--iroh", "[::1]:9"], &["[::1]:9"]),
    ] {
        let cli = Cli::try_parse_from([&["firn", "node"], flags].concat()).unwrap();
        let Command::Node(node) = cli.command else { panic!("not the node command") };
        let config = Config::load(&cli.global, node.settings, &environment).unwrap();
        assert_eq!(texts(&config.iroh), want, "{flags:?}");
        assert_eq!(texts(&config.libp2p), ["0.0.0.0:7335", "[::]:7335"]);
    }
}

#[test]
fn what_is_named_and_cannot_be_dialled_is_a_wrong_value() {
    let place = Place::new();
    let peer = |address: &str| format!("{PEER}@{address}");
    let node = |ip: &str, port: u16| format!("/{ip}/udp/{port}/quic-v1{NODE}");
    for (flags, word) in [
        (["--peer", &peer("[fd00::1]:7334"), "--iroh", "7334"], "IPv6"),
        (["--peer", &peer("10.0.0.1:7334"), "--iroh", "[::]:7334"], "IPv4"),
        (["--peer", &peer("10.0.0.1:7334"), "--iroh", "127.0.0.1:7334"], "loopback"),
        (["--peer", &peer("10.0.0.1:0"), "--iroh", "7334"], "port 0"),
        (["--peer", &peer("0.0.0.0:7334"), "--iroh", "7334"], "0.0.0.0"),
        (["--bootstrap", &node("ip6/fd00::1", 1), "--libp2p", "0.0.0.0:1"], "IPv6"),
        (["--bootstrap", &node("ip4/10.0.0.1", 1), "--libp2p", "127.0.0.1:1"], "loopback"),
        (["--bootstrap", &node("ip4/10.0.0.1", 0), "--libp2p", "0"], "port 0"),
        (["--bootstrap", &node("ip4/224.0.0.1", 1), "--libp2p", "0"], "224.0.0.1"),
        (["--relay", "https://relay.example:0", "--iroh", "0"], "port 0"),
        (["--relay", "http://0.0.0.0:80", "--iroh", "0"], "0.0.0.0"),
    ] {
        let error = place.load(&flags).unwrap_err();
        let ConfigError::Value { key, value, source, .. } = &error else { panic!("{error}") };
        assert_eq!(format!("--{key}"), flags[0]);
        assert!(value.as_ref() == flags[1] && source.to_string().contains(word), "{error}");
    }
    for good in ["https://relay.example", "http://127.0.0.1:3340", "https://[fd00::1]:443"] {
        assert_eq!(place.load(&["--relay", good]).unwrap().relays.len(), 1, "{good}");
    }
}

#[test]
fn defaults_give_nothing_away_and_listen_for_this_machine_only() {
    let place = Place::new();
    let config = place.load(&[]).unwrap();
    assert_eq!(config.role, Role::Client);
    assert_eq!(config.http.to_string(), "127.0.0.1:7333");
    assert_eq!(texts(&config.iroh), ["0.0.0.0:7334"]);
    assert_eq!(texts(&config.libp2p), ["0.0.0.0:7335"]);
    assert_eq!(config.data_dir, place.0.path().join("home/.local/share/firn"));
    assert_eq!(config.nix_root, Path::new("/"));
    assert!(!config.mdns);
    assert!(config.file.is_none());
    let mut public = public();
    public.sort();
    assert_eq!(config.dial, public);
    let ms = |millis| Duration::from_millis(millis);
    assert_eq!(config.miss, MissBudgets { alone: ms(0), near: ms(300), dht: ms(5000) });
}

#[test]
fn flags_stand_over_the_file() {
    let place = Place::new();
    let file = "role = \"seed\"\nmdns = true\nmiss-dht-ms = 7\nhttp = \"[::1]:1\"\niroh = \"0\"\ndata-dir = \"/a\"\n";
    place.write("home/.config/firn/config.toml", &format!("{file}trust = [\"{KEY}\"]\n"));
    let config = place.load(&["--role", "lan", "--http", "0", "--trust", ""]).unwrap();
    assert_eq!(config.role, Role::Lan);
    assert_eq!(config.http.to_string(), "127.0.0.1:0");
    assert_eq!(texts(&config.iroh), ["0.0.0.0:0"]);
    assert_eq!(config.miss.dht, Duration::from_millis(7));
    assert!(config.mdns);
    assert!(config.trust.is_empty(), "an empty list replaces the file's");
    assert_eq!(config.data_dir, Path::new("/a"));
    assert_eq!(config.file, Some(place.0.path().join("home/.config/firn/config.toml")));
    assert_eq!(place.load(&["--data-dir", "/b"]).unwrap().data_dir, Path::new("/b"));
}

#[test]
fn only_the_first_file_counts() {
    let place = Place::new();
    place.write("etc/config.toml", "role = \"seed\"");
    assert_eq!(place.load(&[]).unwrap().role, Role::Seed);
    place.write("home/.config/firn/config.toml", "");
    assert_eq!(place.load(&[]).unwrap().role, Role::Client);
    let named = place.write("named.toml", "role = \"lan\"");
    assert_eq!(place.load(&["--config", named.to_str().unwrap()]).unwrap().role, Role::Lan);
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let place = Place::new();
    let error = place.load(&["--config", "/nowhere/config.toml"]).unwrap_err();
    assert!(error.to_string().contains("/nowhere/config.toml"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_file() {
    let place = Place::new();
    let file = place.write("home/.config/firn/config.toml", "role = \"seed\"\ntrsut = []\n");
    let error = place.load(&[]).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()) && error.contains("trsut"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_place() {
    let cases = [
        ("--peer", "peer", "aa@127.0.0.1:1"),
        ("--bootstrap", "bootstrap", "/ip4/10.0.0.1/udp/1/quic-v1"),
        ("--relay", "relay", "ftp://x"),
        ("--network", "network", "No"),
        ("--dial", "dial", "everywhere"),
        ("--http", "http", "localhost"),
        ("--http-host", "http-host", "cache.lan:80"),
        ("--iroh", "iroh", "65536"),
    ];
    for (flag, key, value) in cases {
        let place = Place::new();
        let error = place.load(&[flag, value]).unwrap_err().to_string();
        assert!(error.contains("command line") && error.contains(key) && error.contains(value), "{error}");

        let is_list = ["peer", "bootstrap", "relay", "dial", "http-host"].contains(&key);
        let text = if is_list { format!("{key} = [\"{value}\"]") } else { format!("{key} = \"{value}\"") };
        let file = place.write("home/.config/firn/config.toml", &text);
        let error = place.load(&[]).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains(value), "{error}");
    }
}

#[test]
fn what_is_no_key_is_named_by_its_place_alone() {
    let secret = firn_nix::SigningKey::generate("k".parse().unwrap(), [1; 32]).to_secret_text();
    for (value, word) in [("nocolon", "colon"), (&*secret, "secret key")] {
        let place = Place::new();
        let error = place.load(&["--trust", KEY, "--trust", value]).unwrap_err();
        let told = error.to_string();
        assert!(matches!(&error, ConfigError::Key { key: "trust", place: 2, .. }), "{error:?}");
        assert!(told.contains("command line") && told.contains(word) && !told.contains(value), "{told}");

        let file = place.write("home/.config/firn/config.toml", &format!("trust = [\"{value}\"]"));
        let told = place.load(&[]).unwrap_err().to_string();
        assert!(
            told.contains(file.to_str().unwrap()) && told.contains(word) && !told.contains(value),
            "{told}"
        );
    }
}

#[test]
fn a_file_that_is_no_toml_is_named_with_the_line_and_not_with_what_stands_there() {
    for text in [
        "trust = \"value\"",
        "trust = [value]",
        "trust = value",
        "http = [\"value\"]",
        "mdns = \"value\"",
        "value",
    ] {
        let place = Place::new();
        let file = place.write("home/.config/firn/config.toml", &format!("\n\n{text}\n"));
        let error = place.load(&[]).unwrap_err();
        let told = format!("{error} {}", std::error::Error::source(&error).unwrap());
        assert!(matches!(error, ConfigError::Parse { .. }), "{text}: {told}");
        assert!(told.contains(file.to_str().unwrap()) && told.contains("line 3: "), "{text}: {told}");
        assert!(!told.contains("\"value") && !told.contains("[value"), "{text}: {told}");
    }
}

#[test]
fn a_path_may_begin_with_a_tilde() {
    let place = Place::new();
    let home = place.0.path().join("home");
    for (written, meant) in [("~/x", home.join("x")), ("~", home.clone()), ("/a/~/b", "/a/~/b".into())] {
        let place_of = |config: Config| (config.data_dir, config.nix_root);
        let flags = ["--data-dir", written, "--nix-root", written];
        assert_eq!(place_of(place.load(&flags).unwrap()), (meant.clone(), meant), "{written}");
    }
    for written in ["~other", "~other/x", "~x"] {
        let error = place.load(&["--data-dir", written]).unwrap_err();
        assert!(matches!(&error, ConfigError::Home(path) if path == Path::new(written)), "{error}");
    }
}

#[test]
fn items_of_a_list_may_stand_together() {
    let place = Place::new();
    let other = KEY.replace("cache-1", "cache-2");
    let config = place.load(&["--trust", &format!("{KEY} {other},"), "--trust", KEY]).unwrap();
    let names: Vec<String> = config.trust.iter().map(ToString::to_string).collect();
    assert_eq!(names, [KEY, &other, KEY]);
}

#[test]
fn naming_somebody_in_a_private_network_opens_private_networks() {
    let place = Place::new();
    let contains = |config: &Config, ip: &str| {
        config.dial.iter().any(|network| network.contains(&ip.parse::<IpAddr>().unwrap()))
    };
    let bootstrap = format!("/ip4/10.0.0.1/udp/7335/quic-v1{NODE}");
    let config = place.load(&["--bootstrap", &bootstrap]).unwrap();
    assert!(contains(&config, "192.168.3.3") && contains(&config, "1.1.1.1"));
    assert!(!contains(&config, "127.0.0.1"));

    let config = place.load(&["--peer", &format!("{PEER}@127.0.0.1:7334")]).unwrap();
    assert_eq!(config.peers[0].to_string(), format!("{PEER}@127.0.0.1:7334"));
    assert!(contains(&config, "127.0.0.1") && !contains(&config, "10.0.0.1"));

    let config = place.load(&["--bootstrap", &bootstrap, "--dial", "1.2.3.0/24"]).unwrap();
    assert_eq!(config.dial, ["1.2.3.0/24".parse().unwrap()]);

    let config = place.load(&["--role", "lan"]).unwrap();
    assert!(contains(&config, "10.0.0.1") && !contains(&config, "1.1.1.1") && config.mdns);
}

#[test]
fn a_seed_that_names_nobody_begins_a_network_where_it_is() {
    let place = Place::new();
    let public_bootstrap = format!("/ip4/1.2.3.4/udp/7335/quic-v1{NODE}");
    let opens_private = |addresses: &[&str], flags: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let environment = Environment { addresses, ..place.environment() };
        let cli = Cli::try_parse_from([&["firn", "node"], flags].concat()).unwrap();
        let Command::Node(node) = cli.command else { panic!("not the node command") };
        let config = Config::load(&cli.global, node.settings, &environment).unwrap();
        config.dial.iter().any(|network| network.contains(&"10.9.9.9".parse::<IpAddr>().unwrap()))
    };
    let seed = ["--role", "seed"];
    assert!(opens_private(&["127.0.0.1", "10.0.0.1"], &seed));
    assert!(!opens_private(&["127.0.0.1", "169.254.1.1"], &seed));
    assert!(!opens_private(&["1.2.3.5", "172.17.0.1"], &seed), "its containers' network is nobody else's");
    assert!(!opens_private(&["10.0.0.1"], &["--role", "seed", "--bootstrap", &public_bootstrap]));
    assert!(!opens_private(&["10.0.0.1"], &["--role", "seed", "--dial", "public"]));
    assert!(!opens_private(&["10.0.0.1"], &[]));
}

#[test]
fn systemd_names_the_data_directory_before_the_user_does() {
    let place = Place::new();
    let environment = Environment {
        state_directory: Some("/var/lib/firn".into()),
        xdg_data_home: Some("/xdg".into()),
        ..place.environment()
    };
    let load = |environment: &Environment| {
        Config::load(&Global::default(), Settings::default(), environment).unwrap().data_dir
    };
    assert_eq!(load(&environment), Path::new("/var/lib/firn"));
    assert_eq!(load(&Environment { state_directory: None, ..environment.clone() }), Path::new("/xdg/firn"));
}

#[test]
fn the_store_has_a_limit_and_the_nix_store_is_adopted_where_that_is_said() {
    let place = Place::new();
    place.write(
        "home/.config/firn/config.toml",
        "store-bytes-max = \"50G\"\nadopt = [\"/nix/store\"]\nadopt-jobs = 2\n",
    );
    let config = place.load(&[]).unwrap();
    assert_eq!(config.store_bytes_max, Some(ByteLimit(50 << 30)));
    assert!(config.adopt);
    assert_eq!(config.adopt_jobs.map(NonZeroUsize::get), Some(2));
    let config = place.load(&["--store-bytes-max", "none", "--adopt", ""]).unwrap();
    assert_eq!((config.store_bytes_max, config.adopt), (None, false));
    for (flags, word) in [
        (["--store-bytes-max", "much"], "store-bytes-max"),
        (["--adopt", "/home"], "adopt"),
        (["--adopt-jobs", "0"], "adopt-jobs"),
        (["--adopt-jobs", "65"], "adopt-jobs"),
    ] {
        let error = place.load(&flags).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(flags[1]), "{error}");
    }
}

#[test]
fn rates_are_sizes_and_not_too_low() {
    let place = Place::new();
    assert_eq!(place.load(&[]).unwrap().rates, RateLimits::default());
    place.write("home/.config/firn/config.toml", "upload-max = \"10M\"\ndownload-peer-max = \"64K\"\n");
    let config = place.load(&["--upload-max", "none", "--download-max=1.5M"]).unwrap();
    let rate = |bytes: u64| Some(bytes.try_into().unwrap());
    let want = RateLimits { download: rate(3 << 19), download_peer: rate(64 << 10), ..RateLimits::default() };
    assert_eq!(config.rates, want);
    for (flag, value) in [("--upload-peer-max", "63K"), ("--download-max", "0"), ("--upload-max", "fast")] {
        let error = place.load(&[flag, value]).unwrap_err().to_string();
        assert!(error.contains(&flag[2..]) && error.contains(value), "{error}");
    }
}

#[test]
fn compressing_is_a_word() {
    let place = Place::new();
    assert_eq!(place.load(&[]).unwrap().compress, Compress::Auto);
    place.write("home/.config/firn/config.toml", "compress = \"never\"");
    assert_eq!(place.load(&[]).unwrap().compress, Compress::Never);
    assert_eq!(place.load(&["--compress", "always"]).unwrap().compress, Compress::Always);
    assert!(place.load(&["--compress", "zstd"]).unwrap_err().to_string().contains("always or never"));
}
