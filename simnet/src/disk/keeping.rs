//! What is kept, and how it comes.

use firn_bao::{HashedPiece, PIECE_BYTES, Span, VerifiedSpan};
use firn_castore::{BlobRef, Directory};
use firn_store::{Blobs, Directories, Intake, Item, StoreError};

use super::story::{Breach, Story, Violation};

impl Story<'_> {
    /// Keeps parts of a tree.
    pub(super) fn keep_some(&mut self) -> Result<(), Violation> {
        let tree = self.any_tree();
        let often = self.dice.pick(&[30, 60, 100]);
        self.note(format!("keeps {often} % of tree {tree}"));
        self.keep_tree(tree, often)
    }

    /// Keeps of a tree what the model does not know to be here, or so much of a hundred of it.
    pub(super) fn keep_tree(&mut self, tree: usize, often: u64) -> Result<(), Violation> {
        let mut blobs: Vec<BlobRef> = self.trees[tree].blobs.iter().copied().collect();
        self.shuffle(&mut blobs);
        if self.dice.percent(40) {
            self.keep_together(&blobs, often)?;
        }
        for blob in blobs {
            if !self.disk.has_ended() && !self.model.here.has_blob(&blob) {
                self.keep_blob(&blob, often)?;
            }
        }
        let mut directories: Vec<Directory> = self.trees[tree].directories.values().cloned().collect();
        self.shuffle(&mut directories);
        directories.retain(|directory| !self.model.here.has_directory(&directory.digest()));
        directories.retain(|_| self.dice.percent(often));
        let kept = self.store().keep_directories(&directories);
        let items = directories.iter().map(|directory| Item::Directory(directory.digest()));
        if self.excuse_keeping("keep_directories", kept, items)?.is_some() {
            directories.iter().for_each(|directory| self.model.kept_directory(directory.digest()));
        }
        Ok(())
    }

    /// Keeps whole blobs with one call, so much of a hundred of them.
    fn keep_together(&mut self, blobs: &[BlobRef], often: u64) -> Result<(), Violation> {
        let mut spans = Vec::new();
        for blob in blobs.iter().filter(|blob| blob.size <= PIECE_BYTES) {
            if !self.model.here.has_blob(blob) && self.dice.percent(often) {
                spans.push(self.pool.sample(blob).span(Span::whole(blob.size)));
            }
        }
        self.note(format!("keeps {} blobs together", spans.len()));
        let kept = self.store().keep_spans(&spans);
        let items = spans.iter().map(|span| Item::Blob(span.blob().digest));
        if self.excuse_keeping("keep_spans", kept, items)?.is_some() {
            spans.iter().for_each(|span| self.model.kept_span(span.blob(), span.span()));
        }
        Ok(())
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.dice.between(0..i as u64 + 1) as usize);
        }
    }

    fn keep_blob(&mut self, blob: &BlobRef, often: u64) -> Result<(), Violation> {
        match self.dice.between(0..10) {
            0..2 => self.adopt(blob),
            2..6 if blob.size > PIECE_BYTES => self.copy_in(blob, often),
            _ => self.keep_spans(blob, often),
        }
    }

    fn adopt(&mut self, blob: &BlobRef) -> Result<(), Violation> {
        let pool = self.pool;
        let number = pool.samples().iter().position(|sample| sample.blob() == *blob);
        let number = number.expect("each blob is in the pool");
        let file = self.source(number);
        if self.spoilt.contains(&file) {
            return self.keep_spans(blob, 100);
        }
        self.note(format!("adopts {}", file.display()));
        self.model.is_to_adopt(blob);
        let adopted = self.store().adopt_blob(&file, &pool.samples()[number].hashed);
        if self.excuse_keeping("adopt_blob", adopted, [Item::Blob(blob.digest)])?.is_some() {
            self.model.has_adopted(*blob);
        }
        Ok(())
    }

    fn copy_in(&mut self, blob: &BlobRef, often: u64) -> Result<(), Violation> {
        let bytes = self.pool.sample(blob).bytes.clone();
        let mut pieces: Vec<u64> = (0..blob.size.div_ceil(PIECE_BYTES)).collect();
        self.shuffle(&mut pieces);
        pieces.retain(|_| self.dice.percent(often));
        let all = pieces.len() as u64 == blob.size.div_ceil(PIECE_BYTES);
        let is_dropped = self.dice.percent(10);
        self.note(format!("copies {} bytes in, pieces {pieces:?}, dropped: {is_dropped}", blob.size));
        let copied = (|| -> Result<Option<BlobRef>, StoreError> {
            let incoming = self.store().begin_blob(blob.size)?;
            for index in pieces {
                let start = index * PIECE_BYTES;
                let piece = bytes.slice(start as usize..(start + PIECE_BYTES).min(blob.size) as usize);
                incoming.write(&HashedPiece::of(index, piece))?;
            }
            if is_dropped { Ok(None) } else { incoming.finish().map(Some) }
        })();
        if !all && matches!(copied, Err(StoreError::Incomplete { .. })) {
            return Ok(());
        }
        match self.excuse_keeping("copying in", copied, [Item::Blob(blob.digest)])? {
            Some(Some(found)) if found != *blob || !all => {
                Err(Breach::FalseBytes.of(format!("what was copied in became {found:?}")))
            }
            Some(Some(_)) => {
                self.model.kept_span(*blob, Span::whole(blob.size));
                Ok(())
            }
            Some(None) | None => Ok(()),
        }
    }

    fn keep_spans(&mut self, blob: &BlobRef, often: u64) -> Result<(), Violation> {
        let groups_max = self.dice.pick(&[1, 3, 16, 64]);
        let mut spans: Vec<Span> =
            Span::whole(blob.size).pieces(groups_max.max(Span::whole(blob.size).groups().end / 8)).collect();
        self.shuffle(&mut spans);
        spans.retain(|_| self.dice.percent(often));
        self.note(format!("keeps {} spans of {} bytes", spans.len(), blob.size));
        let together = self.dice.pick(&[1, 3, 64]);
        for spans in spans.chunks(together) {
            let verified: Vec<VerifiedSpan> =
                spans.iter().map(|span| self.pool.sample(blob).span(*span)).collect();
            let kept = self.store().keep_spans(&verified);
            if self.excuse_keeping("keep_spans", kept, [Item::Blob(blob.digest)])?.is_none() {
                return Ok(());
            }
            spans.iter().for_each(|span| self.model.kept_span(*blob, *span));
        }
        Ok(())
    }

    /// As [`Story::excuse`]; what was to be kept may be here although that has failed.
    fn excuse_keeping<T>(
        &mut self,
        what: &str,
        kept: Result<T, StoreError>,
        items: impl IntoIterator<Item = Item>,
    ) -> Result<Option<T>, Violation> {
        let kept = self.excuse(what, kept)?;
        if kept.is_none() {
            items.into_iter().for_each(|item| self.model.may_be_back(&item));
        }
        Ok(kept)
    }
}
