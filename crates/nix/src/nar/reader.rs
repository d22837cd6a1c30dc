//! Taking a NAR apart.

use std::{
    io::{self, BufReader, Read},
    mem,
};

use firn_castore::{DEPTH_MAX, NAME_BYTES_MAX, NameError, PathComponent, SymlinkTarget, TARGET_BYTES_MAX};

use super::frame::padding;

/// The longest fixed string, in bytes.
const FIXED_BYTES_MAX: usize = "nix-archive-1".len();
const BUFFER_BYTES: usize = 64 * 1024;

/// Why bytes are no NAR. Offsets are those of the string that is wrong, in bytes from the start.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// It ends too early.
    #[error("the NAR ends in the middle")]
    Truncated,
    /// Something else stands where a fixed string must be.
    #[error("{wanted} must stand at byte {offset} of the NAR")]
    Unexpected {
        /// What may stand there.
        wanted: &'static str,
        /// Where.
        offset: u64,
    },
    /// Bytes other than zero behind a string.
    #[error("the padding before byte {0} of the NAR is not zero")]
    Padding(u64),
    /// A name or symlink target that castore forbids.
    #[error("illegal name or symlink target at byte {offset} of the NAR: {error}")]
    Name {
        /// Where.
        offset: u64,
        /// What is wrong with it.
        error: NameError,
    },
    /// A name that does not come after the one before it.
    #[error("the name {name} at byte {offset} of the NAR stands twice or out of order")]
    Order {
        /// The name.
        name: PathComponent,
        /// Where.
        offset: u64,
    },
    /// Deeper than [`DEPTH_MAX`].
    #[error("the NAR has more than {DEPTH_MAX} directories within each other")]
    TooDeep,
    /// More bytes after the end.
    #[error("the NAR ends at byte {0}, but more follows")]
    Trailing(u64),
    /// It was read on after an error.
    #[error("the NAR was found broken before")]
    Broken,
    /// The bytes could not be had.
    #[error("the NAR could not be read")]
    Io(#[source] io::Error),
}

impl From<io::Error> for NarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => NarError::Truncated,
            _ => NarError::Io(error),
        }
    }
}

/// A part of a tree, in the order of a NAR. The topmost node has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarEvent {
    /// A directory begins.
    Open {
        /// Its name.
        name: Option<PathComponent>,
    },
    /// The directory that was opened last and is not closed yet ends.
    Close,
    /// A regular file; [`NarReader::contents`] gives its bytes.
    File {
        /// Its name.
        name: Option<PathComponent>,
        /// The owner's executable bit.
        executable: bool,
        /// Its length in bytes, as the NAR claims.
        size: u64,
    },
    /// A symlink.
    Symlink {
        /// Its name.
        name: Option<PathComponent>,
        /// Where it points.
        target: SymlinkTarget,
    },
}

/// Takes a NAR apart, event by event, in memory that does not grow with it.
///
/// It accepts nothing but the one NAR of a tree: what it reads to the [end](NarReader::finish), a writer would write
/// again byte for byte.
#[derive(Debug)]
pub struct NarReader<R> {
    input: BufReader<R>,
    /// How many bytes have been read.
    offset: u64,
    state: State,
    /// The open directories; of each, the name of its latest entry.
    open: Vec<Option<PathComponent>>,
}

#[derive(Debug)]
enum State {
    Start,
    /// Within a directory, before an entry or the end.
    Directory,
    /// Within a file's contents.
    Contents {
        size: u64,
        left: u64,
    },
    End,
    Broken,
}

impl<R: Read> NarReader<R> {
    /// Reads a NAR from here, in large pieces.
    pub fn new(input: R) -> Self {
        let input = BufReader::with_capacity(BUFFER_BYTES, input);
        Self { input, offset: 0, state: State::Start, open: Vec::new() }
    }

    /// The next event; `None` at the end of the tree. Contents that were not read are passed over.
    // No Iterator: contents are read from it between two events.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<NarEvent>, NarError> {
        if let State::Contents { size, .. } = self.state {
            self.end_contents(size)?;
        }
        match mem::replace(&mut self.state, State::Broken) {
            State::Start => {
                self.expect("nix-archive-1")?;
                self.node(None).map(Some)
            }
            State::Directory => self.entry_or_close().map(Some),
            State::End => {
                self.state = State::End;
                Ok(None)
            }
            State::Contents { .. } | State::Broken => Err(NarError::Broken),
        }
    }

    /// The contents of the file that [`NarReader::next`] gave last, from where they were left; nothing after others.
    pub fn contents(&mut self) -> NarContents<'_, R> {
        NarContents(self)
    }

    /// Checks what is left: the rest of the tree, and that nothing follows.
    pub fn finish(mut self) -> Result<(), NarError> {
        while self.next()?.is_some() {}
        match self.input.read_exact(&mut [0]) {
            Ok(()) => Err(NarError::Trailing(self.offset)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(NarError::Io(error)),
        }
    }

    fn entry_or_close(&mut self) -> Result<NarEvent, NarError> {
        let offset = self.offset;
        match &self.fixed()?[..] {
            b"entry" => self.entry(),
            b")" => {
                self.open.pop();
                self.end_node()?;
                Ok(NarEvent::Close)
            }
            _ => Err(NarError::Unexpected { wanted: "\"entry\" or \")\"", offset }),
        }
    }

    fn entry(&mut self) -> Result<NarEvent, NarError> {
        self.expect("(")?;
        self.expect("name")?;
        let offset = self.offset;
        let name = self.string(NAME_BYTES_MAX)?;
        let name = PathComponent::try_from(&name[..]).map_err(|error| NarError::Name { offset, error })?;
        if let Some(last) = self.open.last_mut() {
            if last.as_ref().is_some_and(|last| *last >= name) {
                return Err(NarError::Order { name, offset });
            }
            *last = Some(name.clone());
        }
        self.expect("node")?;
        self.node(Some(name))
    }

    fn node(&mut self, name: Option<PathComponent>) -> Result<NarEvent, NarError> {
        self.expect("(")?;
        self.expect("type")?;
        let offset = self.offset;
        match &self.fixed()?[..] {
            b"directory" => self.directory(name),
            b"symlink" => self.symlink(name),
            b"regular" => self.file(name),
            _ => Err(NarError::Unexpected { wanted: "\"regular\", \"directory\" or \"symlink\"", offset }),
        }
    }

    fn directory(&mut self, name: Option<PathComponent>) -> Result<NarEvent, NarError> {
        if self.open.len() >= DEPTH_MAX as usize {
            return Err(NarError::TooDeep);
        }
        self.open.push(None);
        self.state = State::Directory;
        Ok(NarEvent::Open { name })
    }

    fn symlink(&mut self, name: Option<PathComponent>) -> Result<NarEvent, NarError> {
        self.expect("target")?;
        let offset = self.offset;
        let target = self.string(TARGET_BYTES_MAX)?;
        let target =
            SymlinkTarget::try_from(&target[..]).map_err(|error| NarError::Name { offset, error })?;
        self.expect(")")?;
        self.end_node()?;
        Ok(NarEvent::Symlink { name, target })
    }

    fn file(&mut self, name: Option<PathComponent>) -> Result<NarEvent, NarError> {
        let offset = self.offset;
        let executable = match &self.fixed()?[..] {
            b"contents" => false,
            b"executable" => {
                self.expect("")?;
                self.expect("contents")?;
                true
            }
            _ => return Err(NarError::Unexpected { wanted: "\"executable\" or \"contents\"", offset }),
        };
        let size = self.length()?;
        self.state = State::Contents { size, left: size };
        Ok(NarEvent::File { name, executable, size })
    }

    fn end_contents(&mut self, size: u64) -> Result<(), NarError> {
        let skipped = io::copy(&mut self.contents(), &mut io::sink());
        self.state = State::Broken;
        skipped?;
        self.padding(size)?;
        self.expect(")")?;
        self.end_node()
    }

    /// After the `)` of a node: that of the entry it lies in, if it lies in one.
    fn end_node(&mut self) -> Result<(), NarError> {
        if self.open.is_empty() {
            self.state = State::End;
        } else {
            self.expect(")")?;
            self.state = State::Directory;
        }
        Ok(())
    }

    fn expect(&mut self, wanted: &'static str) -> Result<(), NarError> {
        let offset = self.offset;
        if self.fixed()? == wanted.as_bytes() { Ok(()) } else { Err(NarError::Unexpected { wanted, offset }) }
    }

    fn fixed(&mut self) -> Result<Vec<u8>, NarError> {
        let offset = self.offset;
        self.string(FIXED_BYTES_MAX).map_err(|error| match error {
            NarError::Name { .. } => NarError::Unexpected { wanted: "a keyword", offset },
            other => other,
        })
    }

    /// Reads a string; one that claims more than `max` bytes is refused before it gets memory.
    fn string(&mut self, max: usize) -> Result<Vec<u8>, NarError> {
        let offset = self.offset;
        let claimed = self.length()?;
        let len = usize::try_from(claimed).unwrap_or(usize::MAX);
        if len > max {
            return Err(NarError::Name { offset, error: NameError::TooLong { len, max } });
        }
        let mut string = vec![0; len];
        self.fill(&mut string)?;
        self.padding(claimed)?;
        Ok(string)
    }

    fn length(&mut self) -> Result<u64, NarError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn padding(&mut self, after: u64) -> Result<(), NarError> {
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..padding(after).len()];
        self.fill(bytes)?;
        if bytes.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(NarError::Padding(self.offset)) }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NarError> {
        self.input.read_exact(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// The contents of one file in a NAR; ends where they end. A NAR that ends before is an error.
#[derive(Debug)]
pub struct NarContents<'a, R>(&'a mut NarReader<R>);

impl<R: Read> Read for NarContents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let State::Contents { left, .. } = &mut self.0.state else { return Ok(0) };
        let want = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.0.input.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= got as u64;
        self.0.offset += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
