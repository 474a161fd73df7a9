//! Proxy: a small TCP proxy before a server, which can cut what goes through it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Proxy before one server; it ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    /// Number of cuts: connections of an earlier one end.
    cuts: Arc<watch::Sender<u64>>,
    /// True while nothing is passed on, and nothing is closed either.
    silent: Arc<watch::Sender<bool>>,
    /// True while new connections are closed at once.
    refuses: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Proxy before `nats://…`.
    pub(crate) async fn before(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, silent) = (Arc::new(watch::Sender::new(0)), Arc::new(watch::Sender::new(false)));
        let refuses = Arc::new(AtomicBool::new(false));
        let accepting = tokio::spawn({
            let (cuts, silent) = (Arc::clone(&cuts), Arc::clone(&silent));
            let refuses = Arc::clone(&refuses);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if refuses.load(Ordering::SeqCst) {
                        continue;
                    }
                    let (cut, silence) = (cuts.subscribe(), silent.subscribe());
                    let server = server.clone();
                    tokio::spawn(async move {
                        if let Ok(upstream) = TcpStream::connect(&server).await {
                            pass(client, upstream, cut, silence).await;
                        }
                    });
                }
            }
        });
        Self { address, cuts, silent, refuses, accepting }
    }

    /// Address of the proxy.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts every connection, with what is on its way.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Closes new connections at once from now on, or takes them again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }

    /// Passes nothing on from now on, or everything again; connections stay open.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    mut cut: watch::Receiver<u64>,
    silence: watch::Receiver<bool>,
) {
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        _ = cut.changed() => {}
        () = one_way(from_client, to_server, silence.clone()) => {}
        () = one_way(from_server, to_client, silence) => {}
    }
}

async fn one_way(
    from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut silence: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if silence.wait_for(|silent| !silent).await.is_err() || from.readable().await.is_err() {
            return;
        }
        match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if *silence.borrow() {
                    // It is lost, as in a cable that was pulled out.
                    continue;
                }
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
