//! Keys, attestations and policy: the only place where a root becomes trusted
