//! What is kept together is written together.

use super::*;

fn small(count: u64) -> Vec<VerifiedSpan> {
    (0..count).map(|seed| VerifiedSpan::of(contents(10_000, seed))).collect()
}

fn whole(store: &DiskStore, spans: &[VerifiedSpan]) -> usize {
    let is_here = |span: &&VerifiedSpan| store.read_span(&span.blob(), span.span()).unwrap().is_some();
    spans.iter().filter(is_here).count()
}

#[test]
fn many_small_things_take_few_writes_and_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    let spans = small(250);
    store.keep_spans(&spans[..10]).unwrap();
    assert_eq!(disk.writes.load(Ordering::SeqCst), 1);
    // What is named twice, or is here already, is not written again.
    store.keep_spans(&[&spans[..], &spans[..]].concat()).unwrap();
    assert_eq!(disk.writes.load(Ordering::SeqCst), 4, "1 MiB at a time");
    let directories: Vec<Directory> = spans
        .iter()
        .map(|span| directory([("a", Node::File { blob: span.blob(), executable: false })]))
        .collect();
    store.keep_directories(&[&directories[..], &directories[..]].concat()).unwrap();
    assert_eq!(disk.writes.load(Ordering::SeqCst), 5);
    let length = fs::metadata(store.packs.path(1)).unwrap().len();
    assert!(length < 251 * 10_100, "{length} bytes");
    // The process is killed.
    std::mem::forget(store);
    let (_, store) = open(&dir);
    assert_eq!(whole(&store, &spans), spans.len());
    for directory in directories {
        assert_eq!(store.directory(&directory.digest()).unwrap(), Some(directory));
    }
    assert_eq!(fs::metadata(store.packs.path(1)).unwrap().len(), length);
}

#[test]
fn what_a_failed_write_was_to_bring_is_not_here_and_can_be_kept_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, store) = open(&dir);
    let spans = small(20);
    store.keep_spans(&spans[..5]).unwrap();
    disk.write_fails.store(true, Ordering::SeqCst);
    store.keep_spans(&spans).unwrap_err();
    assert_eq!(whole(&store, &spans), 5);
    disk.write_fails.store(false, Ordering::SeqCst);
    store.keep_spans(&spans).unwrap();
    for span in &spans {
        commit(&store, span.blob());
    }
    assert_eq!(whole(&store, &spans), spans.len());
}
