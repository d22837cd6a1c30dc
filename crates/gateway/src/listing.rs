//! What is in a path, as `nix store ls` asks for it: names, kinds, lengths, and where in the NAR each file begins.
//!
//! The text is made and sent piece by piece: a tree may have millions of entries.

use std::sync::Arc;

use bytes::Bytes;
use firn_castore::{Closure, DirectoryDigest, Node, PathComponent};
use firn_engine::{Engine, EngineError};
use futures::stream::{Stream, try_unfold};

/// How much text is made at a time, about.
const PIECE_BYTES: usize = 64 << 10;

/// The lengths of the fixed strings in a NAR, each with its own length before it and zeros behind: those of up to 8
/// bytes, and those of up to 16.
const SHORT: u64 = 16;
const LONG: u64 = 24;

/// Whether all names and targets are text. JSON has no form for others.
pub(crate) fn can_be_told(closure: &Closure) -> bool {
    let is_text = |node: &Node| match node {
        Node::Symlink { target } => std::str::from_utf8(target.as_bytes()).is_ok(),
        Node::File { .. } | Node::Directory { .. } => true,
    };
    is_text(closure.root().node())
        && closure.directories().all(|directory| {
            directory.iter().all(|(name, node)| std::str::from_utf8(name.as_bytes()).is_ok() && is_text(node))
        })
}

/// The listing, as pieces of its text.
pub(crate) fn pieces(
    engine: Engine,
    closure: Arc<Closure>,
) -> impl Stream<Item = Result<Bytes, EngineError>> + Send + 'static {
    try_unfold(Writer::new(closure), move |mut writer| {
        let engine = engine.clone();
        async move {
            let (piece, writer) = engine.run_blocking(move || (writer.next_piece(), writer)).await?;
            Ok((!piece.is_empty()).then_some((piece, writer)))
        }
    })
}

/// Goes through a tree in the order of its NAR.
struct Writer {
    closure: Arc<Closure>,
    /// Whether it has begun.
    begun: bool,
    /// The directories that are open, each with the entry that came last.
    open: Vec<(DirectoryDigest, Option<PathComponent>)>,
    text: Vec<u8>,
    /// How much of the NAR lies before what comes next.
    nar_offset: u64,
}

impl Writer {
    fn new(closure: Arc<Closure>) -> Self {
        Self { closure, begun: false, open: Vec::new(), text: Vec::new(), nar_offset: LONG }
    }

    /// Empty at the end.
    fn next_piece(&mut self) -> Bytes {
        while self.text.len() < PIECE_BYTES && self.step() {}
        std::mem::take(&mut self.text).into()
    }

    /// Writes an entry, or the end of a directory. False at the end of all.
    fn step(&mut self) -> bool {
        if !self.begun {
            self.begun = true;
            self.put("{\"version\":1,\"root\":");
            let top = self.closure.root().node().clone();
            self.put_node(&top);
            if self.open.is_empty() {
                self.put("}");
            }
            return true;
        }
        let Some((digest, last)) = self.open.last_mut() else { return false };
        let directory = self.closure.get(digest).expect("a closure is complete");
        let next = directory.after(last.as_ref()).next().map(|(name, node)| (name.clone(), node.clone()));
        match next {
            Some((name, node)) => {
                let is_first = last.replace(name.clone()).is_none();
                // entry ( name … node
                self.nar_offset += 4 * SHORT + string_bytes(name.as_bytes());
                self.put(if is_first { "" } else { "," });
                self.put_string(name.as_bytes());
                self.put(":");
                self.put_node(&node);
            }
            None => {
                self.open.pop();
                self.put("}}");
                // ) of the directory, and that of its entry; of the topmost one what follows no longer matters.
                self.nar_offset += 2 * SHORT;
                if self.open.is_empty() {
                    self.put("}");
                }
            }
        }
        true
    }

    fn put_node(&mut self, node: &Node) {
        match node {
            Node::Directory { digest, .. } => {
                self.put("{\"type\":\"directory\",\"entries\":{");
                self.nar_offset += 2 * SHORT + LONG;
                self.open.push((*digest, None));
            }
            Node::Symlink { target } => {
                self.put("{\"type\":\"symlink\",\"target\":");
                self.put_string(target.as_bytes());
                self.put("}");
                // ( type symlink target … ) )
                self.nar_offset += 4 * SHORT + string_bytes(target.as_bytes()) + 2 * SHORT;
            }
            Node::File { blob, executable } => {
                self.put("{\"type\":\"regular\",\"size\":");
                self.put(&blob.size.to_string());
                // ( type regular executable "" contents, and the length of the contents
                self.nar_offset += 4 * SHORT + 8;
                if *executable {
                    self.put(",\"executable\":true");
                    self.nar_offset += LONG + 8;
                }
                self.put(",\"narOffset\":");
                self.put(&self.nar_offset.to_string());
                self.put("}");
                self.nar_offset += blob.size.next_multiple_of(8) + 2 * SHORT;
            }
        }
    }

    fn put(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    fn put_string(&mut self, bytes: &[u8]) {
        let text = serde_json::to_vec(&String::from_utf8_lossy(bytes)).expect("a string is always JSON");
        self.text.extend_from_slice(&text);
    }
}

/// How much a string takes in a NAR.
fn string_bytes(bytes: &[u8]) -> u64 {
    8 + (bytes.len() as u64).next_multiple_of(8)
}
