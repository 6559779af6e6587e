//! The one binary.

fn main() -> std::process::ExitCode {
    // Training makes many small tensor operations. candle asks for its number of threads at each
    // of them, reads /proc/cpuinfo for it where no variable says, and lets threads spin at
    // barriers: several times slower than one thread.
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    }
    sanderling_service::cli::main()
}
