//! Local: the server that `dev` runs for a folder, held by one process and found by all others.

use std::{
    fs::{File, TryLockError},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{bounded_file, limits};

/// Folder that `dev` keeps its data in, where nobody says otherwise.
pub(super) const DATA: &str = ".millstream";
/// Folder of the server's own data in it.
const SERVER: &str = "dev";
/// File that is locked while a server runs there.
const LOCK: &str = "dev.lock";
/// File with the address of that server.
const ADDRESS: &str = "dev.url";

/// Data of the server that `dev` runs, in the folder that it keeps its data in.
pub(super) fn data_of(folder: &Path) -> PathBuf {
    folder.join(SERVER)
}

/// Claim of a folder's data: two servers in one store lose events.
#[derive(Debug)]
pub(super) struct Claim {
    data: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims the data, which is made if it is not there.
    ///
    /// # Errors
    /// Another process has it, or the folder cannot be written.
    pub(super) fn of(data: &Path) -> anyhow::Result<Self> {
        let wrong = || format!("could not write into \"{}\"", data.display());
        std::fs::create_dir_all(data).with_context(wrong)?;
        let path = data.join(LOCK);
        let lock = File::options().create(true).append(true).open(path).with_context(wrong)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { data: data.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let at = address(data).map_or_else(String::new, |at| format!(" ({at})"));
                bail!(
                    "`millstream dev` already runs with its data in \"{}\"{at}\n hint: edit its \
                     pipeline.toml and save, stop it, or give this one a folder: --data DIR",
                    data.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(wrong),
        }
    }

    /// Tells other commands where the server is.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn tell(&self, url: &str) -> anyhow::Result<()> {
        let path = self.data.join(ADDRESS);
        let written = File::create(&path).and_then(|mut file| file.write_all(url.as_bytes()));
        written.with_context(|| format!("could not write \"{}\"", path.display()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What stays after a kill is seen to be old: nobody holds the lock.
        std::fs::remove_file(self.data.join(ADDRESS)).ok();
    }
}

/// Address of the server that `dev` runs with its data in this folder; `None`: it does not run.
pub(super) fn running(data: &Path) -> Option<String> {
    let lock = File::options().append(true).open(data.join(LOCK)).ok()?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => address(data),
        // It is given back with the file.
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn address(data: &Path) -> Option<String> {
    let text = bounded_file::read_text(&data.join(ADDRESS), limits::FILLED_BYTES_MAX).ok()?;
    Some(text).filter(|text| text.starts_with("nats://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_data_and_others_are_told_where_its_server_is() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert_eq!(running(&data), None);
        let claim = Claim::of(&data).unwrap();
        assert_eq!(running(&data), None, "its server does not run yet");
        claim.tell("nats://127.0.0.1:4333").unwrap();
        assert_eq!(running(&data).as_deref(), Some("nats://127.0.0.1:4333"));
        let other = Claim::of(&data).unwrap_err().to_string();
        assert!(other.contains("already runs") && other.contains(":4333"), "{other}");
        drop(claim);
        assert_eq!(running(&data), None);
        // Killed, it leaves its address behind.
        std::fs::write(data.join(ADDRESS), "nats://127.0.0.1:4333").unwrap();
        assert_eq!(running(&data), None);
        Claim::of(&data).unwrap();
    }
}
