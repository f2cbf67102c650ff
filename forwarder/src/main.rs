//! The `forwarder` program.

fn main() -> std::process::ExitCode {
    forwarder::cli::main()
}
