//! The command line from outside: what a shell sees where no node is needed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

use serde_json::Value;

struct Firn(tempfile::TempDir);

impl Firn {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_firn"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat(), variables);
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_command_has_help_that_shows_its_json() {
    let firn = Firn::new();
    for command in ["node", "add", "get", "status", "verify", "demo"] {
        let output = firn.run(&[command, "--help"], &[]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("json"), "{command}: {}", text(&output.stdout));
    }
}

#[test]
fn a_key_is_made_once_and_shown_again() {
    let firn = Firn::new();
    let made = firn.run(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    assert!(made.status.success());
    assert!(text(&made.stdout).starts_with("k-1:"));
    let shown = firn.run(&["key", "public", "k.sec"], &[]);
    assert_eq!(shown.stdout, made.stdout);
    let (code, json) = firn.json(&["key", "public", "k.sec"], &[]);
    assert_eq!((code, json["public_key"].as_str()), (0, Some(text(&made.stdout).trim())));

    let (code, json) = firn.json(&["key", "generate", "k-1", "--out", "k.sec"], &[]);
    assert_eq!((code, &json["exit_code"]), (1, &Value::from(1)));
    assert!(json["error"].as_str().unwrap().contains("k.sec"), "{json}");
}

#[test]
fn flags_stand_over_variables_and_these_over_the_file() {
    let firn = Firn::new();
    std::fs::write(firn.0.path().join("firn.toml"), "role = \"lan\"\nnetwork = \"file\"\nhttp = \"1\"\n")
        .unwrap();
    let arguments = ["node", "--check", "--config", "firn.toml", "--http", "3"];
    let (code, json) = firn.json(&arguments, &[("FIRN_HTTP", "2"), ("FIRN_NETWORK", "variable")]);
    assert_eq!(code, 0, "{json}");
    assert_eq!(json["role"], "lan");
    assert_eq!(json["network"], "variable");
    assert_eq!(json["http"], "127.0.0.1:3");
    let output = firn.run(&["node", "--check"], &[("FIRN_CONFIG", "firn.toml")]);
    assert!(text(&output.stdout).contains("neighbours with private addresses"), "{}", text(&output.stdout));
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_with_exit_code_2() {
    let firn = Firn::new();
    std::fs::write(firn.0.path().join("firn.toml"), "rolle = \"lan\"\n").unwrap();
    let (code, json) = firn.json(&["node", "--check", "--config", "firn.toml"], &[]);
    assert_eq!(code, 2);
    let error = json["error"].as_str().unwrap();
    assert!(error.contains("firn.toml") && error.contains("rolle"), "{error}");

    let (code, json) = firn.json(&["status"], &[("FIRN_PEER", "nobody")]);
    assert_eq!(code, 2);
    assert!(json["error"].as_str().unwrap().contains("nobody"), "{json}");
    assert_eq!(firn.run(&["nod"], &[]).status.code(), Some(2));
}
