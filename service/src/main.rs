//! The one binary.

fn main() -> std::process::ExitCode {
    sanderling_service::cli::main()
}
