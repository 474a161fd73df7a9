//! Bounded file: what people name as a file, read up to a limit, whatever is there.

use std::{fs, io, io::Read as _, path::Path};

/// Bytes of a file, at most `most` of them. Of pipes only those that a shell hands over
/// (`--config <(…)`): another waits for ever for someone who writes. Blocking.
///
/// # Errors
/// There is no such file, it may not be read, it is larger, or something else than a file: a device
/// such as `/dev/zero` has no end.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let is_handed_over =
        ["/dev/fd", "/proc/self/fd", "/dev/stdin"].iter().any(|lead| path.starts_with(lead));
    if !kind.is_file() && !is_handed_over {
        return Err(io::Error::other("it is no file, but a pipe or a device"));
    }
    read_all(fs::File::open(path)?, most)
}

/// Bytes of a file that is text, as [`read`].
///
/// # Errors
/// As [`read`]; or it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// All that a reader gives, at most `most` bytes.
///
/// # Errors
/// There is more, or reading fails.
pub(crate) fn read_all(reader: impl io::Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {}", size(most))));
    }
    Ok(bytes)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_what_is_none_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![b'x'; 2048]).unwrap();
        assert_eq!(read(&path, 2048).unwrap().len(), 2048);
        let why = |path: &Path| read(path, 1024).unwrap_err().to_string();
        assert_eq!(why(&path), "it is larger than 1 KiB");
        assert_eq!(why(Path::new("/dev/zero")), "it is no file, but a pipe or a device");
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(why(&pipe), "it is no file, but a pipe or a device");
        assert_eq!(read(folder.path(), 1).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
