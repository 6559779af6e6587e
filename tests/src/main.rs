//! The `sanderling` binary, built beside the tests that run it.

fn main() -> std::process::ExitCode {
    sanderling_service::cli::main()
}
