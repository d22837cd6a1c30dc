//! Adding in place.

use std::{fs, os::unix::ffi::OsStrExt, process::Command};

use super::{Bench, How, add_afresh, against_slowest, work};
use crate::{
    cost::{Contender, cost_of, cost_of_work},
    error::BenchError,
    table::Row,
    tools::sha256_of_files,
    trees::files,
};

/// The baselines are given the names of the files; ours has to find them.
pub(super) fn toolchain(bench: &Bench) -> Result<Row, BenchError> {
    let (place, tree) = (&bench.places.memory, bench.places.trees.toolchain()?);
    let list = place.join("files");
    let mut names = Vec::new();
    for file in files(tree)? {
        names.extend_from_slice(file.as_os_str().as_bytes());
        names.push(0);
    }
    fs::write(&list, names).map_err(BenchError::io(&list))?;
    let openssl = sha256_of_files()?;
    let by_blake3: Contender<'_> =
        Box::new(|| Ok(cost_of_work(work(&["blake3".as_ref(), list.as_os_str()]))?.0));
    let by_openssl: Contender<'_> = Box::new(|| {
        let mut command = Command::new("xargs");
        command.arg("-0").arg("-a").arg(&list).args(&openssl);
        cost_of(vec![command.into()])
    });
    let others = vec![("BLAKE3, one thread", by_blake3), ("openssl dgst -sha256", by_openssl)];
    against_slowest(bench, add_afresh(place, tree, How::Adopt), others)
}
