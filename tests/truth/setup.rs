//! `make setup` on machines that lack what the build needs: tried with a package manager that only
//! writes down what it was asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::sanderling::{Finished, root, scratch};

/// Runs the set-up by `sh` with nothing on its path but the given scripts; also what `apt-get` was
/// asked for.
fn set_up(scripts: &[(&str, &str)]) -> (Finished, String) {
    let folder = scratch();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    for (name, text) in scripts {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script to run");
    }
    symlink("/usr/bin/env", bin.join("env")).expect("env");
    let asked = folder.path().join("asked");
    let output = Command::new("/bin/sh")
        .arg(root().join(".ci/setup.sh"))
        .env_clear()
        .env("PATH", &bin)
        .env("ASKED", &asked)
        .output()
        .expect("a shell");
    let finished = Finished {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    (finished, read(&asked))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

const CARGO: (&str, &str) = ("cargo", "");
const APT: (&str, &str) = ("apt-get", "echo \"$DEBIAN_FRONTEND:$*\" >> \"$ASKED\"");
const ROOT: (&str, &str) = ("id", "echo 0");
const USER: (&str, &str) = ("id", "echo 1000");
const SUDO: (&str, &str) = ("sudo", "echo sudo >> \"$ASKED\"; exec \"$@\"");
/// All is there but the headers of OpenSSL, which are not known, and those of zlib, which were removed.
const DPKG: (&str, &str) = (
    "dpkg-query",
    "for package; do :; done\n\
     case \"$package\" in\n\
     libssl-dev) exit 1 ;;\n\
     zlib1g-dev) printf 'rc ' ;;\n\
     *) printf 'ii ' ;;\n\
     esac",
);
const ALL_THERE: (&str, &str) = ("dpkg-query", "printf 'ii '");

#[test]
fn what_is_missing_is_installed_and_nothing_else() {
    let (done, asked) = set_up(&[CARGO, APT, ROOT, DPKG]);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(
        asked,
        ":update -q\n\
         noninteractive:install -y -q --no-install-recommends libssl-dev zlib1g-dev\n"
    );
    let (done, asked) = set_up(&[CARGO, APT, USER, SUDO, DPKG]);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!(asked.matches("sudo\n").count(), 2, "{asked}");

    let (done, asked) = set_up(&[CARGO, APT, USER, ALL_THERE]);
    assert_eq!((done.status, &*asked), (0, ""), "{done:?}");
}

#[test]
fn what_it_cannot_do_it_says() {
    let (done, asked) = set_up(&[APT, ROOT, DPKG]);
    assert_eq!((done.status, &*asked), (1, ""), "{done:?}");
    assert!(done.stderr.contains("rustup"), "{done:?}");

    let (done, asked) = set_up(&[CARGO, APT, USER, DPKG]);
    assert_eq!((done.status, &*asked), (1, ""), "{done:?}");
    assert!(done.stderr.contains("libssl-dev zlib1g-dev"), "{done:?}");

    // Elsewhere than on Debian it leaves the machine alone.
    let (done, asked) = set_up(&[CARGO, ROOT]);
    assert_eq!((done.status, &*asked), (0, ""), "{done:?}");
    assert!(done.stderr.contains("not a Debian"), "{done:?}");
}
