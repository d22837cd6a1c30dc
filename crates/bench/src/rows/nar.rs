//! NARs out of a store into a pipe.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
};

use super::{Bench, against_slowest, store_with, work};
use crate::{
    cost::{Pipeline, cost_of, cost_of_pipeline},
    error::BenchError,
    places::Place,
    table::Row,
    tools::Tool,
};

pub(super) fn toolchain(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.toolchain()?);
    let (store, _) = store_with(place, "store-of-toolchain", tree)?;
    let nix_store = Tool::NixStore.find()?;
    let rendered = || work(&["nar".as_ref(), store.as_os_str()]);
    let dumped = || {
        let mut command = Command::new(&nix_store);
        command.arg("--dump").arg(tree);
        command
    };
    let (ours, theirs) = (sha256(place, rendered())?, sha256(place, dumped())?);
    if ours != theirs {
        return Err(BenchError::Differs { ours, theirs });
    }
    let row = against_slowest(
        bench,
        Box::new(|| cost_of_pipeline(Pipeline::read_by_cat(rendered()))),
        vec![("nix-store --dump | cat", Box::new(|| cost_of(vec![Pipeline::read_by_cat(dumped())])))],
    );
    place.remove("store-of-toolchain")?;
    row
}

/// The hash of what a program writes.
fn sha256(place: &Place, command: Command) -> Result<Box<str>, BenchError> {
    let file = place.join("sha256");
    let output = File::create(&file).map_err(BenchError::io(&file))?;
    Pipeline::read_by(command, Command::new("sha256sum")).run(Stdio::from(output))?;
    let said = fs::read_to_string(&file).map_err(BenchError::io(&file))?;
    Ok(said.split_whitespace().next().unwrap_or_default().into())
}
