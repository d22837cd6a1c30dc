//! The `firn` program. All of it is in the library beside it.

use std::process::ExitCode;

/// What a crowd of peers has taken goes back to the system after it: decision 0036.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    firn_node::run()
}
