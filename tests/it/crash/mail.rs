//! Mail: server that takes every mail, so that no notification of the example is given up on.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Mail server, until it is dropped.
pub(super) struct Mail {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Mail {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A worker that is killed breaks off in the middle.
                tokio::spawn(async move { serve(client).await.ok() });
            }
        });
        Self { address, task }
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = client.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail\r\n").await?;
    let mut in_data = false;
    while let Some(line) = lines.next_line().await? {
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let reply: &[u8] = match (in_data, verb.as_str()) {
            (true, ".") => b"250 taken\r\n",
            (true, _) => continue,
            (false, "DATA") => b"354 go on\r\n",
            (false, "QUIT") => b"221 bye\r\n",
            (false, _) => b"250 ok\r\n",
        };
        in_data = !in_data && verb == "DATA";
        write.write_all(reply).await?;
        if reply.starts_with(b"221") {
            return Ok(());
        }
    }
    Ok(())
}
