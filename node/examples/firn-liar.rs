//! A node that lies, for the end-to-end tests: `firn-liar KIND` and then what `firn node` takes.
//!
//! It is a node in every other way: it gets paths, announces them and answers its control socket.

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use firn_node::{
    cli::{Global, NodeArgs},
    config::{Config, Environment},
    failure::Failure,
    liar, node,
};
use firn_simnet::liar::LieKind;

/// A node that lies.
#[derive(Parser)]
struct Arguments {
    /// How: the name of a kind of lie, such as WrongByte
    kind: String,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    node: NodeArgs,
}

/// There is no such lie.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no kind of lie")]
struct NoSuchLie(String);

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("firn-liar: {failure}");
            failure.exit_code()
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { kind, global, node: NodeArgs { settings, .. } } = arguments;
    let named = LieKind::ALL.into_iter().find(|known| format!("{known:?}") == kind);
    let kind = named.ok_or_else(|| Failure::usage(NoSuchLie(kind)))?;
    let config = Config::load(&global, settings, &Environment::of_process())?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
    runtime.block_on(node::run(Arc::new(config), liar::behaviour(kind), global.json))
}
