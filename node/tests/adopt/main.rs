//! Adopting a Nix store of real Nix: by the library, and by the real `firn`. It takes `nix-bin` and `curl`.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(unreachable_pub)] // A test binary has no outside: `pub` says what its modules offer each other.

mod following;
mod seeding;
mod world;
