//! What goes wrong with a fake disk, and when.

/// What goes wrong during one run of a process. Calls of the disk and of its files are counted from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this call the process ends; it may have been done, in part too.
    pub ends_at: Option<u64>,
    /// What else goes wrong.
    pub faults: Vec<Fault>,
    /// From this call on, no byte is free: something else has filled the disk.
    pub full_from: Option<u64>,
}

/// Calls that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// In what way.
    pub kind: FaultKind,
    /// The first call that may.
    pub from: u64,
    /// How many calls of the kind fail from then on.
    pub count: u64,
}

/// How calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// There is no space for what is written or made; a part of it may be written.
    NoSpace,
    /// What is read, opened or listed cannot be.
    Read,
    /// What is written, made, renamed or removed cannot be; a part of it may be written.
    Write,
    /// What is to be durable is not. What was not durable before may never be, though a later sync succeeds.
    Sync,
}

/// In what way a fake disk does not even do what it promises, to see whether that is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Syncing the disk does nothing.
    NoDiskSync,
    /// Syncing a file does nothing.
    NoFileSync,
    /// A block that is read has now and then a flipped bit.
    ReadsWrong,
}

/// What a call does, as far as faults go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    /// It takes space.
    Grow,
    /// It takes none.
    Change,
    Sync,
}

impl Call {
    fn fails_by(self, kind: FaultKind) -> bool {
        match kind {
            FaultKind::NoSpace => self == Call::Grow,
            FaultKind::Read => self == Call::Read,
            FaultKind::Write => matches!(self, Call::Grow | Call::Change),
            FaultKind::Sync => self == Call::Sync,
        }
    }
}

impl Plan {
    /// Whether a call fails, and in what way. Counts it.
    pub(super) fn fault(&mut self, number: u64, call: Call) -> Option<FaultKind> {
        if call == Call::Grow && self.full_from.is_some_and(|from| number >= from) {
            return Some(FaultKind::NoSpace);
        }
        let fault = self
            .faults
            .iter_mut()
            .find(|fault| fault.count > 0 && number >= fault.from && call.fails_by(fault.kind))?;
        fault.count -= 1;
        Some(fault.kind)
    }
}
