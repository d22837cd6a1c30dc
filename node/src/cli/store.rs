//! The commands that are about the store: what goes in, what stays, what goes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{ByteLimit, JOBS_MAX, Settings};

pub(super) const ADD_ABOUT: &str = "\
Takes a file tree, or a path of the Nix store, into the store. Prints its store path and its root.

A path directly in the Nix store is added as that store path, with what Nix's database knows of it. Anything else is \
added as a plain tree under the store path that `nix-store --add` gives it; this needs no Nix. What is added is shared \
with nobody, unless a key signs it or --share says so, and it is pinned: `firn gc` leaves it alone until it is unpinned.

With --in-place nothing is copied: the files must stay where they are, and as they are. A file that changes or goes \
takes what was added with it out of the store, and nobody is given anything false.";

pub(super) const ADD_HELP: &str = "\
Examples:
  firn add ./site
  firn add ./site --name site-1.0 --share
  firn add --sign-key cache-1.sec --closure ./result
  firn add --in-place /srv/datasets/maps --share

--json: {store_path, root, files, bytes, announced, in_place, missing_references: [store path],
         paths: [{store_path, root, nar_hash, nar_size, shared, was_known, signed_by: [key name]}]}";

/// `firn add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to add
    pub path: PathBuf,
    /// The name in the store path of a plain tree [default: the last part of PATH]
    #[arg(long, value_name = "NAME", conflicts_with = "closure")]
    pub name: Option<String>,
    /// Add all that a path of the Nix store references, too; PATH may be a symlink to a store path
    #[arg(long)]
    pub closure: bool,
    /// Sign with the secret key in FILE, and share; may be given several times
    #[arg(long, value_name = "FILE")]
    pub sign_key: Vec<PathBuf>,
    /// Let peers have it though no key signs it
    #[arg(long)]
    pub share: bool,
    /// Leave the files where they are and read them there; they must stay
    #[arg(long)]
    pub in_place: bool,
    /// Read all files, also of a tree that looks as it did when it was added before, and check what the store has of it
    #[arg(long)]
    pub rehash: bool,
}

pub(super) const ADOPT_ABOUT: &str = "\
Seeds paths of the Nix store from where they are: nothing is copied, the store keeps about one percent beside them.

PATH is the Nix store itself, for all its paths that a trusted key has signed (the setting trust), or store \
paths, whoever has signed them. A node goes on adopting in the background as long as it runs, and withdraws what Nix collects; \
the setting adopt = [\"/nix/store\"] makes it begin by itself. Where no node runs, this command adopts what is there \
now, and ends.";

pub(super) const ADOPT_HELP: &str = "\
Examples:
  firn adopt /nix/store
  firn adopt /nix/store/...-app --closure

Exit code 1 if something that was waited for could not be adopted.

--json: {goes_on,
         store: null or {store_dir, total_paths, adopted_paths, adopted_bytes, waiting_paths, withdrawn_paths,
                 untrusted_paths, failed_paths, last_failure or null, complete},
         paths: [{store_path, root, nar_hash, nar_size, shared, was_known, signed_by: [key name]}]}";

/// `firn adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The Nix store, or store paths
    #[arg(required = true, value_name = "PATH")]
    pub what: Vec<PathBuf>,
    /// How many threads read at a time [default: one for the Nix store, in the background]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(JOBS_MAX)))]
    pub jobs: Option<u32>,
    /// Wait until all that can be adopted now is
    #[arg(long)]
    pub once: bool,
    /// All that the store paths reference, too
    #[arg(long)]
    pub closure: bool,
    /// Let peers have store paths that nobody has signed, too
    #[arg(long)]
    pub share: bool,
}

/// `firn pin`.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Keep a path or a tree, whatever room is wanted; it need not be here yet
    #[command(after_long_help = "--json: {subject, reason, is_here}")]
    Add {
        /// A store path, or a root as `firn add` prints it
        what: String,
        /// Why, for whoever looks at the list
        #[arg(long, value_name = "TEXT", default_value = "pinned")]
        reason: String,
    },
    /// Let a path or a tree go when room is wanted
    #[command(after_long_help = "Exit code 3 if it is not pinned.\n\n--json: {subject}")]
    Rm {
        /// A store path or a root
        what: String,
    },
    /// Show what is pinned, and why
    #[command(after_long_help = "--json: {pins: [{subject, reason}]}")]
    List,
}

pub(super) const GC_ABOUT: &str = "\
Deletes what no path and no tree in the store needs: what was fetched in part, what was withdrawn or unpinned.

If the store takes more than --max-bytes, or the setting store-bytes-max, paths and trees that are not pinned are \
evicted first, the least recently used one after the other. What was added or adopted here is pinned.";

pub(super) const GC_HELP: &str = "\
Examples:
  firn gc --dry-run
  firn gc --max-bytes 20G

Where the rest is pinned the store may take more than that even so: disk_bytes tells.

In a dry run, bytes counts what would be evicted, too; blobs, directories and partials do not.

--json: {dry_run, evicted: [{subject, used_at or null}], blobs, directories, partials, bytes, disk_bytes,
         disk_bytes_max or null}";

/// `firn gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Say only what would go
    #[arg(long)]
    pub dry_run: bool,
    /// How much the store may take, such as 50G [default: the setting store-bytes-max]
    #[arg(long, value_name = "SIZE")]
    pub max_bytes: Option<ByteLimit>,
}

const STATS_HELP: &str = "\
total is the contents of all files in all paths and trees, unique that of different contents once; overhead is what the \
store takes beyond the contents that it keeps itself.

--json: {paths, trees, blobs, directories, partials, pinned, total_bytes, unique_bytes, dedup_ratio, adopted_blobs,
         adopted_bytes, disk_bytes, disk_bytes_max or null, overhead_bytes}";

/// `firn store`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show what the store holds, and what that takes
    #[command(after_long_help = STATS_HELP)]
    Stats,
}

pub(super) const VERIFY_ABOUT: &str = "\
Reads what the store holds, adopted files too, and checks every byte.

With --repair, what is damaged is put aside (in the store's directory quarantine) and got again from peers: by the \
node where one runs, else by this command itself, if --peer, --bootstrap or the configuration names any.

With --rebuild-index, which needs no store that can be opened, an index that is damaged or gone is put aside and a new \
one made of what the packs and files hold. Paths, pins and who may have what are lost with the old one: what is here is \
visible afterwards as trees without a path, for this machine alone, until it is added or got again, which fetches \
nothing that is here.";

pub(super) const VERIFY_HELP: &str = "\
What no peer has is whole again when it is added again; `firn add --rehash` does so without --repair, too. What was put
aside stays until you delete it.

Exit code 1 while anything is damaged.

--json: {checked, bytes, fetched_bytes,
         damages: [{subject, what, repaired, unrepaired_because or null}]}
--rebuild-index --json: {blobs, directories, trees, damaged, old_index or null}";

/// `firn verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Store paths or roots [default: everything in the store]
    pub what: Vec<String>,
    /// Put aside what is damaged, and get it again from peers
    #[arg(long)]
    pub repair: bool,
    /// Make a new index in place of one that is damaged or gone; no node may run
    #[arg(long, conflicts_with_all = ["repair", "what"])]
    pub rebuild_index: bool,
    /// Whom to ask where no node runs.
    #[command(flatten, next_help_heading = "With --repair, where no node runs")]
    pub settings: Settings,
}
