//! Spare: a descriptor kept for the next connection, for when the process has no other left.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Descriptor that is kept. Who asks what is wrong is to be told, also while all else that this
/// process does waits for descriptors.
#[derive(Debug)]
pub(super) struct Spare {
    /// What the place is held with.
    empty: Option<File>,
    kept: Mutex<Option<OwnedFd>>,
}

impl Spare {
    pub(super) fn new() -> Arc<Self> {
        let empty = File::open("/dev/null").ok();
        let kept = empty.as_ref().and_then(|empty| empty.try_clone().ok()).map(Into::into);
        Arc::new(Self { empty, kept: Mutex::new(kept) })
    }

    /// Gives the place away; false if it is.
    pub(super) fn lend(&self) -> bool {
        self.kept().take().is_some()
    }

    /// Closes a connection; takes its place where it was lent, before anyone else can.
    fn close(&self, stream: TcpStream) {
        let mut kept = self.kept();
        if kept.is_none()
            && let Some(empty) = &self.empty
            && let Ok(stream) = stream.into_std()
        {
            let mut place = OwnedFd::from(stream);
            if rustix::io::dup2(empty, &mut place).is_ok() {
                *kept = Some(place);
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connection whose place goes back.
#[derive(Debug)]
pub(super) struct Lent {
    /// There until it is dropped.
    stream: Option<TcpStream>,
    spare: Arc<Spare>,
}

impl Lent {
    pub(super) fn new(stream: TcpStream, spare: Arc<Spare>) -> Self {
        Self { stream: Some(stream), spare }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(self.get_mut().stream.as_mut().expect("it is there until it is dropped"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.spare.close(stream);
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    #[tokio::test]
    async fn the_place_of_a_connection_is_kept_when_it_is_closed() {
        let spare = Spare::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let number = stream.as_raw_fd();
        let lent = Lent::new(stream, Arc::clone(&spare));
        assert!(spare.lend() && !spare.lend());
        drop(lent);
        let place = spare.kept().as_ref().map(AsRawFd::as_raw_fd);
        assert_eq!(place, Some(number));
        // The peer sees it closed all the same.
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
