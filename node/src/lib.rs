//! The firn node: configuration, wiring, command line and control socket, and nothing else.
//!
//! What a node does is done by the floors below it. This crate decides only with which settings ([`config`]), which
//! command asks for it ([`cli`]), and who is asked: a running node over its Unix socket ([`control`]) or, where none
//! runs, this process itself ([`alone`]). Both stand behind one trait, [`operations::Operations`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic where nobody can be told: see [`output`].

pub mod adopter;
mod advice;
pub mod alone;
pub mod answerer;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
#[cfg(feature = "demo")]
pub mod demo;
pub mod failure;
pub mod housekeeping;
pub mod key;
#[cfg(feature = "demo")]
pub mod liar;
pub mod nixdb;
pub mod node;
mod open_files;
pub mod operations;
pub mod output;
pub mod progress;
pub mod remembered;
pub mod show;
pub mod signals;

pub use commands::run;
