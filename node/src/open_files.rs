//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many are wanted: all connections, the store's files, and some to spare.
const OPEN_FILES_WANTED: u64 = 1 << 16;

/// Raises the limit as far as it is wanted and the administrator allows; gives what holds then.
pub(crate) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return u64::MAX };
    let wanted = maximum.unwrap_or(u64::MAX).min(OPEN_FILES_WANTED);
    let raised = Rlimit { current: Some(wanted), maximum };
    if wanted > current && setrlimit(Resource::Nofile, raised).is_ok() { wanted } else { current }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(512), ..before };
        setrlimit(Resource::Nofile, low).unwrap();
        let raised = raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(raised));
        assert_eq!(raised, before.maximum.unwrap_or(u64::MAX).min(OPEN_FILES_WANTED));
        assert_eq!(raise_limit(), raised);
    }
}
