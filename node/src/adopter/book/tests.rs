use super::*;

fn hash(number: u8) -> StorePathHash {
    StorePathHash::from([number; 20])
}

fn id(number: u8) -> RegistrationId {
    RegistrationId(number.into())
}

fn seen(number: u8, row: u64, view: View) -> (RegistrationId, Seen) {
    (id(number), Seen { hash: hash(number), nar_size: 10, row: RowDigest(row), view })
}

/// A book of these registrations, none of which is here.
fn book(numbers: impl IntoIterator<Item = u8>) -> Book {
    let mut book = Book::default();
    let listing = numbers.into_iter().map(|number| seen(number, 0, View::Absent)).collect();
    assert!(book.take_listing(listing, &BTreeSet::new()).is_empty());
    book
}

/// Does all there is to do in this way; gives what was done, in order.
fn work(book: &mut Book, mut run: impl FnMut(&Job) -> Outcome) -> Vec<(RegistrationId, bool)> {
    let mut done = Vec::new();
    while let Some(job) = book.next_job() {
        let outcome = run(&job);
        done.push((job.id, matches!(job.task, Task::Check(_))));
        book.finish(&job, outcome);
    }
    done
}

fn suspects() -> Suspects {
    let mut suspects = Suspects::default();
    suspects.add([BlobDigest::from([1; 32])]);
    suspects
}

#[test]
fn each_is_done_once_in_the_order_of_registration() {
    let mut book = book([3, 1, 2]);
    assert_eq!((book.status().total, book.status().waiting, book.status().settled), (3, 3, false));
    let done = work(&mut book, |job| match job.id {
        RegistrationId(1) => Outcome::Adopted,
        RegistrationId(2) => Outcome::Untrusted,
        _ => Outcome::Failed,
    });
    assert_eq!(done, [(id(1), false), (id(2), false), (id(3), false)]);
    let status = book.status();
    assert!(status.settled);
    assert_eq!((status.done, status.adopted, status.adopted_bytes), (1, 1, 10));
    assert_eq!((status.waiting, status.skipped_untrusted, status.failed), (0, 1, 1));
}

#[test]
fn what_was_refused_waits_until_its_row_changes() {
    let mut book = book([1, 2]);
    work(&mut book, |_| Outcome::Failed);
    let listing = |row| [seen(1, row, View::Absent), seen(2, 0, View::Absent)].into();
    book.take_listing(listing(0), &BTreeSet::new());
    assert!(book.next_job().is_none());
    book.take_listing(listing(1), &BTreeSet::new());
    assert_eq!(work(&mut book, |_| Outcome::Adopted), [(id(1), false)]);
    assert_eq!((book.status().failed, book.status().adopted), (1, 1));
}

#[test]
fn what_has_gone_is_to_be_withdrawn() {
    let mut book = book([1, 2]);
    work(&mut book, |_| Outcome::Adopted);
    // One was adopted by a node before this one, and one is somebody else's.
    let pinned = BTreeSet::from([hash(7)]);
    let listing: BTreeMap<_, _> = [seen(2, 0, View::Same), seen(3, 0, View::Same)].into();
    let gone = book.take_listing(listing.clone(), &pinned);
    assert_eq!(gone, BTreeSet::from([hash(1), hash(7)]));
    assert_eq!((book.status().adopted, book.status().done, book.status().total), (1, 2, 2));
    assert!(book.next_job().is_none());
    assert!(!book.status().settled, "they are still to be seen");
    book.withdrew(&gone, 2, Suspects::default());
    assert!(book.status().settled);
    let pinned = BTreeSet::from([hash(2), hash(3)]);
    assert!(book.take_listing(listing, &pinned).is_empty());
    assert_eq!(book.status().adopted, 2);
}

#[test]
fn what_goes_while_it_is_read_is_noticed() {
    let mut book = book([1, 2]);
    let job = book.next_job().unwrap();
    book.reads(&job, &format!("{}-x", hash(1)).parse().unwrap());
    assert_eq!(book.status().current.len(), 1);
    book.take_listing([seen(2, 0, View::Absent)].into(), &BTreeSet::new());
    assert!(!book.finish(&job, Outcome::Adopted), "whoever has committed it must withdraw it");
    assert!(book.status().current.is_empty());
    assert_eq!(book.status().total, 1);
    assert_eq!(work(&mut book, |_| Outcome::Untrusted), [(id(2), false)]);
    assert!(!book.status().settled, "it is still to be seen");
    book.withdrew(&BTreeSet::from([hash(1)]), 1, Suspects::default());
    assert!(book.status().settled);
}

#[test]
fn what_is_under_way_is_not_begun_again() {
    let mut book = book([1]);
    let job = book.next_job().unwrap();
    book.take_listing([seen(1, 5, View::Absent)].into(), &BTreeSet::new());
    assert!(book.next_job().is_none());
    // It was another row that was found wanting.
    assert!(book.finish(&job, Outcome::Failed));
    assert_eq!(book.status().waiting, 1);
    assert_eq!(book.next_job().unwrap().id, id(1));
}

#[test]
fn what_fails_for_a_while_does_not_keep_others_waiting() {
    let mut book = book([1, 2]);
    assert_eq!(work(&mut book, |_| Outcome::Later), [(id(1), false)]);
    book.pauses = false;
    let done = work(&mut book, |job| if job.id == id(1) { Outcome::Later } else { Outcome::Adopted });
    assert_eq!(done, [(id(2), false), (id(1), false)]);
    assert!(!book.status().settled);
}

#[test]
fn after_a_withdrawal_all_that_is_adopted_is_checked_before_more_is_adopted() {
    let mut book = book([1, 2, 3]);
    work(&mut book, |job| if job.id == id(2) { Outcome::Untrusted } else { Outcome::Adopted });
    let more =
        [1, 2, 3, 4].map(|number| seen(number, 0, if number % 2 == 1 { View::Same } else { View::Absent }));
    book.take_listing(more.into(), &BTreeSet::new());
    book.withdrew(&BTreeSet::new(), 1, suspects());
    assert!(!book.status().settled);
    let mut first = true;
    let done = work(&mut book, |job| {
        let is_broken = job.id == id(1) && std::mem::take(&mut first);
        if is_broken { Outcome::Broken } else { Outcome::Adopted }
    });
    // What is found broken comes before all, and once more since it might lean on another broken one.
    assert_eq!(done, [(1, true), (1, false), (1, true), (3, true), (4, false)].map(|(n, c)| (id(n), c)));
    assert!(book.status().settled);
    assert_eq!(book.status().withdrawn, 1);
}

#[test]
fn what_was_adopted_during_a_round_is_checked_too() {
    let mut book = book([1, 2]);
    let early = book.next_job().unwrap();
    let late = book.next_job().unwrap();
    book.finish(&late, Outcome::Adopted);
    book.withdrew(&BTreeSet::new(), 1, suspects());
    let check = book.next_job().unwrap();
    assert_eq!((check.id, matches!(check.task, Task::Check(_))), (id(2), true));
    book.finish(&check, Outcome::Adopted);
    assert!(book.next_job().is_none());
    // This one may have taken a blob to be here that went with what was withdrawn.
    book.finish(&early, Outcome::Adopted);
    assert_eq!(work(&mut book, |_| Outcome::Adopted), [(id(1), true), (id(2), true)]);
}

#[test]
fn what_is_no_longer_visible_is_adopted_again() {
    let mut book = book([1, 2]);
    work(&mut book, |_| Outcome::Adopted);
    book.look_again(|hash_of| *hash_of != hash(2));
    assert_eq!((book.status().adopted, book.status().waiting), (1, 1));
    assert_eq!(work(&mut book, |_| Outcome::Adopted), [(id(2), false)]);
}

#[test]
fn suspects_are_bounded() {
    let mut suspects = Suspects::default();
    assert!(suspects.is_empty());
    let blob = |number: usize| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        BlobDigest::from(digest)
    };
    suspects.add((0..SUSPECTS_MAX).map(blob));
    assert!(suspects.contains(&blob(1)) && !suspects.contains(&blob(SUSPECTS_MAX)));
    suspects.add([blob(SUSPECTS_MAX)]);
    assert!(suspects.contains(&blob(SUSPECTS_MAX + 1)) && !suspects.is_empty());
}

#[test]
fn an_error_is_new_once() {
    let mut book = Book::default();
    assert!(book.note_error("one".into()) && !book.note_error("one".into()));
    assert!(book.note_error("two".into()));
    assert_eq!(book.status().last_error.as_deref(), Some("two"));
}
