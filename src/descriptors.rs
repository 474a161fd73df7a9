//! Descriptors: files and sockets that this process may have open, and has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Raises the number of descriptors that this process may have to what the system lets it, up to
/// [`limits::DESCRIPTORS_WANTED`]. Many systems start with 1 024.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(u64::MAX).min(limits::DESCRIPTORS_WANTED);
    if current.is_some_and(|current| current < most) {
        // Where it is refused, what there is has to do; a condition says when that is too little.
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).ok();
    }
}

/// Number of descriptors that this process may have.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Number of descriptors that this process has; `None` where the system does not say, or has none
/// left to look with.
pub(crate) fn open() -> Option<u64> {
    let found = std::fs::read_dir("/dev/fd").ok()?;
    // One of them is the folder itself.
    Some((found.count() as u64).saturating_sub(1))
}

/// Share of the descriptors, `most` at the most, that connections to one address of ours may take.
pub(crate) fn share(most: usize) -> usize {
    let share = usize::try_from(limit() / 8).unwrap_or(usize::MAX);
    most.min(share.max(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_counted() {
        let _some: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!((200..=limit()).contains(&open().unwrap()));
        assert!(share(64) <= 64 && share(2) == 2);
    }
}
