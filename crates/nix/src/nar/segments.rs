//! A range of a NAR, part by part.

use std::{collections::VecDeque, mem, ops::Range};

use bytes::Bytes;
use firn_castore::{BlobRef, DirectoryDigest, Node, PathComponent};

use super::{NarFrame, NarLayout};

/// The longest [`Segment::Literal`], in bytes.
pub const LITERAL_BYTES_MAX: usize = 64 * 1024;

/// A part of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Literal(Bytes),
    /// Bytes of a blob.
    Blob {
        /// The blob.
        blob: BlobRef,
        /// Which of its bytes; not empty.
        range: Range<u64>,
    },
}

impl Segment {
    /// The length in bytes; never 0.
    pub fn bytes(&self) -> u64 {
        match self {
            Segment::Literal(bytes) => bytes.len() as u64,
            Segment::Blob { range, .. } => range.end - range.start,
        }
    }
}

/// The [`Segment`]s of a range of a NAR, in order; what [`NarLayout::segments`] gives.
///
/// All that stands between two blobs comes in one literal, unless that grows over [`LITERAL_BYTES_MAX`].
#[derive(Debug, Clone)]
pub struct Segments {
    layout: NarLayout,
    range: Range<u64>,
    /// Where in the NAR the next piece begins.
    position: u64,
    /// The directories that the next piece lies in.
    open: Vec<OpenDirectory>,
    /// The literal that grows.
    literal: Vec<u8>,
    /// What is complete.
    ready: VecDeque<Segment>,
}

#[derive(Debug, Clone)]
struct OpenDirectory {
    digest: DirectoryDigest,
    /// The entry that was dealt with last.
    last: Option<PathComponent>,
}

impl Segments {
    pub(super) fn new(layout: NarLayout, range: Range<u64>) -> Self {
        let range = range.start..range.end.min(layout.nar_size());
        Self { layout, range, position: 0, open: Vec::new(), literal: Vec::new(), ready: VecDeque::new() }
    }

    /// Goes on by one entry, or by the end of a directory.
    fn step(&mut self) {
        if self.position == 0 {
            let top = self.layout.closure().root().node().clone();
            return self.put_node(None, &top);
        }
        match self.next_entry() {
            Some((name, node)) => self.put_node(Some(&name), &node),
            None => {
                self.open.pop();
                self.put_frame(NarFrame::Close { is_top: self.open.is_empty() });
            }
        }
    }

    /// The next entry of the innermost directory that is not wholly before the range.
    fn next_entry(&mut self) -> Option<(PathComponent, Node)> {
        let inner = self.open.last_mut()?;
        let directory = self.layout.closure().get(&inner.digest).expect("a closure is complete");
        for (name, node) in directory.after(inner.last.as_ref()) {
            if self.position < self.range.start {
                let end = self.position + self.layout.entry_bytes(name, node);
                if end <= self.range.start {
                    self.position = end;
                    continue;
                }
            }
            inner.last = Some(name.clone());
            return Some((name.clone(), node.clone()));
        }
        None
    }

    /// Gives a node, of a directory only its beginning.
    fn put_node(&mut self, name: Option<&PathComponent>, node: &Node) {
        match node {
            Node::Directory { digest, .. } => {
                self.put_frame(NarFrame::Open { name });
                self.open.push(OpenDirectory { digest: *digest, last: None });
            }
            Node::Symlink { target } => self.put_frame(NarFrame::Symlink { name, target }),
            Node::File { blob, executable } => {
                self.put_frame(NarFrame::File { name, executable: *executable, size: blob.size });
                self.put_blob(*blob);
                self.put_frame(NarFrame::FileEnd { is_top: name.is_none(), size: blob.size });
            }
        }
    }

    fn put_frame(&mut self, frame: NarFrame<'_>) {
        let mut bytes = Vec::with_capacity(512);
        frame.put(&mut bytes);
        self.put_literal(&bytes);
    }

    fn put_literal(&mut self, bytes: &[u8]) {
        let wanted = self.clip(bytes.len() as u64);
        let wanted = &bytes[wanted.start as usize..wanted.end as usize];
        if self.literal.len() + wanted.len() > LITERAL_BYTES_MAX {
            self.end_literal();
        }
        self.literal.extend_from_slice(wanted);
    }

    fn put_blob(&mut self, blob: BlobRef) {
        let range = self.clip(blob.size);
        if !range.is_empty() {
            self.end_literal();
            self.ready.push_back(Segment::Blob { blob, range });
        }
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.ready.push_back(Segment::Literal(mem::take(&mut self.literal).into()));
        }
    }

    /// Passes over a piece of this length; tells which part of it is wanted.
    fn clip(&mut self, bytes: u64) -> Range<u64> {
        let within = |end: u64| end.saturating_sub(self.position).min(bytes);
        let wanted = within(self.range.start)..within(self.range.end);
        self.position += bytes;
        wanted
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        while self.ready.is_empty() && self.position < self.range.end && !self.range.is_empty() {
            self.step();
        }
        if self.ready.is_empty() {
            self.end_literal();
        }
        self.ready.pop_front()
    }
}
