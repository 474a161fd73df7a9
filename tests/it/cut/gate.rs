//! Gate: TCP proxy before a server, which can cut and stall the connections through it.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Direction of the bytes that a stall holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    Server,
    Client,
}

/// Proxy, until it is dropped.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    /// Number of cuts so far.
    cuts: watch::Sender<u32>,
    to_server: watch::Sender<bool>,
    to_client: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Proxy of the server at `nats://HOST:PORT`.
    pub(crate) async fn before(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        let (to_server, up) = watch::channel(false);
        let (to_client, down) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut cut, up, down) = (cut.clone(), up.clone(), down.clone());
                let server = server.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (from_client, into_client) = client.into_split();
                    let (from_server, into_server) = server.into_split();
                    // Whatever ends first, both sockets are dropped with all that was on its way.
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = carry(from_client, into_server, up) => {}
                        () = carry(from_server, into_client, down) => {}
                    }
                });
            }
        });
        Self { address, cuts, to_server, to_client, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts every connection that there is now.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds back all bytes of one direction, or lets them go on.
    pub(crate) fn stall(&self, toward: Toward, is_stalled: bool) {
        let side = if toward == Toward::Server { &self.to_server } else { &self.to_client };
        side.send_replace(is_stalled);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut into: OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(read) = from.read(&mut bytes).await else { return };
        if read == 0 || stalled.wait_for(|is_stalled| !is_stalled).await.is_err() {
            return;
        }
        if into.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
