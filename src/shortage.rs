//! Shortage: descriptors, memory, disk, processes or ports of which this host has none left.
//!
//! What fails for want of them is the fault of no event and of no service: the event is deferred,
//! and the worker says what it lacks.

use std::{
    error::Error,
    io,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_stages::{Failure, failure::class};
use rustix::io::Errno;

use crate::{error_chain::causes, limits};

/// What this host, or what it lets this process have, has run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Descriptors of files and sockets.
    Files,
    /// Memory.
    Memory,
    /// Room on a disk.
    Disk,
    /// Processes and threads.
    Processes,
    /// Ports to connect from.
    Ports,
}

/// Times at which each was noticed last, in milliseconds of this process, from 1.
static NOTICED: [AtomicU64; Shortage::ALL.len()] = [const { AtomicU64::new(0) }; 5];
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Shortage {
    /// Every shortage.
    pub(crate) const ALL: [Self; 5] =
        [Self::Files, Self::Memory, Self::Disk, Self::Processes, Self::Ports];

    /// Shortage that an error, or any cause of it, tells of; `None`: it is about something else.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::once(error).chain(causes(error)).find_map(|cause| {
            let cause = cause.downcast_ref::<io::Error>()?;
            // An error of the system that is wrapped in another of its kind is no cause of that.
            let inner = cause.get_ref().map(|inner| inner as &(dyn Error + 'static));
            cause.raw_os_error().and_then(Self::of_code).or_else(|| inner.and_then(Self::of))
        })
    }

    /// Shortage for which a process or a thread could not be started.
    pub(crate) fn of_start(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) {
            true => Some(Self::Processes),
            false => Self::of(error),
        }
    }

    /// Shortage for which a connection could not be made. A name that cannot be resolved for want
    /// of a descriptor is said to be unknown: then a look shows it.
    pub(crate) fn of_connect(error: &(dyn Error + 'static)) -> Option<Self> {
        Self::of(error).or_else(|| {
            let opened = std::fs::File::open("/dev/null");
            opened.err().as_ref().and_then(|error| Self::of(error))
        })
    }

    fn of_code(code: i32) -> Option<Self> {
        let is = |errno: Errno| errno.raw_os_error() == code;
        if is(Errno::MFILE) || is(Errno::NFILE) {
            Some(Self::Files)
        } else if is(Errno::NOMEM) || is(Errno::NOBUFS) {
            Some(Self::Memory)
        } else if is(Errno::NOSPC) || is(Errno::DQUOT) {
            Some(Self::Disk)
        } else if is(Errno::ADDRNOTAVAIL) && no_port_is_left() {
            Some(Self::Ports)
        } else {
            None
        }
    }

    /// Deferral of an event for which `what` could not be done, which is noticed.
    pub(crate) fn failure(self, what: &str) -> Failure {
        self.notice();
        let message = format!("{what}: this worker has {}", self.lacks());
        Failure::defer(class::SHORTAGE, message).after(limits::SHORTAGE_WAIT)
    }

    /// Deferral of an event for which no thread or process could be started.
    pub(crate) fn start_failure(error: &io::Error, what: &str) -> Failure {
        Self::of_start(error).unwrap_or(Self::Processes).failure(what)
    }

    /// Notes that something failed for it just now.
    pub(crate) fn notice(self) {
        let now = u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX);
        NOTICED[self as usize].store(now + 1, Ordering::Relaxed);
    }

    /// True if something failed for it within this time.
    pub(crate) fn was_noticed_within(self, within: Duration) -> bool {
        let at = NOTICED[self as usize].load(Ordering::Relaxed);
        at > 0 && BEGAN.elapsed() < Duration::from_millis(at - 1) + within
    }

    /// Name, as that of a condition.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Processes => "processes",
            Self::Ports => "ports",
        }
    }

    /// What is lacking, as what follows "this worker has".
    pub(crate) const fn lacks(self) -> &'static str {
        match self {
            Self::Files => "no file descriptors left",
            Self::Memory => "no memory left",
            Self::Disk => "no room left on its disk",
            Self::Processes => "no processes or threads left",
            Self::Ports => "no ports left to connect from",
        }
    }

    /// What an operator can do about it.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::Files => {
                "raise the limit: ulimit -n, LimitNOFILE= of a systemd unit, or the ulimits of the \
                 container"
            }
            Self::Memory => "give the host, or the container, more memory",
            Self::Disk => "make room on the disk of the worker",
            Self::Processes => {
                "raise the limit: ulimit -u, TasksMax= of a systemd unit, or the pids limit of the \
                 container"
            }
            Self::Ports => {
                "widen net.ipv4.ip_local_port_range, or lower the concurrency of what connects"
            }
        }
    }
}

/// True if the system has no port left to give. (An address that this host does not have is
/// answered with the same error.)
fn no_port_is_left() -> bool {
    let any = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let bound = tokio::net::TcpSocket::new_v4().and_then(|socket| socket.bind(any));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_stages::Disposition;

    #[derive(Debug, thiserror::Error)]
    #[error("could not connect")]
    struct Wrapped(#[source] io::Error);

    fn system(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn a_shortage_is_found_however_deep_it_is() {
        assert_eq!(Shortage::of(&system(Errno::MFILE)), Some(Shortage::Files));
        let wrapped = io::Error::other(Wrapped(system(Errno::NOMEM)));
        assert_eq!(Shortage::of(&Wrapped(wrapped)), Some(Shortage::Memory));
        assert_eq!(Shortage::of(&Wrapped(system(Errno::NOSPC))), Some(Shortage::Disk));
        assert_eq!(Shortage::of_start(&system(Errno::AGAIN)), Some(Shortage::Processes));
        for other in [Errno::CONNREFUSED, Errno::AGAIN, Errno::ADDRNOTAVAIL, Errno::NOENT] {
            assert_eq!(Shortage::of(&Wrapped(system(other))), None, "{other:?}");
            assert_eq!(Shortage::of_connect(&Wrapped(system(other))), None, "{other:?}");
        }
    }

    #[test]
    fn a_shortage_defers_and_is_remembered_for_a_while() {
        let within = Duration::from_secs(60);
        assert!(!Shortage::Disk.was_noticed_within(within));
        let failure = Shortage::Disk.failure("could not write");
        assert!(Shortage::Disk.was_noticed_within(within));
        assert!(!Shortage::Disk.was_noticed_within(Duration::ZERO));
        assert!(matches!(failure.disposition, Disposition::Defer { after: Some(_) }));
        assert_eq!(failure.message, "could not write: this worker has no room left on its disk");
    }
}
