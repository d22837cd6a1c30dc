//! Adding by copying.

use std::{path::Path, process::Command};

use super::{Bench, How, add_afresh, adding, against_slowest, store_with};
use crate::{
    cost::{Contender, Pipeline, cost_of, cost_of_work},
    error::BenchError,
    places::{Place, sync},
    table::Row,
    tools::{Tool, sha256_of_files},
};

/// The tree lies in memory for both, so that only what is written touches the disk.
pub(super) fn small_to_disk(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.disk, bench.places.trees.small()?);
    against_slowest(
        bench,
        add_afresh(place, tree, How::Copy),
        vec![("cp -r, sync -f", copied_and_synced(place, tree))],
    )
}

pub(super) fn small_in_memory(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.small()?);
    let tar = Tool::Tar.find()?;
    let packed = move || {
        let mut command = Command::new(&tar);
        command.arg("c").arg("-C").arg(tree).arg(".");
        cost_of(vec![Pipeline::read_by_cat(command)])
    };
    against_slowest(bench, add_afresh(place, tree, How::Copy), vec![("tar c | cat", Box::new(packed))])
}

pub(super) fn big_in_memory(bench: &Bench) -> Result<Row, BenchError> {
    big(bench, &bench.places.memory)
}

pub(super) fn big_to_disk(bench: &Bench) -> Result<Row, BenchError> {
    big(bench, &bench.places.disk)
}

fn big(bench: &Bench, place: &Place) -> Result<Row, BenchError> {
    let tree = bench.places.trees.big()?;
    let others = vec![
        ("cp, sync -f", copied_and_synced(place, tree)),
        ("openssl dgst -sha256", hashed_by_openssl(tree)?),
    ];
    against_slowest(bench, add_afresh(place, tree, How::Copy), others)
}

/// The first add is the baseline: into a new store each time. Ours is the same tree into a store that has it.
pub(super) fn toolchain_again(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.toolchain()?);
    let (store, _) = store_with(place, "again", tree)?;
    let again = || Ok(cost_of_work(adding(&store, tree, How::Copy))?.0);
    let first = add_afresh(place, tree, How::Copy);
    let row = against_slowest(bench, Box::new(again), vec![("first add", first)]);
    place.remove("again")?;
    row
}

fn copied_and_synced<'a>(place: &'a Place, tree: &'a Path) -> Contender<'a> {
    Box::new(move || {
        let copy = place.scratch()?.join("copy");
        let mut copying = Command::new("cp");
        copying.arg("-r").arg(tree).arg(&copy);
        cost_of(vec![copying.into(), sync(&copy).into()])
    })
}

fn hashed_by_openssl(file: &Path) -> Result<Contender<'_>, BenchError> {
    let words = sha256_of_files()?;
    Ok(Box::new(move || {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(file);
        cost_of(vec![command.into()])
    }))
}
