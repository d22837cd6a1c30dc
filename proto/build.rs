//! Compiles the `.proto` files with `protox`, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=firn");
    let files = protox::compile(
        [
            "firn/castore.proto",
            "firn/pathinfo.proto",
            "firn/store.proto",
            "firn/exchange.proto",
            "firn/control.proto",
        ],
        ["."],
    )?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).include_file("firn_proto.rs");
    config.compile_fds(files)?;
    Ok(())
}
