//! Nix's formats: store paths, narinfo, NAR, base32, signatures
