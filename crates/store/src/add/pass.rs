//! One pass over the data: contents are read, hashed and kept side by side; the NAR's hash and the Directories follow in
//! order.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use firn_bao::{HashedPiece, PIECE_BYTES, VerifiedSpan};
use firn_trust::WholeBlob;

use super::{
    AddError, AddOptions,
    build::{BuildStage, Built, Known},
    crew::{self, Next, Work},
    entries::Entries,
    jobs::{Cursor, Job, Large, Opened, Part, Unit},
    nar::{Contents, NarStage},
    read::OpenFile,
};
use crate::{Blobs, Buffers, Directories, Intake};

/// How many bytes of contents may be in memory before the NAR's hash has come to them, beside a piece a thread: enough to
/// go on with while the thread that hashes has to wait for a processor, little enough for the processor's cache.
const AHEAD_BYTES: u64 = 16 << 20;
/// How many jobs may be.
const AHEAD_JOBS_MAX: u64 = 1024;
/// From how many bytes on other threads help.
const MUCH_BYTES: u64 = 1 << 20;
/// From how many entries on they do.
const MUCH_ENTRIES: usize = 256;

/// Reads, hashes and keeps all.
pub(super) fn pass<S>(store: &S, entries: &Entries, options: &AddOptions<'_>) -> Result<Built, AddError>
where
    S: Blobs + Intake + Directories + ?Sized,
{
    let bytes_ahead_max = AHEAD_BYTES.saturating_add(PIECE_BYTES.saturating_mul(options.jobs.get() as u64));
    let pass = Pass { store, entries, options, buffers: Buffers::default(), bytes_ahead_max };
    let state = Progress {
        cursor: Cursor::new(entries),
        bytes_ahead: 0,
        nar: Stage::new(NarStage::new()),
        build: Stage::new(BuildStage::new()),
        error: None,
    };
    let state = crew::work(&pass, state, options.jobs.get());
    if let Some((_, error)) = state.error {
        return Err(error);
    }
    let closure = state.build.end().finish(store, entries)?;
    Ok(Built { closure, nar: state.nar.end().finish() })
}

struct Pass<'a, S: ?Sized> {
    store: &'a S,
    entries: &'a Entries,
    options: &'a AddOptions<'a>,
    buffers: Buffers,
    bytes_ahead_max: u64,
}

/// How far it is.
struct Progress<'a> {
    cursor: Cursor<'a>,
    /// Of contents that were begun to be read, and not hashed yet.
    bytes_ahead: u64,
    nar: Stage<NarStage, Contents>,
    build: Stage<BuildStage, Known>,
    /// The one that comes first in the order of a NAR, with the number of its job.
    error: Option<(u64, AddError)>,
}

/// Something that takes its input in order, one at a time, by whichever thread.
struct Stage<W, T> {
    /// None while a thread is at it.
    worker: Option<W>,
    /// How much it has taken.
    taken: u64,
    ready: BTreeMap<u64, T>,
}

impl<W, T> Stage<W, T> {
    fn new(worker: W) -> Self {
        Self { worker: Some(worker), taken: 0, ready: BTreeMap::new() }
    }

    /// The worker with what it takes next, if that is there and no other thread is at it.
    fn begin(&mut self) -> Option<(W, T)> {
        let worker = self.worker.take_if(|_| self.ready.contains_key(&self.taken))?;
        Some((worker, self.ready.remove(&self.taken)?))
    }

    fn finish(&mut self, worker: W) {
        self.worker = Some(worker);
        self.taken += 1;
    }

    fn end(self) -> W {
        self.worker.expect("each thread has brought back what it took, else it has panicked")
    }
}

enum Task<'a> {
    Read(Job<'a>),
    Nar(u64, NarStage, Contents),
    Build(BuildStage, Known),
}

enum Outcome {
    Read(Read),
    /// With how many bytes of contents it has taken.
    Nar(NarStage, u64),
    Build(BuildStage),
    /// None where another thread tells why.
    Failed(u64, Option<AddError>),
}

/// A job that is done: contents for the NAR, and what is known for the Directories.
struct Read {
    number: u64,
    contents: Contents,
    known: Option<(Unit, Known)>,
}

impl<'a, S: Blobs + Intake + Directories + ?Sized> Work for Pass<'a, S> {
    type State = Progress<'a>;
    type Task = Task<'a>;
    type Outcome = Outcome;

    fn next(&self, state: &mut Progress<'a>) -> Next<Task<'a>> {
        // Every job that comes before the one that has failed was begun before it, and is finished by whoever has begun it.
        if state.error.is_some() {
            return Next::End;
        }
        if let Some((stage, contents)) = state.nar.begin() {
            return Next::Do(Task::Nar(state.nar.taken, stage, contents));
        }
        if let Some((stage, known)) = state.build.begin() {
            return Next::Do(Task::Build(stage, known));
        }
        // What comes next for the hash is in work already, or nothing is ahead of it.
        let jobs_ahead = state.cursor.jobs - state.nar.taken;
        if state.bytes_ahead >= self.bytes_ahead_max || jobs_ahead >= AHEAD_JOBS_MAX {
            return Next::Wait;
        }
        match state.cursor.take() {
            Some(job) => {
                state.bytes_ahead += job.bytes;
                Next::Do(Task::Read(job))
            }
            None if state.nar.taken < state.cursor.jobs || state.build.taken < state.cursor.units => {
                Next::Wait
            }
            None => Next::End,
        }
    }

    fn run(&self, task: Task<'a>) -> Outcome {
        match task {
            Task::Read(Job { number, part, .. }) => {
                let result = match part {
                    Part::Entries(unit, range) => self.read_entries(number, unit, range).map_err(Some),
                    Part::Piece(large, piece) => self.read_piece(number, large, piece),
                };
                match result {
                    Ok(read) => Outcome::Read(read),
                    Err(error) => Outcome::Failed(number, error),
                }
            }
            Task::Nar(number, mut stage, contents) => {
                let before = stage.content_bytes;
                stage.take(self.entries, contents);
                match self.options.tell(self.entries, stage.content_bytes) {
                    Ok(()) => {
                        let bytes = stage.content_bytes - before;
                        Outcome::Nar(stage, bytes)
                    }
                    Err(stopped) => Outcome::Failed(number, Some(stopped)),
                }
            }
            Task::Build(mut stage, known) => {
                let number = known.number;
                match stage.take(self.store, self.entries, known) {
                    Ok(()) => Outcome::Build(stage),
                    Err(error) => Outcome::Failed(number, Some(error)),
                }
            }
        }
    }

    fn finish(&self, state: &mut Progress<'a>, outcome: Outcome) {
        match outcome {
            Outcome::Read(Read { number, contents, known }) => {
                state.nar.ready.insert(number, contents);
                if let Some((unit, known)) = known {
                    state.build.ready.insert(unit, known);
                }
            }
            Outcome::Nar(stage, bytes) => {
                state.nar.finish(stage);
                state.bytes_ahead -= bytes;
            }
            Outcome::Build(stage) => state.build.finish(stage),
            Outcome::Failed(number, Some(error)) => {
                if state.error.as_ref().is_none_or(|(first, _)| number < *first) {
                    state.error = Some((number, error));
                }
            }
            Outcome::Failed(_, None) => {}
        }
    }

    fn is_much(&self, _: &Progress<'a>) -> bool {
        self.entries.file_bytes >= MUCH_BYTES || self.entries.list().len() >= MUCH_ENTRIES
    }
}

impl<'a, S: Blobs + Intake + ?Sized> Pass<'a, S> {
    /// Reads files into one buffer, then keeps each.
    fn read_entries(&self, number: u64, unit: Unit, range: Range<usize>) -> Result<Read, AddError> {
        let list = self.entries.list();
        let files = range.clone().filter_map(|index| Some((index, list[index].stamp()?)));
        let bytes: u64 = files.clone().map(|(_, stamp)| stamp.size).sum();
        let mut buffer = self.buffers.take(bytes as usize + 1);
        let mut read = Vec::new();
        for (index, stamp) in files {
            let file = OpenFile::open(self.entries, index, stamp)?;
            let begin = buffer.len();
            file.read_whole(&mut buffer)?;
            file.check()?;
            read.push((file.into_path(), begin..buffer.len()));
        }
        let buffer = self.buffers.freeze(buffer);
        let mut contents = Vec::with_capacity(read.len());
        for (path, range) in read {
            contents.push(self.keep(&path, buffer.slice(range))?);
        }
        let blobs = contents.iter().map(WholeBlob::blob).collect();
        let known = Known { number, entries: range.clone(), blobs };
        Ok(Read { number, contents: Contents::Entries(range, contents), known: Some((unit, known)) })
    }

    /// Keeps the contents of a file of at most a piece.
    fn keep(&self, path: &Path, bytes: Bytes) -> Result<WholeBlob, AddError> {
        if self.options.in_place {
            let (blob, hashed) = WholeBlob::hash(bytes);
            self.store.adopt_blob(path, &hashed)?;
            return Ok(blob);
        }
        let span = VerifiedSpan::of(bytes);
        self.store.keep_spans(std::slice::from_ref(&span))?;
        Ok(WholeBlob::of_span(&span).expect("the span is the whole blob"))
    }

    /// Reads and keeps a piece; if it is the last that is written, the file.
    fn read_piece(&self, number: u64, large: Arc<Large<'a>>, index: u64) -> Result<Read, Option<AddError>> {
        let opened = large.opened(|| self.open(&large))?;
        let range = large.piece(index);
        let length = (range.end - range.start) as usize;
        let mut buffer = self.buffers.take(length);
        opened.file.read_piece(range.start, length, &mut buffer)?;
        let bytes = self.buffers.freeze(buffer);
        let piece = HashedPiece::of(index, bytes);
        opened.write(&piece)?;
        let (entry, unit) = (large.entry, large.unit);
        let contents = Contents::Piece { entry, piece };
        let blob = large.piece_done().map(|opened| opened.finish(self.store)).transpose()?;
        let known = blob.map(|blob| (unit, Known { number, entries: entry..entry + 1, blobs: vec![blob] }));
        Ok(Read { number, contents, known })
    }

    fn open(&self, large: &Large<'a>) -> Result<Opened<'a>, AddError> {
        let file = OpenFile::open(self.entries, large.entry, large.stamp)?;
        if self.options.in_place {
            return Ok(Opened::adopt(file, large.stamp.size));
        }
        Ok(Opened::copy(file, self.store.begin_blob(large.stamp.size)?))
    }
}
