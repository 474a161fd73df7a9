//! Cut proxy: TCP proxy before a server, whose connections a test cuts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Proxy, until it is dropped.
pub(crate) struct CutProxy {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Option<JoinSet<()>>>>,
    swallows: Arc<AtomicBool>,
    _accepting: JoinSet<()>,
}

impl CutProxy {
    /// Proxy before the server at this `nats://` URL.
    pub(crate) async fn before(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Some(JoinSet::new())));
        let open = Arc::clone(&connections);
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&swallows);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Some(connections) = open.lock().unwrap().as_mut() {
                    connections.spawn(join(client, server.clone(), Arc::clone(&swallowing)));
                }
            }
        });
        Self { address, connections, swallows, _accepting: accepting }
    }

    /// Loses on its way what the server sends from now on, until [`CutProxy::mend`].
    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }

    /// Cuts every connection, and lets none through until [`CutProxy::mend`].
    pub(crate) fn cut(&self) {
        *self.connections.lock().unwrap() = None;
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.swallows.store(false, Ordering::SeqCst);
        *self.connections.lock().unwrap() = Some(JoinSet::new());
    }
}

/// Passes on what either says, until one of them ends.
async fn join(mut client: TcpStream, server: String, swallows: Arc<AtomicBool>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.split(), server.split());
    let down = async {
        let mut buffer = [0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let is_lost = swallows.load(Ordering::SeqCst);
            if !is_lost && to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = down => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
}
