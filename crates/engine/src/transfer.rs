//! What is being fetched now, for whoever wants to see it.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_store::Visible;

use crate::Progress;
use crate::flights::FlightKey;

/// Something whose contents are being fetched.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// What it is.
    pub what: Visible,
    /// How far it has come.
    pub progress: Progress,
    /// How long it has been under way.
    pub elapsed: Duration,
}

impl FlightKey {
    /// What the flight brings, if it brings contents.
    pub(crate) fn brings(&self) -> Option<Visible> {
        match self {
            FlightKey::Claims(_) => None,
            FlightKey::Path(hash) | FlightKey::Tree(_, Some(hash)) => Some(Visible::Path(*hash)),
            FlightKey::Tree(root, None) => Some(Visible::Root(root.clone())),
        }
    }
}

/// Each thing once: beside the flight of a path there may be one of its tree, and the one that has come further counts.
pub(crate) fn each_once(transfers: impl Iterator<Item = Transfer>) -> Vec<Transfer> {
    let mut furthest: BTreeMap<Visible, Transfer> = BTreeMap::new();
    for transfer in transfers {
        let known = furthest.get(&transfer.what);
        if known.is_none_or(|known| known.progress.bytes_done < transfer.progress.bytes_done) {
            furthest.insert(transfer.what.clone(), transfer);
        }
    }
    furthest.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_its_tree_are_one_transfer() {
        let transfer = |key: &FlightKey, bytes_done| {
            let progress = Progress { bytes_done, ..Progress::default() };
            key.brings().map(|what| Transfer { what, progress, elapsed: Duration::ZERO })
        };
        let (hash, other) = ([1; 20].into(), [2; 20].into());
        let root: firn_castore::Root =
            firn_castore::Node::Symlink { target: b"to".as_slice().try_into().unwrap() }.into();
        let (path, tree) = (FlightKey::Path(hash), FlightKey::Tree(root.clone(), Some(hash)));
        let flights = [
            transfer(&FlightKey::Claims(other), 0),
            transfer(&path, 7),
            transfer(&tree, 3),
            transfer(&FlightKey::Tree(root.clone(), None), 5),
        ];
        let told: Vec<_> = each_once(flights.into_iter().flatten())
            .into_iter()
            .map(|transfer| (transfer.what, transfer.progress.bytes_done))
            .collect();
        assert_eq!(told, [(Visible::Path(hash), 7), (Visible::Root(root), 5)]);
    }
}
