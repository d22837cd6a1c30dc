//! Against databases that real Nix made.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    io::{Read, Write},
    ops::ControlFlow,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::SystemTime,
};

use firn_nix::{NarHash, SigningKey};

use super::*;

/// A Nix store of its own below a directory.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn nix(&self, arguments: &[&str]) -> String {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .args(["--store", self.path().to_str().unwrap()])
            .args(["--option", "substituters", ""])
            .args(["--extra-experimental-features", "nix-command"])
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_STATE_DIR")
            .env("NIX_CONF_DIR", self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("HOME", self.path())
            .output()
            .expect("nix-bin is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Three texts: the first references the second, both the third.
    fn texts(&self) -> [StorePath; 3] {
        let expression = "let c = builtins.toFile \"c\" \"c\"; b = builtins.toFile \"b\" \"${c}\"; \
                          in [ (builtins.toFile \"a\" \"${b} ${c}\") b c ]";
        let json = self.nix(&[
            "nix-instantiate",
            "--eval",
            "--read-write-mode",
            "--strict",
            "--json",
            "-E",
            expression,
        ]);
        let paths: Vec<String> = serde_json::from_str(&json).unwrap();
        paths
            .iter()
            .map(|path| StorePath::from_absolute(path).unwrap())
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    fn store(&self) -> NixStore {
        NixStore::at(self.path(), None)
    }

    /// One that waits for nobody.
    fn impatient_store(&self) -> NixStore {
        NixStore { busy_timeout: Duration::from_millis(50), ..self.store() }
    }

    fn database(&self) -> PathBuf {
        self.path().join("nix/var/nix/db/db.sqlite")
    }

    /// Changes the database as Nix would.
    fn edit(&self, sql: &str, parameters: impl rusqlite::Params) {
        Connection::open(self.database()).unwrap().execute(sql, parameters).unwrap();
    }

    /// As it was before [`Root::only_readable`].
    fn writable(&self) {
        let dir = self.database().parent().unwrap().to_owned();
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o644)).unwrap();
            }
        }
    }

    /// What the database directory may look like to a user who is not root: everything readable, nothing writable.
    fn only_readable(&self) {
        for entry in fs::read_dir(self.database().parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o444)).unwrap();
            }
        }
        fs::set_permissions(self.database().parent().unwrap(), Permissions::from_mode(0o555)).unwrap();
    }
}

/// A process that has the database open. SQLite shares much between the connections of one process, which would hide what
/// an ordinary user meets.
struct Writer(Child);

impl Writer {
    const SCRIPT: &str = "\
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
assert connection.execute('pragma journal_mode = ' + sys.argv[2]).fetchone() == (sys.argv[2],)
for line in sys.stdin:
    connection.execute(line)
    print('done', flush=True)
";

    fn new(root: &Root) -> Self {
        Self::with_journal(root, "wal")
    }

    /// In the middle of a transaction that has outgrown SQLite's cache, so that a part of it is in the file: all that
    /// the paths reference is deleted.
    fn in_the_middle(root: &Root) -> Self {
        let mut writer = Self::with_journal(root, "delete");
        writer.execute("pragma cache_size = 2");
        writer.execute("begin immediate");
        writer.execute("delete from Refs");
        writer.execute("create table filler(x)");
        writer.execute(
            "insert into filler select randomblob(4000) from \
             (with recursive n(i) as (select 1 union all select i + 1 from n limit 300) select i from n)",
        );
        writer
    }

    /// Ends it as a power cut would.
    fn kill(mut self) {
        self.0.kill().unwrap();
    }

    fn with_journal(root: &Root, mode: &str) -> Self {
        let mut python = Command::new("python3");
        python.args(["-c", Self::SCRIPT]).arg(root.database()).arg(mode);
        python.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(python.spawn().expect("python3 is installed"))
    }

    fn execute(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql}").unwrap();
        let mut answer = [0; 5];
        self.0.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"done\n");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait();
        assert!(ended.is_ok() || thread::panicking());
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let restored = Command::new("chmod").args(["-R", "u+w"]).arg(self.path()).status();
        assert!(restored.is_ok_and(|status| status.success()) || thread::panicking());
    }
}

/// Runs a closure in a thread that belongs to nobody (for root, whom no file mode stops), or as the user who runs the
/// tests. On Linux each thread has its own user.
fn as_ordinary_user<T: Send>(closure: impl FnOnce() -> T + Send) -> T {
    let nobody = rustix::process::Uid::from_raw(65534);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            assert!(!rustix::process::geteuid().is_root());
            closure()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_path_has_what_nix_says_it_has() {
    let root = Root::new();
    let [a, b, c] = root.texts();
    let key = root.path().join("key");
    root.nix(&["nix-store", "--generate-binary-cache-key", "k-1", key.to_str().unwrap(), "/dev/null"]);
    root.nix(&["nix", "store", "sign", "-k", key.to_str().unwrap(), &a.to_absolute()]);

    let found = root.store().path(&a).unwrap();
    assert_eq!(found.path, a);
    assert_eq!(found.nar.references, BTreeSet::from([b.clone(), c]));
    let json: serde_json::Value =
        serde_json::from_str(&root.nix(&["nix", "path-info", "--json", &a.to_absolute()])).unwrap();
    assert_eq!(json[0]["narSize"], found.nar.nar_size);
    assert_eq!(json[0]["narHash"].as_str().unwrap().parse(), Ok(found.nar.nar_hash));
    assert_eq!(json[0]["ca"], found.ca.unwrap().to_string());
    assert_eq!(json[0]["signatures"][0], found.signatures[0].to_string());
    assert_eq!(found.signatures[0].key_name().to_string(), "k-1");
    assert!(found.deriver.is_none());
    assert!(root.store().on_disk(&b).exists());
}

#[test]
fn a_tree_that_nix_added_is_there() {
    let root = Root::new();
    let tree = root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "text").unwrap();
    let added = root.nix(&["nix-store", "--add", tree.to_str().unwrap()]);
    let path = root.store().store_path(Path::new(&added)).unwrap();
    let found = root.store().path(&path).unwrap();
    assert!(found.nar.references.is_empty());
    assert!(found.ca.unwrap().to_string().starts_with("fixed:r:sha256:"));
}

#[test]
fn a_closure_is_whole_and_in_order() {
    let root = Root::new();
    let [a, b, c] = root.texts();
    let paths = |path: &StorePath| {
        root.store().closure(path).unwrap().into_iter().map(|row| row.path).collect::<Vec<_>>()
    };
    assert_eq!(paths(&a), [&c, &b, &a].map(Clone::clone));
    assert_eq!(paths(&c), std::slice::from_ref(&c));

    // A self-reference changes nothing.
    root.edit("insert into Refs select id, id from ValidPaths where path = ?1", [b.to_absolute()]);
    assert!(root.store().path(&b).unwrap().nar.references.contains(&b));
    assert_eq!(paths(&b), [c, b]);
}

#[test]
fn what_is_not_there_is_named() {
    let root = Root::new();
    let store = root.store();
    let path: StorePath = "00000000000000000000000000000000-x".parse().unwrap();
    let error = store.path(&path).unwrap_err();
    assert!(matches!(&error, NixDatabaseError::Absent(file) if *file == root.database()), "{error}");
    root.texts();
    let error = store.path(&path).unwrap_err();
    assert!(matches!(&error, NixDatabaseError::Invalid(invalid) if *invalid == path), "{error}");
}

#[test]
fn a_row_that_nix_did_not_write_is_named() {
    let root = Root::new();
    let [a, ..] = root.texts();
    for (column, value) in [("hash", "sha256:00"), ("narSize", "-1")] {
        let read = format!("select cast({column} as text) from ValidPaths where path = ?1");
        let connection = Connection::open(root.database()).unwrap();
        let before: Option<String> =
            connection.query_row(&read, [a.to_absolute()], |row| row.get(0)).unwrap();
        let update = format!("update ValidPaths set {column} = ?1 where path = ?2");
        root.edit(&update, params![value, a.to_absolute()]);
        let error = root.store().path(&a).unwrap_err();
        assert!(matches!(&error, NixDatabaseError::Row { column: named, .. } if *named == column), "{error}");
        assert!(error.to_string().contains(&a.to_absolute()), "{error}");
        root.edit(&update, params![before, a.to_absolute()]);
    }
    assert!(root.store().path(&a).is_ok());
}

#[test]
fn what_no_signature_covers_and_cannot_be_read_is_passed_over() {
    let root = Root::new();
    let [a, b, _] = root.texts();
    let good = SigningKey::generate("k-1".parse().unwrap(), [1; 32]).sign(b"text");
    let update = "update ValidPaths set deriver = ?1, sigs = ?2, ca = ?3 where path = ?4";
    let sigs = format!("nonsense {good} another-1:AAAA k-1: :AAAA");
    for (deriver, ca) in [("/tmp/x", "magic"), ("unknown-deriver", "fixed:git:sha1:00"), ("", "")] {
        root.edit(update, params![deriver, sigs, ca, a.to_absolute()]);
        let found = root.store().path(&a).unwrap();
        assert_eq!(found.signatures, std::slice::from_ref(&good));
        assert_eq!((found.deriver, found.ca), (None, None));
    }
    // What can be read stays.
    root.edit(update, params![b.to_absolute(), good.to_string(), "magic", a.to_absolute()]);
    let found = root.store().path(&a).unwrap();
    assert_eq!((found.deriver, found.ca, found.signatures), (Some(b), None, vec![good]));
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let root = Root::new();
    fs::create_dir_all(root.database().parent().unwrap()).unwrap();
    fs::write(root.database(), "this is no database at all, though it has the name of one").unwrap();
    let path: StorePath = "00000000000000000000000000000000-x".parse().unwrap();
    let error = root.store().path(&path).unwrap_err();
    assert!(matches!(error, NixDatabaseError::Sqlite { .. }), "{error}");
}

#[test]
fn an_ordinary_user_reads_it_while_nobody_has_it_open() {
    let root = Root::new();
    let [a, ..] = root.texts();
    root.only_readable();
    as_ordinary_user(|| {
        let store = root.store();
        assert!(store.open("mode=ro").is_err(), "otherwise this test shows nothing");
        assert_eq!(store.closure(&a).unwrap().len(), 3);
    });
}

#[test]
fn an_ordinary_user_reads_it_beside_a_live_writer() {
    let root = Root::new();
    let [a, b, _] = root.texts();
    let set_deriver = |deriver: &StorePath| {
        format!(
            "update ValidPaths set deriver = '{}' where path = '{}'",
            deriver.to_absolute(),
            a.to_absolute()
        )
    };
    let mut writer = Writer::new(&root);
    writer.execute(&set_deriver(&b));
    root.only_readable();
    let store = root.store();
    assert!(store.state().unwrap().has_wal());
    let deriver = || as_ordinary_user(|| store.path(&a).unwrap().deriver);
    assert_eq!(deriver(), Some(b.clone()), "what is only in the -wal counts");

    // A transaction that is open does not stop a reader, and is not seen before it is committed.
    writer.execute("begin immediate");
    writer.execute(&set_deriver(&a));
    assert_eq!(deriver(), Some(b));
    writer.execute("commit");
    assert_eq!(deriver(), Some(a.clone()));
}

#[test]
fn what_is_not_committed_is_never_read() {
    let root = Root::new();
    let [a, ..] = root.texts();
    let mut writer = Writer::in_the_middle(&root);
    let (store, patient) = (root.impatient_store(), root.store());
    let locked = |result: Result<ValidPath, NixDatabaseError>| {
        let error = result.unwrap_err();
        assert!(matches!(&error, NixDatabaseError::Locked(file) if *file == root.database()), "{error}");
    };
    locked(store.path(&a));
    as_ordinary_user(|| locked(store.path(&a)));
    let error = store.fold_paths(|| (), |(), _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, NixDatabaseError::Locked(_)), "{error}");
    // A reader that has time waits for the end of it.
    thread::scope(|scope| {
        let reader = scope.spawn(|| patient.path(&a).unwrap().nar.references.len());
        writer.execute("rollback");
        assert_eq!(reader.join().unwrap(), 2);
    });
    as_ordinary_user(|| assert_eq!(store.path(&a).unwrap().nar.references.len(), 2));
}

#[test]
fn a_journal_that_waits_to_be_rolled_back_is_named() {
    let root = Root::new();
    let [a, ..] = root.texts();
    Writer::in_the_middle(&root).kill();
    let before = fs::read(root.database()).unwrap();
    let store = root.impatient_store();
    let named = |result: Result<ValidPath, NixDatabaseError>| {
        let error = result.unwrap_err();
        assert!(matches!(&error, NixDatabaseError::HotJournal(file) if *file == root.database()), "{error}");
    };
    named(store.path(&a));
    root.only_readable();
    as_ordinary_user(|| named(store.path(&a)));
    assert!(fs::read(root.database()).unwrap() == before, "it is not ours to roll back");
    root.writable();
    // As Nix does it.
    root.edit("delete from Refs where referrer = -1", []);
    assert_eq!(store.path(&a).unwrap().nar.references.len(), 2);
}

#[test]
fn a_writer_that_comes_while_an_ordinary_user_reads_is_noticed() {
    let root = Root::new();
    root.texts();
    root.only_readable();
    let store = root.store();
    let (begun, has_begun) = mpsc::sync_channel(0);
    let (written, is_written) = mpsc::sync_channel(0);
    let (is_written, reads) = (Mutex::new(is_written), AtomicU32::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            as_ordinary_user(|| {
                let count = |sizes: &mut Vec<u64>, row: Result<Registration, NixDatabaseError>| {
                    if reads.fetch_add(1, Ordering::SeqCst) == 0 {
                        begun.send(()).unwrap();
                        is_written.lock().unwrap().recv().unwrap();
                    }
                    sizes.push(row.unwrap().nar_size);
                    ControlFlow::Continue(())
                };
                store.fold_paths(Vec::new, count).unwrap()
            })
        });
        has_begun.recv().unwrap();
        root.writable();
        let mut writer = Writer::new(&root);
        writer.execute("update ValidPaths set narSize = 77");
        writer.execute("pragma wal_checkpoint(truncate)");
        drop(writer);
        // What it has written is in the file now. Its empty log is all that tells of it, and could not be removed.
        assert!(beside(&root.database(), "-wal").exists());
        let _another = Writer::new(&root);
        written.send(()).unwrap();
        assert_eq!(reader.join().unwrap(), [77; 3]);
    });
    assert!(reads.load(Ordering::SeqCst) > 3, "the first three rows are not believed");
}

#[test]
fn an_ordinary_user_reads_it_while_nix_comes_and_goes() {
    let root = Root::new();
    let [a, ..] = root.texts();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let _done = OnDrop(&done);
            for number in 0..10 {
                let file = root.path().join(format!("file-{number}"));
                fs::write(&file, format!("{number}")).unwrap();
                let added = root.nix(&["nix-store", "--add", file.to_str().unwrap()]);
                let path = StorePath::from_absolute(&added).unwrap();
                as_ordinary_user(|| root.store().path(&path).expect("what Nix added is there"));
            }
        });
        let mut reads_count = 0;
        while reads_count < 20 || !done.load(Ordering::SeqCst) {
            assert_eq!(as_ordinary_user(|| root.store().closure(&a)).unwrap().len(), 3);
            reads_count += 1;
        }
        writer.join().unwrap();
    });
}

/// Sets the flag whichever way its scope ends.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn odd_names_of_directories_are_escaped() {
    let uri = uri(Path::new(OsStr::from_bytes(b"/a b/%?#/\xff")), "mode=ro");
    assert_eq!(uri, "file:/a%20b/%25%3f%23/%ff?mode=ro");
}

#[test]
fn a_store_path_is_known_by_where_it_stands() {
    let name = "00000000000000000000000000000000-x";
    let store = NixStore::at(Path::new("/root"), Some(Path::new("/elsewhere")));
    assert_eq!(store.database, Path::new("/root/nix/var/nix/db/db.sqlite"));
    let path = |text: &str| store.store_path(Path::new(text)).map(|path| path.to_string());
    assert_eq!(path(&format!("/root/nix/store/{name}")).as_deref(), Some(name));
    assert_eq!(path(&format!("/nix/store/{name}/")).as_deref(), Some(name));
    assert_eq!(path(&format!("/nix/store/{name}/bin")), None);
    assert_eq!(path(&format!("/tmp/{name}")), None);
    assert_eq!(path("/nix/store/x"), None);
    let machine = NixStore::at(Path::new("/"), Some(Path::new("/elsewhere")));
    assert_eq!(machine.database, Path::new("/elsewhere/db/db.sqlite"));
    assert_eq!(machine.on_disk(&name.parse().unwrap()), Path::new("/nix/store").join(name));
}

fn listing(store: &NixStore) -> Vec<Registration> {
    let visit = |listing: &mut Vec<_>, row: Result<Registration, _>| {
        listing.push(row.unwrap());
        ControlFlow::Continue(())
    };
    store.fold_paths(Vec::new, visit).unwrap()
}

#[test]
fn all_paths_are_listed_as_they_are_registered() {
    let root = Root::new();
    let texts = root.texts();
    let store = root.store();
    let listed = listing(&store);
    assert_eq!(listed.len(), 3);
    assert!(listed.is_sorted_by_key(|registration| registration.id));
    for registration in &listed {
        let row = store.registered(registration.id).unwrap().unwrap();
        assert!(texts.contains(&row.path));
        assert_eq!(row.path, registration.path);
        assert_eq!((row.nar.nar_hash, row.nar.nar_size), (registration.nar_hash, registration.nar_size));
        assert_eq!(row.nar.references, store.path(&row.path).unwrap().nar.references);
    }

    // Whatever Nix changes shows, in this row and in no other.
    root.edit("update ValidPaths set sigs = 'k-1:AA==' where path = ?1", [listed[1].path.to_absolute()]);
    let changed: Vec<bool> =
        listing(&store).iter().zip(&listed).map(|(after, before)| after.row != before.row).collect();
    assert_eq!(changed, [false, true, false]);

    // A path that comes back is another registration.
    let (last, path) = (listed[2].id, listed[2].path.to_absolute());
    root.nix(&["nix-store", "--delete", &path]);
    assert!(store.registered(last).unwrap().is_none());
    assert_eq!(listing(&store).len(), 2);
    root.texts();
    let again = listing(&store);
    assert!(again[2].id > last && again[2].path.to_absolute() == path);
}

#[test]
fn a_listing_goes_on_after_a_row_that_nix_did_not_write_and_ends_where_it_is_told() {
    let root = Root::new();
    root.texts();
    let store = root.store();
    let second = listing(&store)[1].path.to_absolute();
    root.edit("update ValidPaths set hash = 'sha256:00' where path = ?1", [&second]);
    let all = store.fold_paths(Vec::new, |rows, row| {
        rows.push(row.map_err(|error| error.to_string()));
        ControlFlow::Continue(())
    });
    let [Ok(_), Err(error), Ok(_)] = &all.unwrap()[..] else { panic!("the second of three is odd") };
    assert!(error.contains(&second) && error.contains("hash"), "{error}");
    let one = store.fold_paths(
        || 0,
        |count, _| {
            *count += 1;
            ControlFlow::Break(())
        },
    );
    assert_eq!(one.unwrap(), 1);
    root.edit("alter table ValidPaths rename to Others", []);
    let error = store.fold_paths(|| (), |(), _| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("ValidPaths"), "{error}");
}

#[test]
fn whatever_is_committed_changes_the_state() {
    let root = Root::new();
    assert!(matches!(root.store().state(), Err(NixDatabaseError::Absent(_))));
    root.texts();
    let (store, mut writer) = (root.store(), Writer::new(&root));
    let mut before = store.state().unwrap();
    assert_eq!(store.state().unwrap(), before);
    for number in 0..5 {
        writer.execute(&format!("update ValidPaths set narSize = {}", number + 1));
        let after = store.state().unwrap();
        assert_ne!(after, before);
        let written = after.clone();
        assert!(!written.is_settled(SystemTime::now()), "it was written to just now");
        assert!(written.is_settled(SystemTime::now() + Duration::from_secs(60)));
        before = after;
    }
    drop(writer);
    assert_ne!(store.state().unwrap(), before);
    assert_eq!(listing(&store)[0].nar_size, 5);
}

#[test]
fn a_signature_that_is_false_under_a_trusted_key_is_not_passed_on() {
    let key = |name: &str, seed| SigningKey::generate(name.parse().unwrap(), [seed; 32]);
    let (trusted, unknown) = (key("trusted-1", 1), key("unknown-1", 2));
    let path: StorePath = "00000000000000000000000000000001-app".parse().unwrap();
    let nar = NarFacts { nar_hash: NarHash::of(b""), nar_size: 1, references: Default::default() };
    let text = fingerprint(&path, &nar);
    let (good, other) = (trusted.sign(text.as_bytes()), unknown.sign(b"anything"));
    let signatures = vec![trusted.sign(b"something else"), good.clone(), other.clone()];
    let row = ValidPath { path, nar, deriver: None, signatures, ca: None };
    let trust = [key("trusted-1", 3).public(), trusted.public()];
    assert_eq!(row.without_false(&trust), [good.clone(), other.clone()]);
    assert_eq!(row.vouched_for(&trust), std::slice::from_ref(&good));
    assert!(row.vouched_for(&[]).is_empty());
    // True ones come first, for of very many only the first stay.
    let row = ValidPath { signatures: vec![other.clone(), other.clone(), good.clone()], ..row };
    assert_eq!(row.without_false(&trust), [good, other.clone(), other]);
}
