//! Xtask: common tasks of people who work on Millstream, each `cargo xtask COMMAND`.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

  files [TEXT]         print every source file with its first sentence; only lines that contain TEXT
  snapshots [FILTER]   run the tests and accept what they print as the new snapshots
  bench [ARGUMENTS]    one hop beside a bare client, three rounds; or the benchmark ARGUMENTS name
  release [OUT]        a tarball of the program, its completions and man pages, and its checksum
  ci                   the whole check, as .ci/run does it

Examples:
  cargo xtask files redrive
  cargo xtask snapshots config::
  cargo xtask bench storm";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("--help", &[][..]),
    };
    match command {
        "files" => match print_files(rest.first().map(String::as_str)) {
            // A reader that has seen enough closes the pipe: nothing is wrong.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("error: could not list the source files: {error}");
                ExitCode::from(2)
            }
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        },
        "snapshots" => {
            let filter = rest.iter().map(String::as_str);
            let all = ["test", "--workspace"].into_iter().chain(filter);
            run(Command::new(cargo()).args(all).env("UPDATE_EXPECT", "1"))
        }
        "bench" => {
            let own: Vec<&str> = rest.iter().map(String::as_str).collect();
            let own = if own.is_empty() { vec!["--rounds", "3"] } else { own };
            let all = ["run", "--release", "--package", "bench", "--"].into_iter().chain(own);
            run(Command::new(cargo()).args(all))
        }
        "release" => {
            let out = rest.first().map_or_else(|| root().join("target/dist"), PathBuf::from);
            match release(&out) {
                Ok(tarball) => {
                    println!("{}", tarball.display());
                    ExitCode::SUCCESS
                }
                Err(why) => {
                    eprintln!("error: could not make a release: {why}");
                    ExitCode::from(2)
                }
            }
        }
        "ci" => run(Command::new("bash").arg(".ci/run")),
        "--help" | "-h" | "help" => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        unknown => {
            eprintln!("error: there is no \"{unknown}\"\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// Builds the program as `Cargo.lock` says, and packs it with what packagers need. Needs `tar` and
/// `sha256sum`.
fn release(out: &Path) -> Result<PathBuf, String> {
    done(Command::new(cargo()).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "millstream",
    ]))?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = target.join("release/millstream");
    let version =
        Command::new(&program).arg("--version").output().map_err(|why| why.to_string())?;
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.trim().rsplit(' ').next().unwrap_or_default();
    let name = format!("millstream-{version}-{}-{}", env::consts::ARCH, env::consts::OS);
    let folder = out.join(&name);
    let file = |why: io::Error| format!("{}: {why}", folder.display());
    // What an earlier one left is no part of this one.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(file)?;
    }
    fs::create_dir_all(folder.join("completions")).map_err(file)?;
    fs::copy(&program, folder.join("millstream")).map_err(file)?;
    for text in ["LICENSE", "README.md", "CHANGELOG.md"] {
        fs::copy(root().join(text), folder.join(text)).map_err(file)?;
    }
    done(Command::new(&program).args(["man", "--out"]).arg(folder.join("man/man1")))?;
    for shell in ["bash", "zsh", "fish"] {
        let script = Command::new(&program).args(["completions", shell]).output();
        let script = script.map_err(|why| why.to_string())?.stdout;
        fs::write(folder.join("completions").join(format!("millstream.{shell}")), script)
            .map_err(file)?;
    }
    let tarball = format!("{name}.tar.gz");
    done(Command::new("tar").args(["-czf", &tarball, &name]).current_dir(out))?;
    let sums = Command::new("sha256sum").arg(&tarball).current_dir(out).output();
    let sums = sums.map_err(|why| format!("sha256sum: {why}"))?.stdout;
    fs::write(out.join(format!("{tarball}.sha256")), sums).map_err(file)?;
    Ok(out.join(tarball))
}

/// Runs a command to a good end.
fn done(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let status = command.status().map_err(|why| format!("{program}: {why}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} ended with {status}")) }
}

fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is in a folder of the workspace")
}

/// Runs a command in the workspace's folder; its exit status.
fn run(command: &mut Command) -> ExitCode {
    match command.current_dir(root()).status() {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: could not run {}: {error}", command.get_program().display());
            ExitCode::from(2)
        }
    }
}

/// Prints each source file and its first `//!` sentence.
fn print_files(only: Option<&str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for folder in ["stages/src", "src", "bench/src", "xtask/src", "tests/it"] {
        for path in rust_files(&root().join(folder))? {
            let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            let line = format!("{shown}: {}", first_sentence(&fs::read_to_string(&path)?));
            if only.is_none_or(|text| line.contains(text)) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// First paragraph of the file's own documentation, without the full stop, on one line.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_paragraph_is_one_line() {
        let text = "//! Queue: events that\n//! wait.\n//!\n//! More.\nuse x;\n";
        assert_eq!(first_sentence(text), "Queue: events that wait");
        assert_eq!(first_sentence("use x;\n"), "");
    }

    #[test]
    fn every_source_file_says_what_it_is() {
        for folder in ["stages/src", "src", "bench/src", "xtask/src", "tests/it"] {
            for path in rust_files(&root().join(folder)).unwrap() {
                let sentence = first_sentence(&fs::read_to_string(&path).unwrap());
                assert!(!sentence.is_empty(), "{} begins with no //! sentence", path.display());
            }
        }
    }
}
