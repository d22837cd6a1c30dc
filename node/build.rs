//! Generates the stubs of the control service; its messages are those of `firn-proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/firn");
    let files = protox::compile(["firn/control.proto"], ["../proto"])?;
    tonic_prost_build::configure()
        .extern_path(".firn.control.v1", "::firn_proto::control")
        .compile_fds(files)?;
    Ok(())
}
