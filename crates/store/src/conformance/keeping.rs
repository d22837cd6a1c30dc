//! Pins, uses, removal: what stays and what goes.

use std::collections::BTreeMap;

use firn_castore::Root;

use super::{Case, add, file, keep_sample, stored_path};
use crate::{Reason, Store, UnixSeconds, Visible};

pub(super) const CASES: &[Case] =
    &[pins_come_and_go, a_commit_pins, uses_are_remembered, what_is_removed_is_out_of_sight, usage_counts];

fn path(store: &dyn Store, seed: u64) -> Visible {
    let root = keep_sample(store, seed);
    let path = stored_path(&format!("path-{seed}"), &root, true);
    store.commit(path.clone(), None).unwrap();
    Visible::Path(path.path_hash())
}

fn pins_come_and_go(store: &dyn Store) {
    let root = Visible::Root(file(add(store, b"not visible yet")).into());
    let path = path(store, 0);
    let reason = |text: &str| text.parse::<Reason>().unwrap();
    assert_eq!(store.pins().unwrap(), BTreeMap::new());
    assert!(!store.unpin(&path).unwrap());
    store.pin(&path, &reason("one")).unwrap();
    store.pin(&path, &reason("two words, \u{fc}")).unwrap();
    store.pin(&root, &reason(&"x".repeat(255))).unwrap();
    let expected = [(path.clone(), reason("two words, \u{fc}")), (root.clone(), reason(&"x".repeat(255)))];
    assert_eq!(store.pins().unwrap(), expected.into());
    assert!(store.unpin(&path).unwrap());
    assert!(!store.unpin(&path).unwrap());
    assert_eq!(store.pins().unwrap().into_keys().collect::<Vec<_>>(), [root]);
}

fn a_commit_pins(store: &dyn Store) {
    let root = keep_sample(store, 0);
    let stored = stored_path("a", &root, true);
    let [path, root_pin] = [Visible::Path(stored.path_hash()), Visible::Root(root.clone())];
    store.commit(stored.clone(), Some(&Reason::added())).unwrap();
    store.commit_root(&root, true, Some(&Reason::adopted())).unwrap();
    let expected = [(path.clone(), Reason::added()), (root_pin.clone(), Reason::adopted())];
    assert_eq!(store.pins().unwrap(), expected.clone().into());
    // A commit without a reason takes no pin away.
    store.commit(stored, None).unwrap();
    store.commit_root(&root, false, None).unwrap();
    assert_eq!(store.pins().unwrap(), expected.into());
    assert!(store.remove(&path).unwrap());
    assert_eq!(store.pins().unwrap(), [(root_pin, Reason::adopted())].into());
    // Nor does a commit that is refused pin anything.
    let (missing, ..) = super::sample(1);
    assert!(store.commit(stored_path("b", &missing, true), Some(&Reason::added())).is_err());
    assert!(store.commit_root(&missing, true, Some(&Reason::added())).is_err());
    assert_eq!(store.pins().unwrap().len(), 1);
}

fn uses_are_remembered(store: &dyn Store) {
    let [a, b] = [path(store, 0), path(store, 1)];
    let root = Root::from(file(add(store, b"root")));
    store.commit_root(&root, true, None).unwrap();
    let [root, absent] = [Visible::Root(root), Visible::Root(file(add(store, b"absent")).into())];
    assert_eq!(store.uses().unwrap(), BTreeMap::new());
    store.used(&a, UnixSeconds(10)).unwrap();
    store.used(&root, UnixSeconds(u64::MAX)).unwrap();
    store.used(&absent, UnixSeconds(11)).unwrap();
    store.used(&a, UnixSeconds(12)).unwrap();
    // What was told last counts: before, the clock may have been ahead.
    store.used(&a, UnixSeconds(11)).unwrap();
    let expected = [(a.clone(), UnixSeconds(11)), (root.clone(), UnixSeconds(u64::MAX))];
    assert_eq!(store.uses().unwrap(), expected.into());
    store.commit(stored_path("path-0", &keep_sample(store, 0), false), None).unwrap();
    assert_eq!(store.uses().unwrap().get(&a), Some(&UnixSeconds(11)));
    store.used(&b, UnixSeconds(0)).unwrap();
    assert_eq!(store.uses().unwrap().get(&b), Some(&UnixSeconds(0)));
    for what in [&a, &root] {
        assert!(store.remove(what).unwrap());
    }
    assert_eq!(store.uses().unwrap(), [(b, UnixSeconds(0))].into());
}

fn what_is_removed_is_out_of_sight(store: &dyn Store) {
    let tree = keep_sample(store, 0);
    let stored = stored_path("path-0", &tree, true);
    let [path, root] = [Visible::Path(stored.path_hash()), Visible::Root(tree.clone())];
    assert!(!store.remove(&path).unwrap());
    for _ in 0..2 {
        store.commit(stored.clone(), None).unwrap();
        store.commit_root(&tree, true, None).unwrap();
        assert!(store.remove(&path).unwrap());
        assert!(!store.remove(&path).unwrap());
        assert_eq!(store.path(&stored.path_hash()).unwrap(), None);
        assert_eq!((store.paths().unwrap().len(), store.roots().unwrap().len()), (0, 1));
        assert!(store.remove(&root).unwrap());
        assert_eq!(store.roots().unwrap(), []);
        // What was beneath it stays for now, so that it can be made visible again.
    }
}

fn usage_counts(store: &dyn Store) {
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.blob_bytes, usage.directories, usage.partials), (0, 0, 0, 0));
    keep_sample(store, 0);
    keep_sample(store, 1);
    let bytes = super::contents(3 << 20, 7);
    super::copy_in(store, &bytes);
    store.keep_spans(&[super::span_of(&super::contents(1 << 20, 8), super::groups(0, 3))]).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.directories, usage.partials), (6, 3, 1));
    assert_eq!((usage.adopted_blobs, usage.adopted_bytes), (0, 0));
    assert_eq!(usage.blob_bytes, 200_200 + (3 << 20));
    assert!(usage.disk_bytes >= usage.blob_bytes);
}
