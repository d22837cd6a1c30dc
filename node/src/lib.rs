//! The firn node: configuration, wiring, command line and control socket, and nothing else.
//!
//! What a node does is done by the floors below it. This crate decides only with which settings ([`config`]), which
//! command asks for it ([`cli`]), and who is asked: a running node over its Unix socket ([`control`]) or, where none
//! runs, this process itself. Both stand behind one trait, [`operations::Operations`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod failure;
pub mod key;
pub mod nixdb;
pub mod operations;
pub mod progress;
pub mod show;

pub use commands::run;
